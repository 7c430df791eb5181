"""Regions read from masks as users paint them: gray, cut out, or in flat colours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ExifTags, Image, ImageDraw
from skimage import data

from nst_jax.errors import InputError
from nst_jax.images import io as images
from nst_jax.images import masks

SHAPE = (60, 80)
COLORS = ["red", "#0000ff", "yellow", "black", "white", "#0f0", "rgb(128, 0, 128)"]
RGB = np.uint8(
    [[255, 0, 0], [0, 0, 255], [255, 255, 0], [0] * 3, [255] * 3, [0, 255, 0], [128, 0, 128]]
)


@pytest.fixture(scope="module")
def subject():
    """An astronaut's silhouette, roughly, with a soft edge, uint8."""
    photo = Image.fromarray(data.astronaut())
    mask = Image.new("L", photo.size)
    ImageDraw.Draw(mask).polygon(
        [(160, 60), (230, 10), (300, 80), (350, 300), (512, 350), (512, 512), (20, 512)], 255
    )
    return np.asarray(mask.resize(SHAPE[::-1], Image.Resampling.BICUBIC))


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def drawn(background="white", scale=4, size=SHAPE):
    """A red disc that touches a blue box, drawn with smooth edges."""
    height, width = size
    image = Image.new("RGB", (width * scale, height * scale), background)
    draw = ImageDraw.Draw(image)
    draw.rectangle((35 * scale, 10 * scale, 70 * scale, 50 * scale), "blue")
    draw.ellipse((10 * scale, 10 * scale, 50 * scale, 50 * scale), "red")
    return image.resize((width, height), Image.Resampling.BOX)


def message(excinfo):
    text = str(excinfo.value)
    assert "\n" not in text
    return text


# --- a picture a region --------------------------------------------------------------------------


def test_gray_files_become_regions_with_their_soft_edges(tmp_path, subject):
    one = save(tmp_path / "subject.png", subject)
    other = save(tmp_path / "rest.png", np.stack([255 - subject] * 3, axis=-1))
    got = masks.read([one, other], 2, SHAPE)
    assert got.dtype == np.float32
    assert got.shape == (2, *SHAPE)
    np.testing.assert_allclose(got[0], subject / 255, atol=1e-6)
    np.testing.assert_allclose(got.sum(0), 1, atol=1e-6)
    assert ((got[0] > 0.1) & (got[0] < 0.9)).any()


def test_of_two_styles_the_second_has_what_one_mask_leaves(tmp_path, subject):
    path = save(tmp_path / "subject.png", subject)
    for source in (path, [path], str(path), Image.open(path), subject):
        got = masks.read(source, 2, SHAPE)
        np.testing.assert_allclose(got, np.stack([subject, 255 - subject]) / 255, atol=1e-6)


def test_one_style_has_one_mask(subject):
    np.testing.assert_allclose(masks.read(subject, 1, SHAPE)[0], subject / 255, atol=1e-6)


def test_masks_may_overlap_and_leave_pixels_out(subject):
    half = np.zeros(SHAPE, bool)
    half[:, :40] = True
    got = masks.read([subject, half, half], 3, SHAPE)
    np.testing.assert_array_equal(got[1], half)
    np.testing.assert_array_equal(got[1], got[2])


def test_of_a_cut_out_the_opaque_part_is_in(tmp_path, subject):
    """Its colours are the photo's; where it is transparent they are arbitrary."""
    photo = np.asarray(Image.fromarray(data.astronaut()).resize(SHAPE[::-1]))
    path = save(tmp_path / "cut.png", np.dstack([photo, subject]))
    np.testing.assert_allclose(masks.read(path, 1, SHAPE)[0], subject / 255, atol=1e-6)


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_a_transparent_ground_is_in(subject, ink):
    painted = Image.merge("LA", [Image.new("L", SHAPE[::-1], ink), Image.fromarray(subject)])
    got = masks.read(painted, 2, SHAPE)
    np.testing.assert_allclose(got, np.stack([subject, 255 - subject]) / 255, atol=1e-6)


