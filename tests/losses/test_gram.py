"""Gram matrices and style losses against the paper's equations in NumPy, float64.

F is (N, M) in the references: filters first, as in the paper.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nst_jax.losses.statistics import Gram, gram, masked_gram, relative_style_loss, style_loss

SHAPES = [(1, 1, 1), (5, 4, 3), (3, 7, 8)]  # few, because JAX compiles each
VALUES = st.floats(-10, 10, width=32)
PAIRS = st.sampled_from(SHAPES).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=VALUES)] * 2)
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def make_mask(h, w):
    """A soft mask in which some positions are entirely inside and some entirely outside."""
    return np.clip(np.random.default_rng(4).uniform(-0.5, 1.5, (h, w)), 0, 1).astype(np.float32)


def as_matrix(features):
    """(h, w, n) to the paper's F, (N, M), in float64."""
    features = np.asarray(features.astype(jnp.float32), np.float64)
    return features.reshape(-1, features.shape[-1]).T


def reference_gram(F, T=None):
    N, M = F.shape
    T = np.ones(M) if T is None else T.ravel()
    return np.array(
        [[sum(F[i, k] * F[j, k] * T[k] for k in range(M)) for j in range(N)] for i in range(N)]
    )


def reference_style(G, A, M):
    N = len(G)
    return sum((G[i, j] - A[i, j]) ** 2 for i in range(N) for j in range(N)) / (4 * N**2 * M**2)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gram_matrix_is_equation_3_and_a_mask_weights_its_positions(shape):
    F, T = normal(*shape), make_mask(*shape[:2])
    features, mask = jnp.asarray(F), jnp.asarray(T)
    np.testing.assert_allclose(gram(features), reference_gram(as_matrix(F)), 1e-5, 1e-5)
    expected = reference_gram(as_matrix(F), T.astype(np.float64))
    np.testing.assert_allclose(masked_gram(features, mask), expected, 1e-5, 1e-5)
    whole = masked_gram(features, mask) + masked_gram(features, 1 - mask)
    np.testing.assert_allclose(whole, gram(features), 1e-5, 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_style_losses_are_equation_4_and_its_share_of_the_energy(shape):
    F, S = normal(*shape), normal(*shape, seed=1)
    M = shape[0] * shape[1]
    G, A = reference_gram(as_matrix(F)), reference_gram(as_matrix(S))
    found, target = gram(jnp.asarray(F)), gram(jnp.asarray(S))
    np.testing.assert_allclose(style_loss(found, target, M), reference_style(G, A, M), 1e-5)
    share = np.square(G - A).sum() / np.square(A).sum()
    np.testing.assert_allclose(relative_style_loss(found, target), share, 1e-5)
    assert style_loss(found, found, M) == relative_style_loss(found, found) == 0


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_of_a_gram_matrix_is_its_closed_form(jitted, masked):
    """Σ_k T_k F_ik F_jk gives F_ik the gradient T_k Σ_j (S_ij + S_ji) F_jk, for a cotangent S."""
    F, T, S = normal(5, 6, 4), make_mask(5, 6), normal(4, 4, seed=5)

    def weighted(features, mask):
        return (S * (masked_gram(features, mask) if masked else gram(features))).sum()

    gradient = jax.jit(jax.grad(weighted)) if jitted else jax.grad(weighted)
    found = gradient(jnp.asarray(F), jnp.asarray(T))
    expected = (S + S.T) @ as_matrix(F) * (T.ravel() if masked else 1)
    np.testing.assert_allclose(as_matrix(found), expected, 1e-5, 1e-5)
    assert not (masked and found[T == 0].any())


def test_the_gradient_of_the_style_loss_is_equation_6():
    """It is (1/(N²M²)) Fᵀ(G − A) where F > 0, otherwise 0."""
    x = normal(4, 5, 6, seed=2)
    x[0, 0, 0] = x[3, 4, 5] = 0.0  # at the kink of the ReLU
    A = reference_gram(as_matrix(np.maximum(normal(4, 5, 6, seed=3), 0)))
    target = jnp.asarray(A, jnp.float32)
    found = jax.grad(lambda x: style_loss(gram(jax.nn.relu(x)), target, 20))(jnp.asarray(x))
    F = as_matrix(np.maximum(x, 0))
    N, M = F.shape
    expected = np.where(F > 0, (F.T @ (reference_gram(F) - A)).T / (N**2 * M**2), 0)
    np.testing.assert_allclose(as_matrix(found), expected, 1e-4, 1e-6 * np.abs(expected).max())


@given(PAIRS, st.floats(0.0001, 512), st.sampled_from([0, 1]), st.randoms(use_true_random=False))
def test_style_losses_ignore_order_and_repetition_and_the_relative_one_scale(
    pair, scale, axis, random
):
    F, S = map(jnp.asarray, pair)
    assume(jnp.square(S).sum() > 0.1)
    h, w, n = F.shape
    order = np.array(random.sample(range(h * w), h * w))
    changes = [
        lambda x: x.reshape(-1, n)[order].reshape(h, w, n),
        lambda x: jnp.concatenate([x, x], axis),
        lambda x: scale * x,
    ]
    expected, M = (
        (relative_style_loss(gram(F), gram(S)), style_loss(gram(F), gram(S), h * w)),
        h * w,
    )
    for change, positions in zip(changes, (M, 2 * M, None), strict=True):
        G, A = gram(change(F)), gram(change(S))
        np.testing.assert_allclose(relative_style_loss(G, A), expected[0], 1e-4, 1e-6)
        if positions:
            np.testing.assert_allclose(style_loss(G, A, positions), expected[1], 1e-4, 1e-6)


def test_the_relative_style_loss_of_a_target_of_zeros_is_finite():
    zeros = jnp.zeros((3, 3, 2))
    value, gradient = jax.value_and_grad(lambda x: relative_style_loss(gram(x), gram(zeros)))(zeros)
    assert value == 0
    assert not gradient.any()


def test_gram_matrices_of_bfloat16_sum_in_float32():
    """A bfloat16 has 8 bits: sums in it are off by 1e-3 and more."""
    features, T = jnp.asarray(normal(40, 50, 4) + 1).astype(jnp.bfloat16), make_mask(40, 50)
    F = as_matrix(features)
    matrix, masked = gram(features), masked_gram(features, jnp.asarray(T))
    assert matrix.dtype == masked.dtype == jnp.float32
    np.testing.assert_allclose(matrix, F @ F.T, 1e-5)
    np.testing.assert_allclose(masked, F * T.ravel() @ F.T, 1e-3)  # each T is rounded


@pytest.mark.parametrize("normalization", ["target_energy", "none"])
def test_the_statistic_measures_sums_and_compares_averages(normalization):
    statistic = Gram(normalization)
    F, S, mask = (
        jnp.asarray(normal(5, 4, 3)),
        jnp.asarray(normal(3, 7, 3)),
        jnp.asarray(make_mask(5, 4)),
    )
    np.testing.assert_array_equal(statistic.measure(F), gram(F))
    np.testing.assert_array_equal(statistic.measure(F, mask), masked_gram(F, mask))
    halves = statistic.measure(F[:2]) + statistic.measure(F[2:])
    np.testing.assert_allclose(halves, gram(F), 1e-5, 1e-5)
    G, A = reference_gram(as_matrix(F)), reference_gram(as_matrix(S)) * 20 / 21  # as many positions
    relative = np.square(G - A).sum() / np.square(A).sum()
    expected = relative if normalization == "target_energy" else reference_style(G, A, 20)
    found = statistic.distance(statistic.measure(F) / 20, statistic.measure(S) / 21)
    np.testing.assert_allclose(found, expected, 1e-5)
    # It is a static part of the targets: equal ones share an executable.
    assert len({statistic, Gram(normalization), Gram("none"), Gram()}) == 2
