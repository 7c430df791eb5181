"""Over a mesh of devices the objective is the same function, and each device holds its part."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from partitioning.test_tiling import (
    DEEP,
    NETWORK,
    error,
    noise,
    problem,
    problem_with_terms,
    whole,
)

from nst_jax import loss
from nst_jax.losses.statistics import NearestNeighbor
from nst_jax.optimize import minimize, optimize_chunks, pyramid_lbfgs
from nst_jax.partitioning import (
    make_mesh,
    replicate,
    shard_batch,
    shard_image,
    shard_state,
    sharded_loss_fn,
    sharding,
)

DEVICES = jax.devices()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_ROWS", 16)


def over_mesh(mesh, image, *args):
    """Evaluate the loss and its gradient over a mesh."""
    gradient = jax.jit(jax.value_and_grad(sharded_loss_fn(mesh), has_aux=True))
    return gradient(shard_image(image, mesh), *replicate(args, mesh))


@pytest.mark.parametrize(
    ("num_devices", "batch_size", "height", "expected"),
    [
        (8, 1, 512, {"images": 1, "replicas": 1, "rows": 8}),
        (8, 1, 40, {"images": 1, "replicas": 4, "rows": 2}),
        (8, 1, 10, {"images": 1, "replicas": 8, "rows": 1}),
        (8, 4, 512, {"images": 4, "replicas": 1, "rows": 2}),
        (8, 3, 512, {"images": 1, "replicas": 1, "rows": 8}),
        (6, 3, 512, {"images": 3, "replicas": 1, "rows": 2}),
        (4, 100, 512, {"images": 4, "replicas": 1, "rows": 1}),
    ],
)
def test_devices_take_images_first_and_then_rows(num_devices, batch_size, height, expected):
    assert make_mesh(DEVICES[:num_devices], height, batch_size).shape == expected


@pytest.mark.parametrize(
    ("num_devices", "height", "options"),
    [
        (4, 64, {}),
        (4, 75, {"padding": "same", "pooling": "average"}),
        pytest.param(8, 129, {"pooling": "l2"}, marks=pytest.mark.extended),
        (2, 41, {"masks": np.random.default_rng(1).uniform(0, 1, (2, 41, 36))}),
    ],
)
def test_the_loss_and_its_gradient_are_those_of_one_device(num_devices, height, options):
    if "masks" in options:
        options = options | {"masks": jnp.asarray(options["masks"], jnp.float32)}
    args = problem(NETWORK, height, 36, content=["relu2_2"], style=DEEP, **options)
    mesh = make_mesh(DEVICES[:num_devices], height)
    assert mesh.shape["rows"] == num_devices
    (total, terms), gradient = over_mesh(mesh, *args)
    (expected, expected_terms), expected_gradient = whole(*args)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for name, term in terms.items():
        np.testing.assert_allclose(term, expected_terms[name], rtol=1e-4, err_msg=name)
    assert error(gradient, expected_gradient) < 1e-4


def test_terms_of_the_user_are_those_of_one_device():
    args = problem_with_terms(41, 36)
    (total, terms), gradient = over_mesh(make_mesh(DEVICES[:2], 41), *args)
    (expected, expected_terms), expected_gradient = whole(*args)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for name in ("temporal", "contrast", "guide"):
        np.testing.assert_allclose(terms[name], expected_terms[name], rtol=1e-4, err_msg=name)
    assert error(gradient, expected_gradient) < 1e-4


@pytest.mark.extended
def test_a_statistic_that_is_not_additive_sees_all_positions():
    image, params, targets, loss_weights = problem(NETWORK, 40, 36, style=["relu1_1"])
    statistic = NearestNeighbor(num_positions=10_000)
    style = {"relu1_1": statistic.measure(noise(20, 20, seed=1)[..., :1] * jnp.ones(8))}
    targets = replace(targets, style=style, statistic=statistic)
    args = image, params, targets, loss_weights
    (total, _), gradient = over_mesh(make_mesh(DEVICES[:2], 40), *args)
    (expected, _), expected_gradient = whole(*args)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert error(gradient, expected_gradient) < 1e-4


@pytest.mark.parametrize("height", [256, pytest.param(250, marks=pytest.mark.extended)])
def test_a_device_needs_a_part_of_the_memory(height):
    image, *args = problem(NETWORK, height, 64, content=["relu2_2"], style=DEEP)

    def temporary_bytes(num_devices):
        mesh = make_mesh(DEVICES[:num_devices], height)
        gradient = jax.jit(jax.value_and_grad(sharded_loss_fn(mesh), has_aux=True))
        compiled = gradient.lower(shard_image(image, mesh), *replicate(args, mesh)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < 0.3 * temporary_bytes(1)


def test_images_are_divided_evenly_or_copied():
    mesh = make_mesh(DEVICES[:4], 64)
    shapes = {(64, 36, 3): (16, 36, 3), (65, 36, 3): (65, 9, 3), (65, 37, 3): (65, 37, 3)}
    for shape, shard in shapes.items():
        assert shard_image(jnp.zeros(shape), mesh).sharding.shard_shape(shape) == shard


@pytest.mark.parametrize(
    "optimizer",
    [optax.adam(0.02), pytest.param(pyramid_lbfgs(memory_size=3), marks=pytest.mark.campaign)],
    ids=["adam", "lbfgs"],
)
def test_the_optimization_leaves_the_state_divided(optimizer):
    image, *args = problem(NETWORK, 64, 36, content=["relu2_2"], style=DEEP)
    mesh = make_mesh(DEVICES[:4], 64)
    chunks = optimize_chunks(
        sharded_loss_fn(mesh),
        image,
        tuple(replicate(args, mesh)),
        optimizer=optimizer,
        steps=6,
        shard_fn=lambda state: shard_state(state, mesh),
    )
    *_, last = chunks
    large = [x for x in jax.tree.leaves(last.state) if x.ndim >= 3 and x.shape[-3] == 64]
    assert len(large) > 2
    assert all(x.sharding.shard_shape(x.shape)[-3] == 16 for x in large)
    alone = minimize(loss, image, tuple(args), optimizer=optimizer, steps=6)
    assert error(np.asarray(last.state.iterate), np.asarray(alone.state.iterate)) < 1e-2


def test_a_batch_is_divided_by_images():
    mesh = make_mesh(DEVICES[:4], 64, batch_size=8)
    styles = shard_batch({"relu1_1": jnp.zeros((8, 5, 5))}, mesh)
    assert styles["relu1_1"].sharding.shard_shape((8, 5, 5)) == (2, 5, 5)