def test_a_jpeg_saved_in_colour_is_gray(tmp_path, subject):
    path = save(tmp_path / "subject.jpg", np.stack([subject] * 3, axis=-1), quality=85)
    np.testing.assert_allclose(masks.read(path, 1, SHAPE)[0], subject / 255, atol=0.1)


def test_a_mask_is_turned_as_photos_are(tmp_path, subject):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise for viewing
    path = save(tmp_path / "turned.png", np.rot90(subject).copy(), exif=exif)
    np.testing.assert_allclose(masks.read(path, 1, SHAPE)[0], subject / 255, atol=1e-6)


# --- a picture of flat colours -------------------------------------------------------------------


@settings(max_examples=40)
@given(
    hnp.arrays(np.uint8, (7, 9), elements=st.integers(0, len(COLORS) - 1)),
    st.permutations(range(len(COLORS))),
)
def test_any_partition_in_flat_colours_is_read_as_it_is(labels, order):
    """Every colour is there at least once."""
    labels.flat[: len(COLORS)] = range(len(COLORS))
    got = masks.read(RGB[labels], len(order), (7, 9), colors=[COLORS[i] for i in order])
    np.testing.assert_array_equal(got, [labels == i for i in order])


@given(st.floats(0, 1), st.permutations(range(3)))
def test_a_mixture_of_two_colours_is_shared(share, order):
    """Pixels near a colour are wholly its own, however little is mixed in."""
    one, other, _ = order
    row = RGB[[0, 1, 2, 0]] / 255
    row[3] = share * row[one] + (1 - share) * row[other]
    got = masks.read(row[None], 3, (1, 4), colors=COLORS[:3])[:, 0, 3]
    assert got.sum() == pytest.approx(1)
    assert got[one] == pytest.approx(share, abs=0.21)
    assert got[other] == pytest.approx(1 - share, abs=0.21)


@pytest.mark.parametrize(("kind", "blur"), [("png", 1), ("webp", 4), ("jpg", 4)])
def test_smooth_edges_are_shared_and_the_rest_left_out(tmp_path, kind, blur):
    """Lossy files blur colours by some pixels."""
    path = tmp_path / f"labels.{kind}"
    drawn().save(path, quality=90)
    red, blue = masks.read(path, 2, SHAPE, colors=["red", "blue"])
    y, x = np.mgrid[:60, :80] + 0.5
    off = np.hypot(x - 30, y - 30) - 20  # how far out of the disc
    aside = np.maximum(abs(x - 52.75) - 17.5, abs(y - 30.25) - 20)  # how far out of the box
    assert red[off < -blur].min() > 0.99
    assert blue[(aside < -blur) & (off > blur)].min() > 0.99
    background = (off > blur) & (aside > blur)
    assert max(red[background].max(), blue[background].max()) == 0
    between = (aside < -blur) & (abs(off) <= blur)  # where the disc ends inside the box
    assert ((red > 0.1) & (red < 0.9) & between).any()
    assert (red + blue)[between].max() <= 1 + 1e-6
    assert ((red + blue)[between] > 0.99).mean() > (0.99 if kind == "png" else 0.75)


def test_transparent_pixels_of_flat_colours_are_left_out():
    labels = drawn("blue").convert("RGBA")
    alpha = Image.new("L", labels.size, 255)
    alpha.paste(0, (0, 0, 80, 5))
    labels.putalpha(alpha)
    got = masks.read(labels, 2, SHAPE, colors=["red", "blue"])
    assert got[:, :5].max() == 0
    np.testing.assert_allclose(got[:, 5:].sum(0), 1, atol=1e-5)


def test_colours_are_in_the_styles_order():
    one = masks.read(drawn(), 3, SHAPE, colors=["red", "blue", "white"])
    other = masks.read(drawn(), 3, SHAPE, colors=["white", "red", "blue"])
    np.testing.assert_allclose(one, other[[1, 2, 0]], atol=1e-6)
    assert 0.2 < one[0].mean() < 0.3


