"""The whole objective, its value and its gradient, against PyTorch's autograd."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from nst_jax.errors import InputError
from nst_jax.losses.objective import LossWeights, Targets, loss, make_targets, positions, propagate
from nst_jax.models.vgg import VGG

CONTENT_LAYERS = {"conv3_1": 0.3, "relu4_2": 1.0}
STYLE_LAYERS = {"relu1_1": 0.5, "relu2_1": 0.2, "conv3_2": 1.5, "relu4_1": 1.0}
STYLE_WEIGHTS = (1.0, 3.0)
CASES = [
    ("relative", "max", "replicate", "whole"),
    ("relative", "average", "same", "whole"),
    ("relative", "l2", "replicate", "whole"),
    ("paper", "max", "replicate", "whole"),
    ("relative", "max", "replicate", "halves"),
    ("relative", "max", "replicate", "soft"),
    ("relative", "max", "replicate", "loose"),
    ("paper", "max", "replicate", "loose"),
]

value = jax.jit(loss)
gradient = jax.jit(jax.grad(loss, has_aux=True))


def tensor(array, dtype):
    return torch.from_numpy(np.array(array)).to(dtype)


def regions(kind, height, width):
    """Masks of two styles: a partition, one with soft edges, or two that overlap and leave pixels
    out; None for "whole"."""
    y, x = np.mgrid[:height, :width]
    if kind == "whole":
        return None
    if kind == "halves":
        left = (x + y < 45).astype(np.float32)
        return np.stack([left, 1 - left])
    disc = 1 / (1 + np.exp(np.hypot(y - 17, x - 20) - 12))
    if kind == "soft":
        return np.float32([disc, 1 - disc])
    box = np.clip((x - 15) / 20, 0, 1) * (y > 21)
    assert ((disc > 0.9) & (box > 0.1)).any()
    assert (disc + box < 0.01).any()
    return np.float32([disc, box])


def torch_parts(features, image, content, styles, style_weights, form, masks):
    """α's, β's and the smoothness' factors in PyTorch, from the papers' formulas.

    ``features`` runs the network on a tensor.
    """

    def gram(maps, guide):
        F = maps.flatten(1)
        return F @ torch.diag(guide.flatten()) @ F.T

    def guides(tap):
        joined = torch.ones_like(image[None, ..., 0]) if masks is None else masks
        for _ in range(int(tap[4]) - 1):
            joined = nnf.avg_pool2d(joined[None], 2)[0]
        return joined

    with torch.no_grad():
        content_maps, style_maps = features(content), [features(style) for style in styles]
    maps, parts = features(image), {}
    for tap in CONTENT_LAYERS:
        P = content_maps[tap]
        squares = ((maps[tap] - P) ** 2).sum()
        parts[f"content/{tap}"] = squares / 2 if form == "paper" else squares / (P**2).sum()
    for tap in STYLE_LAYERS:
        N, part = maps[tap].shape[0], 0
        shares = [weight / sum(style_weights) for weight in style_weights]
        each = [gram(s[tap], torch.ones_like(s[tap][0])) / s[tap][0].numel() for s in style_maps]
        if masks is None:
            each, counts = [sum(s * own for s, own in zip(shares, each, strict=True))], [1]
        else:
            counts = [len(shares) * s * m.mean() for s, m in zip(shares, masks, strict=True)]
        for count, T, A in zip(counts, guides(tap), each, strict=True):
            M = T.sum()
            squares = ((gram(maps[tap], T) - M * A) ** 2).sum()
            norm = 4 * N**2 * M**2 if form == "paper" else ((M * A) ** 2).sum()
            part = part + count * squares / norm
        parts[f"style/{tap}"] = part
    x = image
    parts["tv"] = (
        2 / 3 * ((x[1:] - x[:-1]) ** 2).sum()
        + 2 / 3 * ((x[:, 1:] - x[:, :-1]) ** 2).sum()
        + 1 / 6 * ((x[1:, 1:] - x[:-1, :-1]) ** 2).sum()
        + 1 / 6 * ((x[1:, :-1] - x[:-1, 1:]) ** 2).sum()
    ) / x.numel()
    for kind, layers in (("content", CONTENT_LAYERS), ("style", STYLE_LAYERS)):
        parts[kind] = sum(weight * parts[f"{kind}/{tap}"] for tap, weight in layers.items())
    return parts


@pytest.fixture(scope="module")
def face(face):
    return face[:40, :56]


@pytest.fixture(scope="module")
def cat(cat):
    return cat[:40, :56]


@pytest.fixture(scope="module")
def roofs(roofs):
    return roofs[:48, :44]


@pytest.fixture(scope="module")
def petals(petals):
    return petals[:36, :48]


@pytest.fixture(scope="module")
def start(face):
    """What is optimised: the content with noise, so that no part of the loss is near zero."""
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, face.shape)
    return jnp.clip(face + jnp.asarray(noise, jnp.float32), 0, 1)


@pytest.fixture(
    scope="module",
    params=CASES,
    ids="-".join,
)
def case(request, vgg16, start, face, roofs, petals, reference_features):
    """Targets, the reference's image in float32 with its parts, and the parts in float64."""
    form, pooling, padding, kind = request.param
    masks = regions(kind, *face.shape[:2])
    make = partial(
        make_targets,
        content_layers=list(CONTENT_LAYERS),
        style_layers=list(STYLE_LAYERS),
        style_weights=STYLE_WEIGHTS,
        form=form,
        pooling=pooling,
        padding=padding,
    )
    targets = jax.jit(make)(
        vgg16, face, [roofs, petals], masks=None if masks is None else jnp.asarray(masks)
    )

    def reference(dtype):
        image = tensor(start, dtype).requires_grad_()
        network = partial(reference_features, vgg16, pooling=pooling, padding=padding, blocks=4)
        content, styles = tensor(face, dtype), [tensor(x, dtype) for x in (roofs, petals)]
        guides = None if masks is None else tensor(masks, dtype)
        return image, torch_parts(network, image, content, styles, STYLE_WEIGHTS, form, guides)

    image, parts = reference(torch.float32)
    exact = {name: part.item() for name, part in reference(torch.float64)[1].items()}
    return targets, image, parts, exact


