import errno
import io
import itertools
import logging
import os
import struct
import tempfile
import threading
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from skimage import data
from skimage.color import rgb2lab
from sklearn.datasets import load_sample_image

from nst_jax.errors import InputError
from nst_jax.images import io as images
from nst_jax.images.io import Picture, fit, read, read_metadata, resize, write

HALF_STEP = 0.5 / 255 + 1e-6
EXTENSIONS = [".png", ".jpg", ".webp", ".tiff"]


@pytest.fixture(scope="session")
def cat():
    return data.chelsea()  # 300 x 451 x 3, uint8


@pytest.fixture(scope="session")
def astronaut():
    return np.asarray(Image.fromarray(data.astronaut()).resize((160, 160)))


@pytest.fixture(scope="session")
def china():
    return load_sample_image("china.jpg")[100:220, 200:400]


@pytest.fixture(scope="session")
def coffee():
    return data.coffee()[100:200, 200:350]


def unit(array):
    return array.astype(np.float32) / 255


def saved(image, kind, **options):
    """Encode and reopen, as a file would be read."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return Image.open(file)


def psnr(a, b):
    return -10 * np.log10(max(np.mean((a - b) ** 2), 1e-12))


def assert_picture(picture, shape):
    assert picture.pixels.shape == (*shape, 3)
    assert picture.pixels.dtype == np.float32
    assert picture.pixels.min() >= 0
    assert picture.pixels.max() <= 1
    if picture.alpha is not None:
        assert picture.alpha.shape == shape
        assert picture.alpha.dtype == np.float32


def one_line(excinfo, *words):
    message = str(excinfo.value)
    assert "\n" not in message
    for word in words:
        assert word in message, (word, message)


# Small ICC profiles made by hand from the specification, so that what is expected of them can be
# computed here without the library under test.


def icc(space, tags, pcs=b"XYZ "):
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s6H4s", start + len(body), 0x02100000, b"mntr", space, pcs,
                         2000, 1, 1, 0, 0, 0, b"acsp").ljust(68, b"\0")  # fmt: skip
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def icc_xyz(*values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def icc_gamma(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


WHITE = icc_xyz(0.9642, 1, 0.8249)
# The colourants of Adobe RGB (1998), adapted to D50 as profiles have them.
ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


def adobe_rgb():
    curves = {tag: icc_gamma(563 / 256) for tag in (b"rTRC", b"gTRC", b"bTRC")}
    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), ADOBE.T, strict=True)
    return icc(b"RGB ", {b"wtpt": WHITE, **{t: icc_xyz(*c) for t, c in columns}, **curves})


def linear_gray():
    return icc(b"GRAY", {b"wtpt": WHITE, b"kTRC": icc_gamma(1)})


def dark_inks():
    """Make a CMYK profile whose ink C prints a neutral L* 50, the others a black of 10."""
    identity = np.eye(3, dtype=int).ravel() * 65536
    lut = b"mft2\0\0\0\0" + struct.pack(">4B9i2H", 4, 3, 2, 0, *identity, 2, 2)
    lut += struct.pack(">8H", *[0, 65535] * 4)
    for c, *others in itertools.product((0, 1), repeat=4):
        lightness = 10 if any(others) else (50 if c else 100)
        lut += struct.pack(">3H", round(lightness * 652.8), 0x8000, 0x8000)
    lut += struct.pack(">6H", *[0, 65535] * 3)
    return icc(b"CMYK", {b"wtpt": WHITE, b"A2B0": lut, b"A2B1": lut}, pcs=b"Lab ")


def srgb_encoded(linear):
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


# ---------------------------------------------------------------------------------- reading files


def test_a_plain_photo_is_read_exactly(tmp_path, cat):
    path = tmp_path / "cat.png"
    Image.fromarray(cat).save(path)
    for source in (path, str(path), Image.fromarray(cat), cat):
        picture = read(source)
        assert_picture(picture, cat.shape[:2])
        np.testing.assert_array_equal(picture.pixels, unit(cat))
        assert picture.alpha is None


TURNS = {  # how a camera stores an upright picture that it marks with each orientation
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_honoured(kind, orientation, china):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](china)))
    picture = read(saved(stored, kind, exif=exif, quality=95))
    assert_picture(picture, china.shape[:2])
    assert psnr(picture.pixels, unit(china)) > 28


def test_broken_exif_is_warned_of_and_passed_over(cat, caplog, monkeypatch):
    def fail(image):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(images.ImageOps, "exif_transpose", fail)
    np.testing.assert_array_equal(read(Image.fromarray(cat)).pixels, unit(cat))
    assert "EXIF" in caplog.text


def test_a_wide_gamut_profile_is_converted(astronaut):
    picture = read(saved(Image.fromarray(astronaut), "PNG", icc_profile=adobe_rgb()))
    linear = unit(astronaut) ** (563 / 256) @ ADOBE.T @ np.linalg.inv(SRGB).T
    np.testing.assert_allclose(picture.pixels, srgb_encoded(linear), atol=2.5 / 255)
    assert np.abs(picture.pixels - unit(astronaut)).max() > 10 / 255  # the profile matters here


def test_an_srgb_profile_changes_nothing(astronaut, caplog):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for image in (Image.fromarray(astronaut), Image.fromarray(astronaut).convert("L")):
        picture = read(saved(image, "PNG", icc_profile=srgb))
        np.testing.assert_array_equal(picture.pixels, unit(np.asarray(image.convert("RGB"))))
    assert not caplog.records


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_gray_profile_is_converted(mode, coffee):
    gray = Image.fromarray(coffee).convert("L")
    image = gray.copy()
    if mode == "LA":
        image.putalpha(100)
    picture = read(saved(image, "PNG", icc_profile=linear_gray()))
    want = srgb_encoded(unit(np.asarray(gray)))
    np.testing.assert_allclose(picture.pixels, np.stack([want] * 3, -1), atol=1.5 / 255)


def test_sixteen_bit_gray_keeps_its_depth_through_a_profile():
    ramp = np.linspace(5000, 65535, 4096).round().astype(np.uint16)[None]
    picture = read(saved(Image.fromarray(ramp), "PNG", icc_profile=linear_gray()))
    np.testing.assert_allclose(picture.pixels[0, :, 1], srgb_encoded(ramp[0] / 65535), atol=3e-3)
    assert len(np.unique(picture.pixels)) > 2000  # 8 bits would leave fewer than 256


def test_a_cmyk_profile_is_converted():
    inks = np.zeros((8, 12, 4), np.uint8)
    inks[:, 4:8, 0] = 255  # what naive arithmetic shows as cyan
    inks[:, 8:, 3] = 255
    picture = read(saved(Image.fromarray(inks, "CMYK"), "TIFF", icc_profile=dark_inks()))
    gray, black = (((lightness + 16) / 116) ** 3 for lightness in (50, 10))
    black = max(black, 10 / 903.3)
    gray = srgb_encoded((gray - black) / (1 - black))  # the ink's black becomes the screen's
    np.testing.assert_allclose(picture.pixels[:, :4], 1, atol=2 / 255)
    np.testing.assert_allclose(picture.pixels[:, 4:8], gray, atol=3 / 255)
    np.testing.assert_allclose(picture.pixels[:, 8:], 0, atol=3 / 255)


@pytest.mark.parametrize("profile", [b"not a profile", dark_inks()], ids=["junk", "mismatch"])
def test_an_unusable_profile_is_warned_of_and_ignored(profile, cat, caplog):
    with caplog.at_level(logging.WARNING, "nst_jax"):
        picture = read(saved(Image.fromarray(cat), "PNG", icc_profile=profile), name="style")
    np.testing.assert_array_equal(picture.pixels, unit(cat))
    assert [record.name for record in caplog.records] == ["nst_jax"]
    assert "style" in caplog.text
    assert "ICC" in caplog.text


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX", "RGB"])
def test_modes_without_alpha(mode, cat):
    image = Image.fromarray(cat).convert(mode)
    picture = read(image)
    assert_picture(picture, cat.shape[:2])
    assert picture.alpha is None
    np.testing.assert_array_equal(picture.pixels, unit(np.asarray(image.convert("RGB"))))


def test_lab_is_converted(astronaut):
    lab = rgb2lab(astronaut, illuminant="D65")
    stored = np.stack([lab[..., 0] * 2.55, lab[..., 1] % 256, lab[..., 2] % 256], -1)
    picture = read(saved(Image.fromarray(stored.astype(np.uint8), "LAB"), "TIFF"))
    assert_picture(picture, astronaut.shape[:2])
    assert psnr(picture.pixels, unit(astronaut)) > 30


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_keeps_its_precision(kind, tmp_path):
    ramp = np.linspace(0, 65535, 300 * 200).round().astype(np.uint16).reshape(200, 300)
    path = tmp_path / "ramp"
    Image.fromarray(ramp).save(path, kind)
    picture = read(path)
    assert_picture(picture, ramp.shape)
    np.testing.assert_allclose(picture.pixels, np.stack([ramp / 65535] * 3, -1), atol=1e-7)


def test_deep_modes_are_scaled_and_checked():
    deep = np.array([[0, 1000], [40000, 65535]])
    for image in (
        Image.fromarray(deep.astype(np.int32)),
        Image.frombytes("I;16B", (2, 2), deep.astype(">u2").tobytes()),
        Image.fromarray((deep / 65535).astype(np.float32)),
    ):
        np.testing.assert_allclose(read(image).pixels[..., 0], deep / 65535, atol=1e-7)
    with pytest.raises(InputError) as caught:
        read(Image.fromarray(np.float32([[0, 255]])))
    one_line(caught, "from 0 to 255", "0 to 1")
    with pytest.raises(InputError) as caught:
        read(Image.fromarray(np.int32([[-1, 70000]])))
    one_line(caught, "from -1 to 70000", "0 to 65535")


# ------------------------------------------------------------------------------------ transparency


def test_alpha_is_kept_aside(cat):
    alpha = np.tile(np.linspace(1, 255, 451).astype(np.uint8), (300, 1))
    picture = read(saved(Image.fromarray(np.dstack([cat, alpha])), "PNG"))
    np.testing.assert_array_equal(picture.pixels, unit(cat))
    np.testing.assert_array_equal(picture.alpha, unit(alpha))


def test_opaque_alpha_is_none(cat):
    assert read(Image.fromarray(cat).convert("RGBA")).alpha is None


def test_what_lies_under_full_transparency_gets_the_mean_visible_colour(cat):
    alpha = np.full((300, 451), 255, np.uint8)
    alpha[:, 200:] = 0
    alpha[:10] = 51
    hidden = np.where(alpha[..., None] > 0, cat, 0).astype(np.uint8)
    picture = read(np.dstack([hidden, alpha]))
    np.testing.assert_array_equal(picture.pixels[alpha > 0], unit(cat)[alpha > 0])
    weights = alpha[alpha > 0].astype(float)
    mean = np.average(unit(cat)[alpha > 0], axis=0, weights=weights)
    np.testing.assert_allclose(picture.pixels[alpha == 0], [mean] * (alpha == 0).sum(), atol=1e-6)


def test_a_wholly_transparent_picture_is_left_as_stored(cat):
    picture = read(np.dstack([cat, np.zeros((300, 451), np.uint8)]))
    np.testing.assert_array_equal(picture.pixels, unit(cat))
    np.testing.assert_array_equal(picture.alpha, 0)


def transparent_images():
    gray = np.array([[9, 9, 50], [50, 200, 200]], np.uint8)
    clear = gray == 9
    color = np.dstack([gray, gray // 2, 255 - gray])
    alpha = np.where(clear, 0, 255).astype(np.uint8)
    palette = Image.fromarray(gray, "P")
    palette.putpalette([v for i in range(256) for v in (i, i // 2, 255 - i)])
    pa = palette.convert("PA")
    pa.putalpha(Image.fromarray(alpha))
    table = bytes(0 if i == 9 else 255 for i in range(256))
    key = tuple(int(v) for v in color[0, 0])
    return {
        "RGBA": (Image.fromarray(np.dstack([color, alpha])), color),
        "LA": (Image.fromarray(np.dstack([gray, alpha])), np.dstack([gray] * 3)),
        "PA": (pa, color),
        "palette index": (saved(palette, "PNG", transparency=9), color),
        "palette table": (saved(palette, "PNG", transparency=table), color),
        "GIF": (saved(palette, "GIF", transparency=9), color),
        "RGB tRNS": (saved(Image.fromarray(color), "PNG", transparency=key), color),
        "L tRNS": (saved(Image.fromarray(gray), "PNG", transparency=9), np.dstack([gray] * 3)),
        "16-bit tRNS": (
            saved(Image.fromarray(gray.astype(np.uint16) * 257), "PNG", transparency=9 * 257),
            np.dstack([gray] * 3),
        ),
    }


@pytest.mark.parametrize("case", transparent_images())
@pytest.mark.filterwarnings("error")
def test_every_kind_of_transparency(case):
    image, color = transparent_images()[case]
    picture = read(image)
    visible = np.array([[False, False, True], [True, True, True]])
    assert_picture(picture, (2, 3))
    np.testing.assert_array_equal(picture.alpha, visible)
    np.testing.assert_allclose(picture.pixels[visible], unit(color)[visible], atol=1e-6)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_read(kind, tmp_path):
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue", "green")]
    path = tmp_path / "animation"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    picture = read(path)
    assert_picture(picture, (10, 20))
    np.testing.assert_allclose(picture.pixels[5, 5], [1, 0, 0], atol=0.02)


# ------------------------------------------------------------------------------------------ arrays


def test_arrays_of_every_dtype(cat):
    want = unit(cat)
    for array in (
        cat,
        cat.astype(np.uint16) * 257,
        want,
        want.astype(np.float64),
        jnp.asarray(want),
        jnp.asarray(cat),
        want.tolist(),
    ):
        picture = read(array)
        assert_picture(picture, cat.shape[:2])
        np.testing.assert_allclose(picture.pixels, want, atol=1e-7)
    np.testing.assert_allclose(read(want.astype(np.float16)).pixels, want, atol=1e-3)
    mask = cat[..., 0] > 100
    np.testing.assert_array_equal(read(mask).pixels[..., 2], mask)


def test_arrays_of_every_shape(cat):
    gray = cat[..., 0]
    for array in (gray, gray[..., None]):
        np.testing.assert_array_equal(read(array).pixels, unit(np.dstack([gray] * 3)))
    rgba = np.dstack([cat, gray])
    picture = read(unit(rgba))
    np.testing.assert_array_equal(picture.alpha, unit(gray))


def test_the_arrays_read_are_the_callers_own():
    source = np.full((4, 4, 3), 0.5, np.float32)
    read(source).pixels[:] = 0
    assert (source == 0.5).all()
    gray = read(source[..., 0]).pixels
    gray[..., 0] = 0
    assert (gray[..., 1] == 0.5).all()


@pytest.mark.parametrize(
    "shape", [(3,), (2, 3, 2), (2, 3, 5), (1, 4, 4, 3), (3, 8, 9), (0, 4, 3), (4, 0)]
)
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError) as caught:
        read(np.zeros(shape), name="content")
    one_line(caught, "content", str(shape), "give")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.float32([[0, 255]]), ["0 to 255", "0 to 1", "uint8"]),
        (np.float32([[-0.5, 0.5]]), ["-0.5 to 0.5", "0 to 1"]),
        (np.float32([[0, 1.00001]]), ["1.00001"]),
        (np.float32([[0, np.nan]]), ["nan", "finite"]),
        (np.float32([[0, np.inf]]), ["inf", "finite"]),
        (np.zeros((2, 2), np.int64), ["int64", "uint8"]),
        (np.zeros((2, 2), complex), ["complex", "uint8"]),
        (np.zeros((2, 2), object), ["object", "uint8"]),
        ([[1, 2], [3]], ["rectangular"]),
        (None, ["shape ()"]),
    ],
)
def test_other_values_are_refused(array, words):
    with pytest.raises(InputError) as caught:
        read(array, name="style 2")
    one_line(caught, "style 2", *words)


def test_rounding_beyond_the_range_is_forgiven():
    pixels = read(np.float64([[-5e-7, 1 + 5e-7]])).pixels
    assert pixels.min() == 0
    assert pixels.max() == 1


# ---------------------------------------------------------------------------------- unusable files


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path / "nothing.jpg", name="content image")
    one_line(caught, "content image", "nothing.jpg", "No such file", "give the path")


def test_a_folder(tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    one_line(caught, str(tmp_path), "irectory")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    Image.new("RGB", (2, 2)).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser reads everything

        def refuse(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError) as caught:
        read(path)
    one_line(caught, "secret.png", "Permission denied", "may read")


@pytest.mark.parametrize("content", [b"", b"not an image\n", b"\x89PNG\r\n\x1a\n", bytes(99)])
def test_a_file_that_is_no_image(content, tmp_path):
    path = tmp_path / "notes\nof mine.jpg"
    path.write_bytes(content)
    for reader in (read, read_metadata):
        with pytest.raises(InputError) as caught:
            reader(path)
        one_line(caught, "of mine.jpg", "not an image", "convert")


def test_a_path_with_a_null_byte():
    with pytest.raises(InputError):
        read("a\0b.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_truncated_image(kind, tmp_path, cat):
    path = tmp_path / "cut"
    Image.fromarray(cat).save(path, kind)
    content = path.read_bytes()
    for kept in (0.5, 0.95):
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(InputError) as caught:
            read(path, name="content")
        one_line(caught, "content", "cut")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_an_input_error_or_a_picture(draw):
    kind = draw.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF"]))
    small = Image.fromarray(data.chelsea()[100:116, 100:116])
    file = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    small.save(file, kind, exif=exif, icc_profile=adobe_rgb())
    content = bytearray(file.getvalue())
    for _ in range(draw.draw(st.integers(1, 5))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "damaged")
        path.write_bytes(content)
        try:
            picture = read(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert_picture(picture, picture.pixels.shape[:2])


def bomb(path, side):
    """Write a PNG header that announces side x side pixels."""
    Image.new("L", (1, 1)).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def test_a_decompression_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    bomb(path, 20_001)
    usual = Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError) as caught:
        read(path, name="style")
    one_line(caught, "style", "bomb.png", "too large", str(20_001**2), "400000000", "Scale it down")
    assert usual == Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pillows_own_limit_comes_back_and_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "photo.png"
    Image.new("RGB", (100, 100)).save(path)
    failures = []

    def work():
        for _ in range(20):
            try:
                read(path)
            except InputError as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(images, "MAX_PIXELS", 9_999)
    with pytest.raises(InputError, match="too large"):
        read(path)
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    read(path)


# ---------------------------------------------------------------------------------- resize and fit

fractions = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=3, max_side=12), elements=fractions),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_resize_keeps_the_kind_and_range(array, size):
    resized = resize(array, size)
    assert resized.shape == (*size, *array.shape[2:])
    assert resized.dtype == np.float32
    assert resized.min() >= 0
    assert resized.max() <= 1
    np.testing.assert_array_equal(resize(array, array.shape[:2]), array)


@given(fractions, st.integers(1, 30), st.integers(1, 30))
def test_resize_keeps_a_flat_colour(value, height, width):
    flat = np.full((7, 5, 3), value, np.float32)
    np.testing.assert_allclose(resize(flat, (height, width)), value, atol=1e-5)


def test_resize_is_antialiased(cat):
    stripes = np.tile(np.float32([0, 1]), (64, 32))  # finer than the small picture can show
    np.testing.assert_allclose(resize(stripes, (9, 9)), 0.5, atol=0.06)
    small = resize(unit(cat), (30, 45))
    blocks = unit(cat)[:, :450].reshape(30, 10, 45, 10, 3).mean((1, 3))
    assert psnr(small, blocks) > 30


def test_resize_does_not_mix_channels(cat):
    red = unit(cat) * [1, 0, 0]
    assert resize(red, (50, 70))[..., 1:].max() == 0
    assert psnr(resize(resize(unit(cat), (600, 902)), (300, 451)), unit(cat)) > 40


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 5_000))
def test_fit_scales_the_longest_side_exactly(height, width, longest_side):
    h, w = fit((height, width, 3), longest_side)
    assert max(h, w) == longest_side
    assert min(h, w) >= 1
    scale = longest_side / max(height, width)
    assert h == 1 or abs(h - height * scale) <= 0.5 + 1e-6
    assert w == 1 or abs(w - width * scale) <= 0.5 + 1e-6
    assert fit((width, height), longest_side) == (w, h)


def test_fit_examples():
    assert fit((300, 451, 3), 451) == (300, 451)
    assert fit((3000, 4000), 512) == (384, 512)
    assert fit((10, 100_000), 100) == (1, 100)
    with pytest.raises(InputError, match="at least 1"):
        fit((3, 4), 0)


# ----------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("extension", [".png", ".PNG", ".tif", ".tiff"])
def test_lossless_round_trip(extension, tmp_path, china):
    path = tmp_path / f"out{extension}"
    write(path, unit(china))
    np.testing.assert_array_equal(read(path).pixels, unit(china))
    rng = np.random.default_rng(0)
    noise = rng.random((30, 40, 3), np.float32)
    alpha = rng.random((30, 40), np.float32) * 0.9 + 0.1
    write(path, noise, alpha=alpha)
    picture = read(path)
    np.testing.assert_allclose(picture.pixels, noise, atol=HALF_STEP)
    np.testing.assert_allclose(picture.alpha, alpha, atol=HALF_STEP)


@settings(max_examples=50, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)),
        elements=st.floats(-0.5, 1.5, width=32),
    )
)
def test_png_is_exact_to_half_a_step_and_clipped(pixels):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out.png")
        write(path, pixels)
        picture = read(path)
    np.testing.assert_allclose(picture.pixels, np.clip(pixels, 0, 1), atol=HALF_STEP)


@pytest.mark.parametrize(("extension", "least"), [(".jpg", 38), (".jpeg", 38), (".webp", 33)])
def test_lossy_round_trip(extension, least, tmp_path, cat):
    path = tmp_path / f"out{extension}"
    write(path, jnp.asarray(unit(cat)))
    assert psnr(read(path).pixels, unit(cat)) > least
    write(path, np.random.default_rng(0).random((300, 300, 3)))  # noise overflows naive buffers


def test_jpeg_is_not_subsampled(tmp_path):
    path = tmp_path / "out.jpg"
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[:, ::2, 0] = 1
    write(path, stripes)
    assert psnr(read(path).pixels, stripes) > 30
    with Image.open(path) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_jpeg_lays_transparency_on_white(tmp_path, caplog):
    pixels = np.zeros((16, 32, 3), np.float32)
    alpha = np.ones((16, 32), np.float32)
    alpha[:, 16:] = 0.25
    with caplog.at_level(logging.WARNING, "nst_jax"):
        write(tmp_path / "out.jpg", pixels, alpha=alpha)
    assert "white" in caplog.text
    written = read(tmp_path / "out.jpg").pixels
    np.testing.assert_allclose(written[:, :16], 0, atol=0.02)
    np.testing.assert_allclose(written[:, 16:], 0.75, atol=0.02)


def test_webp_keeps_alpha(tmp_path, cat, caplog):
    alpha = np.tile(np.linspace(0.1, 1, 451, dtype=np.float32), (300, 1))
    write(tmp_path / "out.webp", unit(cat), alpha=alpha)
    np.testing.assert_allclose(read(tmp_path / "out.webp").alpha, alpha, atol=HALF_STEP)
    assert not caplog.records


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_an_srgb_profile_is_embedded_and_files_are_reproducible(extension, tmp_path, coffee):
    path = tmp_path / f"out{extension}"
    write(path, unit(coffee), metadata={"seed": "0"})
    with Image.open(path) as image:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
        assert len(image.info["icc_profile"]) < 1000
    assert images._srgb_profile()[24:36] == struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    first = path.read_bytes()
    write(path, unit(coffee), metadata={"seed": "0"})
    assert path.read_bytes() == first


METADATA = {"nst-jax": '{"steps": 500}', "Comment": "Hokusai 葛飾北斎, «Große Welle» 🌊\nnext line"}


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("with_alpha", [False, True])
def test_metadata_round_trip(extension, with_alpha, tmp_path, coffee):
    path = tmp_path / f"out{extension}"
    alpha = np.full(coffee.shape[:2], 0.5, np.float32) if with_alpha else None
    write(path, unit(coffee), alpha=alpha, metadata=METADATA)
    assert read_metadata(path) == METADATA
    write(path, unit(coffee))
    assert read_metadata(path) == {}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(EXTENSIONS),
    st.dictionaries(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=79),
        st.text(st.characters(exclude_categories=["Cs"])),
        max_size=4,
    ),
)
def test_any_metadata_round_trip(extension, metadata):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out" + extension)
        write(path, np.zeros((2, 2, 3)), metadata=metadata)
        assert read_metadata(path) == metadata


def test_metadata_is_where_common_tools_look(tmp_path):
    for extension in (".jpg", ".webp", ".tiff"):
        path = tmp_path / f"out{extension}"
        write(path, np.zeros((4, 4, 3)), metadata={"title": "Wörter"})
        with Image.open(path) as image:
            exif = image.getexif()
        assert exif[ExifTags.Base.ImageDescription] == '{"title": "W\\u00f6rter"}'
        assert exif[ExifTags.Base.Software] == "nst-jax"
    write(tmp_path / "out.png", np.zeros((4, 4, 3)), metadata={"title": "Wörter"})
    with Image.open(tmp_path / "out.png") as image:
        assert image.info["title"] == "Wörter"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_file_names_that_are_not_utf8_can_be_metadata(extension, tmp_path):
    path = tmp_path / f"out{extension}"
    write(path, np.zeros((4, 4, 3)), metadata={"style": "caf\udce9.jpg"})
    assert read_metadata(path) == {"style": "caf\\udce9.jpg"}


@pytest.mark.parametrize("description", ["My holiday", "[1, 2]", "3", ""])
def test_other_descriptions_are_no_metadata(description, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = description
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg", exif=exif)
    assert read_metadata(tmp_path / "a.jpg") == {}


def test_metadata_of_other_programs_pngs(tmp_path):
    info = PngInfo()
    info.add_itxt("Title", "Große", lang="de", tkey="Titel")
    info.add_text("Author", "someone", zip=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png") == {"Title": "Große", "Author": "someone"}


@pytest.mark.parametrize("key", ["", "ключ", "a" * 80, " a", "a\n"])
def test_metadata_keys_are_checked(key, tmp_path):
    with pytest.raises(InputError) as caught:
        write(tmp_path / "out.png", np.zeros((2, 2, 3)), metadata={key: "x"})
    one_line(caught, "metadata key", "79")


def test_the_mode_of_a_new_file_is_the_users(tmp_path):
    write(tmp_path / "out.png", np.zeros((2, 2, 3)))
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["out.gif", "out", ".png", "out.png.txt"])
def test_an_unknown_extension(name, tmp_path):
    with pytest.raises(InputError) as caught:
        write(tmp_path / name, np.zeros((2, 2, 3)))
    one_line(caught, name, ".png, .jpg, .jpeg, .webp, .tif, .tiff")


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError) as caught:
        write(tmp_path / "missing" / "out.png", np.zeros((2, 2, 3)))
    one_line(caught, "missing", "no folder", "create")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="no folder"):
        write(tmp_path / "file" / "out.png", np.zeros((2, 2, 3)))
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write(tmp_path / "dir.png", np.zeros((2, 2, 3)))
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / ("long" * 100 + ".png"), np.zeros((2, 2, 3)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.png", "file"]


@pytest.mark.parametrize(
    ("pixels", "alpha", "word"),
    [
        (np.zeros((2, 2)), None, "shape (2, 2)"),
        (np.zeros((2, 2, 4)), None, "shape (2, 2, 4)"),
        (np.zeros((0, 2, 3)), None, "shape (0, 2, 3)"),
        (np.zeros((2, 2, 3), np.uint8), None, "uint8"),
        (np.full((2, 2, 3), np.nan), None, "NaN"),
        (np.zeros((2, 2, 3)), np.full((2, 2), np.inf), "infinite"),
        (np.zeros((2, 2, 3)), np.ones((2, 3)), "alpha has shape (2, 3)"),
    ],
)
def test_unusable_pixels(pixels, alpha, word, tmp_path):
    with pytest.raises(InputError) as caught:
        write(tmp_path / "out.png", pixels, alpha=alpha)
    one_line(caught, "out.png", word)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("extension", "size", "metadata"),
    [
        (".webp", (1, 16384, 3), {}),
        (".jpg", (1, 65536, 3), {}),
        (".jpg", (1, 1, 3), {"a": "x" * 70_000}),
    ],
)
def test_what_a_format_cannot_hold(extension, size, metadata, tmp_path):
    with pytest.raises(InputError) as caught:
        write(tmp_path / f"out{extension}", np.zeros(size), metadata=metadata)
    one_line(caught, "out", "cannot be encoded", "another format")


class FullDisk(io.BytesIO):
    def __init__(self, path):
        super().__init__()
        path.touch()

    def write(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("failure", ["full", "denied", "replace", "interrupt"])
def test_a_failed_write_leaves_the_old_picture(failure, tmp_path, monkeypatch, cat):
    path = tmp_path / "out.png"
    write(path, unit(cat))
    before = path.read_bytes()

    def fail(self, *args):
        if failure == "full":
            return FullDisk(self)
        if failure == "interrupt":
            raise KeyboardInterrupt
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace" if failure in ("replace", "interrupt") else "open", fail)
    expected = KeyboardInterrupt if failure == "interrupt" else InputError
    with pytest.raises(expected) as caught:
        write(path, np.zeros((4, 4, 3)))
    monkeypatch.undo()
    if failure != "interrupt":
        reason = "No space left" if failure == "full" else "Permission denied"
        one_line(caught, "out.png", "cannot be written", reason)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_a_read_only_picture_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    write(path, np.zeros((2, 2, 3)))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError) as caught:
        write(path, np.ones((2, 2, 3)))
    one_line(caught, "out.png", "read-only")


def test_a_picture_survives_the_whole_way(tmp_path, cat):
    picture = read(cat)
    small = resize(picture.pixels, fit(picture.pixels.shape, 128))
    write(tmp_path / "small.png", small)
    assert isinstance(read(tmp_path / "small.png"), Picture)
    assert_picture(read(tmp_path / "small.png"), (85, 128))
