"""Where the images of a labeled row are, and that the labels are below them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_jax.images.grid import image_grid
from nst_jax.images.io import resize

COLORS = np.float32([[1, 0, 0], [0, 0.8, 0], [0, 0, 1]])


def plain(color, height, width):
    return np.broadcast_to(COLORS[color], (height, width, 3)).copy()


def box(grid, color):
    """The (top, bottom, left, right) of the rectangle that has this color."""
    inside = np.abs(grid - COLORS[color]).max(-1) < 1e-6
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert inside[top:bottom, left:right].all()
    return top, bottom, left, right


def text_columns(grid, bottom):
    return np.flatnonzero((grid[bottom + 2 :].max(-1) < 0.6).any(0))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3))
def test_images_are_in_a_row_at_the_height_of_the_tallest(shapes):
    grid = image_grid([plain(i, *shape) for i, shape in enumerate(shapes)], [""] * len(shapes))
    assert grid.dtype == np.float32
    tallest = max(height for height, _ in shapes)
    boxes = [box(grid, i) for i in range(len(shapes))]
    assert {(top, bottom) for top, bottom, _, _ in boxes} == {(8, 8 + tallest)}
    for (height, width), (_, _, left, right) in zip(shapes, boxes, strict=True):
        assert right - left == max(1, round(width * tallest / height))
    edges = [0, *(x for _, _, left, right in boxes for x in (left, right)), grid.shape[1]]
    assert {right - left for left, right in list(pairwise(edges))[::2]} == {8}
    for margin in (grid[:7], grid[:, :7], grid[-1:], grid[:, -7:]):
        assert (margin == 1).all()


def test_the_tallest_image_is_unchanged_and_others_are_resized(pixels):
    grid = image_grid([pixels, pixels[:60]], ["", ""])
    np.testing.assert_array_equal(grid[8:128, 8:188], pixels)
    np.testing.assert_array_equal(grid[8:128, 196:556], resize(pixels[:60], (120, 360)))


def test_a_white_image_has_a_border():
    grid = image_grid([np.ones((60, 60, 3), np.float32)], [""])
    assert (grid[7, 7:69] < 0.9).all()
    assert (grid[8:68, 8:68] == 1).all()


def test_labels_are_centered_below_their_images():
    grid = image_grid([plain(0, 300, 200), plain(1, 300, 400)], ["content", "result"])
    for i in (0, 1):
        _, bottom, left, right = box(grid, i)
        columns = text_columns(grid[:, left:right], bottom)
        assert np.ptp(columns) >= 30
        assert abs(columns.mean() - (right - left) / 2) <= 4


def test_different_labels_look_different():
    one, other = (image_grid([plain(0, 100, 100)], [label]) for label in ("swirls", "mosaic"))
    assert (one != other).any()
    assert (one[:110] == other[:110]).all()


@pytest.mark.parametrize("label", ["a very long name of an image.jpg" * 3, "two\nlines " * 20])
def test_long_labels_are_cut_to_the_width_of_the_image(label):
    images = [plain(0, 120, 100), plain(1, 120, 100)]
    grid = image_grid(images, [label, ""])
    _, bottom, left, right = box(grid, 0)
    columns = text_columns(grid, bottom)
    assert left - 5 <= columns[0] < left + 20
    assert right - 20 < columns[-1] <= right + 5
    assert grid.shape == image_grid(images, ["", ""]).shape


@pytest.mark.parametrize(("num_images", "num_labels"), [(0, 0), (2, 1), (1, 2)])
def test_other_numbers_of_labels_are_refused(num_images, num_labels, input_error):
    with input_error(f"{num_labels} labels for {num_images} images"):
        image_grid([plain(0, 9, 9)] * num_images, ["a"] * num_labels)
