"""Resampling keeps values and channels; shapes are scaled to a longest side."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nst_jax.errors import InputError
from nst_jax.images.io import fit_longest_side, resize

fractions = st.floats(0, 1, width=32)


@settings(max_examples=60)
@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=12), elements=fractions),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_resize_keeps_the_range_and_the_channels(array, shape):
    resized = resize(array, shape)
    assert resized.shape == (*shape, *array.shape[2:])
    assert resized.dtype == np.float32
    assert 0 <= resized.min() <= resized.max() <= 1
    np.testing.assert_array_equal(resize(array, array.shape[:2]), array)
    if array.ndim == 3:
        np.testing.assert_array_equal(resized[..., 0], resize(array[..., 0], shape))


@given(fractions, st.integers(1, 30), st.integers(1, 30))
def test_resize_keeps_a_constant_color(value, height, width):
    flat = np.full((7, 5, 3), value, np.float32)
    np.testing.assert_allclose(resize(flat, (height, width)), value, atol=1e-5)


def test_resize_is_antialiased(pixels):
    stripes = np.tile(np.float32([0, 1]), (64, 32))  # finer than the small image can show
    np.testing.assert_allclose(resize(stripes, (9, 9)), 0.5, atol=0.06)
    blocks = pixels.reshape(12, 10, 18, 10, 3).mean((1, 3))
    assert np.abs(resize(pixels, (12, 18)) - blocks).mean() < 0.02


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 5_000))
def test_the_longest_side_is_exact_and_the_other_keeps_the_aspect_ratio(height, width, size):
    h, w = fit_longest_side((height, width, 3), size)
    assert max(h, w) == size
    assert min(h, w) >= 1
    scale = size / max(height, width)
    assert h == 1 or abs(h - height * scale) <= 0.5 + 1e-6
    assert w == 1 or abs(w - width * scale) <= 0.5 + 1e-6
    assert fit_longest_side((width, height), size) == (w, h)


def test_a_longest_side_below_1_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        fit_longest_side((3, 4), 0)
