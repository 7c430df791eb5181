"""The whole objective, its value and its gradient, against PyTorch in float64."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazy import nnf, torch
from losses.channel_statistics import ChannelMax, ChannelMean

from nst_jax.errors import InputError
from nst_jax.losses import objective
from nst_jax.losses.objective import LossWeights, Targets, loss, make_targets
from nst_jax.networks.vgg import VGG

CONTENT_LAYERS = {"conv3_1": 0.3, "conv4_1": 1.0}
STYLE_LAYERS = {"relu1_1": 0.5, "relu2_1": 0.2, "conv3_2": 1.5, "relu4_1": 1.0}
KINDS = ("content", "style", "tv")
MIXING = (1.0, 3.0)  # style weights
HEIGHT, WIDTH = 37, 45  # odd: pooling drops rows and columns

value_and_gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def face(face):
    return face[:HEIGHT, :WIDTH]


@pytest.fixture(scope="module")
def start(face):
    """The content with noise, so that no term is near zero."""
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, face.shape)
    return jnp.clip(face + jnp.asarray(noise, jnp.float32), 0, 1)


@pytest.fixture(scope="module")
def styles(roofs, petals):
    return [roofs[:40, :36], petals[:30, :40]]


# --- against PyTorch -----------------------------------------------------------------------------


def make_masks(kind):
    """Masks of two styles: a soft partition, or an overlap that leaves pixels out."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = 1 / (1 + np.exp(np.hypot(y - 17, x - 18) - 11))
    box = np.clip((x - 15) / 20, 0, 1) * (y > 21)
    return np.float32([disc, 1 - disc if kind == "partition" else box])


def tensor(array):
    return torch.from_numpy(np.array(array)).double()


def torch_terms(features, image, content, styles, normalization, masks):
    """The loss terms in PyTorch, from the papers' formulas; ``features`` runs the network."""

    def gram(maps, mask):
        F = maps.flatten(1)
        return F @ torch.diag(mask.flatten()) @ F.T

    (maps, content_maps, *style_maps), terms = map(features, (image, content, *styles)), {}
    paper = normalization == "none"
    for layer in CONTENT_LAYERS:
        P = content_maps[layer]
        terms[f"content/{layer}"] = ((maps[layer] - P) ** 2).sum() / (2 if paper else (P**2).sum())
    mixing = [weight / sum(MIXING) for weight in MIXING]
    for layer in STYLE_LAYERS:
        T = torch.ones(1, *image.shape[:2]).double() if masks is None else masks
        for _ in range(int(layer[4]) - 1):
            T = nnf.avg_pool2d(T[None], 2)[0]
        means = [gram(x[layer], torch.ones_like(x[layer][0])) for x in style_maps]
        means = [A / x[layer][0].numel() for A, x in zip(means, style_maps, strict=True)]
        if masks is None:
            weights, means = [1], [sum(w * A for w, A in zip(mixing, means, strict=True))]
        else:
            weights = [len(mixing) * w * m.mean() for w, m in zip(mixing, masks, strict=True)]
        terms[f"style/{layer}"] = 0
        for weight, mask, mean in zip(weights, T, means, strict=True):
            N, M, A = len(mean), mask.sum(), mask.sum() * mean
            norm = 4 * N**2 * M**2 if paper else (A**2).sum()
            distance = ((gram(maps[layer], mask) - A) ** 2).sum() / norm
            terms[f"style/{layer}"] = terms[f"style/{layer}"] + weight * distance
    x = image
    terms["tv"] = (
        2 / 3 * ((x[1:] - x[:-1]) ** 2).sum()
        + 2 / 3 * ((x[:, 1:] - x[:, :-1]) ** 2).sum()
        + 1 / 6 * ((x[1:, 1:] - x[:-1, :-1]) ** 2).sum()
        + 1 / 6 * ((x[1:, :-1] - x[:-1, 1:]) ** 2).sum()
    ) / x.numel()
    for kind, layers in (("content", CONTENT_LAYERS), ("style", STYLE_LAYERS)):
        terms[kind] = sum(weight * terms[f"{kind}/{layer}"] for layer, weight in layers.items())
    return terms


