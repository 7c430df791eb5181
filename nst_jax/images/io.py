"""Pictures between files and arrays.

The convention everywhere in the package: a picture is a float32 RGB array (h, w, 3) with values in
[0, 1], sRGB-encoded as on screen; its alpha is a float32 array (h, w) in [0, 1], or None when every
pixel is opaque. Whatever a file holds (other colour spaces, rotations, depths) is settled here, on
reading, so that no other module meets it.
"""

import io
import json
import logging
import os
import struct
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from nst_jax.errors import InputError

__all__ = [
    "ImageSource",
    "Picture",
    "check_output",
    "fit",
    "read",
    "read_metadata",
    "resize",
    "write",
]

ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | ArrayLike

MAX_PIXELS = 400_000_000  # twice the largest phone sensors; 4.8 GB as float32

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
FORMATS |= {".tif": "TIFF", ".tiff": "TIFF"}
# No "optimize" for JPEG: Pillow gives it a buffer that a noisy picture at this quality overflows.
SAVE_OPTIONS = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}

log = logging.getLogger("nst_jax")
_bomb_guard_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in the package's convention: RGB, and alpha or None where all is opaque."""

    pixels: Float[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"] | None = None


def read(source: ImageSource, *, name: str = "image") -> Picture:
    """Read a path, a PIL image or an array as sRGB.

    Files and PIL images are turned upright by their EXIF orientation and converted from their
    embedded ICC profile to sRGB; of an animated file the first frame is taken (of a PIL image, the
    frame it is at). Arrays are (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) with uint8 in 0..255,
    uint16 in 0..65535, bool, or float in 0..1. `name` is what messages call the input.

    Pixels of zero alpha get the mean visible colour; the alpha itself is returned beside them.

    Raises InputError for a file that cannot be opened or decoded, that has more than 400 million
    pixels, and for an array of another shape, dtype or range.
    """
    if isinstance(source, Image.Image):
        label = f"{name} (a PIL image)"
        with _reading(label):
            return _from_pil(source, label)
    if isinstance(source, str | os.PathLike):
        label = f"{name} {os.fspath(source)!r}"
        with _reading(label), _open(source) as image:
            return _from_pil(image, label)
    return _from_array(source, f"{name} (an array)")


def resize(pixels: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """Resample to `size` (h, w), antialiased when shrinking.

    Takes (h, w, channels) or (h, w), such as a mask or an alpha, with values in [0, 1]; returns
    float32 of the same kind in [0, 1].
    """
    array = np.asarray(pixels, np.float32)
    if array.ndim == 3:
        return np.stack([resize(array[..., c], size) for c in range(array.shape[2])], axis=-1)
    height, width = size
    # Bicubic: Lanczos is a little sharper but draws visible halos beside hard edges, and the
    # optimiser would take a halo for a feature of the picture.
    resized = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized), 0, 1)