def balanced(exact, kinds=("content", "style", "tv")):
    """Weights under which each kind counts 1, 2 and 3; those that are not named count nothing."""
    alpha, beta, tv = (
        share / exact[kind] if kind in kinds else 0.0
        for share, kind in enumerate(("content", "style", "tv"), start=1)
    )
    return LossWeights(alpha, beta, tv, CONTENT_LAYERS, STYLE_LAYERS)


# --- parity --------------------------------------------------------------------------------------


def test_parts_equal_a_double_precision_reference(case, vgg16, start):
    targets, _, _, exact = case
    _, parts = value(start, vgg16, targets, balanced(exact))
    assert set(parts) == set(exact)
    for name, part in parts.items():
        assert part == pytest.approx(exact[name], rel=1e-4), name


def test_total_equals_a_double_precision_reference(case, vgg16, start):
    targets, _, _, exact = case
    total, _ = value(start, vgg16, targets, balanced(exact))
    assert total == pytest.approx(6, rel=1e-4)


@pytest.mark.parametrize(
    "kinds", [("content",), ("style",), ("tv",), ("content", "style", "tv")], ids="-".join
)
def test_gradient_equals_pytorchs(case, vgg16, start, kinds):
    targets, image, parts, exact = case
    weights = balanced(exact, kinds)
    counts = {"content": weights.content, "style": weights.style, "tv": weights.tv}
    total = sum(counts[kind] * parts[kind] for kind in kinds)
    (want,) = torch.autograd.grad(total, image, retain_graph=True)
    got, _ = gradient(start, vgg16, targets, weights)
    assert np.linalg.norm(got - want.numpy()) <= 1e-3 * np.linalg.norm(want.numpy())


