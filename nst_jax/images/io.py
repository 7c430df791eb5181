"""Read, resize and write images.

Everywhere in the package an image is a float32 RGB array (h, w, 3) with values in [0, 1], encoded
as sRGB. Its alpha is a float32 array (h, w) in [0, 1], or None if every pixel is opaque. `read`
converts everything that a file can hold (color profiles, rotations, bit depths) to this form, so
that no other module has to.
"""

import io
import json
import logging
import math
import os
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from nst_jax.errors import InputError, MemoryLimitError
from nst_jax.files import parse_json, why_not_writable, write_atomically

__all__ = [
    "FORMATS",
    "ImageData",
    "ImageSource",
    "check_output_path",
    "crop_square",
    "fit_longest_side",
    "read",
    "read_metadata",
    "resize",
    "write",
]

ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | ArrayLike
"""A path, a PIL image or an array, as `read` takes it."""

FORMATS: Final = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""The file formats that `write` supports, by extension in lower case."""

MAX_PIXELS: Final = 400_000_000  # twice the largest phone sensors; 4.8 GB as float32

MAX_SIDES: Final = {"JPEG": 65_500, "WEBP": 16_383}
"""The longest sides that libjpeg and libwebp write."""

# JPEG without "optimize": Pillow then allocates a buffer that noise at this quality overflows.
SAVE_OPTIONS: Final = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}

log = logging.getLogger("nst_jax")
_pixel_limit_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image: RGB pixels, and alpha or None if every pixel is opaque. Values are in [0, 1].

    >>> import numpy as np
    >>> ImageData(np.zeros((2, 3, 3), np.float32)).alpha is None
    True
    """

    pixels: Float[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"] | None = None


def read(source: ImageSource, *, name: str = "image") -> ImageData:
    """Read a path, a PIL image or an array as sRGB.

    Files and PIL images are rotated upright by their EXIF orientation and converted from their
    ICC profile to sRGB. An animated file gives its first frame, a PIL image its current frame.
    Fully transparent pixels get the mean visible color; the result has the alpha too.

    Args:
        source: the path of an image file, a PIL image, or an array (h, w), (h, w, 1), (h, w, 3) or
            (h, w, 4): uint8 in 0..255, uint16 in 0..65535, bool, or float in [0, 1].
        name: what error messages call the image.

    Raises:
        InputError: the file cannot be opened or decoded, is EPS or not a regular file, or has more
            than 400 million pixels; or the array has another shape, dtype or range.
        MemoryLimitError: there is not enough memory to read it.

    >>> import numpy as np
    >>> image = read(np.full((4, 6, 4), 51, np.uint8))  # or a path, or a PIL image
    >>> image.pixels.shape, image.pixels.dtype, round(float(image.alpha.max()), 3)
    ((4, 6, 3), dtype('float32'), 0.2)
    """
    if isinstance(source, Image.Image):
        label = f"{name} (a PIL image)"
        with _as_input_error(label):
            return _from_pil(source, label)
    if isinstance(source, str | os.PathLike):
        label = f"{name} {os.fspath(source)!r}"
        with _as_input_error(label), _open(source, label) as image:
            return _from_pil(image, label)
    return _from_array(source, f"{name} (an array)")


def resize(pixels: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    """Resample an image to ``shape`` (h, w), antialiased when it shrinks.

    Args:
        pixels: (h, w, channels), or (h, w) such as a mask or an alpha, in [0, 1].
        shape: the new height and width in pixels.

    Returns:
        float32 in [0, 1], with the channels of ``pixels``.

    Raises:
        InputError: a side of ``shape`` is below 1.

    >>> import numpy as np
    >>> resize(np.full((16, 32, 3), 0.5), (8, 16)).shape
    (8, 16, 3)
    """
    if min(shape) < 1:
        raise InputError(f"the new shape is {shape}; give a height and a width from 1 pixel up")
    array = np.asarray(pixels, np.float32)
    if array.ndim == 3:
        return np.stack([resize(array[..., c], shape) for c in range(array.shape[2])], axis=-1)
    height, width = shape
    # Bicubic: Lanczos is a little sharper but draws visible halos along hard edges, and the
    # optimizer would treat a halo as a feature of the image.
    resized = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized), 0, 1)


def crop_square(pixels: ArrayLike, size: int) -> np.ndarray:
    """Cut out the central square of an image and resample it to ``size`` pixels.

    Args:
        pixels: (h, w, channels) or (h, w), in [0, 1].
        size: the side of the square in pixels.

    Returns:
        float32 in [0, 1], with the channels of ``pixels``.

    Raises:
        InputError: ``size`` is below 1.

    >>> import numpy as np
    >>> crop_square(np.full((20, 30, 3), 0.5), 16).shape
    (16, 16, 3)
    """
    array = np.asarray(pixels, np.float32)
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(array[top : top + side, left : left + side], (size, size))


