"""Files, PIL images and arrays become float32 sRGB; unusable ones become one-line errors."""

import functools
import io
import logging
import os
import re
import struct
import tempfile
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps
from skimage import data
from skimage.color import rgb2lab

from nst_jax.errors import InputError
from nst_jax.images import io as image_io
from nst_jax.images.io import read, read_metadata


def reopen(image, file_format, **options):
    """Encode an image and open the encoded file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def gray_rgb(values):
    return np.stack([values] * 3, axis=-1)


def assert_valid(image, shape):
    assert image.pixels.shape == (*shape, 3)
    assert image.pixels.dtype == np.float32
    assert 0 <= image.pixels.min() <= image.pixels.max() <= 1
    if image.alpha is not None:
        assert image.alpha.shape == shape
        assert image.alpha.dtype == np.float32


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile():
    """An sRGB profile whose red channel has the primary of blue and the other way round."""
    head, red, middle, blue, tail = re.split(b"(rXYZ|bXYZ)", srgb_profile())
    return head + blue + middle + red + tail


def gray_profile():
    """A gray profile that has the parameters of sRGB's curve but the exponent 1 for 2.4."""
    profile = srgb_profile().replace(b"RGB XYZ ", b"GRAYXYZ ").replace(b"rTRC", b"kTRC")
    return profile.replace(struct.pack(">i", round(2.4 * 65536)), struct.pack(">i", 65536))


def encode_srgb(linear):
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_photo_is_read_exactly_from_every_kind_of_source(tmp_path, photo, pixels):
    path, link = tmp_path / "photo.png", tmp_path / "link.png"
    Image.fromarray(photo).save(path)
    link.symlink_to(path)
    for source in (path, str(path), link, Image.fromarray(photo), photo):
        image = read(source)
        assert_valid(image, photo.shape[:2])
        np.testing.assert_array_equal(image.pixels, pixels)
        assert image.alpha is None