def test_paper_form_with_one_size_is_equation_4_on_raw_grams(vgg16, face, cat):
    network = VGG(vgg16)
    taps = list(STYLE_LAYERS)
    targets = make_targets(vgg16, None, [cat], style_layers=taps, form="paper")
    _, parts = value(face, vgg16, targets, LossWeights(style_layers=STYLE_LAYERS))
    ours, styles = network(face, taps), network(cat, taps)
    for tap in taps:
        F, S = (np.asarray(x[tap], np.float64).reshape(-1, x[tap].shape[2]) for x in (ours, styles))
        M, N = F.shape
        want = np.square(F.T @ F - S.T @ S).sum() / (4 * N**2 * M**2)
        assert parts[f"style/{tap}"] == pytest.approx(want, rel=1e-5)


# --- what the numbers mean -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["relative", "paper"])
def test_loss_is_zero_at_the_target(vgg16, face, form):
    taps = {"conv2_1": 1.0, "relu3_1": 2.0}
    grey = jnp.full_like(face, 0.5)
    for image in (face, grey):  # the targets in the same precision as the picture's features
        targets = jax.jit(
            partial(make_targets, content_layers=list(taps), style_layers=list(taps), form=form)
        )(vgg16, image, [image])
        total, parts = value(image, vgg16, targets, LossWeights(1e3, 1e3, 0.0, taps, taps))
        scale = float(sum(jnp.square(x).sum() for x in targets.content.values()))
        bound = 1e-8 * scale if form == "paper" else 1e-8
        assert total <= bound
        assert all(part <= bound for name, part in parts.items() if name != "tv")


def test_total_weighs_the_parts_and_the_parts_weigh_the_layers(case, vgg16, start):
    targets = case[0]
    weights = LossWeights(0.5, 7.0, 3.0, CONTENT_LAYERS, STYLE_LAYERS)
    total, parts = value(start, vgg16, targets, weights)
    content = sum(w * parts[f"content/{tap}"] for tap, w in CONTENT_LAYERS.items())
    style = sum(w * parts[f"style/{tap}"] for tap, w in STYLE_LAYERS.items())
    assert parts["content"] == pytest.approx(float(content), rel=1e-5)
    assert parts["style"] == pytest.approx(float(style), rel=1e-5)
    assert total == pytest.approx(float(0.5 * content + 7 * style + 3 * parts["tv"]), rel=1e-5)


def test_style_weights_count_only_in_proportion(vgg16, roofs, petals):
    make = partial(make_targets, vgg16, None, [roofs, petals], style_layers=["relu2_1"])
    one, other = (make(style_weights=w).style["relu2_1"] for w in ((1.0, 3.0), (10.0, 30.0)))
    np.testing.assert_allclose(one, other, 1e-5)


def test_styles_count_the_same_by_default(vgg16, roofs, petals):
    make = partial(make_targets, vgg16, None, [roofs, petals], style_layers=["relu2_1"])
    one, other = (make(style_weights=w).style["relu2_1"] for w in (None, (2.0, 2.0)))
    np.testing.assert_allclose(one, other, 1e-5)


def test_a_style_of_weight_zero_is_none(vgg16, roofs, petals):
    make = partial(make_targets, vgg16, None, style_layers=["relu2_1"])
    alone = make([petals]).style["relu2_1"]
    blended = make([roofs, petals], style_weights=[0.0, 1.0]).style["relu2_1"]
    np.testing.assert_allclose(blended, alone, 1e-5)


