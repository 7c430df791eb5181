"""Moments, sliced Wasserstein and nearest neighbors against NumPy, SciPy and PyTorch, float64."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from lazy import torch

from nst_jax import LossWeights, loss, make_targets
from nst_jax.errors import InputError
from nst_jax.losses.statistics import (
    Gram,
    Moments,
    NearestNeighbor,
    SlicedWasserstein,
    StyleStatistic,
    WeightedSum,
    gaussian_wasserstein,
    is_stochastic,
    make_statistic,
    nearest_neighbor_loss,
    sliced_wasserstein,
)
from nst_jax.losses.statistics.moments import FeatureMoments, trace_of_root
from nst_jax.losses.statistics.samples import Samples, draw_features
from nst_jax.settings import Settings

NAMED = ("gram", "moments", "sliced", "nearest")
KEY = jax.random.key(3)


def features(*shape, seed=0, shift=0.0):
    """Correlated features, mostly positive as after a ReLU."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(shape[-1], shape[-1]))
    return np.maximum(rng.normal(size=shape) @ mixing + shift, 0).astype(np.float32)


def distance(statistic, measured, target):
    return statistic.distance(measured, target, *((KEY,) if is_stochastic(statistic) else ()))


def mean_moments(x):
    flat = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return FeatureMoments(flat.mean(0), flat.T @ flat / len(flat))


def as_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


@pytest.mark.parametrize("shape", [(9, 8, 3), (20, 30, 32), (4, 4, 24)])
def test_the_distance_of_moments_is_that_of_two_gaussians(shape):
    """scipy's matrix square root; the last shape has fewer positions than filters."""
    a, b = (mean_moments(x) for x in (features(*shape), features(*shape, seed=1, shift=0.5)))
    ridge = 1e-4 * np.trace(b.second - np.outer(b.first, b.first)) / shape[-1]
    first, second = (
        x.second - np.outer(x.first, x.first) + ridge * np.eye(shape[-1]) for x in (a, b)
    )
    root = scipy.linalg.sqrtm(second)
    cross = scipy.linalg.sqrtm(root @ first @ root).real
    expected = np.square(a.first - b.first).sum() + np.trace(first + second - 2 * cross)
    found = gaussian_wasserstein(as_jax(a), as_jax(b))
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    energy = np.trace(b.second)
    np.testing.assert_allclose(Moments().distance(as_jax(a), as_jax(b)), expected / energy, 2e-3)
    assert abs(Moments().distance(as_jax(b), as_jax(b))) < 1e-4


def test_moments_are_sums_over_the_positions_weighted_by_the_mask():
    x = features(5, 6, 4)
    mask = np.random.default_rng(2).uniform(size=(5, 6)).astype(np.float32)
    whole = Moments().measure(jnp.asarray(x))
    inside = Moments().measure(jnp.asarray(x), jnp.asarray(mask))
    np.testing.assert_allclose(whole.first, x.sum((0, 1)), 1e-5)
    np.testing.assert_allclose(whole.second, np.einsum("hwi,hwj->ij", x, x), 1e-5)
    np.testing.assert_allclose(inside.first, np.einsum("hw,hwi->i", mask, x), 1e-5)
    np.testing.assert_allclose(inside.second, np.einsum("hw,hwi,hwj->ij", mask, x, x), 1e-5)


def test_the_trace_of_a_root_has_the_derivative_of_the_closed_form():
    """d tr P^½ = ½ tr(P^-½ dP)."""
    a = features(30, 8).T.astype(np.float64)
    product = a @ a.T / 30 + 0.1 * np.eye(8)
    found = jax.grad(trace_of_root)(jnp.asarray(product, jnp.float32))
    np.testing.assert_allclose(found, 0.5 * np.linalg.inv(scipy.linalg.sqrtm(product)).T, 2e-3)
    direction = features(8, 8, seed=4)
    _, tangent = jax.jvp(trace_of_root, (jnp.float32(product),), (direction,))
    np.testing.assert_allclose(tangent, np.vdot(found, direction), 1e-4)


def test_the_distance_of_moments_multiplies_matrices_in_full_precision():
    """In TF32, a GPU's default, the inverse root of relu5_1 was off by a factor of 64."""
    moments = as_jax(mean_moments(features(6, 7, 4)))
    gradient = jax.jit(jax.value_and_grad(gaussian_wasserstein)).lower(moments, moments)
    products = [line for line in gradient.as_text().splitlines() if "dot_general" in line]
    assert len(products) >= 5
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_the_sliced_distance_sorts_the_projections():
    a, b = features(50, 6), features(50, 6, seed=1)
    directions = np.random.default_rng(5).normal(size=(6, 7)).astype(np.float32)
    expected = np.mean(
        [
            np.square(np.sort(a.astype(np.float64) @ v) - np.sort(b.astype(np.float64) @ v)).mean()
            for v in directions.T.astype(np.float64)
        ]
    )
    shuffled = b[np.random.default_rng(6).permutation(50)]
    for other in (b, shuffled):
        found = sliced_wasserstein(*map(jnp.asarray, (a, other, directions)))
        np.testing.assert_allclose(found, expected, 1e-5)