def test_near_colours_go_to_the_nearest():
    pixels = np.full((4, 6, 3), (255, 0, 0), np.uint8)
    pixels[:, 3:] = (225, 20, 0)
    got = masks.read(pixels, 2, (4, 6), colors=["#ff0000", "#e01200"])
    np.testing.assert_array_equal(got[0], [[1, 1, 1, 0, 0, 0]] * 4)
    np.testing.assert_array_equal(got[1], 1 - got[0])


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "styles"), [(1, 3), (2, 1), (3, 2), (2, 3)])
def test_another_number_of_masks_than_styles_is_refused(subject, count, styles):
    with pytest.raises(InputError, match=f"{count} masks for {styles} styles") as excinfo:
        masks.read([subject] * count, styles, SHAPE)
    message(excinfo)


def test_another_size_than_the_contents_is_refused(tmp_path, subject):
    path = save(tmp_path / "small.png", subject[:50])
    for source, words in ((path, "80x50"), ([subject, path], "mask 2")):
        with pytest.raises(InputError, match="80x60") as excinfo:
            masks.read(source, 2, SHAPE)
        assert words in message(excinfo)
        assert "EXIF" not in message(excinfo)


def test_a_mask_that_lies_on_its_side_is_told_of_exif(subject):
    with pytest.raises(InputError, match=r"60x80 pixels, the content 80x60 when .* EXIF"):
        masks.read(subject.T, 1, SHAPE)


def test_a_style_without_a_region_is_named(tmp_path, subject):
    nothing = np.zeros(SHAPE, np.uint8)
    path = tmp_path / "nothing.jpg"
    Image.fromarray(nothing).save(path)
    for sources, styles, words in (
        ([subject, path], 2, "style 2 has no region: mask 2 is black"),
        (nothing, 1, "style 1 has no region: mask is black"),
        (nothing, 2, "style 1 has no region: mask is black"),
        (255 - nothing, 2, "style 2 has no region: mask is white"),
    ):
        with pytest.raises(InputError, match=words):
            masks.read(sources, styles, SHAPE)


def test_a_colour_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(InputError, match="style 2 has no region: there is no 'lime'") as excinfo:
        masks.read(drawn(), 2, SHAPE, colors=["red", "lime"])
    for color in ("#ff0000", "#0000ff", "#ffffff"):
        assert color in message(excinfo)


def test_colours_that_were_not_named_are_refused():
    with pytest.raises(InputError, match=r"mask has colours .*#ff0000") as excinfo:
        masks.read(drawn(), 2, SHAPE)
    message(excinfo)
    with pytest.raises(InputError, match="mask 1 has colours"):
        masks.read([drawn(), drawn()], 2, SHAPE)


@pytest.mark.parametrize(
    ("colors", "words"),
    [
        (["red"], "1 mask colours for 2 styles"),
        (["red", "blue", "white"], "3 mask colours for 2 styles"),
        (["red", "bleu"], "unknown mask colour 'bleu'"),
        (["red", "#12"], "unknown mask colour '#12'"),
        (["red", "#f00"], "mask colours 'red' and '#f00' are the same"),
    ],
)
def test_colours_that_do_not_fit_are_refused(colors, words):
    with pytest.raises(InputError, match=words) as excinfo:
        masks.read(drawn(), 2, SHAPE, colors=colors)
    message(excinfo)


def test_colours_are_of_one_picture(subject):
    with pytest.raises(InputError, match="2 masks with colours"):
        masks.read([subject, subject], 2, SHAPE, colors=["black", "white"])


def test_files_that_are_no_pictures_are_refused(tmp_path, subject):
    text = tmp_path / "mask.png"
    text.write_text("white inside")
    for source, words in ((text, "not an image"), (tmp_path / "none.png", "cannot be opened")):
        with pytest.raises(InputError, match=words) as excinfo:
            masks.read([subject, source], 2, SHAPE)
        assert message(excinfo).startswith("mask 2 ")


# --- on the way to the output's size -------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 32), (90, 120)])
def test_resized_regions_stay_a_partition(subject, size):
    got = masks.read(subject, 2, SHAPE)
    scaled = np.stack([images.resize(region, size) for region in got])
    assert scaled.shape == (2, *size)
    np.testing.assert_allclose(scaled.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(scaled.mean((1, 2)), got.mean((1, 2)), atol=0.01)