@pytest.mark.parametrize("form", ["relative", "paper"])
def test_a_style_of_another_size_is_compared_by_position(vgg16, face, form):
    """One colour gives the same features at every position of relu1_1, at any size."""
    taps = {"relu1_1": 1.0}
    colour = jnp.asarray([0.2, 0.5, 0.8])
    make = partial(make_targets, vgg16, None, style_layers=list(taps), form=form)
    weights = LossWeights(style_layers=taps)
    small = make([jnp.broadcast_to(colour, (20, 16, 3))])
    same, _ = value(jnp.broadcast_to(colour, face.shape), vgg16, small, weights)
    other, _ = value(face, vgg16, small, weights)
    assert same <= 1e-8 * other


def test_content_alone(vgg16, face, cat):
    targets = make_targets(vgg16, face, content_layers=["relu2_2"])
    total, parts = value(cat, vgg16, targets, LossWeights(2.0, content_layers={"relu2_2": 1.0}))
    assert set(parts) == {"content", "style", "tv", "content/relu2_2"}
    assert parts["style"] == 0
    assert total == pytest.approx(2 * float(parts["content"])) != 0


def test_style_alone(vgg16, face, cat):
    targets = make_targets(vgg16, None, [face], style_layers=["relu2_2"])
    total, parts = value(cat, vgg16, targets, LossWeights(1.0, 3.0, style_layers={"relu2_2": 1.0}))
    assert set(parts) == {"content", "style", "tv", "style/relu2_2"}
    assert parts["content"] == 0
    assert total == pytest.approx(3 * float(parts["style"])) != 0


def test_smoothness_alone(vgg16, face):
    total, parts = value(face, vgg16, Targets({}, {}), LossWeights(tv=5.0))
    assert total == pytest.approx(5 * float(parts["tv"])) != 0


def test_half_precision_parameters_give_float32_losses(vgg16, face, cat):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), vgg16)
    layers = {"relu2_1": 1.0}
    totals = []
    for params in (half, vgg16):
        make = partial(make_targets, content_layers=list(layers), style_layers=list(layers))
        targets = jax.jit(make)(params, face, [face])
        total, parts = value(cat, params, targets, LossWeights(1.0, 1.0, 0.0, layers, layers))
        assert {x.dtype for x in (total, *parts.values())} == {jnp.dtype(jnp.float32)}
        totals.append(float(total))
    assert totals[0] == pytest.approx(totals[1], rel=0.02)


# --- regions -------------------------------------------------------------------------------------

NEAR = ("relu1_1", "relu2_1")  # with these a pixel reaches 5 pixels far
style_of = jax.jit(partial(make_targets, style_layers=NEAR), static_argnames="form")


def style_gradient(image, params, targets, taps=NEAR):
    return gradient(image, params, targets, LossWeights(style_layers=dict.fromkeys(taps, 1.0)))


@pytest.mark.parametrize("form", ["relative", "paper"])
def test_a_region_of_everything_is_no_region(vgg16, face, petals, form):
    image = face[:37, :41]  # odd sizes lose their last row and column in pooling
    ones = jnp.ones((1, *image.shape[:2]))
    with_region = style_of(vgg16, None, [petals], masks=ones, form=form)
    without = style_of(vgg16, None, [petals], form=form)
    got, parts = style_gradient(image, vgg16, with_region)
    want, expected = style_gradient(image, vgg16, without)
    for name, part in expected.items():
        assert parts[name] == pytest.approx(float(part), rel=1e-5), name
    np.testing.assert_allclose(got, want, 1e-3, 1e-5 * np.abs(want).max())


def columns(width, *ranges, height=40):
    """Make regions of whole columns."""
    x = np.arange(width)
    rows = [np.where((x >= start) & (x < end), 1, 0) for start, end in ranges]
    return jnp.asarray(np.repeat(np.float32(rows)[:, None], height, axis=1))


def test_pixels_out_of_every_regions_reach_feel_no_style(vgg16, face, roofs, petals):
    masks = columns(56, (0, 12), (44, 56))
    targets = style_of(vgg16, None, [roofs, petals], masks=masks)
    got, _ = style_gradient(face, vgg16, targets)
    felt = np.abs(got).max((0, 2))
    assert (felt[:12] > 0).all()
    assert (felt[44:] > 0).all()
    assert (felt[18:38] == 0).all()