def test_the_gradient_of_the_sliced_distance_is_pytorchs():
    a, b = features(40, 5), features(40, 5, seed=1)
    directions = np.random.default_rng(5).normal(size=(5, 6)).astype(np.float32)
    tensor = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    other, v = (torch.tensor(x, dtype=torch.float64) for x in (b, directions))
    value = ((tensor @ v).sort(0).values - (other @ v).sort(0).values).square().mean()
    value.backward()
    found = jax.grad(sliced_wasserstein)(jnp.asarray(a), jnp.asarray(b), jnp.asarray(directions))
    np.testing.assert_allclose(found, tensor.grad, rtol=1e-3, atol=1e-6)


def test_nearest_neighbors_are_compared_by_centered_cosines():
    """More positions than one block of the search, against all pairs in PyTorch, float64."""
    a, b = features(1100, 6), features(70, 6, seed=1)
    tensor = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    style = torch.tensor(b, dtype=torch.float64)
    normalized = [torch.nn.functional.normalize(x - style.mean(0)) for x in (tensor, style)]
    value = (1 - normalized[0] @ normalized[1].T).min(1).values.mean()
    value.backward()
    found, gradient = jax.value_and_grad(nearest_neighbor_loss)(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(found, value.item(), 1e-5)
    np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-3, atol=1e-7)
    assert nearest_neighbor_loss(jnp.asarray(b[::-1]), jnp.asarray(b)) < 1e-6