@pytest.mark.parametrize(
    ("normalization", "pooling", "padding", "masks"),
    [
        ("target_energy", "max", "replicate", None),
        ("none", "average", "same", None),
        ("target_energy", "l2", "replicate", "partition"),
        ("none", "max", "same", "overlap"),
    ],
)
def test_values_and_gradients_equal_pytorch(
    vgg16, start, face, styles, reference_features, normalization, pooling, padding, masks
):
    masks = None if masks is None else make_masks(masks)
    make = partial(
        make_targets,
        content_layers=list(CONTENT_LAYERS),
        style_layers=list(STYLE_LAYERS),
        style_weights=MIXING,
        normalization=normalization,
        network=VGG(pooling, padding),
    )
    targets = jax.jit(make)(vgg16, face, styles, masks=masks)
    features = partial(reference_features, vgg16, pooling=pooling, padding=padding, blocks=4)
    image, masks = tensor(start).requires_grad_(), None if masks is None else tensor(masks)
    images = (image, tensor(face), [tensor(style) for style in styles])
    expected = torch_terms(features, *images, normalization, masks)
    for kinds in ("content", "style", "tv", KINDS):
        weights = {kind: (kind in kinds) / expected[kind].item() for kind in KINDS}
        loss_weights = LossWeights(*weights.values(), CONTENT_LAYERS, STYLE_LAYERS)
        (total, terms), found = value_and_gradient(start, vgg16, targets, loss_weights)
        expected_total = sum(weights[kind] * expected[kind] for kind in KINDS)
        (want,) = torch.autograd.grad(expected_total, image, retain_graph=True)
        assert total == pytest.approx(expected_total.item(), rel=1e-4), kinds
        assert np.linalg.norm(found - want.numpy()) <= 1e-3 * np.linalg.norm(want.numpy()), kinds
    assert set(terms) == set(expected)
    for name, term in terms.items():
        assert term == pytest.approx(expected[name].item(), rel=1e-4), name


# --- what the numbers mean -----------------------------------------------------------------------


@pytest.mark.parametrize(("content", "style"), [(True, False), (False, True), (False, False)])
def test_a_kind_of_loss_without_layers_is_zero(vgg16, start, content, style):
    layers = [{"relu1_1": 1.0} if kind else {} for kind in (content, style)]
    shapes = [(HEIGHT, WIDTH, 64), (64, 64)]
    ones = [dict.fromkeys(x, jnp.ones(shape)) for x, shape in zip(layers, shapes, strict=True)]
    total, terms = loss(start, vgg16, Targets(*ones, VGG()), LossWeights(2.0, 3.0, 5.0, *layers))
    assert len(terms) == 3 + content + style
    assert [terms["content"] > 0, terms["style"] > 0] == [content, style]
    weighted = 2 * terms["content"] + 3 * terms["style"] + 5 * terms["tv"]
    assert total == pytest.approx(float(weighted)) != 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=4).filter(any))
def test_mixing_weights_count_only_in_proportion(weights):
    count = len(weights)
    shares = objective.normalize_weights(count, weights)
    assert sum(shares) == pytest.approx(1)
    values = np.array([[1.0, 10.0**i] for i in range(count)])
    mixed = objective.mix_styles([{"relu1_1": x} for x in values], shares)["relu1_1"]
    np.testing.assert_allclose(mixed, np.average(values, 0, weights), 1e-9)
    assert objective.normalize_weights(count, None) == [1 / count] * count


def test_a_style_without_a_list_around_it_is_refused(vgg16, face, unchecked):
    with pytest.raises(InputError, match=r"styles is one image; give a list"):
        make_targets(vgg16, None, face, style_layers=["relu1_1"])