def fit_longest_side(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Scale a shape up or down so that its longest side is ``size``, at the same aspect ratio.

    Args:
        shape: (h, w, ...) in pixels.
        size: the new longest side in pixels.

    Returns:
        The new (h, w); each side is at least 1.

    Raises:
        InputError: ``size`` is below 1.

    >>> fit_longest_side((300, 400, 3), 512)
    (384, 512)
    """
    if size < 1:
        raise InputError(f"longest side {size}: must be at least 1 pixel; give a larger one")
    height, width = shape[:2]
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def write(
    path: str | os.PathLike[str],
    pixels: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an image as an 8-bit PNG, JPEG, WebP or TIFF file with an sRGB profile.

    The file is written completely or not at all: a file that exists at ``path`` stays until the
    new one is complete. JPEG cannot store alpha: the image is composited on white, and the log
    gets a warning.

    Args:
        path: the file; its extension selects the format (see `FORMATS`).
        pixels: float RGB (h, w, 3); values are clipped to [0, 1] and rounded.
        alpha: float (h, w), clipped and rounded in the same way.
        metadata: texts by key of 1 to 79 printable ASCII characters. They become PNG text chunks,
            or a JSON object in the EXIF description. `read_metadata` reads both.

    Raises:
        InputError: another extension, shape or dtype; values that are not finite; or the file
            cannot be encoded or written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from nst_jax import images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "gray.png"
    ...     write(path, np.full((4, 6, 3), 0.5), metadata={"title": "gray"})
    ...     images.read(path).pixels.shape, images.read_metadata(path)
    ((4, 6, 3), {'title': 'gray'})
    """
    path = Path(path)
    check_output_path(path)
    label = f"output {str(path)!r}"
    file_format = FORMATS[path.suffix.lower()]
    rgb = _clip_finite(pixels, label)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise InputError(f"{label}: pixels have shape {rgb.shape}; give (height, width, 3)")
    bands = [rgb]
    if alpha is not None:
        opacity = _clip_finite(alpha, label)[..., None]
        if opacity.shape != (*rgb.shape[:2], 1):
            raise InputError(
                f"{label}: alpha has shape {opacity.shape[:-1]}; give {rgb.shape[:2]} like pixels"
            )
        if file_format == "JPEG":
            log.warning(
                "%s: JPEG has no transparency; the image is composited on white (PNG keeps it)",
                label,
            )
            bands = [rgb * opacity + (1 - opacity)]
        else:
            bands = [rgb, opacity]
    uint8 = (np.concatenate(bands, axis=-1) * 255 + 0.5).astype(np.uint8)

    options = {**SAVE_OPTIONS[file_format], **_metadata_options(file_format, metadata or {}, label)}
    encoded = io.BytesIO()
    try:
        Image.fromarray(uint8).save(encoded, file_format, icc_profile=_srgb_profile(), **options)
    except (OSError, ValueError) as error:  # a side or metadata too long for the format
        raise InputError(
            f"{label}: cannot be encoded as {file_format} ({_one_line(error)}); use another format"
        ) from error
    try:
        write_atomically(path, encoded.getbuffer())
    except OSError as error:
        raise InputError(
            f"{label}: cannot be written ({_one_line(error)}); "
            "check the folder's permissions and free space"
        ) from error


def check_output_path(path: str | os.PathLike[str], shape: tuple[int, int] | None = None) -> None:
    """Check what can be checked about an output file before there is an image to write.

    Args:
        path: the file.
        shape: (h, w) of the image, if it is known.

    Raises:
        InputError: an unknown extension, a missing folder, a folder, pipe or device at ``path``,
            a file or folder that is read-only, or an image too large for the format.

    >>> check_output_path("photo.png")
    >>> check_output_path("photo.gif")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nst_jax.errors.InputError: output 'photo.gif': unknown extension; use one of .png, .jpg, ...
    """
    path = Path(path)
    label = f"output {str(path)!r}"
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{label}: unknown extension; use one of {', '.join(FORMATS)}")
    if reason := why_not_writable(path):
        raise InputError(f"{label}: {reason}")
    file_format = FORMATS[path.suffix.lower()]
    max_side = MAX_SIDES.get(file_format, math.inf)
    if shape is not None and max(shape) > max_side:
        raise InputError(
            f"{label}: {shape[1]}x{shape[0]} pixels are too many for {file_format}, whose sides "
            f"have at most {max_side}; use PNG"
        )


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the ``metadata`` that `write` stored in a file.

    Returns:
        The texts by key; all text chunks of a PNG file; {} if there is no metadata.

    Raises:
        InputError: the file cannot be opened or decoded, or is not a regular file.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from nst_jax import images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "gray.jpg"
    ...     images.write(path, np.full((4, 6, 3), 0.5), metadata={"title": "gray"})
    ...     read_metadata(path)
    {'title': 'gray'}
    """
    label = f"image {os.fspath(path)!r}"
    with _as_input_error(label), _open(path, label) as image:
        if isinstance(image, PngImageFile):
            return {key: str(value) for key, value in image.text.items()}
        description = image.getexif().get(ExifTags.Base.ImageDescription)
    try:
        metadata = parse_json(description or "{}")
    except ValueError:  # for example a camera's caption
        return {}
    if not isinstance(metadata, dict):
        return {}
    return {key: str(value) for key, value in metadata.items()}


def _open(path: str | os.PathLike[str], label: str) -> Image.Image:
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - opening a FIFO would block forever
        raise InputError(
            f"{label}: is a folder, pipe or device; give the path of a regular image file"
        )
    # Pillow's limit against decompression bombs is a global that it checks after it has read the
    # header. It is lower than ours, and above half of it Pillow warns.
    with _pixel_limit_lock:
        previous_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = previous_limit
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise InputError(
            f"{label}: too large: {image.width}x{image.height} are more than {MAX_PIXELS} pixels; "
            "scale it down first"
        )
    return image


@contextmanager
def _as_input_error(label: str) -> Iterator[None]:
    """Convert the exceptions of Pillow to InputErrors about ``label``."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise MemoryLimitError(
            f"{label}: needs more memory than there is; close other programs, or scale it down "
            "first"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{label}: not an image, or in a format that is not supported; "
            "convert it to PNG, JPEG, WebP or TIFF"
        ) from error
    except Exception as error:
        # A damaged file makes decoders raise anything: OSError, SyntaxError, struct.error,
        # EOFError, ... The errors of the operating system are those with an errno.
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(
                f"{label}: cannot be opened: {error.strerror}; give the path of an image file "
                "that you may read"
            ) from error
        raise InputError(
            f"{label}: cannot be decoded ({_one_line(error)}); it is damaged or cut short, "
            "download or export it again"
        ) from error


