"""Coarse to fine: the sizes, what is carried between them, and the way through them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_jax import DivergedError, InputError, Settings, interpolate, minimise, stylize, texture
from nst_jax.optimize.loop import State
from nst_jax.optimize.multiscale import Scale, carry, climb, shapes
from nst_jax.pipeline.job import prepare

SMALL = {
    "steps": 4,
    "min_scale": 24,
    "model": "vgg16",
    "dtype": "float32",
    "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5},
    "content_layers": {"relu2_2": 1.0},
}
SCALES = [Scale((8, 12), 5), Scale((11, 17), 3), Scale((16, 24), 4)]
OPTIMIZERS = {"adam": optax.adam(0.05), "lbfgs": optax.lbfgs(memory_size=3)}


def valley(image, goal):
    distance = jnp.square(image - goal).sum()
    return distance, {"distance": distance}


@pytest.fixture(scope="module")
def goals():
    whole = jax.random.uniform(jax.random.key(0), (*SCALES[-1].shape, 3))
    return [jax.image.resize(whole, (*scale.shape, 3), "linear") for scale in SCALES]


def descent(goals):
    def descend(i, start, **options):
        return [minimise(valley, start, (goals[i],), **options)]

    return descend


# --- sizes ---------------------------------------------------------------------------------------


@given(st.integers(16, 5000), st.integers(16, 5000), st.integers(16, 600))
def test_sizes_grow_by_the_root_of_two(height, width, smallest):
    sizes = shapes((height, width), smallest)
    assert sizes[-1] == (height, width)
    for fine, coarse in zip(sizes[:0:-1], sizes[-2::-1], strict=True):
        assert max(fine) / max(coarse) == pytest.approx(2**0.5, rel=0.06)
        assert coarse[0] / coarse[1] == pytest.approx(height / width, rel=0.08)
    assert all(min(size) >= 16 and max(size) >= smallest for size in sizes[:-1])
    largest_left_out = round(max(height, width) / 2 ** (len(sizes) / 2))
    thin = min(height, width) * largest_left_out / max(height, width)
    assert largest_left_out < smallest or round(thin) < 16


def test_one_scale_is_the_size_itself():
    assert shapes((512, 300), None) == shapes((512, 300), 513) == [(512, 300)]


@pytest.mark.parametrize(
    ("size", "min_scale", "scales"),
    [
        (180, 128, [180]),
        (256, 128, [128, 181, 256]),
        (64, 32, [32, 45, 64]),
        (64, None, [64]),
    ],
)
def test_scales_that_the_settings_ask_for(cat, size, min_scale, scales):
    made = texture(cat, **SMALL | {"size": size, "min_scale": min_scale, "steps": 0}).settings
    assert made["scales"] == scales


# --- what is carried -----------------------------------------------------------------------------


def test_moments_are_resized_and_the_average_starts_afresh():
    optimizer = OPTIMIZERS["adam"]
    image = jax.random.uniform(jax.random.key(1), (8, 12, 3))
    state = optimizer.init(image)
    grads = jax.random.normal(jax.random.key(2), image.shape)
    for _ in range(3):
        _, state = optimizer.update(grads, state, image)
    before = State(image, image * (1 - 0.5**3), state, step=30, averaged=3)
    after = carry(before, (16, 24), optimizer, average=0.5)

    want = jax.image.resize(image, (16, 24, 3), "cubic")  # the average, its bias taken out
    np.testing.assert_allclose(after.image, jnp.clip(want, 0, 1), atol=1e-6)
    assert (after.step, after.averaged) == (30, 0)
    np.testing.assert_array_equal(after.mean, jnp.zeros((16, 24, 3)))
    moments = optax.tree_utils.tree_get(after.opt_state, "mu")
    squares = optax.tree_utils.tree_get(after.opt_state, "nu")
    assert moments.shape == squares.shape == (16, 24, 3)
    assert squares.min() >= 0
    scaled = 1 - 0.9**3
    np.testing.assert_allclose(
        moments, scaled * jax.image.resize(grads, (16, 24, 3), "linear"), atol=1e-5
    )
    assert optax.tree_utils.tree_get(after.opt_state, "count") == 3


def test_pictures_side_by_side_are_carried_each():
    optimizer = OPTIMIZERS["adam"]
    images = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3))
    states = [State(x, None, optimizer.init(x), 1, 1) for x in images]
    both = State(images, None, jax.vmap(optimizer.init)(images), 1, 1)
    together = carry(both, (11, 17), optimizer, 0.0)
    for i, state in enumerate(states):
        alone = carry(state, (11, 17), optimizer, 0.0)
        np.testing.assert_allclose(together.image[i], alone.image, atol=1e-6)
        assert jax.tree.map(jnp.shape, alone.opt_state) == jax.tree.map(
            lambda leaf: jnp.shape(leaf)[1:], together.opt_state
        )


def test_a_line_search_starts_afresh(goals):
    optimizer = OPTIMIZERS["lbfgs"]
    (outcome,) = descent(goals)(0, goals[0] * 0.5, optimizer=optimizer, steps=3)
    after = carry(outcome.state, (16, 24), optimizer, 0.0)
    fresh = optimizer.init(after.image)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, fresh)


# --- the way through -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "average"), [("adam", 0.0), ("adam", 0.6), ("lbfgs", 0.0)])
def test_a_climb_is_its_scales_one_after_another(goals, name, average):
    options = {"optimizer": OPTIMIZERS[name], "average": average}
    start = jnp.full((*SCALES[0].shape, 3), 0.5)
    seen = []
    done = climb(
        descent(goals),
        start,
        SCALES,
        **options,
        on_progress=lambda now, where: (
            seen.append((now, where.scale, list(where.history))) and None
        ),
    )

    state, losses = start, []
    for i, scale in enumerate(SCALES):
        if i:
            state = carry(outcome.state, scale.shape, **options)
        outcome = minimise(valley, state, (goals[i],), steps=scale.steps, **options)
        losses += [entry | {"size": max(scale.shape)} for entry in outcome.history]
    np.testing.assert_array_equal(done.images[0], outcome.image)
    assert done.histories == [losses]
    assert [entry["step"] for entry in losses] == list(range(1, 13))

    assert [e for now, _, _ in seen for e in now.losses] == losses
    assert all(now.steps == 12 for now, _, _ in seen)
    assert all(now.image.shape[:2] == SCALES[i].shape for now, i, _ in seen)
    assert all(history == losses[: now.step] for now, _, history in seen)
    assert not done.stopped


def test_a_true_callback_stops_the_climb(goals):
    start = jnp.full((*SCALES[0].shape, 3), 0.5)
    stop = partial(climb, descent(goals), start, SCALES, optimizer=OPTIMIZERS["adam"])
    done = stop(on_progress=lambda now, where: where.scale == 1)
    assert done.stopped
    assert done.images[0].shape[:2] == SCALES[1].shape
    assert len(done.histories[0]) < 8


def test_a_wish_to_stop_that_comes_at_the_end_stops_nothing(goals):
    start = jnp.full((*SCALES[0].shape, 3), 0.5)
    climbed = partial(climb, descent(goals), start, SCALES, optimizer=OPTIMIZERS["adam"])
    done = climbed(on_progress=lambda now, where: now.step == now.steps)
    assert not done.stopped
    assert len(done.histories[0]) == 12


def test_a_scale_that_ends_early_does_not_count_as_something_left(goals):
    start = jnp.full((*SCALES[0].shape, 3), 0.5)
    long = [SCALES[0]._replace(steps=1000), *SCALES[1:]]
    optimizer = OPTIMIZERS["lbfgs"]
    steps = sum(
        len(one) for one in climb(descent(goals), start, long, optimizer=optimizer).histories
    )
    assert steps < 1000
    done = climb(
        descent(goals),
        start,
        long,
        optimizer=optimizer,
        on_progress=lambda now, where: now.step == steps,
    )
    assert not done.stopped


def test_divergence_at_a_finer_scale_keeps_all_losses(goals):
    broken = [goals[0], goals[1] * jnp.nan, goals[2]]
    start = jnp.full((*SCALES[0].shape, 3), 0.5)
    with pytest.raises(DivergedError) as caught:
        climb(descent(broken), start, SCALES, optimizer=OPTIMIZERS["adam"])
    assert [entry["step"] for entry in caught.value.history] == [1, 2, 3, 4, 5]
    assert caught.value.image.shape[:2] == SCALES[1].shape
    assert jnp.isfinite(caught.value.image).all()


def test_each_scale_compiles_what_the_record_says(cat, roofs, compilations):
    fresh = SMALL | {"size": 58, "steps": (2, 3)}  # of a size not compiled before
    made = stylize(cat, roofs, **fresh).settings
    compiled = compilations()
    assert made["scales"] == [29, 41, 58]
    assert compiled.count("jit(make_targets)") == compiled.count("jit(_chunk)") == 3
    assert made["programs"] == 6
    assert (made["steps"], made["steps_done"], made["steps_wanted"]) == ([2, 3, 3], 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (1, 2, 3, 4)}, r"4 numbers of steps for 3 scales \(32, 45, 64 pixels\)"),
        ({"steps": ()}, "steps is"),
        ({"steps": (3, -1)}, "cannot be negative"),
        ({"steps": "12"}, "whole number"),
        ({"min_scale": 8}, "at least 16"),
        ({"min_scale": "small"}, "min_scale is 'small'"),
        ({"average": 1}, "decay from 0 to below 1"),
        ({"average": 0.5}, "no average of iterates"),  # with L-BFGS
        ({"style_scales": (1, 1)}, "2 style scales for 1 styles"),
        ({"style_scales": (0,)}, "above 0"),
    ],
)
def test_what_cannot_be_done_is_refused(cat, roofs, changes, message):
    with pytest.raises(InputError, match=message):
        stylize(cat, roofs, **SMALL | {"size": 64} | changes)


# --- style scales and blends ---------------------------------------------------------------------


def test_a_style_scale_is_a_style_of_that_size(cat, roofs):
    options = SMALL | {"size": 48, "min_scale": None}
    scaled = stylize(cat, roofs, **options, style_scales=(0.5,))
    from nst_jax.images import io as images

    small = images.resize(roofs, images.fit(roofs.shape, 24))
    np.testing.assert_array_equal(stylize(cat, small, **options).image, scaled.image)
    whole = stylize(cat, roofs, **options).image
    assert np.abs(scaled.image - whole).mean() > 1e-3


@pytest.mark.parametrize("batch", [None, 3])
def test_blends_go_from_the_first_style_to_the_last(cat, roofs, petals, batch):
    options = SMALL | {"size": 48, "min_scale": 32, "optimizer": "adam"}
    strip = list(interpolate(cat, [roofs, petals], **options, pictures=3, batch=batch))
    weights = [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    for made, shares in zip(strip, weights, strict=True):
        want = stylize(cat, [roofs, petals], **options, style_weights=shares)
        np.testing.assert_allclose(made.image, want.image, atol=5e-3)
    assert strip[1].settings["style_weights"] == [0.5, 0.5]
    assert len(strip[0].settings["styles"]) == 1
    distances = [np.abs(made.image - strip[0].image).mean() for made in strip]
    assert distances == sorted(distances)


@pytest.mark.parametrize(
    ("min_scale", "steps"), [(32, [200, 100, 80, 60, 40, 40]), (136, [200, 100]), (None, [200])]
)
def test_default_steps_fall_from_the_coarsest_on(cat, roofs, min_scale, steps):
    job = prepare(cat, [roofs], Settings(size=192, min_scale=min_scale, model="vgg16"))
    assert [scale.steps for scale in job.scales] == steps


def test_blends_pass_every_style(cat, roofs, petals):
    options = SMALL | {"size": 32, "min_scale": None, "steps": 0}
    strip = list(interpolate(cat, [roofs, petals, cat], **options, pictures=4))
    weights = [made.settings["style_weights"] for made in strip[1:3]]
    np.testing.assert_allclose(weights, [[1 / 3, 2 / 3], [2 / 3, 1 / 3]])


@pytest.mark.parametrize(
    ("styles", "changes", "message"),
    [
        (1, {}, "at least two styles"),
        (2, {"pictures": 1}, "two pictures"),
        (2, {"style_weights": (1, 2)}, "style weights blend styles"),
        (2, {"batch": 0}, "batch is 0"),
    ],
)
def test_strips_that_cannot_be_made(cat, roofs, styles, changes, message):
    with pytest.raises(InputError, match=message):
        next(interpolate(cat, [roofs] * styles, **SMALL | {"size": 32} | changes))


def test_settings_take_numpy_numbers():
    settings = Settings(steps=np.array([3, 4]), style_scales=np.float32([1, 0.5]))
    assert settings.steps == (3, 4)
    assert settings.style_scales == (1.0, 0.5)
