"""Find the weights for a model: a given file, the bundled VGG16, or the cached VGG19."""

import logging
from pathlib import Path
from typing import Literal, get_args

from nst_jax._types import ModelName, Preprocessing
from nst_jax.errors import InputError
from nst_jax.networks.weights.download import download, vgg19_cache_path, vgg19_url
from nst_jax.networks.weights.load import Weights, load
from nst_jax.networks.weights.registry import find_bundled

__all__ = ["bundled_path", "load_pretrained"]

# A failed download is not tried again in the same process: each attempt may wait for a timeout, and
# a batch would wait once per image.
_failed_downloads: dict[tuple[str, Path], str] = {}


def bundled_path() -> Path:
    """Return the path of the bundled VGG16. Raise `InputError` if it is missing.

    >>> bundled_path().name
    'vgg16.safetensors'
    """
    if (path := find_bundled()) is None:
        raise InputError("the bundled weights/vgg16.safetensors is missing; reinstall nst-jax")
    return path


def load_pretrained(
    model: Literal["auto", "vgg19", "vgg16"] = "auto",
    path: Path | str | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    progress: bool = True,
) -> Weights:
    """Load the weights for ``model``, and download them if necessary.

    ``vgg16`` is the bundled file. ``vgg19`` comes from the cache, or from Keras' server (see
    `nst_jax.networks.weights.download`). ``auto`` is VGG19; if it cannot be downloaded, it is the
    bundled VGG16, and the logger ``nst_jax`` gives one warning.

    Args:
        model: the model to load.
        path: a weight file to use instead.
        preprocessing: the preprocessing of ``path``: see `nst_jax.networks.weights.load`.
        progress: show a progress bar during a download if stderr is a terminal.

    Raises:
        InputError: as in `nst_jax.networks.weights.load`; or the file contains another model; or
            ``model`` is ``vgg19`` and it cannot be downloaded.

    >>> loaded = load_pretrained("vgg16")
    >>> loaded.model, loaded.license
    ('vgg16', 'BSD-3-Clause, torchvision')
    >>> from nst_jax import prepare_params
    >>> params = prepare_params(loaded.params, "float32", layers=["relu1_1"])
    """
    if model not in ("auto", *get_args(ModelName)):
        raise InputError(f"model is {model!r}; choose auto, vgg19 or vgg16")
    if path is not None:
        return _load_model(model, path, preprocessing)
    if model == "vgg16":
        return load(bundled_path())
    try:
        cached = _cached_or_downloaded(progress)
    except InputError as error:
        if model == "vgg19":
            raise
        logging.getLogger("nst_jax").warning("Using the bundled VGG16 instead of VGG19: %s", error)
        return load(bundled_path())
    try:
        return _load_model("vgg19", cached)
    except InputError as error:
        raise InputError(f"{error}; run `nst-jax weights fetch vgg19`") from error


def _load_model(
    model: str, path: Path | str, preprocessing: Preprocessing | None = None
) -> Weights:
    weights = load(path, preprocessing=preprocessing)
    if model not in ("auto", weights.model):
        raise InputError(
            f"{path} contains {weights.model.upper()}, not {model.upper()}; "
            f"choose another model or replace the file"
        )
    return weights


def _cached_or_downloaded(progress: bool) -> Path:
    cached = vgg19_cache_path()
    if cached.is_file():
        return cached
    attempt = (vgg19_url(), cached)
    if attempt in _failed_downloads:
        # A new exception, because one that is raised twice keeps its first traceback.
        raise InputError(_failed_downloads[attempt])
    try:
        return download(progress=progress)
    except InputError as error:
        _failed_downloads[attempt] = str(error)
        raise