def test_a_region_feels_its_own_style_alone(vgg16, face, roofs, petals):
    masks = columns(56, (0, 28), (28, 56))
    one, other = (
        style_gradient(face, vgg16, style_of(vgg16, None, styles, masks=masks))[0]
        for styles in ([roofs, petals], [roofs, 1 - petals])
    )
    bound = 1e-6 * np.abs(one).max()
    assert np.abs(one - other)[:, :22].max() <= bound
    assert np.abs(one - other)[:, 34:].max() >= 1e3 * bound


def test_a_pixel_feels_its_style_as_strongly_in_a_region_as_without(vgg16, face, petals):
    """Each quarter of this picture has the whole's Gram matrix, but for the seams."""
    image = jnp.tile(face, (2, 2, 1))
    make = partial(make_targets, vgg16, None, [petals], style_layers=["relu1_1"])
    quarter = jnp.zeros((1, *image.shape[:2])).at[0, :40, :56].set(1)
    got, _ = style_gradient(image, vgg16, make(masks=quarter), ["relu1_1"])
    want, _ = style_gradient(image, vgg16, make(), ["relu1_1"])
    got_inside, want_inside = np.asarray(got[:39, :55]), np.asarray(want[:39, :55])
    difference = np.linalg.norm(got_inside - want_inside)
    assert difference <= 0.15 * np.linalg.norm(want_inside)  # without its count 0.75 or 3
    assert not got[41:].any()


@pytest.mark.parametrize("form", ["relative", "paper"])
@pytest.mark.parametrize("share", [1.0, 1e-4, 1e-13, 1e-25, 0.0])
def test_a_region_of_nearly_nothing_is_safe(vgg16, face, roofs, petals, form, share):
    """The second region is a pixel in the corner, which pooling drops from an odd size."""
    image = face[:37, :41]
    masks = jnp.zeros((2, *image.shape[:2])).at[0].set(1).at[1, 36, 40].set(share)
    targets = style_of(vgg16, None, [roofs, petals], masks=masks, form=form)
    got, parts = style_gradient(image, vgg16, targets)
    alone = style_of(vgg16, None, [roofs], masks=masks[:1], form=form)
    want, expected = style_gradient(image, vgg16, alone)
    assert np.isfinite(got).all()
    assert parts["style/relu1_1"] >= expected["style/relu1_1"] * (1 - 1e-6)
    assert parts["style/relu2_1"] == pytest.approx(float(expected["style/relu2_1"]), rel=1e-5)
    bound = 1e-3 * np.abs(want).max()
    np.testing.assert_allclose(got[:30, :30], want[:30, :30], 1e-3, bound)


@pytest.mark.parametrize("tap", ["relu1_1", "conv2_1", "conv3_2", "relu4_1"])
def test_regions_follow_the_features_to_every_layer(vgg16, photos, tap):
    image = jnp.asarray(photos["chelsea"][100:137, 100:153] / 255, jnp.float32)
    masks = jnp.asarray(regions("soft", *image.shape[:2]))
    got = propagate(masks, tap)
    features = VGG(vgg16)(image, [tap])[tap]
    assert got.shape == (2, *features.shape[:2])
    assert positions(tap, *image.shape[:2]) == got[0].size
    np.testing.assert_allclose(got.sum(0), 1, 1e-5)
    h, w = got.shape[1:]
    window = 2 ** (int(tap[4]) - 1)
    blocks = masks[:, : h * window, : w * window].reshape(2, h, window, w, window)
    np.testing.assert_allclose(got, blocks.mean((2, 4)), 1e-5)