def _one_line(error: Exception) -> str:
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(message.split()) or type(error).__name__


def _from_pil(image: Image.Image, label: str) -> ImageData:
    if 0 in image.size:
        raise InputError(f"{label}: has no pixels (size {image.size}); give another image")
    if image.format == "EPS":  # Pillow would run Ghostscript, and an EPS file is a program for it.
        raise InputError(f"{label}: is EPS, which is not run; convert it to PNG, JPEG or TIFF")
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # malformed EXIF fields fail in many ways; the pixels are fine
        log.warning("%s: its EXIF data is broken (%s); not rotated", label, _one_line(error))
    profile = image.info.get("icc_profile")
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_deep_gray(image, profile, label)
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"), np.float32) / 255
        image = image.convert("L") if image.mode in ("L", "LA") else rgba.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    rgb = _to_srgb(image, profile, label) if profile else image.convert("RGB")
    return _fill_transparent(np.asarray(rgb, np.float32) / 255, alpha)


def _from_deep_gray(image: Image.Image, profile: bytes | None, label: str) -> ImageData:
    """Read gray of 16 or 32 bits (modes I, I;16 and F).

    Pillow would convert these modes to RGB by clipping at 255. In some versions and formats 16-bit
    values have its 32-bit mode "I".
    """
    values = np.asarray(image)
    gray = _to_unit_range(values, 1 if image.mode == "F" else 65535, label)
    alpha = None
    if isinstance(image.info.get("transparency"), int):
        alpha = (values != image.info["transparency"]).astype(np.float32)
    if not profile:
        return _fill_transparent(np.stack([gray] * 3, axis=-1), alpha)
    # A gray profile is a curve. Interpolation between 256 points of it keeps the bit depth.
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    curves = np.asarray(_to_srgb(ramp, profile, label), np.float32)[0] / 255
    grid = np.linspace(0, 1, 256)
    rgb = np.stack([np.interp(gray, grid, curve) for curve in curves.T], axis=-1)
    return _fill_transparent(rgb.astype(np.float32), alpha)