def test_drawn_positions_are_spread_evenly_and_by_weight():
    numbered = jnp.arange(12.0)[:, None]
    everything = draw_features(Samples(numbered, None), 12, KEY)
    np.testing.assert_array_equal(everything, numbered)
    weights = jnp.asarray([0.0] * 6 + [1.0] * 4 + [0.0] * 2)
    inside = draw_features(Samples(numbered, weights), 4, KEY)
    np.testing.assert_array_equal(inside.ravel(), [6, 7, 8, 9])
    few = draw_features(Samples(numbered, None), 3, KEY).ravel()
    assert [int(x) // 4 for x in few] == [0, 1, 2]
    assert (few != draw_features(Samples(numbered, None), 3, jax.random.key(4)).ravel()).any()


@pytest.mark.parametrize("name", NAMED)
def test_a_named_statistic_falls_to_zero_at_the_style(name):
    statistic = make_statistic(name)
    assert isinstance(statistic, StyleStatistic)
    style, other = (
        statistic.measure(jnp.asarray(x)) for x in (features(6, 7, 4), features(6, 7, 4, seed=1))
    )
    if statistic.additive:
        style, other = jax.tree.map(lambda x: x / 42, (style, other))
    assert abs(distance(statistic, style, style)) < 1e-4 < distance(statistic, other, style)


def test_a_mask_restricts_samples_to_its_positions():
    x = jnp.asarray(np.concatenate([features(4, 6, 3), 100 + features(4, 6, 3, seed=1)]))
    mask = jnp.asarray([[1.0]] * 4 + [[0.0]] * 4) * jnp.ones((8, 6))
    for statistic in (SlicedWasserstein(), NearestNeighbor()):
        inside = distance(statistic, statistic.measure(x, mask), statistic.measure(x[:4]))
        assert inside < 1e-3


def test_a_weighted_sum_adds_distances_and_is_additive_if_its_parts_are():
    x, style = jnp.asarray(features(6, 7, 4)), jnp.asarray(features(5, 9, 4, seed=1))
    gram, sliced = Gram(), SlicedWasserstein()
    both = make_statistic({"gram": 2.0, "sliced": 0.5})
    assert both == WeightedSum(((gram, 2.0), (sliced, 0.5)))
    assert is_stochastic(both)
    assert not both.additive
    assert make_statistic({"gram": 1.0, "moments": 1.0}).additive
    expected = 2 * gram.distance(gram.measure(x) / 42, gram.measure(style) / 45)
    expected += 0.5 * sliced.distance(
        sliced.measure(x), sliced.measure(style), jax.random.fold_in(KEY, 1)
    )
    found = both.distance(both.measure(x), both.measure(style), KEY)
    np.testing.assert_allclose(found, expected, 1e-5)


@pytest.fixture(scope="module")
def arguments(vgg16, cat, face):
    def of(style_loss, **options):
        targets = make_targets(
            vgg16,
            cat[:24, :20],
            [face[:20, :24]],
            content_layers=["relu1_1"],
            style_layers=["relu1_1", "relu2_1"],
            statistic=make_statistic(style_loss),
            **options,
        )
        layers = {"relu1_1": 1.0, "relu2_1": 1.0}
        return vgg16, targets, LossWeights(0.0, 1.0, 0.0, {"relu1_1": 1.0}, layers)

    return of


@pytest.mark.parametrize("name", NAMED)
def test_the_loss_has_a_descent_direction_and_works_under_vmap(name, arguments, cat):
    args, image = arguments(name), cat[:24, :20]
    gradient_of = jax.grad(lambda image: loss(image, *args, key=KEY)[0])
    gradient = jax.jit(jax.vmap(gradient_of))(jnp.stack([image, image[::-1]]))
    assert jnp.isfinite(gradient).all()
    value = jax.jit(lambda image: loss(image, *args, key=KEY)[0])
    direction = gradient[0] / jnp.linalg.norm(gradient[0])
    assert value(image - 0.05 * direction) < value(image)


def test_a_key_changes_what_a_stochastic_loss_draws(arguments, cat):
    args, image = arguments("sliced"), cat[:24, :20]
    value = jax.jit(lambda key: loss(image, *args, key=key)[0])
    assert value(jax.random.key(0)) != value(jax.random.key(1))
    assert jax.jit(loss)(image, *args)[0] == value(jax.random.key(0))


def test_masks_need_styles_of_one_size_unless_the_statistic_has_a_fixed_size(vgg16, cat, face):
    options = {"style_layers": ["relu1_1"], "masks": jnp.ones((2, 24, 20)) / 2}
    styles = [cat[:24, :20], face[:20, :20]]
    with pytest.raises(InputError, match="one size"):
        make_targets(vgg16, styles=styles, statistic=SlicedWasserstein(), **options)
    assert make_targets(vgg16, styles=styles, statistic=Moments(), **options).layer_masks


class WithoutAdditive:
    measure = distance = print


@dataclass
class NotFrozen:
    additive = True
    measure = distance = print


@dataclass(frozen=True)
class WithoutDistance:
    additive = True
    measure = print


@dataclass(frozen=True)
class ByFilter(Moments):
    def distance(self, measured, target):
        return jnp.ones(3)


@pytest.mark.parametrize(
    ("statistic", "message"),
    [
        (Moments, "the style statistic is the class Moments; give an instance, Moments()"),
        (WithoutAdditive(), "does not say whether it is additive; set additive to True if"),
        (NotFrozen(), "NotFrozen() cannot be hashed; make its class a frozen dataclass with"),
        (WithoutDistance(), "WithoutDistance() has no method distance; define it"),
    ],
)
def test_a_statistic_that_is_none_is_refused_in_one_line(vgg16, unchecked, statistic, message):
    for use in (
        lambda: make_statistic(Settings(style_loss=statistic).style_loss),
        lambda: make_targets(vgg16, statistic=statistic),
        lambda: WeightedSum(((Gram(), 1.0), (statistic, 1.0))),
    ):
        with pytest.raises(InputError) as caught:
            use()
        assert message in str(caught.value)


@pytest.mark.parametrize("masks", [None, jnp.ones((1, 16, 16))])
def test_a_distance_that_is_no_scalar_is_refused(vgg16, masks):
    style = jnp.ones((16, 16, 3))
    options = {"style_layers": ["relu1_1"], "statistic": ByFilter(), "masks": masks}
    targets = make_targets(vgg16, styles=[style], **options)
    weights = LossWeights(style_layers={"relu1_1": 1.0})
    with pytest.raises(InputError, match=r"ByFilter\(.*\) has the shape \(3,\); return a scalar"):
        loss(style, vgg16, targets, weights)


def test_an_own_statistic_with_a_weight_is_part_of_a_weighted_sum():
    weights = {"gram": 1.0, Moments(): 0.5}
    assert make_statistic(weights) == WeightedSum(((Gram(), 1.0), (Moments(), 0.5)))
    assert Settings(style_loss=weights).style_loss == weights
    with pytest.raises(InputError, match="style_loss is "):
        Settings(style_loss={"gram": 1.0, 3: 0.5})


@pytest.mark.parametrize("parts", [(), (Gram(), 1.0), ((Gram(), "much"),), ((Gram(), -1.0),)])
def test_parts_that_are_no_pairs_are_refused(parts):
    with pytest.raises(InputError, match="give pairs of a statistic and its weight"):
        WeightedSum(parts)
