"""The gradient of every option against differences of the loss in float64."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import VGG, LossWeights, loss, make_targets
from nst_jax.losses.statistics import make_statistic

pytestmark = pytest.mark.campaign

CONTENT_LAYERS, STYLE_LAYERS = {"relu3_1": 1.0}, {"relu1_1": 0.4, "relu2_1": 0.6}
SHAPE = (17, 22)  # odd: pooling drops a row
STATISTICS = ("gram", "moments", "sliced", "nearest")


@pytest.fixture
def float64():
    jax.config.update("jax_enable_x64", True)
    yield lambda tree: jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), tree)
    jax.config.update("jax_enable_x64", False)


def masks_of(kind):
    if kind is None:
        return None
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    disc = 1 / (1 + np.exp(np.hypot(y - 9, x - 11) - 6))
    return np.stack([disc, 1 - disc]) if kind == "soft" else np.stack([x < 13, x >= 13])


def loss_along_a_line(vgg16, face, cat, cast, pooling, padding, masks, style_loss):
    """Return t ↦ loss(x + t·v), compiled in float64."""
    h, w = SHAPE
    masks = masks_of(masks)
    params, content, start = cast(vgg16), cast(face[:h, :w]), cast(cat[20 : 20 + h, 8 : 8 + w])
    # Equal pixels of a photo tie in max pooling, where the gradient is no limit of differences.
    start += cast(np.random.default_rng(4).uniform(0, 0.2, start.shape))
    styles = [cast(cat[:h, :w]), cast(face[30 : 30 + h, 40 : 40 + w])]
    statistic = make_statistic(style_loss)
    targets = make_targets(
        params,
        content,
        styles,
        content_layers=[*CONTENT_LAYERS],
        style_layers=[*STYLE_LAYERS],
        masks=None if masks is None else cast(masks),
        network=VGG(pooling, padding),
        statistic=statistic,
    )
    weights = LossWeights(1.0, 1.0, 0.1, CONTENT_LAYERS, STYLE_LAYERS)
    direction = cast(np.random.default_rng(3).normal(size=start.shape))
    key = jax.random.key(7)  # the same draws on both sides of a difference
    return lambda t: loss(start + t * direction, params, targets, weights, key=key)[0]


@pytest.mark.parametrize(
    ("pooling", "padding", "masks", "style_loss"),
    [
        *product(("max", "average", "scaled_average", "l2"), ("replicate",), (None,), ("gram",)),
        *product(("max",), ("same",), ("soft",), STATISTICS),
        ("max", "same", None, "moments"),
        *product(("l2",), ("replicate",), ("hard",), STATISTICS),
        ("average", "replicate", "soft", {"gram": 0.5, "moments": 0.5}),
    ],
)
def test_the_gradient_agrees_with_a_central_difference(
    vgg16, face, cat, float64, pooling, padding, masks, style_loss
):
    f = jax.jit(loss_along_a_line(vgg16, face, cat, float64, pooling, padding, masks, style_loss))
    h = 1e-8
    difference = (f(h) - f(-h)) / (2 * h)
    slope = jax.jit(jax.grad(f))(0.0)
    assert slope.dtype == jnp.float64
    assert abs(slope) > 1e-3
    # The matrix root of the moments takes nine iterations; its derivative is that of the limit.
    tolerance = 2e-3 if "moments" in style_loss else 1e-5
    assert float(slope) == pytest.approx(float(difference), rel=tolerance)
