"""Images and metadata written to files come back; unusable outputs become one-line errors."""

import io
import logging
import os
import struct
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from nst_jax.images import io as image_io
from nst_jax.images.io import read, read_metadata, write

HALF_STEP = 0.5 / 255 + 1e-6
EXTENSIONS = [".png", ".jpg", ".webp", ".tiff"]
BLACK = np.zeros((2, 2, 3))
METADATA = {"nst-jax": '{"steps": 500}', "Comment": "Hokusai 葛飾北斎, «Große Welle» 🌊\nnext line"}


@pytest.mark.parametrize("extension", [".png", ".PNG", ".tif", ".tiff"])
def test_lossless_formats_return_the_same_pixels(extension, tmp_path, pixels):
    write(tmp_path / f"out{extension}", pixels)
    np.testing.assert_array_equal(read(tmp_path / f"out{extension}").pixels, pixels)


@pytest.mark.parametrize("extension", [".png", ".tiff", ".webp"])
def test_alpha_is_returned(extension, tmp_path, pixels, caplog):
    alpha = np.tile(np.linspace(0.1, 1, 180, dtype=np.float32), (120, 1))
    write(tmp_path / f"out{extension}", pixels, alpha=alpha)
    image = read(tmp_path / f"out{extension}")
    np.testing.assert_allclose(image.alpha, alpha, atol=HALF_STEP)
    assert np.abs(image.pixels - pixels).mean() < 0.015
    assert not caplog.records


@settings(max_examples=40, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)),
        elements=st.floats(-0.5, 1.5, width=32),
    )
)
def test_png_clips_and_rounds_to_the_nearest_level(values):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out.png")
        write(path, values)
        image = read(path)
    np.testing.assert_allclose(image.pixels, np.clip(values, 0, 1), atol=HALF_STEP)


@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_return_nearly_the_same_pixels(extension, tmp_path, pixels):
    path = tmp_path / f"out{extension}"
    write(path, jnp.asarray(pixels))
    assert np.abs(read(path).pixels - pixels).mean() < 0.015
    write(path, np.random.default_rng(0).random((300, 300, 3)))  # noise overflows small buffers


def test_jpeg_does_not_subsample_chroma(tmp_path):
    path = tmp_path / "out.jpg"
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[:, ::2, 0] = 1
    write(path, stripes)
    assert np.abs(read(path).pixels - stripes).mean() < 0.03
    with Image.open(path) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_jpeg_composites_transparency_on_white_with_a_warning(tmp_path, caplog):
    alpha = np.ones((16, 32), np.float32)
    alpha[:, 16:] = 0.25
    with caplog.at_level(logging.WARNING, "nst_jax"):
        write(tmp_path / "out.jpg", np.zeros((16, 32, 3), np.float32), alpha=alpha)
    assert "white" in caplog.text
    written = read(tmp_path / "out.jpg").pixels
    np.testing.assert_allclose(written[:, :16], 0, atol=0.02)
    np.testing.assert_allclose(written[:, 16:], 0.75, atol=0.02)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_files_have_an_srgb_profile_and_are_reproducible(extension, tmp_path, pixels):
    path = tmp_path / f"out{extension}"
    write(path, pixels, metadata={"seed": "0"})
    with Image.open(path) as image:
        profile = image.info["icc_profile"]
    description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    assert "sRGB" in description
    assert len(profile) < 1000
    assert profile[24:36] == struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # not the current time
    first = path.read_bytes()
    write(path, pixels, metadata={"seed": "0"})
    assert path.read_bytes() == first


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(EXTENSIONS),
    st.dictionaries(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=79),
        st.text(st.characters(exclude_categories=["Cs"])),
        max_size=4,
    ),
)
@example(".webp", METADATA)
def test_any_metadata_is_returned_and_replaced(extension, metadata):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out" + extension)
        write(path, BLACK, alpha=np.ones((2, 2)), metadata=metadata)
        assert read_metadata(path) == metadata
        write(path, BLACK)
        assert read_metadata(path) == {}