def test_bfloat16_parameters_give_float32_losses(vgg16, start, face):
    totals, layers = [], {"relu1_1": 1.0}
    for params in (vgg16, jax.tree.map(lambda x: x.astype(jnp.bfloat16), vgg16)):
        targets = make_targets(
            params, face, [face], content_layers=["relu1_1"], style_layers=["relu1_1"]
        )
        total, terms = loss(start, params, targets, LossWeights(1.0, 1.0, 0.0, layers, layers))
        assert {x.dtype for x in (total, *terms.values())} == {jnp.dtype(jnp.float32)}
        totals.append(float(total))
    assert totals[0] == pytest.approx(totals[1], rel=0.02)


# --- masks ---------------------------------------------------------------------------------------

NEAR = dict.fromkeys(("relu1_1", "relu2_1"), 1.0)  # here a position depends on 5 pixels around it


def style_gradient(image, params, targets, layers=NEAR):
    weights = LossWeights(style_layers=layers)
    (_, terms), gradient = value_and_gradient(image, params, targets, weights)
    return np.asarray(gradient), terms


@pytest.fixture(scope="module")
def near(vgg16):
    """Make style targets for masks."""
    return partial(make_targets, vgg16, None, style_layers=list(NEAR))


def columns(*ranges):
    """Masks of whole columns."""
    x = np.arange(WIDTH)
    masks = [np.repeat([(x >= start) & (x < end)], HEIGHT, axis=0) for start, end in ranges]
    return jnp.asarray(np.float32(masks))


def test_a_pixel_feels_the_style_of_its_own_mask_alone(vgg16, near, face, styles):
    masks = columns((0, 12), (32, WIDTH))
    one, _ = style_gradient(face, vgg16, near(styles, masks=masks))
    strength = np.abs(one).max((0, 2))
    assert (strength[:12] > 0).all()
    assert not strength[18:26].any()  # out of reach of both masks
    assert (strength[32:44] > 0).all()
    other, _ = style_gradient(face, vgg16, near([styles[0], 1 - styles[1]], masks=masks))
    change = np.abs(one - other).max((0, 2)) / strength.max()
    assert change[:26].max() <= 1e-6
    assert change[32:].max() >= 1e-3


@pytest.mark.parametrize("share", [1.0, 1e-13, 1e-25, 0.0])
def test_a_mask_that_pooling_drops_is_safe(vgg16, near, face, styles, share):
    """The second mask is one pixel in the corner of an image of odd size."""
    masks = jnp.zeros((2, HEIGHT, WIDTH)).at[0].set(1).at[1, -1, -1].set(share)
    found, terms = style_gradient(face, vgg16, near(styles, masks=masks))
    want, expected = style_gradient(face, vgg16, near(styles[:1], masks=masks[:1]))
    assert np.isfinite(found).all()
    assert terms["style/relu1_1"] >= expected["style/relu1_1"] * (1 - 1e-6)
    assert terms["style/relu2_1"] == pytest.approx(float(expected["style/relu2_1"]), rel=1e-5)
    bound = 1e-3 * np.abs(want).max()
    np.testing.assert_allclose(found[:30, :30], want[:30, :30], 1e-3, bound)


@pytest.mark.parametrize("layer", ["relu1_1", "conv2_1", "conv3_2", "relu4_1"])
def test_masks_follow_the_features_to_every_layer(vgg16, face, layer):
    masks = jnp.asarray(make_masks("partition"))
    found = objective.downsample_masks(VGG(), masks, layer)
    h, w, _ = jax.eval_shape(lambda x: VGG().features(vgg16, x, [layer])[layer], face).shape
    assert found.shape == (2, h, w)
    assert objective.num_positions(VGG(), layer, (HEIGHT, WIDTH)) == h * w
    stride = 2 ** (int(layer[4]) - 1)
    blocks = masks[:, : h * stride, : w * stride].reshape(2, h, stride, w, stride)
    np.testing.assert_allclose(found, blocks.mean((2, 4)), 1e-5)


