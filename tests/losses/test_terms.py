"""The losses against the paper's formulas in NumPy, float64. F is (N, M) there: filters first."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nst_jax.losses.terms import (
    content_loss,
    gram,
    gram_beside,
    guided_gram,
    relative_content_loss,
    relative_style_loss,
    style_loss,
    total_variation,
)

SHAPES = [(1, 1, 1), (4, 3, 2), (2, 5, 7)]  # few, since JAX compiles each
VALUES = st.floats(-10, 10, width=32)
FEATURES = st.sampled_from(SHAPES).flatmap(lambda s: hnp.arrays(np.float32, s, elements=VALUES))
PAIRS = st.sampled_from(SHAPES).flatmap(
    lambda s: st.tuples(*[hnp.arrays(np.float32, s, elements=VALUES)] * 2)
)
SCALES = st.floats(0.0001, 512)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def bfloat16(array):
    return jnp.asarray(array).astype(jnp.bfloat16)


def matrix(features):
    """(h, w, n) to the paper's F, (N, M), in float64."""
    features = np.asarray(features.astype(jnp.float32), np.float64)
    return features.reshape(-1, features.shape[-1]).T


def reference_gram(F):
    N, M = F.shape
    G = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            for k in range(M):
                G[i, j] += F[i, k] * F[j, k]
    return G


def reference_content(F, P):
    return 0.5 * sum((F[i, j] - P[i, j]) ** 2 for i in range(len(F)) for j in range(len(F.T)))


def reference_style(G, A, M):
    N = len(G)
    return sum((G[i, j] - A[i, j]) ** 2 for i in range(N) for j in range(N)) / (4 * N**2 * M**2)


def reference_variation(image):
    h, w, channels = image.shape
    total = 0.0
    for y in range(h):
        for x in range(w):
            for dy, dx, share in ((0, 1, 2 / 3), (1, 0, 2 / 3), (1, 1, 1 / 6), (1, -1, 1 / 6)):
                if y + dy < h and 0 <= x + dx < w:
                    total += share * ((image[y + dy, x + dx] - image[y, x]) ** 2).sum()
    return total / (h * w * channels)


# --- the paper's equations -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 3), (3, 7, 8)])
def test_gram_is_equation_3(shape):
    F = normal(*shape)
    np.testing.assert_allclose(gram(jnp.asarray(F)), reference_gram(matrix(F)), 1e-5, 1e-5)


def guide(h, w, seed=4):
    """How far each position is in a region: some fully, some not at all."""
    return np.clip(np.random.default_rng(seed).uniform(-0.5, 1.5, (h, w)), 0, 1).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 3), (3, 7, 8)])
def test_guided_gram_weighs_positions(shape):
    F, T = normal(*shape), guide(*shape[:2])
    want = reference_gram(matrix(F) * np.sqrt(T.astype(np.float64).ravel()))
    got = guided_gram(jnp.asarray(F), jnp.asarray(T))
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)


@pytest.mark.parametrize("jitted", [False, True])
def test_gram_beside_is_both_with_the_gradient_of_both(jitted):
    F, S, onwards = normal(5, 4, 3), normal(3, 3, seed=1), normal(5, 4, 3, seed=2)

    def weighed(F):
        features, matrix = gram_beside(F)
        return (S * matrix).sum() + (onwards * features).sum(), (features, matrix)

    differentiated = jax.value_and_grad(weighed, has_aux=True)
    (_, (features, matrix)), got = (jax.jit(differentiated) if jitted else differentiated)(
        jnp.asarray(F)
    )
    np.testing.assert_array_equal(features, F)
    np.testing.assert_allclose(matrix, reference_gram(F.reshape(-1, 3).T), 1e-5, 1e-5)
    want = onwards + F.astype(np.float64) @ (S + S.T)
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)


def test_guided_grams_of_a_partition_sum_to_the_whole():
    F, T = jnp.asarray(normal(5, 6, 4)), jnp.asarray(guide(5, 6))
    parts = guided_gram(F, T) + guided_gram(F, 1 - T)
    np.testing.assert_allclose(parts, gram(F), 1e-5, 1e-5)


def test_gradient_of_a_guided_gram_is_its_formula():
    """Σ_k T_k F_ik F_jk gives F_ik the gradient T_k Σ_j (S_ij + S_ji) F_jk, for a cotangent S."""
    F, T, S = normal(5, 6, 4), guide(5, 6), normal(4, 4, seed=5)
    got = jax.grad(lambda F: (S * guided_gram(F, jnp.asarray(T))).sum())(jnp.asarray(F))
    want = T.ravel() * ((S + S.T) @ matrix(F))
    np.testing.assert_allclose(matrix(got), want, 1e-5, 1e-5)
    assert not got[T == 0].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 3), (3, 7, 8)])
def test_content_loss_is_equation_1(shape):
    F, P = normal(*shape), normal(*shape, seed=1)
    got = content_loss(jnp.asarray(F), jnp.asarray(P))
    np.testing.assert_allclose(got, reference_content(matrix(F), matrix(P)), 1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 3), (3, 7, 8)])