def _to_srgb(image: Image.Image, profile: bytes, label: str) -> Image.Image:
    """Convert an L, RGB, CMYK or LAB image to RGB by its ICC profile if the profile is usable."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if profile[16:20] == b"RGB " and image.mode == "L":
            image = image.convert("RGB")  # some programs give gray files an RGB profile
        converted = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        assert converted is not None  # None is for in-place conversion only
        return converted
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        log.warning(
            "%s: its ICC profile cannot be used (%s); its colors are read as sRGB",
            label,
            _one_line(error),
        )
        return image.convert("RGB")


def _as_array(source: ArrayLike, label: str) -> np.ndarray:
    """Convert to NumPy, also what only looks like an array: rows of several lengths, an array that
    JAX has deleted, a tensor of PyTorch with gradients."""
    try:
        return np.asarray(source)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{label}: {_one_line(error)}; give one rectangular array") from error


def _from_array(source: ArrayLike, label: str) -> ImageData:
    array = _as_array(source, label)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"{label}: has shape {array.shape}; give (height, width) or (height, width, channels) "
            "with 1, 3 or 4 channels, the channels last"
        )
    if array.size == 0:
        raise InputError(f"{label}: has no pixels (shape {array.shape}); give another image")
    max_values = {"uint8": 255, "uint16": 65535, "bool": 1}
    max_value = 1 if array.dtype.kind == "f" else max_values.get(array.dtype.name)
    if max_value is None:
        raise InputError(
            f"{label}: has dtype {array.dtype}; give uint8, uint16, bool, or float in 0..1"
        )
    values = _to_unit_range(array, max_value, label)
    if values.ndim == 2:
        values = values[..., None]
    if values.shape[2] == 4:
        return _fill_transparent(values[..., :3], values[..., 3])
    return ImageData(np.broadcast_to(values, (*values.shape[:2], 3)).copy())


def _to_unit_range(values: np.ndarray, max_value: int, label: str) -> np.ndarray:
    """Check that values are in 0..max_value and scale them to float32 in [0, 1]."""
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-6 and high <= max_value + 1e-6):  # false for NaN as well
        raise InputError(
            f"{label}: has values from {low:.6g} to {high:.6g}; expected finite values from 0 to "
            f"{max_value}; rescale them{' (8-bit values: pass uint8)' if max_value == 1 else ''}"
        )
    return np.clip(values.astype(np.float32) / np.float32(max_value), 0, 1)


def _fill_transparent(rgb: np.ndarray, alpha: np.ndarray | None) -> ImageData:
    """Give fully transparent pixels the mean visible color; drop an alpha that is 1 everywhere.

    Files store arbitrary colors there, usually black: hard shapes that no viewer shows but that the
    network would see. The mean adds no new color and no strong edge. The alpha hides it in the
    result.
    """
    if alpha is None or alpha.min() == 1:
        return ImageData(rgb)
    if alpha.any():
        mean = np.average(rgb.reshape(-1, 3), axis=0, weights=alpha.ravel().astype(np.float64))
        rgb = np.where(alpha[..., None] > 0, rgb, mean.astype(np.float32))
    return ImageData(rgb, alpha)


def _clip_finite(values: ArrayLike, label: str) -> np.ndarray:
    """Check that values are finite floats and clip them to float32 in [0, 1]."""
    array = _as_array(values, label)
    if array.dtype.kind != "f":
        raise InputError(f"{label}: has {array.dtype} values; give floats in 0..1")
    if not np.isfinite(array).all():
        raise InputError(f"{label}: has NaN or infinite values; nothing was written")
    return np.clip(array.astype(np.float32), 0, 1)


def _srgb_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The header has the creation time. A constant one makes equal images equal files.
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def _metadata_options(
    file_format: str, metadata: Mapping[str, str], label: str
) -> dict[str, object]:
    """Return the options of Image.save that store the metadata."""
    for key in metadata:
        if not (key.isascii() and key.isprintable() and 1 <= len(key) <= 79 and key == key.strip()):
            raise InputError(
                f"{label}: metadata key {key!r}; use 1 to 79 printable ASCII characters "
                "without spaces at the ends"
            )
    if not metadata:
        return {}
    # Python represents file names that are not UTF-8 by lone surrogates, which no format can store.
    texts = {k: v.encode("utf-8", "backslashreplace").decode() for k, v in metadata.items()}
    if file_format == "PNG":
        info = PngInfo()
        for key, text in texts.items():
            info.add_text(key, text)
        return {"pnginfo": info}
    exif = Image.Exif()
    # Viewers and exiftool show ImageDescription first. It is ASCII only; JSON escapes the rest.
    exif[ExifTags.Base.ImageDescription] = json.dumps(texts)
    exif[ExifTags.Base.Software] = texts.get("Software", "nst-jax")
    return {"exif": exif}
