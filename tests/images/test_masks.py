"""Masks as users paint them: gray, cut out, or in flat colors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ExifTags, Image, ImageDraw

from nst_jax.images.masks import read_masks

SHAPE = (60, 80)
COLORS = ["red", "#0000ff", "yellow", "black", "white", "#0f0", "rgb(128, 0, 128)"]
RGB = np.uint8(
    [[255, 0, 0], [0, 0, 255], [255, 255, 0], [0] * 3, [255] * 3, [0, 255, 0], [128, 0, 128]]
)


@pytest.fixture(scope="module")
def subject():
    """A mask with a soft edge, uint8."""
    mask = Image.new("L", (320, 240))
    ImageDraw.Draw(mask).polygon([(100, 30), (150, 5), (220, 150), (320, 165), (320, 240)], 255)
    return np.asarray(mask.resize(SHAPE[::-1], Image.Resampling.BICUBIC))


@pytest.fixture
def save(tmp_path):
    def save(name, pixels, **options):
        Image.fromarray(pixels).save(tmp_path / name, **options)
        return tmp_path / name

    return save


def flat_colors(background="white", scale=4):
    """A red disc that touches a blue box, with smooth edges."""
    height, width = SHAPE
    image = Image.new("RGB", (width * scale, height * scale), background)
    draw = ImageDraw.Draw(image)
    draw.rectangle((35 * scale, 10 * scale, 70 * scale, 50 * scale), "blue")
    draw.ellipse((10 * scale, 10 * scale, 50 * scale, 50 * scale), "red")
    return image.resize((width, height), Image.Resampling.BOX)


def assert_one_mask(source, want, atol=1e-6):
    np.testing.assert_allclose(read_masks(source, 1, SHAPE), want[None] / 255, atol=atol)


def test_gray_files_become_masks_with_soft_edges(save, subject):
    first = save("subject.png", subject)
    second = save("rest.png", np.stack([255 - subject] * 3, axis=-1))
    masks = read_masks([first, second], 2, SHAPE)
    assert masks.dtype == np.float32
    np.testing.assert_allclose(masks, np.stack([subject, 255 - subject]) / 255, atol=1e-6)
    assert ((masks[0] > 0.1) & (masks[0] < 0.9)).any()


def test_the_second_of_two_styles_gets_the_rest_of_a_single_mask(save, subject):
    path = save("subject.png", subject)
    for source in (path, [path], str(path), Image.open(path), subject):
        masks = read_masks(source, 2, SHAPE)
        np.testing.assert_allclose(masks, np.stack([subject, 255 - subject]) / 255, atol=1e-6)


def test_masks_may_overlap_and_leave_pixels_out(subject):
    half = np.zeros(SHAPE, bool)
    half[:, :40] = True
    masks = read_masks([subject, half, half], 3, SHAPE)
    np.testing.assert_array_equal(masks[1:], [half, half])


def test_the_opaque_part_of_an_image_with_transparency_is_inside(save, subject):
    """Whatever its colors are, and those under full transparency are arbitrary."""
    noise = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    assert_one_mask(save("cut.png", np.dstack([noise, subject])), subject)
    for ink in (0, 255):
        gray = Image.new("L", SHAPE[::-1], ink)
        assert_one_mask(Image.merge("LA", [gray, Image.fromarray(subject)]), subject)


def test_a_jpeg_saved_in_color_is_gray(save, subject):
    path = save("subject.jpg", np.stack([subject] * 3, axis=-1), quality=85)
    assert_one_mask(path, subject, atol=0.1)


def test_a_mask_is_rotated_by_its_exif_orientation(save, subject):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # viewers rotate it clockwise
    assert_one_mask(save("rotated.png", np.rot90(subject).copy(), exif=exif), subject)


@settings(max_examples=40)
@given(
    hnp.arrays(np.uint8, (7, 9), elements=st.integers(0, len(COLORS) - 1)),
    st.permutations(range(len(COLORS))),
)
def test_any_partition_in_flat_colors_is_read_exactly(labels, order):
    labels.flat[: len(COLORS)] = range(len(COLORS))  # no mask is empty
    masks = read_masks(RGB[labels], len(order), (7, 9), colors=[COLORS[i] for i in order])
    np.testing.assert_array_equal(masks, [labels == i for i in order])


@given(st.floats(0, 1), st.permutations(range(3)))
def test_two_styles_share_a_mixture_of_their_colors(fraction, order):
    """A pixel close to a color belongs to that color alone."""
    one, other, _ = order
    row = RGB[[0, 1, 2, 0]] / 255
    row[3] = fraction * row[one] + (1 - fraction) * row[other]
    mixed = read_masks(row[None], 3, (1, 4), colors=COLORS[:3])[:, 0, 3]
    assert mixed.sum() == pytest.approx(1)
    assert mixed[one] == pytest.approx(fraction, abs=0.21)
    assert mixed[other] == pytest.approx(1 - fraction, abs=0.21)


@pytest.mark.parametrize(("extension", "blur"), [("png", 1), ("webp", 4), ("jpg", 4)])
def test_smooth_edges_are_shared_and_the_background_is_in_no_mask(tmp_path, extension, blur):
    """Lossy files blur colors by some pixels."""
    path = tmp_path / f"labels.{extension}"
    flat_colors().save(path, quality=90)
    red, blue = read_masks(path, 2, SHAPE, colors=["red", "blue"])
    y, x = np.mgrid[:60, :80] + 0.5
    disc = np.hypot(x - 30, y - 30) - 20  # distance outside the disc, in pixels
    rectangle = np.maximum(abs(x - 52.75) - 17.5, abs(y - 30.25) - 20)
    assert red[disc < -blur].min() > 0.99
    assert blue[(rectangle < -blur) & (disc > blur)].min() > 0.99
    background = (disc > blur) & (rectangle > blur)
    assert max(red[background].max(), blue[background].max()) == 0
    edge = (rectangle < -blur) & (abs(disc) <= blur)  # of the disc, inside the box
    assert ((red > 0.1) & (red < 0.9) & edge).any()
    assert (red + blue)[edge].max() <= 1 + 1e-6
    assert ((red + blue)[edge] > 0.99).mean() > (0.99 if extension == "png" else 0.75)


def test_transparent_pixels_of_flat_colors_are_in_no_mask():
    labels = flat_colors("blue").convert("RGBA")
    alpha = Image.new("L", labels.size, 255)
    alpha.paste(0, (0, 0, 80, 5))
    labels.putalpha(alpha)
    masks = read_masks(labels, 2, SHAPE, colors=["red", "blue"])
    assert masks[:, :5].max() == 0
    np.testing.assert_allclose(masks[:, 5:].sum(0), 1, atol=1e-5)


def test_a_pixel_close_to_two_colors_belongs_to_the_nearest():
    pixels = np.full((4, 6, 3), (255, 0, 0), np.uint8)
    pixels[:, 3:] = (225, 20, 0)
    masks = read_masks(pixels, 2, (4, 6), colors=["#ff0000", "#e01200"])
    np.testing.assert_array_equal(masks[0], [[1, 1, 1, 0, 0, 0]] * 4)
    np.testing.assert_array_equal(masks[1], 1 - masks[0])


@pytest.mark.parametrize(("count", "num_styles"), [(1, 3), (2, 1), (3, 2), (2, 3)])
def test_another_number_of_masks_is_refused(subject, count, num_styles, input_error):
    with input_error(f"{count} masks for {num_styles} styles"):
        read_masks([subject] * count, num_styles, SHAPE)
    with input_error("2 masks with mask colors"):
        read_masks([subject, subject], 2, SHAPE, colors=["black", "white"])


def test_another_size_than_the_content_is_refused(subject, input_error):
    with input_error("mask 2 has 80x50 pixels, the content 80x60;"):
        read_masks([subject, subject[:50]], 2, SHAPE)
    with input_error("mask has 60x80 pixels, the content 80x60 after rotation by EXIF"):
        read_masks(subject.T, 1, SHAPE)


def test_an_empty_mask_is_refused(subject, input_error):
    black = np.zeros(SHAPE, np.uint8)
    for sources, num_styles, message in (
        ([subject, black + 9], 2, "style 2 is empty: mask 2 is black"),  # as in a JPEG file
        (black, 1, "style 1 is empty: mask is black"),
        (black, 2, "style 1 is empty: mask is black"),
        (255 - black, 2, "style 2 is empty: mask is white"),
    ):
        with input_error(message):
            read_masks(sources, num_styles, SHAPE)


def test_a_color_that_does_not_occur_is_refused_with_those_that_do(input_error):
    with input_error("style 2", "'lime'", "#ff0000", "#0000ff", "#ffffff"):
        read_masks(flat_colors(), 2, SHAPE, colors=["red", "lime"])


def test_a_colorful_mask_without_color_names_is_refused(input_error):
    with input_error("mask has colors", "#ff0000"):
        read_masks(flat_colors(), 2, SHAPE)
    with input_error("mask 1 has colors"):
        read_masks([flat_colors(), flat_colors()], 2, SHAPE)


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        (["red"], "1 mask colors for 2 styles"),
        (["red", "blue", "white"], "3 mask colors for 2 styles"),
        (["red", "bleu"], "unknown mask color 'bleu'"),
        (["red", "#12"], "unknown mask color '#12'"),
        (["red", "#f00"], "mask colors 'red' and '#f00' are the same"),
    ],
)
def test_colors_that_do_not_match_the_styles_are_refused(colors, message, input_error):
    with input_error(message):
        read_masks(flat_colors(), 2, SHAPE, colors=colors)


def test_a_mask_that_cannot_be_read_is_named(tmp_path, subject, input_error):
    (tmp_path / "mask.png").write_text("white inside")
    with input_error("mask 2 ", "not an image"):
        read_masks([subject, tmp_path / "mask.png"], 2, SHAPE)
