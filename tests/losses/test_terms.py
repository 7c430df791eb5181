"""The content loss and total variation against their formulas in NumPy, float64."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nst_jax.losses.terms import content_loss, relative_content_loss, total_variation

SHAPES = [(1, 1, 1), (5, 4, 3), (3, 7, 8)]  # few, because JAX compiles each
VALUES = st.floats(-10, 10, width=32)
PAIRS = st.sampled_from(SHAPES).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=VALUES)] * 2)
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def reference_variation(image):
    h, w, channels = image.shape
    total = 0.0
    for y in range(h):
        for x in range(w):
            for dy, dx, share in ((0, 1, 2 / 3), (1, 0, 2 / 3), (1, 1, 1 / 6), (1, -1, 1 / 6)):
                if y + dy < h and 0 <= x + dx < w:
                    total += share * ((image[y + dy, x + dx] - image[y, x]) ** 2).sum()
    return total / (h * w * channels)


@pytest.mark.parametrize("shape", SHAPES)
def test_content_losses_are_equation_1_and_its_share_of_the_energy(shape):
    F, P = normal(*shape), normal(*shape, seed=1)
    squares = sum((float(f) - float(p)) ** 2 for f, p in zip(F.flat, P.flat, strict=True))
    energy = np.square(P.astype(np.float64)).sum()
    features, target = jnp.asarray(F), jnp.asarray(P)
    np.testing.assert_allclose(content_loss(features, target), squares / 2, 1e-5)
    np.testing.assert_allclose(relative_content_loss(features, target), squares / energy, 1e-5)
    assert content_loss(features, features) == relative_content_loss(features, features) == 0


def test_the_gradient_of_the_content_loss_is_equation_2():
    """It is F − P where F > 0, otherwise 0."""
    x = normal(4, 5, 6, seed=2)
    x[0, 0, 0] = x[3, 4, 5] = 0.0  # at the kink of the ReLU
    P = np.maximum(normal(4, 5, 6, seed=3), 0) + 0.1
    gradient = jax.grad(lambda x: content_loss(jax.nn.relu(x), jnp.asarray(P)))(jnp.asarray(x))
    F = np.maximum(x, 0)
    np.testing.assert_allclose(gradient, np.where(F > 0, F - P, 0), 1e-5, 1e-7)


@given(PAIRS, st.floats(0.0001, 512), st.sampled_from([0, 1]))
def test_the_relative_content_loss_ignores_scale_and_repetition(pair, scale, axis):
    F, P = map(jnp.asarray, pair)
    assume(jnp.square(P).sum() > 0.1)
    expected = relative_content_loss(F, P)
    for f in (lambda x: scale * x, lambda x: jnp.concatenate([x, x], axis)):
        np.testing.assert_allclose(relative_content_loss(f(F), f(P)), expected, 1e-4, 1e-6)


def test_the_relative_content_loss_of_a_target_of_zeros_is_finite():
    zeros = jnp.zeros((3, 3, 2))
    value, gradient = jax.value_and_grad(relative_content_loss)(zeros, zeros)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (5, 8)])
def test_total_variation_is_its_formula(size):
    image = normal(*size, 3)
    found = total_variation(jnp.asarray(image))
    np.testing.assert_allclose(found, reference_variation(image.astype(np.float64)), 1e-5)


@given(st.floats(0, 2 * np.pi), st.floats(0.01, 1))
def test_the_total_variation_of_a_plane_is_its_slope_squared(direction, slope):
    h, w = 24, 30
    y, x = np.mgrid[:h, :w]
    plane = slope * (np.cos(direction) * x + np.sin(direction) * y)
    found = total_variation(jnp.asarray(np.repeat(plane[..., None], 3, 2), jnp.float32))
    share = float(found) / slope**2
    assert (1 - 1 / h) * (1 - 1 / w) - 1e-3 <= share <= 1 + 1e-3  # differences end at the border


def test_losses_of_bfloat16_sum_in_float32():
    """A bfloat16 has 8 bits: sums, squares and differences in it are off by 1e-3 and more."""
    pair = [jnp.asarray(normal(20, 50, 3, seed=i) + 5).astype(jnp.bfloat16) for i in (0, 1)]
    F, P = (np.asarray(x.astype(jnp.float32), np.float64) for x in pair)
    squares = np.square(F - P).sum()
    for found, expected in (
        (content_loss(*pair), squares / 2),
        (relative_content_loss(*pair), squares / np.square(P).sum()),
        (total_variation(pair[0]), reference_variation(F)),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, 1e-5)


def test_shapes_are_checked_in_these_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        content_loss(jnp.ones((2, 2, 3)), jnp.ones((2, 1, 3)))