def test_a_batch_of_regions_equals_single_calls(vgg16, face, roofs, petals):
    masks = jnp.stack([columns(56, (0, 28), (28, 56)), columns(56, (0, 9), (20, 30))])
    each = [style_of(vgg16, None, [roofs, petals], masks=one) for one in masks]
    targets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    together, _ = jax.vmap(style_gradient, (None, None, 0))(face, vgg16, targets)
    for i in range(2):
        alone, _ = style_gradient(face, vgg16, each[i])
        np.testing.assert_allclose(together[i], alone, 1e-3, 1e-5 * np.abs(alone).max())


# --- transformations -----------------------------------------------------------------------------

FEW = {"relu1_1": 1.0, "conv2_1": 0.5}
FEW_WEIGHTS = LossWeights(1.0, 2.0, 3.0, FEW, FEW)


@pytest.fixture(scope="module")
def few(vgg16):
    """Make targets at two shallow taps."""
    make = partial(make_targets, content_layers=list(FEW), style_layers=list(FEW))
    return jax.jit(make, static_argnames="form")


def test_vmap_equals_single_calls(vgg16, few, face, cat, roofs):
    contents, images = jnp.stack([face, cat]), jnp.stack([cat, 1 - cat])
    targets = jax.vmap(few, (None, 0, None))(vgg16, contents, [roofs])
    totals, parts = jax.vmap(value, (0, None, 0, None))(images, vgg16, targets, FEW_WEIGHTS)
    for i in range(2):
        alone = few(vgg16, contents[i], [roofs])
        total, single = value(images[i], vgg16, alone, FEW_WEIGHTS)
        assert totals[i] == pytest.approx(float(total), rel=1e-5)
        for name, part in single.items():
            assert parts[name][i] == pytest.approx(float(part), rel=1e-5)


def test_gradients_of_a_batch_equal_single_calls(vgg16, few, face, cat, roofs):
    targets = few(vgg16, face, [roofs])
    together, _ = jax.vmap(gradient, (0, None, None, None))(
        jnp.stack([cat, face]), vgg16, targets, FEW_WEIGHTS
    )
    alone, _ = gradient(cat, vgg16, targets, FEW_WEIGHTS)
    np.testing.assert_allclose(together[0], alone, 1e-3, 1e-5 * jnp.abs(alone).max())


def test_other_numbers_need_no_new_trace(vgg16, few, face, cat, roofs):
    traces = []

    @jax.jit
    def run(*args):
        traces.append(1)
        return loss(*args)[0]

    other = jax.tree.map(lambda w: 2 * w, FEW_WEIGHTS)
    target, other_target = few(vgg16, face, [roofs]), few(vgg16, cat, [roofs])
    totals = [
        run(cat, vgg16, target, FEW_WEIGHTS),
        run(cat, vgg16, target, other),
        run(cat, vgg16, other_target, FEW_WEIGHTS),
    ]
    assert len({float(total) for total in totals}) == 3
    assert len(traces) == 1


def test_another_form_is_another_program(vgg16, few, face, cat, roofs):
    totals = {
        float(value(cat, vgg16, few(vgg16, face, [roofs], form=form), FEW_WEIGHTS)[0])
        for form in ("relative", "paper")
    }
    assert len(totals) == 2


def test_no_array_is_a_constant_of_the_program(vgg16, few, face, cat, roofs):
    targets = few(vgg16, face, [roofs])
    program = jax.make_jaxpr(jax.grad(loss, has_aux=True))(cat, vgg16, targets, FEW_WEIGHTS)
    assert sum(np.size(constant) for constant in program.consts) < 100


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        ({}, FEW, r"content weights name the layers \[\]"),
        (FEW, {}, r"style weights name the layers \[\]"),
        (FEW | {"relu3_1": 1.0}, FEW, "content weights name the layers"),
        (FEW, {"relu1_1": 1.0}, "style weights name the layers"),
    ],
)
def test_weights_of_other_layers_are_refused(vgg16, few, face, roofs, content, style, message):
    targets = few(vgg16, face, [roofs])
    weights = LossWeights(content_layers=content, style_layers=style)
    with pytest.raises(InputError, match=message):
        loss(face, vgg16, targets, weights)