def test_metadata_is_stored_where_other_tools_look(tmp_path):
    for extension in (".jpg", ".webp", ".tiff"):
        path = tmp_path / f"out{extension}"
        write(path, BLACK, metadata={"title": "Wörter"})
        with Image.open(path) as image:
            exif = image.getexif()
        assert exif[ExifTags.Base.ImageDescription] == '{"title": "W\\u00f6rter"}'
        assert exif[ExifTags.Base.Software] == "nst-jax"
    write(tmp_path / "out.png", BLACK, metadata={"title": "Wörter"})
    with Image.open(tmp_path / "out.png") as image:
        assert image.info["title"] == "Wörter"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_file_names_that_are_not_utf8_can_be_metadata(extension, tmp_path):
    path = tmp_path / f"out{extension}"
    write(path, BLACK, metadata={"style": "caf\udce9.jpg"})
    assert read_metadata(path) == {"style": "caf\\udce9.jpg"}


@pytest.mark.parametrize("description", ["My holiday", "[1, 2]", "3", ""])
def test_a_description_from_another_program_is_not_metadata(description, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = description
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg", exif=exif)
    assert read_metadata(tmp_path / "a.jpg") == {}


def test_text_chunks_from_other_programs_are_read(tmp_path):
    info = PngInfo()
    info.add_itxt("Title", "Große", lang="de", tkey="Titel")
    info.add_text("Author", "someone", zip=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png") == {"Title": "Große", "Author": "someone"}


@pytest.mark.parametrize("key", ["", "ключ", "a" * 80, " a", "a\n"])
def test_other_metadata_keys_are_refused(key, tmp_path, input_error):
    with input_error("metadata key", "79"):
        write(tmp_path / "out.png", BLACK, metadata={key: "x"})


@pytest.mark.parametrize("name", ["out.gif", "out", ".png", "out.png.txt"])
def test_an_unknown_extension_is_refused(name, tmp_path, input_error):
    with input_error(name, ".png, .jpg, .jpeg, .webp, .tif, .tiff"):
        write(tmp_path / name, BLACK)


def test_paths_that_cannot_be_written_are_refused(tmp_path, input_error):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with input_error("missing", "no folder", "create"):
        write(tmp_path / "missing" / "out.png", BLACK)
    with input_error("no folder"):
        write(tmp_path / "file" / "out.png", BLACK)
    with input_error("is a folder"):
        write(tmp_path / "folder.png", BLACK)
    with input_error("cannot be written"):
        write(tmp_path / ("long" * 100 + ".png"), BLACK)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("values", "alpha", "word"),
    [
        (np.zeros((2, 2)), None, "shape (2, 2)"),
        (np.zeros((2, 2, 4)), None, "shape (2, 2, 4)"),
        (np.zeros((0, 2, 3)), None, "shape (0, 2, 3)"),
        (np.zeros((2, 2, 3), np.uint8), None, "uint8"),
        (np.full((2, 2, 3), np.nan), None, "NaN"),
        (BLACK, np.full((2, 2), np.inf), "infinite"),
        (BLACK, np.ones((2, 3)), "alpha has shape (2, 3)"),
    ],
)
def test_unusable_pixels_are_refused(values, alpha, word, tmp_path, input_error):
    with input_error("out.png", word):
        write(tmp_path / "out.png", values, alpha=alpha)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "width"), [("out.webp", 16384), ("out.jpg", 65536)])
def test_images_too_large_for_a_format_are_refused(name, width, tmp_path, input_error):
    with input_error(name, "cannot be encoded", "another format"):
        write(tmp_path / name, np.zeros((1, width, 3)))


@pytest.mark.parametrize(("name", "side"), [("a.jpg", 65_500), ("a.webp", 16_383)])
def test_the_longest_side_of_a_format_is_known_before_the_image(tmp_path, name, side, input_error):
    image_io.check_output_path(tmp_path / name, (1, side))
    write(tmp_path / name, np.zeros((1, side, 3)))
    with input_error(name, f"{side + 1}x1", f"at most {side}"):
        image_io.check_output_path(tmp_path / name, (1, side + 1))
    image_io.check_output_path(tmp_path / "a.png", (side + 1, 1))


def test_a_failed_write_keeps_the_old_image(tmp_path, pixels, monkeypatch, input_error):
    path = tmp_path / "out.png"
    write(path, pixels)

    def fail(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", fail)
    with input_error("out.png", "cannot be written", "Permission denied"):
        write(path, BLACK)
    np.testing.assert_array_equal(read(path).pixels, pixels)


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch, input_error):
    path = tmp_path / "out.png"
    write(path, BLACK)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "out.png" or mode == 0)
    with input_error("out.png", "is read-only"):
        image_io.check_output_path(path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with input_error("folder is read-only"):
        image_io.check_output_path(path)
