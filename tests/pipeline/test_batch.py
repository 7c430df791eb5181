"""Many styles of one photo: each picture is what its style alone would give."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax import (
    DivergedError,
    InputError,
    LossWeights,
    Settings,
    Targets,
    TooLargeError,
    loss,
    make_targets,
    minimise,
    minimise_each,
    stylize,
    stylize_each,
)
from nst_jax.models.weights import load as weights
from nst_jax.pipeline import job, plan, targets
from nst_jax.pipeline import runner as painting

EXAMPLES = Path(__file__).parents[1] / "examples"
CAT = EXAMPLES / "cat.jpg"
STYLES = [EXAMPLES / f"{name}.jpg" for name in ("swirls", "mosaic", "ink")]
SMALL = {
    "size": 48,
    "steps": 4,
    "model": "vgg16",
    "dtype": "float32",
    "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5},
    "content_layers": {"relu2_2": 1.0},
}


@pytest.fixture(scope="module")
def alone():
    """Each style by itself, by optimizer."""
    return {
        optimizer: [stylize(CAT, style, **SMALL, optimizer=optimizer) for style in STYLES]
        for optimizer in ("adam", "lbfgs")
    }


@pytest.mark.parametrize(
    ("optimizer", "batch"), [("adam", None), ("adam", 2), ("adam", 5), ("lbfgs", None)]
)
def test_each_picture_is_that_of_its_style_alone(alone, optimizer, batch):
    together = list(stylize_each(CAT, STYLES, **SMALL, optimizer=optimizer, batch=batch))
    assert len(together) == len(STYLES)
    for got, want in zip(together, alone[optimizer], strict=True):
        np.testing.assert_allclose(got.image, want.image, atol=2e-3)
        assert got.settings["styles"] == want.settings["styles"]
        assert [e.keys() for e in got.history] == [e.keys() for e in want.history]
        for ours, theirs in zip(got.history, want.history, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3)


def test_pictures_side_by_side_agree_in_bfloat16(alone):
    half = SMALL | {"dtype": "bfloat16", "optimizer": "adam"}
    together = stylize_each(CAT, STYLES, **half, batch=3)
    for got, style in zip(together, STYLES, strict=True):
        want = stylize(CAT, style, **half)
        assert got.history[-1]["total"] == pytest.approx(want.history[-1]["total"], rel=2e-2)
        assert np.abs(got.image - want.image).mean() < 5e-3


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_two_at_a_time_are_the_same_pictures_bit_for_bit(alone, optimizer):
    seen = []
    together = stylize_each(CAT, STYLES, **SMALL, optimizer=optimizer, on_progress=seen.append)
    for got, want in zip(together, alone[optimizer], strict=True):
        np.testing.assert_array_equal(got.image, want.image)
        assert got.history == want.history
    assert {now.picture for now in seen} == {0, 1, 2}
    assert all(now.image.ndim == 3 for now in seen)


def test_two_at_a_time_only_where_both_fit(monkeypatch, alone):
    def in_threads(*args):
        raise AssertionError("two do not fit")

    monkeypatch.setattr(painting, "in_threads", in_threads)
    settings = Settings(**SMALL, optimizer="adam")
    needed = plan.choose(job.prepare(CAT, STYLES, settings), 0).needed
    made = stylize_each(CAT, STYLES, **SMALL, optimizer="adam", memory=f"{1.9 * needed / 1e3}KB")
    for got, want in zip(made, alone["adam"], strict=True):
        np.testing.assert_array_equal(got.image, want.image)
    with pytest.raises(AssertionError, match="do not fit"):
        list(stylize_each(CAT, STYLES, **SMALL, optimizer="adam", memory=f"{2.1 * needed / 1e3}KB"))


def test_memory_that_has_gone_since_is_for_one_at_a_time(monkeypatch, alone):
    """Another program took it after the first picture."""

    def in_threads(paint, pictures, threads, on_progress):
        yield paint(0, lambda now: None)
        raise TooLargeError("too large")

    seen = []
    monkeypatch.setattr(painting, "in_threads", in_threads)
    made = stylize_each(CAT, STYLES, **SMALL, optimizer="adam", on_progress=seen.append)
    for got, want in zip(made, alone["adam"], strict=True):
        np.testing.assert_array_equal(got.image, want.image)
    assert {now.picture for now in seen} == {1, 2}


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_the_content_is_seen_once_and_one_loop_is_compiled(monkeypatch, compilations, batch):
    seen = []

    def noting(jitted, *args, static, **named):
        seen.append(static["content_layers"])
        return jitted.lower(*args, **named, **static).compile()

    monkeypatch.setattr(targets, "compile_to_fit", noting)
    size = 40 + 2 * (batch or 0)  # not compiled before
    list(stylize_each(CAT, STYLES, **SMALL | {"size": size, "optimizer": "adam"}, batch=batch))
    assert [bool(layers) for layers in seen] == [True, False, False, False]
    assert compilations().count("jit(_chunk)") == 1


def test_pictures_come_as_they_are_done():
    pictures = stylize_each(CAT, [STYLES[0], STYLES[1]], **SMALL)
    first = next(pictures)
    assert first.settings["styles"] == ["swirls.jpg"]
    assert first.settings["steps_done"] == 4


def test_memory_halves_the_batch_until_it_fits(monkeypatch, alone):
    asked = []

    def minimise_each(loss, images, *rest, **options):
        asked.append(len(images))
        if len(images) > 1:
            raise TooLargeError("too large")
        raise AssertionError("one picture needs no batch")

    monkeypatch.setattr(painting, "minimise_each", minimise_each)
    monkeypatch.setattr(painting.jax, "default_backend", lambda: "gpu")
    made = list(stylize_each(CAT, STYLES, **SMALL, optimizer="adam"))
    assert asked == [3, 2]
    for got, want in zip(made, alone["adam"], strict=True):  # whose kernels are in a CPU's form
        np.testing.assert_allclose(got.image, want.image, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["lbfgs", optax.lbfgs(memory_size=2)], ids=["name", "own"])
def test_a_line_search_goes_one_by_one_on_every_device(monkeypatch, optimizer):
    monkeypatch.setattr(painting.jax, "default_backend", lambda: "gpu")
    made = list(stylize_each(CAT, STYLES[:2], **SMALL, optimizer=optimizer))
    assert [result.settings["styles"] for result in made] == [["swirls.jpg"], ["mosaic.jpg"]]


def test_one_style_need_not_be_a_list(alone):
    (made,) = stylize_each(CAT, STYLES[0], **SMALL, optimizer="adam")
    np.testing.assert_array_equal(made.image, alone["adam"][0].image)


def test_a_batch_that_was_asked_for_is_not_changed(monkeypatch):
    def minimise_each(*args, **options):
        raise TooLargeError("too large")

    monkeypatch.setattr(painting, "minimise_each", minimise_each)
    with pytest.raises(TooLargeError):
        list(stylize_each(CAT, STYLES, **SMALL, optimizer="adam", batch=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"style_weights": (1, 2, 3)}, "blend styles into one"),
        ({"batch": 2, "optimizer": "lbfgs"}, "one picture at a time"),
        ({"sise": 3}, "no setting 'sise'"),
    ],
)
def test_what_cannot_be_done_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        list(stylize_each(CAT, STYLES, **SMALL | changes))


def test_a_style_that_cannot_be_read_is_refused_before_anything_is_painted():
    with pytest.raises(InputError, match=r"none\.jpg"):
        next(stylize_each(CAT, [STYLES[0], "none.jpg"], **SMALL))


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_divergence_keeps_the_last_good_pictures(batch):
    diverging = optax.chain(optax.sgd(1.0), optax.scale(float("nan")))
    with pytest.raises(DivergedError) as caught:
        list(stylize_each(CAT, STYLES, **SMALL, optimizer=diverging, batch=batch))
    results = caught.value.result if batch == 3 else [caught.value.result]
    assert [r.settings["styles"][0] for r in results] == [s.name for s in STYLES[: batch or 1]]
    assert all(np.isfinite(result.image).all() for result in results)


# --- the loop itself -----------------------------------------------------------------------------


def valley(image, goal, scale):
    distance = jnp.square(image - goal).sum()
    return scale * distance, {"distance": distance}


@pytest.mark.parametrize("k", [1, 3])
def test_minimise_each_equals_minimise(k):
    goals = jax.random.uniform(jax.random.key(0), (k, 4, 5, 3))
    starts = jax.random.uniform(jax.random.key(1), (k, 4, 5, 3))
    options = {"optimizer": optax.adam(0.05), "steps": 7}
    seen = []
    outcomes = minimise_each(
        valley, starts, goals, (2.0,), **options, on_progress=lambda p: seen.append(p) and None
    )
    assert len(outcomes) == k
    for i, got in enumerate(outcomes):
        want = minimise(valley, starts[i], (goals[i], 2.0), **options)
        np.testing.assert_allclose(got.image, want.image, atol=1e-6)
        assert got.history == [pytest.approx(entry, rel=1e-5) for entry in want.history]
    losses = [entry for progress in seen for entry in progress.losses]
    assert seen[-1].image.shape == (k, 4, 5, 3)
    for i, entry in enumerate(losses):
        mean = np.mean([outcome.history[i]["total"] for outcome in outcomes])
        assert (entry["step"], entry["total"]) == (i + 1, pytest.approx(mean))


def test_minimise_each_differentiates_the_objective_of_each_style():
    """The same with the real objective, whose targets differ in their Gram matrices alone."""
    params = jax.tree.map(jnp.asarray, weights.resolve("vgg16").params)
    content = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    styles = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
    layers = {"content_layers": ("relu2_1",), "style_layers": ("relu1_1",)}
    targets = [make_targets(params, content, [style], **layers) for style in styles]
    weighting = LossWeights(1.0, 1.0, 0.0, {"relu2_1": 1.0}, {"relu1_1": 1.0})

    def of_style(image, style, shared):
        own = Targets(shared.content, style)
        return loss(image, params, own, weighting)

    stacked = jax.tree.map(lambda *grams: jnp.stack(grams), *(t.style for t in targets))
    optimizer = optax.sgd(1.0)
    step = partial(minimise_each, optimizer=optimizer, steps=1)
    outcomes = step(of_style, jnp.stack([content] * 2), stacked, (targets[0],))
    for got, target in zip(outcomes, targets, strict=True):
        want = minimise(loss, content, (params, target, weighting), optimizer=optimizer, steps=1)
        np.testing.assert_allclose(got.image, want.image, atol=1e-5)


def test_a_line_search_takes_one_picture_at_a_time():
    starts = jnp.zeros((2, 4, 4, 3))
    with pytest.raises(InputError, match="one picture at a time"):
        minimise_each(valley, starts, starts, (1.0,), optimizer=optax.lbfgs(), steps=3)
