"""Weights of VGG16 and VGG19: find, download, convert, check, save.

Whatever the source, what comes out are parameters in the convention that `nst_jax.models.weights.validation` fixes:
float32 NumPy arrays, kernels (height, width, in, out), RGB input, the preprocessing included.
Fully connected layers are left out.

Nothing here imports JAX: the commands on weights answer at once.
"""

import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from platformdirs import user_cache_path

from nst_jax.errors import InputError
from nst_jax.models.architectures import CONVS_PER_BLOCK, conv_names
from nst_jax.models.weights import formats
from nst_jax.models.weights.registry import (
    BUNDLED_SHA256,
    VGG19_FILE,
    VGG19_MD5,
    VGG19_URL,
    digest,
    origin_of,
)
from nst_jax.models.weights.validation import (
    Model,
    Params,
    canonical,
    check_finite,
    check_layers,
    check_statistics,
    preprocessing_of,
    settle_preprocessing,
)

__all__ = [
    "Model",
    "Params",
    "Preprocessing",
    "Report",
    "Weights",
    "bundled_path",
    "cache_folder",
    "cached_path",
    "fetch",
    "load",
    "resolve",
    "save",
    "verify",
]

Preprocessing = Literal["caffe", "torchvision"]
"""Two trainings on ImageNet: on BGR in 0..255 less the mean, and on standardised RGB in 0..1."""

CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 60.0


@dataclass(frozen=True)
class Weights:
    """Checked parameters and where they came from.

    Attributes:
        params: float32 parameters in the convention of `nst_jax.models.weights.validation`.
        model: ``"vgg16"`` or ``"vgg19"``, told by the layers.
        path: the file that was read.
        sha256: hash of that file.
        source: origin of the weights, in words.
        licence: licence of the weights, in words.
    """

    params: Params
    model: Model
    path: Path
    sha256: str
    source: str
    licence: str


@dataclass(frozen=True)
class Report:
    """What `verify` found in a file that is in order.

    Attributes:
        weights: the checked weights.
        format: the file's format.
        dtype: the kernels' dtype in the file.
        preprocessing: ``"caffe"``, ``"torchvision"`` or ``"custom"``.
        pinned: whether the file is the bundled one, whose hash is pinned and agrees.
    """

    weights: Weights
    format: str
    dtype: str
    preprocessing: str
    pinned: bool


# A download that failed is not tried again by `resolve` in the same process: each try may wait for
# a time-out, and a batch would wait once a picture.
_failed_downloads: dict[tuple[str, Path], str] = {}


# --- files ---------------------------------------------------------------------------------------


def load(path: Path | str, *, preprocessing: Preprocessing | None = None) -> Weights:
    """Read VGG16 or VGG19 from a weight file of any supported format.

    Supported are this project's safetensors, Keras HDF5 (legacy and Keras 3, with or without the
    classifier, weights or whole model), and PyTorch state dicts (zip, legacy or safetensors) with
    torchvision's names (``features.0.weight``) or Gatys' (``conv1_1.weight``).

    Args:
        path: the file; its content decides the format.
        preprocessing: how the weights were trained, where neither the format nor the content says:
            ``"caffe"`` (BGR, 0..255 less the mean) or ``"torchvision"`` (RGB, standardised).

    Returns:
        The weights, float32, checked for layers, shapes and finite values.

    Raises:
        InputError: the file is missing, damaged, of an unknown format, no VGG16 or VGG19, has a
            wrong shape or a value that is not finite; or its preprocessing is not known or is not
            the one given.
    """
    return verify(path, preprocessing=preprocessing).weights


def verify(path: Path | str, *, preprocessing: Preprocessing | None = None) -> Report:
    """Check a weight file as `load` does and say what it holds.

    Raises:
        InputError: as `load`; or the file is the bundled one and its hash is not the pinned one.
    """
    path = Path(path)
    contents = formats.read(path)
    sha256 = digest(path, "sha256")
    origin = origin_of(path, contents, sha256)
    model = check_layers(path, contents.layers)
    carried = origin.preprocessing
    if contents.format == formats.OURS:
        statistics = contents.layers.get("input", {})
        check_statistics(path, statistics)
        carried = preprocessing_of(statistics)
    trained = settle_preprocessing(path, carried, preprocessing)
    params = canonical(contents.layers, model, trained)
    check_finite(path, params)
    pinned = (found := _find_bundled()) is not None and path.samefile(found)
    if pinned and sha256 != BUNDLED_SHA256:
        raise InputError(
            f"{path}: SHA-256 expected {BUNDLED_SHA256}, got {sha256}; reinstall nst-jax or check "
            f"the file out again"
        )
    return Report(
        weights=Weights(params, model, path, sha256, origin.source, origin.licence),
        format=contents.format,
        dtype=str(contents.layers["conv1_1"]["kernel"].dtype),
        preprocessing=trained,
        pinned=pinned,
    )