def test_style_loss_is_equation_4(shape):
    F, P = normal(*shape), normal(*shape, seed=1)
    M = shape[0] * shape[1]
    got = style_loss(gram(jnp.asarray(F)), gram(jnp.asarray(P)), M)
    want = reference_style(reference_gram(matrix(F)), reference_gram(matrix(P)), M)
    np.testing.assert_allclose(got, want, 1e-5)


def test_relative_losses_are_shares_of_the_targets_energy():
    F, P = normal(5, 4, 3), normal(5, 4, 3, seed=1)
    content = relative_content_loss(jnp.asarray(F), jnp.asarray(P))
    np.testing.assert_allclose(content, ((F - P) ** 2).sum() / (P**2).sum(), 1e-5)
    G, A = reference_gram(matrix(F)), reference_gram(matrix(P))
    style = relative_style_loss(gram(jnp.asarray(F)), gram(jnp.asarray(P)))
    np.testing.assert_allclose(style, ((G - A) ** 2).sum() / (A**2).sum(), 1e-5)


# Half of the pre-activations are negative and two are zero: there the gradient must vanish even
# though F − P and Fᵀ(G − A) do not.


@pytest.fixture
def before_relu():
    x = normal(4, 5, 6, seed=2)
    x[0, 0, 0] = x[3, 4, 5] = 0.0
    return x


def test_gradient_of_the_content_loss_is_equation_2(before_relu):
    P = jnp.maximum(normal(4, 5, 6, seed=3), 0) + 0.1
    got = jax.grad(lambda x: content_loss(jax.nn.relu(x), P))(jnp.asarray(before_relu))
    F = np.maximum(before_relu, 0)
    np.testing.assert_allclose(got, np.where(F > 0, F - P, 0), 1e-5, 1e-7)


def test_gradient_of_the_style_loss_is_equation_6(before_relu):
    A = reference_gram(matrix(np.maximum(normal(4, 5, 6, seed=3), 0)))
    got = jax.grad(lambda x: style_loss(gram(jax.nn.relu(x)), jnp.asarray(A, jnp.float32), 20))(
        jnp.asarray(before_relu)
    )
    F = matrix(np.maximum(before_relu, 0))
    N, M = F.shape
    G = reference_gram(F)
    want = np.zeros((N, M))
    for i in range(N):
        for j in range(M):
            if F[i, j] > 0:
                want[i, j] = (F.T @ (G - A))[j, i] / (N**2 * M**2)
    np.testing.assert_allclose(matrix(got), want, 1e-4, 1e-6 * np.abs(want).max())


# --- properties ----------------------------------------------------------------------------------


@given(FEATURES)
def test_gram_is_symmetric(F):
    G = np.asarray(gram(jnp.asarray(F)))
    np.testing.assert_allclose(G, G.T, 1e-6, 1e-6 * np.abs(G).max())


@given(FEATURES)
def test_gram_is_positive_semidefinite(F):
    eigenvalues = np.linalg.eigvalsh(np.asarray(gram(jnp.asarray(F)), np.float64))
    assert eigenvalues.min() >= -1e-6 * eigenvalues.max()


@given(FEATURES, st.randoms(use_true_random=False))
def test_gram_does_not_see_positions(F, random):
    order = list(range(F.shape[0] * F.shape[1]))
    random.shuffle(order)
    shuffled = F.reshape(-1, F.shape[2])[order].reshape(F.shape)
    G = gram(jnp.asarray(F))
    np.testing.assert_allclose(gram(jnp.asarray(shuffled)), G, 1e-5, 1e-6 * np.abs(G).max())


@given(FEATURES)
def test_losses_are_zero_at_the_target(F):
    F = jnp.asarray(F)
    G = gram(F)
    assert content_loss(F, F) == relative_content_loss(F, F) == 0
    assert style_loss(G, G, 3) == relative_style_loss(G, G) == 0


@given(PAIRS, SCALES)
def test_relative_losses_do_not_see_the_scale_of_activations(pair, scale):
    F, P = map(jnp.asarray, pair)
    assume(jnp.square(P).sum() > 0.1)
    np.testing.assert_allclose(
        relative_content_loss(scale * F, scale * P), relative_content_loss(F, P), 1e-4, 1e-6
    )
    np.testing.assert_allclose(
        relative_style_loss(gram(scale * F), gram(scale * P)),
        relative_style_loss(gram(F), gram(P)),
        1e-4,
        1e-6,
    )