def fit(shape: tuple[int, ...], longest_side: int) -> tuple[int, int]:
    """Give the (h, w) of `shape` (h, w, ...) scaled to a longest side, aspect ratio kept.

    Each side is at least 1. Scales up as well as down. Raises InputError if `longest_side` < 1.
    """
    if longest_side < 1:
        raise InputError(
            f"longest side {longest_side}: must be at least 1 pixel; give a larger one"
        )
    height, width = shape[:2]
    scale = longest_side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def write(
    path: str | os.PathLike[str],
    pixels: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a float picture (h, w, 3), and alpha (h, w), as 8-bit PNG, JPEG, WebP or TIFF.

    The extension names the format. Values are clipped to [0, 1] and rounded; an sRGB profile is
    embedded. JPEG has no alpha: the picture is laid on white, with a warning in the log.
    `metadata` (keys of 1 to 79 ASCII characters) becomes PNG text chunks, or a JSON object in the
    EXIF description; `read_metadata` reads both. The file appears whole or not at all: a picture
    already at `path` stays until its successor is complete.

    Raises InputError for another extension, a wrong shape or dtype, values that are not finite,
    and a file that cannot be encoded or written.
    """
    path = Path(path)
    check_output(path)
    label = f"output {str(path)!r}"
    kind = FORMATS[path.suffix.lower()]
    rgb = _checked_floats(pixels, label)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise InputError(f"{label}: pixels have shape {rgb.shape}; give (height, width, 3)")
    bands = [rgb]
    if alpha is not None:
        opacity = _checked_floats(alpha, label)[..., None]
        if opacity.shape != (*rgb.shape[:2], 1):
            raise InputError(
                f"{label}: alpha has shape {opacity.shape[:-1]}; give {rgb.shape[:2]} like pixels"
            )
        if kind == "JPEG":
            log.warning("%s: JPEG has no transparency; laid on white (PNG keeps it)", label)
            bands = [rgb * opacity + (1 - opacity)]
        else:
            bands = [rgb, opacity]
    bytes_ = (np.concatenate(bands, axis=-1) * 255 + 0.5).astype(np.uint8)

    options = {**SAVE_OPTIONS[kind], **_metadata_options(kind, metadata or {}, label)}
    encoded = io.BytesIO()
    try:
        Image.fromarray(bytes_).save(encoded, kind, icc_profile=_srgb_profile(), **options)
    except (OSError, ValueError) as error:  # a side too long for the format, metadata too
        raise InputError(
            f"{label}: cannot be encoded as {kind} ({_one_line(error)}); use another format"
        ) from error

    # A new file beside the target, made by open() so that it has the user's usual permissions.
    path = Path(os.path.realpath(path))  # through a symbolic link, rather than in its place
    partial = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as file:
            file.write(encoded.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{label}: cannot be written ({_one_line(error)}); "
            "check the folder's permissions and free space"
        ) from error
    finally:
        with suppress(OSError):  # it is gone when all went well
            partial.unlink()


def check_output(path: str | os.PathLike[str]) -> None:
    """Check what can be known about an output before there is a picture to write.

    Raises InputError for an unknown extension, a missing folder, a folder in the file's place, and
    a file or folder that is read-only.
    """
    path = Path(path)
    label = f"output {str(path)!r}"
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{label}: unknown extension; use one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"{label}: there is no folder {str(path.parent)!r}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{label}: its folder is read-only; choose another or allow writing")
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        raise InputError(f"{label}: is a folder; give a file name")
    # os.replace() would not mind a file that is read-only.
    if os.access(path, os.F_OK) and not os.access(path, os.W_OK):
        raise InputError(f"{label}: is read-only; choose another name or allow writing")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read what `write` stored as `metadata`; {} where there is none.

    For a PNG these are all its text chunks. Raises InputError for a file that cannot be read.
    """
    with _reading(f"image {os.fspath(path)!r}"), _open(path) as image:
        if isinstance(image, PngImageFile):
            return {key: str(value) for key, value in image.text.items()}
        description = image.getexif().get(ExifTags.Base.ImageDescription)
    try:
        found = json.loads(description or "{}")
    except ValueError:  # a camera's caption
        return {}
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _open(path: str | os.PathLike[str]) -> Image.Image:
    # Pillow's guard against decompression bombs is a global: lend it our limit while the header
    # is read, which is when it is applied. It refuses from twice its value and warns before.
    with _bomb_guard_lock:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = usual


@contextmanager
def _reading(label: str) -> Iterator[None]:
    """Turn what Pillow raises into InputErrors about `label`."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{label}: too large: {_one_line(error)} Scale it down first.") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{label}: not an image, or of a kind that is not supported; "
            "convert it to PNG, JPEG, WebP or TIFF"
        ) from error
    except Exception as error:
        # A damaged file makes a decoder raise whatever breaks first: OSError, SyntaxError,
        # struct.error, EOFError, ... The operating system's own errors are those with an errno.
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(
                f"{label}: cannot be opened: {error.strerror}; give the path of an image file "
                "that you may read"
            ) from error
        raise InputError(
            f"{label}: cannot be decoded ({_one_line(error)}); it is damaged or cut short, "
            "fetch or export it again"
        ) from error


def _one_line(error: Exception) -> str:
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(message.split()) or type(error).__name__


def _from_pil(image: Image.Image, label: str) -> Picture:
    if 0 in image.size:
        raise InputError(f"{label}: has no pixels (size {image.size}); give another image")
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # odd EXIF fields fail in many ways; the pixels are fine
        log.warning("%s: its EXIF data is broken (%s); not turned", label, _one_line(error))
    profile = image.info.get("icc_profile")

    if image.mode == "F" or image.mode.startswith("I"):
        # Pillow converts these to RGB by clipping at 255, so they are scaled here. Its 32-bit "I"
        # is how some versions and formats hand over 16-bit values.
        values = np.asarray(image)
        gray = _scaled(values, 1 if image.mode == "F" else 65535, label)
        alpha = None
        if isinstance(image.info.get("transparency"), int):
            alpha = (values != image.info["transparency"]).astype(np.float32)
        if not profile:
            return _picture(np.stack([gray] * 3, axis=-1), alpha)
        # A gray profile is a curve: taken at 256 points and interpolated, it keeps the depth.
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        curves = np.asarray(_to_srgb(ramp, profile, label), np.float32)[0] / 255
        at = np.linspace(0, 1, 256)
        rgb = np.stack([np.interp(gray, at, curve) for curve in curves.T], axis=-1)
        return _picture(rgb.astype(np.float32), alpha)

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
    return _picture(np.asarray(rgb, np.float32) / 255, alpha)


def _to_srgb(image: Image.Image, profile: bytes, label: str) -> Image.Image:
    """Convert an L, RGB, CMYK or LAB image to RGB by its profile, if that can be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if profile[16:20] == b"RGB " and image.mode == "L":
            image = image.convert("RGB")  # some programs give gray files the RGB profile
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
            "%s: its ICC profile cannot be used (%s); its colours are read as sRGB",
            label,
            _one_line(error),
        )
        return image.convert("RGB")