@pytest.mark.parametrize(
    ("style_weights", "message"),
    [
        ([1.0], "1 style weights for 2 style images"),
        ([1.0, 1.0, 1.0], "3 style weights for 2 style images"),
        ([2.0, -1.0], "none may be negative"),
        ([0.0, 0.0], "one must count"),
        ([np.nan, 1.0], "style weights"),
        ([np.inf, 1.0], "style weights"),
    ],
)
def test_style_weights_that_do_not_fit_are_refused(vgg16, roofs, petals, style_weights, message):
    with pytest.raises(InputError, match=message):
        make_targets(
            vgg16,
            None,
            [roofs, petals],
            style_layers=["relu1_1"],
            style_weights=[float(x) for x in style_weights],
        )


@pytest.mark.parametrize(
    ("with_content", "with_styles", "layers", "message"),
    [
        (True, False, {"style_layers": ["relu1_1"]}, "content layers, or neither"),
        (True, False, {}, "content layers, or neither"),
        (False, False, {"content_layers": ["relu1_1"]}, "content layers, or neither"),
        (False, True, {}, "style layers, or neither"),
        (False, False, {"style_layers": ["relu1_1"]}, "style layers, or neither"),
        (False, False, {"style_weights": [1.0]}, "1 style weights for 0"),
    ],
)
def test_images_and_layers_go_together(vgg16, face, with_content, with_styles, layers, message):
    content, styles = face if with_content else None, [face] if with_styles else []
    with pytest.raises(InputError, match=message):
        make_targets(vgg16, content, styles, **layers)


@pytest.mark.parametrize("size", [16, 24])
def test_a_content_of_another_size_is_refused(vgg16, face, size):
    """At 16 pixels relu5_1 has one position, which would broadcast without a word."""
    targets = make_targets(vgg16, face[:size, :size], content_layers=["relu5_1"])
    with pytest.raises(InputError, match="content of the image's size"):
        loss(face[:48, :48], vgg16, targets, LossWeights(content_layers={"relu5_1": 1.0}))


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_masks_than_styles_is_refused(vgg16, face, roofs, petals, count):
    masks = jnp.ones((count, *face.shape[:2]))
    with pytest.raises(InputError, match=f"{count} masks for 2 style images"):
        make_targets(vgg16, None, [roofs, petals], style_layers=["relu1_1"], masks=masks)


@pytest.mark.usefixtures("unchecked")
def test_masks_of_another_size_than_the_content_are_refused(vgg16, face, roofs):
    make = partial(make_targets, vgg16, face, [roofs], content_layers=["relu1_1"])
    with pytest.raises(InputError, match="masks of 55x40 pixels for a content of 56x40"):
        make(style_layers=["relu1_1"], masks=jnp.ones((1, 40, 55)))


def test_masks_of_another_size_than_the_image_are_refused(vgg16, face, roofs):
    masks = jnp.ones((1, 1, 1))  # which would broadcast without a word
    targets = make_targets(vgg16, None, [roofs], style_layers=["relu1_1"], masks=masks)
    with pytest.raises(InputError, match="masks of the image's size"):
        loss(face, vgg16, targets, LossWeights(style_layers={"relu1_1": 1.0}))


def test_an_unknown_layer_is_refused(vgg16, face):
    with pytest.raises(InputError, match="unknown layer 'relu9_1'"):
        make_targets(vgg16, face, content_layers=["relu9_1"])
    with pytest.raises(InputError, match="unknown layer 'relu9_2'"):
        make_targets(vgg16, None, [face], style_layers=["relu9_2"])


@pytest.mark.parametrize("option", ["form", "pooling", "padding"])
@pytest.mark.usefixtures("unchecked")
def test_an_unknown_option_is_refused(vgg16, face, option):
    with pytest.raises(InputError, match=f"{option} is 'other'"):
        make_targets(vgg16, face, content_layers=["relu1_1"], **{option: "other"})