# --- other style statistics ----------------------------------------------------------------------


@pytest.mark.parametrize("statistic", [ChannelMean(), ChannelMax()])
@pytest.mark.parametrize("masked", [False, True])
def test_another_statistic_is_measured_and_compared(vgg16, face, styles, statistic, masked):
    masks = columns((0, 20), (20, WIDTH)) if masked else None
    styles = styles if masked or statistic.additive else styles[:1]
    options = {"style_layers": ["conv2_1"], "masks": masks, "statistic": statistic}
    targets = make_targets(vgg16, None, styles, **options)
    gradient, terms = style_gradient(face, vgg16, targets, {"conv2_1": 1.0})
    assert np.abs(gradient).max() > 0

    def measure(image, mask=None):
        F = np.asarray(VGG().features(vgg16, image, ["conv2_1"])["conv2_1"], np.float64)
        mask = np.ones(F.shape[:2]) if mask is None else np.asarray(mask, np.float64)
        F = F * mask[..., None]
        return F.sum((0, 1)) / mask.sum() if statistic.additive else F.max((0, 1))

    expected, weights = [measure(style) for style in styles], [1.0]
    if masked:
        weights = masks.mean((1, 2))
        layer_masks = objective.downsample_masks(VGG(), masks, "conv2_1")
        found = [measure(face, mask) for mask in layer_masks]
    else:
        found, expected = [measure(face)], [np.mean(expected, 0)]
    distances = [np.square(x - y).sum() for x, y in zip(found, expected, strict=True)]
    assert terms["style/conv2_1"] == pytest.approx(float(np.dot(weights, distances)), rel=1e-4)


def test_a_statistic_that_is_not_additive_cannot_be_mixed(vgg16, styles):
    make = partial(make_targets, vgg16, None, styles, style_layers=["relu1_1"])
    with pytest.raises(InputError, match="cannot mix several styles; give one style, or masks"):
        make(statistic=ChannelMax())
    make(statistic=ChannelMax(), style_weights=[0.0, 1.0])  # one style counts


# --- transformations -----------------------------------------------------------------------------

FEW = {"relu1_1": 1.0, "conv2_1": 0.5}
FEW_WEIGHTS = LossWeights(1.0, 2.0, 3.0, FEW, FEW)


@pytest.fixture(scope="module")
def few(vgg16):
    """Make targets at two shallow layers."""
    return partial(make_targets, vgg16, content_layers=list(FEW), style_layers=list(FEW))


def test_vmap_equals_one_image_at_a_time(vgg16, few, start, face, styles):
    images = jnp.stack([start, 1 - start])
    masks = columns((0, 20), (20, 45)), columns((0, 9), (5, 30))
    each = [few(content, styles, masks=m) for content, m in zip((face, start), masks, strict=True)]
    targets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    batched = jax.vmap(value_and_gradient, (0, None, 0, None))
    (_, terms), found = batched(images, vgg16, targets, FEW_WEIGHTS)
    for i, image in enumerate(images):
        (_, expected), want = value_and_gradient(image, vgg16, each[i], FEW_WEIGHTS)
        np.testing.assert_allclose(found[i], want, 1e-3, 1e-5 * jnp.abs(want).max())
        for name, term in expected.items():
            assert terms[name][i] == pytest.approx(float(term), rel=1e-5), name


def test_other_numbers_need_no_new_trace_and_no_array_is_a_constant(vgg16, few, start, styles):
    traces = []

    @jax.jit
    def run(*args):
        traces.append(1)
        return loss(*args)[0]

    other_weights = jax.tree.map(lambda w: 2 * w, FEW_WEIGHTS)
    targets, other_targets = few(start, styles), few(1 - start, styles)
    args = [(targets, FEW_WEIGHTS), (targets, other_weights), (other_targets, FEW_WEIGHTS)]
    assert len({float(run(start, vgg16, *each)) for each in args}) == 3
    assert len(traces) == 1
    jaxpr = jax.make_jaxpr(jax.grad(loss, has_aux=True))(start, vgg16, *args[0])
    assert sum(np.size(constant) for constant in jaxpr.consts) < 100