def save(
    path: Path | str,
    weights: Weights | Params,
    *,
    source: str | None = None,
    licence: str | None = None,
    source_sha256: str | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Write parameters as safetensors, all or nothing; the same input gives the same bytes.

    Keys are ``conv1_1.kernel``, ``conv1_1.bias``, … and ``input.mean``, ``input.std`` (always
    float32). Model, preprocessing, source, licence and the source's hash go into the metadata.

    Args:
        path: the file to write; one that exists is replaced, a missing folder is made.
        weights: loaded weights, or bare parameters.
        source: origin in words; that of ``weights`` if it is a `Weights`, else "unknown".
        licence: likewise.
        source_sha256: likewise, the hash of the file that the weights were read from.
        dtype: of the kernels and biases. float16 halves the file.

    Raises:
        InputError: the parameters are no VGG16 or VGG19, are out of float16's range, or the file
            cannot be written.
    """
    path = Path(path)
    params = weights.params if isinstance(weights, Weights) else weights
    if isinstance(weights, Weights):
        source, licence = source or weights.source, licence or weights.licence
        source_sha256 = source_sha256 or weights.sha256
    model = check_layers(path, params)
    statistics = params.get("input", {})
    check_statistics(path, statistics)
    stored: Params = {"input": {name: statistics[name].astype("<f4") for name in ("mean", "std")}}
    for name in conv_names(model):
        with np.errstate(over="ignore"):  # what overflows is reported by the check below
            stored[name] = {part: params[name][part].astype(dtype) for part in ("kernel", "bias")}
    check_finite(path, stored)
    metadata = {
        "model": model,
        "preprocessing": preprocessing_of(statistics),
        "source": source or "unknown",
        "licence": licence or "unknown",
        "source_sha256": source_sha256 or "unknown",
    }
    formats.write(path, stored, metadata)


# --- where weights come from ---------------------------------------------------------------------


def bundled_path() -> Path:
    """Return the bundled VGG16: inside an installed package, or beside it in a checkout.

    Raises:
        InputError: it is in neither place.
    """
    if (found := _find_bundled()) is None:
        raise InputError("the bundled weights/vgg16.safetensors is missing; reinstall nst-jax")
    return found


def _find_bundled() -> Path | None:
    package = Path(__file__).parent
    places = (package / "bundled", package.parent / "weights")
    return next((p for f in places if (p := f / "vgg16.safetensors").is_file()), None)


def cache_folder() -> Path:
    """Return ``NST_JAX_CACHE`` or else the user's cache folder, whether or not it is there yet."""
    return Path(os.environ.get("NST_JAX_CACHE") or user_cache_path("nst_jax", appauthor=False))


def cached_path() -> Path:
    """Return where `fetch` keeps the converted VGG19, whether or not it is there yet."""
    return cache_folder() / "vgg19.safetensors"


def resolve(
    model: Literal["auto", "vgg19", "vgg16"] = "auto",
    path: Path | str | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    progress: bool = True,
) -> Weights:
    """Find the weights for ``model``, and download them if they must be.

    A ``path`` is loaded. ``vgg16`` is the bundled file. ``vgg19`` comes from the cache, else from
    Keras' server (see `fetch`). ``auto`` is VGG19 if it can be had and else the bundled VGG16, with
    one warning on the logger ``nst_jax`` that says so.

    Args:
        model: what is wanted.
        path: a weight file to use instead.
        preprocessing: for a ``path`` that does not say, as in `load`.
        progress: show a progress bar while downloading, if on a terminal.

    Raises:
        InputError: as `load`; or ``path`` holds another model than ``model``; or VGG19 is asked
            for by name and cannot be had.
    """
    if model not in ("auto", *CONVS_PER_BLOCK):
        raise InputError(f"model is {model!r}; choose auto, vgg19 or vgg16")
    if path is not None:
        weights = load(path, preprocessing=preprocessing)
        if model not in ("auto", weights.model):
            raise InputError(
                f"{path} holds {weights.model.upper()}, not {model.upper()}; "
                f"leave --model out or give another file"
            )
        return weights
    if model == "vgg16":
        return load(bundled_path())
    try:
        cached = _cached_or_fetched(progress)
    except InputError as error:
        if model == "vgg19":
            raise
        logging.getLogger("nst_jax").warning("Using the bundled VGG16 instead of VGG19: %s", error)
        return load(bundled_path())
    weights = load(cached)
    if weights.model != "vgg19":
        raise InputError(f"{cached} holds {weights.model.upper()}; put VGG19 there or delete it")
    return weights


def _cached_or_fetched(progress: bool) -> Path:
    cached = cached_path()
    if cached.is_file():
        return cached
    attempt = (_vgg19_url(), cached)
    if attempt in _failed_downloads:
        # A new exception: one raised twice would drag the first traceback along.
        raise InputError(_failed_downloads[attempt])
    try:
        return fetch(progress=progress)
    except InputError as error:
        _failed_downloads[attempt] = str(error)
        raise


def _vgg19_url() -> str:
    return os.environ.get("NST_JAX_VGG19_URL") or VGG19_URL


def fetch(
    model: Literal["vgg19"] = "vgg19",
    *,
    url: str | None = None,
    md5: str = VGG19_MD5,
    progress: bool = True,
) -> Path:
    """Download Keras' VGG19, check its hash and keep it, converted, in the cache.

    A sound file that is in the cache already is not downloaded again. Nothing is left behind when
    the download fails.

    Args:
        model: only VGG19 is downloaded; VGG16 is bundled.
        url: a mirror of the same file; by default ``NST_JAX_VGG19_URL`` or Keras' own address.
        md5: the hash that the download must have.
        progress: show a progress bar, if on a terminal.

    Returns:
        The cached safetensors file, see `cached_path`.

    Raises:
        InputError: no connection, an error from the server, a wrong hash, ``NST_JAX_OFFLINE`` is
            set, or the cache cannot be written. The message tells how to do it by hand.
    """
    if model != "vgg19":
        raise InputError(f"model is {model!r}; only vgg19 is downloaded, vgg16 is bundled")
    cached, url = cached_path(), url or _vgg19_url()
    if cached.is_file() and _is_sound(cached):
        return cached
    if os.environ.get("NST_JAX_OFFLINE", "0") not in ("", "0"):
        raise InputError(f"NST_JAX_OFFLINE is set, so VGG19 is not downloaded; {_by_hand(cached)}")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".download-") as folder:
            file = Path(folder) / VGG19_FILE
            _download(url, file, progress and sys.stderr.isatty())
            if (got := digest(file, "md5")) != md5:
                raise InputError(
                    f"{url} has another content than published (MD5 expected {md5}, got {got}); "
                    f"{_by_hand(cached)}"
                )
            weights = load(file)
            save(cached, weights)
    except OSError as error:
        raise InputError(
            f"{cached.parent} cannot be written ({error.strerror}); "
            f"set NST_JAX_CACHE to a folder that can"
        ) from None
    return cached


def _is_sound(path: Path) -> bool:
    try:
        load(path)
    except InputError:
        return False
    return True


def _download(url: str, file: Path, progress: bool) -> None:
    # Slow to import, and most runs download nothing.
    import pooch
    import requests

    download = pooch.HTTPDownloader(
        progressbar=progress, chunk_size=1 << 16, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)
    )
    try:
        download(url, str(file), None)
    except requests.RequestException as error:
        answer = error.response
        why = type(error).__name__ if answer is None else f"{answer.status_code} {answer.reason}"
        where = "" if url == VGG19_URL else f" from {url}"
        raise InputError(
            f"VGG19 cannot be downloaded{where} ({why}); {_by_hand(cached_path())}"
        ) from None


def _by_hand(cached: Path) -> str:
    return (
        f"by hand: get {VGG19_URL} (MD5 {VGG19_MD5}) and run "
        f"`nst-jax weights convert {VGG19_FILE} {cached}`"
    )