STORED = {  # by EXIF orientation: how a camera stores an upright image
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_images_are_rotated_upright_by_their_exif_orientation(file_format, photo, pixels):
    for orientation, store in STORED.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        stored = Image.fromarray(np.ascontiguousarray(store(photo)))
        image = read(reopen(stored, file_format, exif=exif, quality=95))
        assert_valid(image, photo.shape[:2])
        assert np.abs(image.pixels - pixels).mean() < 0.02


def test_broken_exif_data_is_ignored_with_a_warning(photo, pixels, caplog, monkeypatch):
    def fail(image):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    np.testing.assert_array_equal(read(Image.fromarray(photo)).pixels, pixels)
    assert "EXIF" in caplog.text


def test_an_rgb_profile_is_converted(photo, pixels):
    image = read(reopen(Image.fromarray(photo), "PNG", icc_profile=swapped_profile()))
    np.testing.assert_allclose(image.pixels, pixels[..., ::-1], atol=2.5 / 255)


def test_an_srgb_profile_changes_nothing(photo, caplog):
    for source in (Image.fromarray(photo), Image.fromarray(photo).convert("L")):
        image = read(reopen(source, "PNG", icc_profile=srgb_profile()))
        np.testing.assert_array_equal(image.pixels, np.float32(source.convert("RGB")) / 255)
    assert not caplog.records


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_gray_profile_is_converted(mode):
    dtype, max_value = (np.uint16, 65535) if mode == "I;16" else (np.uint8, 255)
    values = np.linspace(0.08 * max_value, max_value, 3000).astype(dtype)[None]
    stored = Image.fromarray(values)
    if mode == "LA":
        stored.putalpha(100)
    image = read(reopen(stored, "PNG", icc_profile=gray_profile()))
    want = encode_srgb((values / max_value + 0.055) / 1.055)
    np.testing.assert_allclose(image.pixels, gray_rgb(want), atol=1.5 / 255)
    assert (len(np.unique(image.pixels)) > 256) == (mode == "I;16")


@pytest.mark.parametrize(
    ("mode", "profile"), [("RGB", b"junk"), ("RGB", gray_profile()), ("CMYK", srgb_profile())]
)
def test_a_profile_that_does_not_fit_is_ignored_with_a_warning(mode, profile, photo, caplog):
    """A CMYK image is therefore not converted to RGB before its profile applies."""
    stored = Image.fromarray(photo).convert(mode)
    with caplog.at_level(logging.WARNING, "nst_jax"):
        image = read(reopen(stored, "TIFF", icc_profile=profile), name="style")
    np.testing.assert_array_equal(image.pixels, np.float32(stored.convert("RGB")) / 255)
    assert [record.name for record in caplog.records] == ["nst_jax"]
    assert "style" in caplog.text
    assert "ICC" in caplog.text


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_pil_modes_without_alpha_are_read_as_rgb(mode, photo):
    stored = Image.fromarray(photo).convert(mode)
    image = read(stored)
    assert_valid(image, photo.shape[:2])
    assert image.alpha is None
    np.testing.assert_array_equal(image.pixels, np.float32(stored.convert("RGB")) / 255)


def test_lab_is_converted(photo, pixels):
    lab = rgb2lab(photo, illuminant="D65")
    stored = np.stack([lab[..., 0] * 2.55, lab[..., 1] % 256, lab[..., 2] % 256], -1)
    image = read(reopen(Image.fromarray(stored.astype(np.uint8), "LAB"), "TIFF"))
    assert_valid(image, photo.shape[:2])
    assert np.abs(image.pixels - pixels).mean() < 0.02


def test_gray_of_16_or_32_bits_keeps_its_precision(input_error):
    deep = np.array([[0, 1000], [40000, 65535]])
    for source in (
        reopen(Image.fromarray(deep.astype(np.uint16)), "PNG"),
        reopen(Image.fromarray(deep.astype(np.uint16)), "TIFF"),
        Image.fromarray(deep.astype(np.int32)),
        Image.frombytes("I;16B", (2, 2), deep.astype(">u2").tobytes()),
        Image.fromarray((deep / 65535).astype(np.float32)),
    ):
        np.testing.assert_allclose(read(source).pixels, gray_rgb(deep / 65535), atol=1e-7)
    with input_error("from 0 to 255", "0 to 1"):
        read(Image.fromarray(np.float32([[0, 255]])))
    with input_error("from -1 to 70000", "0 to 65535"):
        read(Image.fromarray(np.int32([[-1, 70000]])))


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(file_format, tmp_path):
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue", "green")]
    path = tmp_path / "animation"
    frames[0].save(path, file_format, save_all=True, append_images=frames[1:])
    image = read(path)
    assert_valid(image, (10, 20))
    np.testing.assert_allclose(image.pixels[5, 5], [1, 0, 0], atol=0.02)


def test_alpha_is_returned_unless_it_is_opaque_everywhere(photo, pixels):
    alpha = np.tile(np.linspace(1, 255, 180).astype(np.uint8), (120, 1))
    image = read(reopen(Image.fromarray(np.dstack([photo, alpha])), "PNG"))
    np.testing.assert_array_equal(image.pixels, pixels)
    np.testing.assert_array_equal(image.alpha, np.float32(alpha) / 255)
    assert read(Image.fromarray(photo).convert("RGBA")).alpha is None


def test_fully_transparent_pixels_get_the_mean_visible_color(photo, pixels):
    alpha = np.full((120, 180), 255, np.uint8)
    alpha[:, 90:] = 0
    alpha[:10] = 51
    visible = alpha > 0
    image = read(np.dstack([photo * visible[..., None], alpha]))
    np.testing.assert_array_equal(image.pixels[visible], pixels[visible])
    mean = np.average(pixels[visible], axis=0, weights=alpha[visible].astype(float))
    np.testing.assert_allclose(image.pixels[~visible], [mean] * (~visible).sum(), atol=1e-6)


def test_an_image_that_is_transparent_everywhere_keeps_its_colors(photo, pixels):
    image = read(np.dstack([photo, np.zeros((120, 180), np.uint8)]))
    np.testing.assert_array_equal(image.pixels, pixels)
    np.testing.assert_array_equal(image.alpha, 0)


def transparent_images():
    """Images (2, 3) whose first two pixels are transparent, and their colors."""
    gray = np.array([[9, 9, 50], [50, 200, 200]], np.uint8)
    color = np.dstack([gray, gray // 2, 255 - gray])
    alpha = np.where(gray == 9, 0, 255).astype(np.uint8)
    palette = Image.fromarray(gray, "P")
    palette.putpalette([v for i in range(256) for v in (i, i // 2, 255 - i)])
    pa = palette.convert("PA")
    pa.putalpha(Image.fromarray(alpha))
    table = bytes(0 if i == 9 else 255 for i in range(256))
    key = tuple(int(v) for v in color[0, 0])
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    return {
        "RGBA": (Image.fromarray(np.dstack([color, alpha])), color),
        "LA": (Image.fromarray(np.dstack([gray, alpha])), gray_rgb(gray)),
        "PA": (pa, color),
        "palette index": (reopen(palette, "PNG", transparency=9), color),
        "palette table": (reopen(palette, "PNG", transparency=table), color),
        "GIF": (reopen(palette, "GIF", transparency=9), color),
        "RGB tRNS": (reopen(Image.fromarray(color), "PNG", transparency=key), color),
        "L tRNS": (reopen(Image.fromarray(gray), "PNG", transparency=9), gray_rgb(gray)),
        "16-bit tRNS": (reopen(deep, "PNG", transparency=9 * 257), gray_rgb(gray)),
    }


@pytest.mark.parametrize("case", transparent_images())
@pytest.mark.filterwarnings("error")
def test_every_kind_of_transparency_is_read(case):
    source, color = transparent_images()[case]
    image = read(source)
    visible = np.array([[False, False, True], [True, True, True]])
    assert_valid(image, (2, 3))
    np.testing.assert_array_equal(image.alpha, visible)
    np.testing.assert_allclose(image.pixels[visible], color[visible] / 255, atol=1e-6)


def test_arrays_of_every_dtype_and_shape_are_read(photo, pixels):
    for array in (
        photo.astype(np.uint16) * 257,
        pixels,
        pixels.astype(np.float64),
        jnp.asarray(pixels),
        jnp.asarray(photo),
        pixels.tolist(),
    ):
        image = read(array)
        assert_valid(image, photo.shape[:2])
        np.testing.assert_allclose(image.pixels, pixels, atol=1e-7)
    np.testing.assert_allclose(read(pixels.astype(np.float16)).pixels, pixels, atol=1e-3)
    for gray in (photo[..., 0] > 100, pixels[..., 0], pixels[..., :1]):
        np.testing.assert_array_equal(read(gray).pixels, gray_rgb(np.reshape(gray, (120, 180))))
    np.testing.assert_array_equal(read(np.dstack([pixels, pixels[..., 0]])).alpha, pixels[..., 0])


def test_the_result_shares_no_memory_with_the_source():
    source = np.full((4, 4, 3), 0.5, np.float32)
    read(source).pixels[:] = 0
    assert (source == 0.5).all()
    gray = read(source[..., 0]).pixels
    gray[..., 0] = 0
    assert (gray[..., 1] == 0.5).all()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.float32([[0, 255]]), ["0 to 255", "0 to 1", "uint8"]),
        (np.float32([[-0.5, 0.5]]), ["-0.5 to 0.5", "0 to 1"]),
        (np.float32([[0, 1.00001]]), ["1.00001"]),
        (np.float32([[0, np.nan]]), ["nan", "finite"]),
        (np.float32([[0, np.inf]]), ["inf", "finite"]),
        (np.zeros((2, 2), np.int64), ["int64", "uint8"]),
        (np.zeros((2, 2), object), ["object", "uint8"]),
        ([[1, 2], [3]], ["rectangular"]),
        (None, ["shape ()"]),
        *((np.zeros(s), [str(s), "give"]) for s in [(2, 3, 2), (1, 4, 4, 3), (3, 8, 9), (4, 0)]),
    ],
)
def test_other_arrays_are_refused(array, words, input_error):
    with input_error("style 2", *words):
        read(array, name="style 2")


def test_rounding_errors_outside_the_range_are_clipped():
    np.testing.assert_array_equal(read(np.float64([[-5e-7, 1 + 5e-7]])).pixels[0, :, 0], [0, 1])


def test_a_path_that_cannot_be_opened_is_named(tmp_path, input_error):
    with input_error("content image", "nothing.jpg", "No such file", "give the path"):
        read(tmp_path / "nothing.jpg", name="content image")
    with input_error("b.png"):
        read("a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_folders_pipes_and_devices_are_refused_without_reading(tmp_path, input_error):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png", tmp_path / "link.png", Path("/dev/zero")):
        for reader in (read, read_metadata):
            with input_error(repr(str(path)), "pipe or device", "regular image file"):
                reader(path)


@pytest.mark.parametrize("content", [b"", b"not an image\n", b"\x89PNG\r\n\x1a\n", bytes(99)])
def test_a_file_that_is_not_an_image_is_refused(content, tmp_path, input_error):
    path = tmp_path / "my\nnotes.jpg"
    path.write_bytes(content)
    for reader in (read, read_metadata):
        with input_error("notes.jpg", "not an image", "convert"):
            reader(path)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_truncated_image_is_refused(file_format, tmp_path, photo, input_error):
    path = tmp_path / "cut"
    Image.fromarray(photo).save(path, file_format)
    content = path.read_bytes()
    for fraction in (0.5, 0.95):
        path.write_bytes(content[: int(len(content) * fraction)])
        with input_error("content", "cut"):
            read(path, name="content")


@functools.cache  # a profile has its time in it, and hypothesis wants the same bytes every time
def small_file(file_format):
    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    small = Image.fromarray(data.chelsea()[100:116, 100:116])
    small.save(file, file_format, exif=exif, icc_profile=swapped_profile())
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_an_input_error_or_an_image(draw):
    content = bytearray(
        small_file(draw.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF"])))
    )
    for _ in range(draw.draw(st.integers(1, 5))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "damaged")
        path.write_bytes(content)
        try:
            image = read(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert_valid(image, image.pixels.shape[:2])


def test_pillows_own_pixel_limit_is_ignored_and_restored(tmp_path, monkeypatch, input_error):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "photo.png"
    Image.new("RGB", (100, 100)).save(path)
    images = []
    threads = [
        threading.Thread(target=lambda: images.extend(read(path) for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images) == 80
    monkeypatch.setattr(image_io, "MAX_PIXELS", 9_999)
    with input_error("style", "photo.png", "too large", "100x100", "9999 pixels", "scale it down"):
        read(path, name="style")
    assert Image.MAX_IMAGE_PIXELS == 1000