# --- refusals ------------------------------------------------------------------------------------

ONE = ["relu1_1"]
BOTH = {"content_layers": ONE, "style_layers": ONE}


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("c", {"style_layers": ONE}, "content layers, or neither"),
        ("", {"content_layers": ONE}, "content layers, or neither"),
        ("s", {}, "style layers, or neither"),
        ("", {"style_layers": ONE}, "style layers, or neither"),
        ("c", {"content_layers": ["relu9_1"]}, "unknown layer 'relu9_1'"),
        ("s", {"style_layers": ["relu9_2"]}, "unknown layer 'relu9_2'"),
        ("s", {"style_layers": "relu2_1"}, "style_layers is 'relu2_1'; give a list of layers"),
        (
            "c",
            {"content_layers": "relu3_2"},
            r"content_layers is 'relu3_2'.* such as \['relu3_2'\]",
        ),
        ("c", {"content_layers": ONE, "normalization": "other"}, "normalization is 'other'"),
        ("c", {"content_layers": ONE, "style_weights": [1.0]}, "1 style weights for 0"),
        ("ss", {"style_layers": ONE, "style_weights": [1.0]}, "1 style weights for 2 style images"),
        ("ss", {"style_layers": ONE, "style_weights": [2.0, -1.0]}, "give numbers from 0 up"),
        ("ss", {"style_layers": ONE, "style_weights": [0.0, 0.0]}, "at least one above 0"),
        ("ss", {"style_layers": ONE, "style_weights": [np.nan, 1.0]}, "style_weights are"),
        ("ss", {"style_layers": ONE, "style_weights": [np.inf, 1.0]}, "style_weights are"),
        ("s", {"style_layers": ONE, "masks": np.ones((2, 37, 45))}, "2 masks for 1 style images"),
        ("cs", BOTH | {"masks": np.ones((1, 37, 44))}, "masks of 44x37 pixels for a content of 45"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_arguments_that_do_not_fit_are_refused(vgg16, face, images, options, message):
    content = face if "c" in images else None
    with pytest.raises(InputError, match=message):
        make_targets(vgg16, content, [face] * images.count("s"), **options)


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        ({}, FEW, r"content weights name the layers \[\]"),
        (FEW | {"relu3_1": 1.0}, FEW, "content weights name the layers"),
        (FEW, {"relu1_1": 1.0}, "style weights name the layers"),
    ],
)
def test_weights_of_other_layers_are_refused(vgg16, face, content, style, message):
    targets = Targets(dict.fromkeys(FEW, face), dict.fromkeys(FEW, face), VGG())
    with pytest.raises(InputError, match=message):
        loss(face, vgg16, targets, LossWeights(content_layers=content, style_layers=style))


def test_axes_in_the_place_of_layers_have_a_representation():
    axes = Targets(None, {"relu1_1": 0}, VGG())  # As ``in_axes`` of ``jax.vmap``.
    assert repr(axes).startswith("Targets(content: none; style: relu1_1; Gram(")
    assert repr(replace(axes, content=0)).startswith("Targets(content: 0; style")


@pytest.mark.parametrize("size", [1, 3])  # one position would broadcast silently
def test_targets_of_another_size_are_refused(vgg16, face, size):
    layers = {"relu5_1": 1.0}
    targets = Targets({"relu5_1": jnp.zeros((size, size, 512))}, {}, VGG())
    with pytest.raises(InputError, match="content of the image's size"):
        loss(face[:32, :32], vgg16, targets, LossWeights(content_layers=layers))
    targets = Targets({}, layers, VGG(), {"relu5_1": jnp.ones((1, size, size))})
    with pytest.raises(InputError, match="masks of the image's size"):
        loss(face[:32, :32], vgg16, targets, LossWeights(style_layers=layers))