@given(PAIRS, st.sampled_from([0, 1]))
def test_size_independent_losses_do_not_see_a_repetition(pair, axis):
    F, P = map(jnp.asarray, pair)
    assume(jnp.square(P).sum() > 0.1)
    twice_f, twice_p = jnp.concatenate([F, F], axis), jnp.concatenate([P, P], axis)
    M = F.shape[0] * F.shape[1]
    for once, twice in (
        (relative_content_loss(F, P), relative_content_loss(twice_f, twice_p)),
        (relative_style_loss(gram(F), gram(P)), relative_style_loss(gram(twice_f), gram(twice_p))),
        (style_loss(gram(F), gram(P), M), style_loss(gram(twice_f), gram(twice_p), 2 * M)),
    ):
        np.testing.assert_allclose(twice, once, 1e-4, 1e-6)


def test_relative_losses_of_nothing_are_finite():
    nothing = jnp.zeros((3, 3, 2))
    for f in (relative_content_loss, lambda x, y: relative_style_loss(gram(x), gram(y))):
        value, grad = jax.value_and_grad(f)(nothing, nothing)
        assert value == 0
        assert not grad.any()


# --- total variation -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (5, 8)])
def test_total_variation_is_its_formula(size):
    image = normal(*size, 3)
    got = total_variation(jnp.asarray(image))
    np.testing.assert_allclose(got, reference_variation(image.astype(np.float64)), 1e-5)


@given(hnp.arrays(np.float32, 3, elements=VALUES))
def test_total_variation_of_a_constant_is_zero(colour):
    assert total_variation(jnp.broadcast_to(jnp.asarray(colour), (5, 4, 3))) == 0


@given(st.floats(0, 2 * np.pi), st.floats(0.01, 1))
def test_total_variation_of_a_plane_is_its_slope_squared(direction, slope):
    h, w = 24, 30
    y, x = np.mgrid[:h, :w]
    plane = slope * (np.cos(direction) * x + np.sin(direction) * y)
    got = total_variation(jnp.asarray(np.repeat(plane[..., None], 3, 2), jnp.float32))
    share = float(got) / slope**2
    assert (1 - 1 / h) * (1 - 1 / w) - 1e-3 <= share <= 1 + 1e-3  # differences end at the border


def test_total_variation_favours_no_direction_for_waves_of_four_pixels():
    y, x = np.mgrid[:128, :128]

    def wave(direction):
        along = np.cos(direction) * x + np.sin(direction) * y
        image = np.repeat(np.sin(np.pi / 2 * along + 0.3)[..., None], 3, 2)
        return float(total_variation(jnp.asarray(image, jnp.float32)))

    assert wave(np.pi / 4) == pytest.approx(wave(0), rel=0.04)  # 11 % without the diagonals


@pytest.mark.parametrize(
    "turn", [lambda x: x.swapaxes(0, 1), lambda x: x[::-1], lambda x: x[:, ::-1]]
)
def test_total_variation_does_not_see_turns(turn, face):
    np.testing.assert_allclose(total_variation(turn(face)), total_variation(face), 1e-5)


def test_total_variation_does_not_see_size(face):
    mirrored = jnp.concatenate([face, face[:, ::-1]], 1)
    mirrored = jnp.concatenate([mirrored, mirrored[::-1]], 0)
    np.testing.assert_allclose(total_variation(mirrored), total_variation(face), 0.01)


# --- precision and checks ------------------------------------------------------------------------

# A bfloat16 has 8 bits: sums, squares or differences kept in it are wrong by 1e-3 and more.


def test_gram_of_bfloat16_accumulates_in_float32():
    F = bfloat16(normal(40, 50, 4) + 1)
    G = gram(F)
    assert G.dtype == jnp.float32
    np.testing.assert_allclose(G, np.einsum("ik,jk->ij", matrix(F), matrix(F)), 1e-5)


def test_guided_gram_of_bfloat16_accumulates_in_float32():
    F, T = bfloat16(normal(40, 50, 4) + 1), guide(40, 50)
    G = guided_gram(F, jnp.asarray(T))
    assert G.dtype == jnp.float32
    want = np.einsum("ik,jk,k->ij", matrix(F), matrix(F), T.ravel().astype(np.float64))
    np.testing.assert_allclose(G, want, 1e-3)  # each product has a rounded T; their sum has not


@pytest.mark.parametrize("f", [content_loss, relative_content_loss])
def test_content_losses_of_bfloat16_accumulate_in_float32(f):
    F, P = bfloat16(normal(40, 50, 4) + 5), bfloat16(normal(40, 50, 4, seed=1) + 5)
    squares = np.square(matrix(F) - matrix(P)).sum()
    want = 0.5 * squares if f is content_loss else squares / np.square(matrix(P)).sum()
    assert f(F, P).dtype == jnp.float32
    np.testing.assert_allclose(f(F, P), want, 1e-5)


def test_total_variation_of_bfloat16_accumulates_in_float32():
    image = bfloat16(normal(40, 50, 3) + 5)
    want = reference_variation(np.asarray(image.astype(jnp.float32), np.float64))
    assert total_variation(image).dtype == jnp.float32
    np.testing.assert_allclose(total_variation(image), want, 1e-5)


def test_shapes_are_checked_in_these_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        content_loss(jnp.ones((2, 2, 3)), jnp.ones((2, 1, 3)))
