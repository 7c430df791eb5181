"""The whole objective, its value and its gradient, against PyTorch's autograd."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nst_jax.errors import InputError
from nst_jax.objective import LossWeights, Targets, loss, make_targets
from nst_jax.vgg import VGG

CONTENT_LAYERS = {"conv3_1": 0.3, "relu4_2": 1.0}
STYLE_LAYERS = {"relu1_1": 0.5, "relu2_1": 0.2, "conv3_2": 1.5, "relu4_1": 1.0}
STYLE_WEIGHTS = (1.0, 3.0)
CASES = [
    ("relative", "max", "replicate"),
    ("relative", "average", "same"),
    ("relative", "l2", "replicate"),
    ("paper", "max", "replicate"),
]

value = jax.jit(loss)
gradient = jax.jit(jax.grad(loss, has_aux=True))


def tensor(array, dtype):
    return torch.from_numpy(np.array(array)).to(dtype)


def torch_parts(features, image, content, styles, style_weights, form):
    """α's, β's and the smoothness' factors in PyTorch, from the paper's formulas.

    ``features`` runs the network on a tensor.
    """

    def gram(maps):
        F = maps.flatten(1)
        return F @ F.T

    with torch.no_grad():
        content_maps, style_maps = features(content), [features(style) for style in styles]
    maps, parts = features(image), {}
    for tap in CONTENT_LAYERS:
        P = content_maps[tap]
        squares = ((maps[tap] - P) ** 2).sum()
        parts[f"content/{tap}"] = squares / 2 if form == "paper" else squares / (P**2).sum()
    for tap in STYLE_LAYERS:
        N, M = maps[tap].shape[0], maps[tap][0].numel()
        A = sum(
            weight / sum(style_weights) * gram(style[tap]) * (M / style[tap][0].numel())
            for weight, style in zip(style_weights, style_maps, strict=True)
        )
        squares = ((gram(maps[tap]) - A) ** 2).sum()
        parts[f"style/{tap}"] = (
            squares / (4 * N**2 * M**2) if form == "paper" else squares / (A**2).sum()
        )
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
    form, pooling, padding = request.param
    make = partial(
        make_targets,
        content_layers=list(CONTENT_LAYERS),
        style_layers=list(STYLE_LAYERS),
        style_weights=STYLE_WEIGHTS,
        form=form,
        pooling=pooling,
        padding=padding,
    )
    targets = jax.jit(make)(vgg16, face, [roofs, petals])

    def reference(dtype):
        image = tensor(start, dtype).requires_grad_()
        network = partial(reference_features, vgg16, pooling=pooling, padding=padding, blocks=4)
        content, styles = tensor(face, dtype), [tensor(x, dtype) for x in (roofs, petals)]
        return image, torch_parts(network, image, content, styles, STYLE_WEIGHTS, form)

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
