"""Contact sheets: where the pictures are, and that the labels stand under them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from nst_jax.errors import InputError
from nst_jax.images import io as images
from nst_jax.images.grid import contact_sheet

COLORS = np.float32([[1, 0, 0], [0, 0.8, 0], [0, 0, 1]])


def plain(color, height, width):
    return np.broadcast_to(COLORS[color], (height, width, 3)).copy()


def box(sheet, color):
    """The (top, bottom, left, right) of all that has a colour; it is filled."""
    there = np.abs(sheet - COLORS[color]).max(-1) < 1e-6
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert there[top:bottom, left:right].all()
    return top, bottom, left, right


def dark(sheet):
    return sheet.max(-1) < 0.6


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3))
def test_pictures_stand_in_a_row_at_the_height_of_the_tallest(sizes):
    sheet = contact_sheet([plain(i, *size) for i, size in enumerate(sizes)], [""] * len(sizes))
    assert sheet.dtype == np.float32
    tallest = max(height for height, _ in sizes)
    boxes = [box(sheet, i) for i in range(len(sizes))]
    assert {(top, bottom) for top, bottom, _, _ in boxes} == {(8, 8 + tallest)}
    assert boxes[0][2] == 8
    for (height, width), (_, _, left, right) in zip(sizes, boxes, strict=True):
        assert right - left == max(1, round(width * tallest / height))
    for (_, _, _, right), (_, _, left, _) in pairwise(boxes):
        assert left - right == 8
    assert sheet.shape[1] - boxes[-1][3] == 8
    for edge in (sheet[:7], sheet[:, :7], sheet[-1:], sheet[:, -7:]):
        assert (edge == 1).all()


def test_the_tallest_picture_is_there_pixel_by_pixel():
    photo = data.astronaut()[:200, :150].astype(np.float32) / 255
    sheet = contact_sheet([plain(0, 50, 40), photo], ["a", "b"])
    _, bottom, _, right = box(sheet, 0)
    margin = 200 // 14
    left = right + margin
    np.testing.assert_array_equal(sheet[margin:bottom, left : left + 150], photo)


def test_smaller_pictures_are_scaled():
    photo = data.chelsea()[:100, :150].astype(np.float32) / 255
    sheet = contact_sheet([photo, plain(0, 200, 20)], ["", ""])
    top, bottom, left, _ = box(sheet, 0)
    margin = left - 300 - top
    want = images.resize(photo, (200, 300))
    np.testing.assert_array_equal(sheet[top:bottom, margin : margin + 300], want)


def test_a_white_picture_has_a_frame():
    sheet = contact_sheet([np.ones((60, 60, 3), np.float32)], [""])
    assert (sheet[7, 7:69] < 0.9).all()
    assert (sheet[8:68, 8:68] == 1).all()


def test_labels_stand_centred_under_their_pictures():
    sheet = contact_sheet([plain(0, 300, 200), plain(1, 300, 400)], ["content", "result"])
    for i in (0, 1):
        _, bottom, left, right = box(sheet, i)
        ink = dark(sheet[bottom + 2 :, left:right])
        columns, rows = np.flatnonzero(ink.any(0)), np.flatnonzero(ink.any(1))
        assert 8 <= np.ptp(rows) <= 40  # as high as letters are
        assert np.ptp(columns) >= 30
        assert abs(columns.mean() - (right - left) / 2) <= 4
    assert not dark(sheet)[: box(sheet, 0)[0]].any()


def test_other_labels_look_different():
    one, other = (contact_sheet([plain(0, 100, 100)], [label]) for label in ("swirls", "mosaic"))
    assert (one != other).any()
    assert (one[:110] == other[:110]).all()


@pytest.mark.parametrize("label", ["a very long name of a picture.jpg" * 3, "two\nlines " * 20])
def test_long_labels_are_cut_short(label):
    pictures = [plain(0, 120, 100), plain(1, 120, 100)]
    alone = contact_sheet(pictures, [label, ""])
    _, bottom, left, right = box(alone, 0)
    columns = np.flatnonzero(dark(alone[bottom + 2 :]).any(0))
    assert left - 5 <= columns[0] < left + 20
    assert right - 20 < columns[-1] <= right + 5
    assert alone.shape == contact_sheet(pictures, ["", ""]).shape


def test_labels_that_no_letter_fits_in_are_no_harm():
    sheet = contact_sheet([plain(0, 40, 1)], ["photo.jpg"])
    assert sheet.shape[1] == 17


@pytest.mark.parametrize(("pictures", "labels"), [(0, 0), (2, 1), (1, 2)])
def test_labels_and_pictures_go_together(pictures, labels):
    with pytest.raises(InputError, match=f"{labels} labels for {pictures} pictures"):
        contact_sheet([plain(0, 9, 9)] * pictures, ["a"] * labels)