def _from_array(source: ArrayLike, label: str) -> Picture:
    try:
        array = np.asarray(source)
    except ValueError as error:
        raise InputError(f"{label}: {_one_line(error)}; give one rectangular array") from error
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"{label}: has shape {array.shape}; give (height, width) or (height, width, channels) "
            "with 1, 3 or 4 channels, the channels last"
        )
    if array.size == 0:
        raise InputError(f"{label}: has no pixels (shape {array.shape}); give another image")
    tops = {"uint8": 255, "uint16": 65535, "bool": 1}
    top = 1 if array.dtype.kind == "f" else tops.get(array.dtype.name)
    if top is None:
        raise InputError(
            f"{label}: has dtype {array.dtype}; give uint8, uint16, bool, or float in 0..1"
        )
    values = _scaled(array, top, label)
    if values.ndim == 2:
        values = values[..., None]
    if values.shape[2] == 4:
        return _picture(values[..., :3], values[..., 3])
    return _picture(np.broadcast_to(values, (*values.shape[:2], 3)).copy(), None)


def _scaled(values: np.ndarray, top: int, label: str) -> np.ndarray:
    """Check that values are in 0..top and scale them to float32 in [0, 1]."""
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-6 and high <= top + 1e-6):  # false for NaN as well
        raise InputError(
            f"{label}: has values from {low:.6g} to {high:.6g}; expected finite values from 0 to "
            f"{top}; rescale them{' (8-bit values: pass uint8)' if top == 1 else ''}"
        )
    return np.clip(values.astype(np.float32) / np.float32(top), 0, 1)


def _picture(rgb: np.ndarray, alpha: np.ndarray | None) -> Picture:
    if alpha is None or alpha.min() == 1:
        return Picture(rgb, None)
    # What lies under full transparency is arbitrary, mostly black: a hard shape that nobody sees
    # but the network would. The mean visible colour adds neither a new colour nor a strong edge.
    # It is for the network's eyes only, as the alpha hides it again in the result.
    if alpha.any():
        mean = np.average(rgb.reshape(-1, 3), axis=0, weights=alpha.ravel().astype(np.float64))
        rgb = np.where(alpha[..., None] > 0, rgb, mean.astype(np.float32))
    return Picture(rgb, alpha)


def _checked_floats(values: ArrayLike, label: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind != "f":
        raise InputError(f"{label}: given {array.dtype} values; give floats in 0..1")
    if not np.isfinite(array).all():
        raise InputError(f"{label}: given NaN or infinite values; nothing was written")
    return np.clip(array.astype(np.float32), 0, 1)


def _srgb_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The header holds the time of creation; a fixed one keeps equal pictures equal as files.
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def _metadata_options(kind: str, metadata: Mapping[str, str], label: str) -> dict[str, object]:
    """Give the options of Image.save that store the metadata."""
    for key in metadata:
        if not (key.isascii() and key.isprintable() and 1 <= len(key) <= 79 and key == key.strip()):
            raise InputError(
                f"{label}: metadata key {key!r}; use 1 to 79 printable ASCII characters"
            )
    if not metadata:
        return {}
    # File names that are not UTF-8 reach Python as lone surrogates, which no format can hold.
    texts = {k: v.encode("utf-8", "backslashreplace").decode() for k, v in metadata.items()}
    if kind == "PNG":
        info = PngInfo()
        for key, text in texts.items():
            info.add_text(key, text)
        return {"pnginfo": info}
    exif = Image.Exif()
    # ImageDescription is the field that viewers and exiftool show first. It is ASCII only, which
    # JSON's escapes make of any text.
    exif[ExifTags.Base.ImageDescription] = json.dumps(texts)
    exif[ExifTags.Base.Software] = texts.get("Software", "nst-jax")
    return {"exif": exif}
