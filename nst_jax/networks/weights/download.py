"""Download VGG19 from Keras' server and cache it as safetensors."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from platformdirs import user_cache_path

from nst_jax.errors import InputError
from nst_jax.files import file_hash
from nst_jax.networks.weights.load import load, save
from nst_jax.networks.weights.registry import VGG19_FILE, VGG19_MD5, VGG19_URL

__all__ = ["cache_dir", "download", "vgg19_cache_path", "vgg19_url"]

CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 60.0  # seconds without any data


def cache_dir() -> Path:
    """Return the folder ``NST_JAX_CACHE``, or the user's cache folder. It need not exist.

    >>> from nst_jax.networks.weights import vgg19_cache_path
    >>> cache_dir() == vgg19_cache_path().parent
    True
    """
    return Path(os.environ.get("NST_JAX_CACHE") or user_cache_path("nst_jax", appauthor=False))


def vgg19_cache_path() -> Path:
    """Return the path where `download` puts the converted VGG19. It need not exist.

    >>> vgg19_cache_path().name
    'vgg19.safetensors'
    """
    return cache_dir() / "vgg19.safetensors"


def vgg19_url() -> str:
    """Return the address ``NST_JAX_VGG19_URL``, or that of Keras."""
    return os.environ.get("NST_JAX_VGG19_URL") or VGG19_URL


def download(
    model: Literal["vgg19"] = "vgg19",
    *,
    url: str | None = None,
    md5: str = VGG19_MD5,
    progress: bool = True,
) -> Path:
    """Download Keras' VGG19, check its hash, convert it, and cache the result.

    A valid file in the cache is not downloaded again. A failed download leaves no files.

    Args:
        model: only VGG19 can be downloaded; VGG16 is bundled.
        url: address of the file. The default is ``NST_JAX_VGG19_URL``, or the address of Keras.
        md5: the hash that the downloaded file must have.
        progress: show a progress bar if stderr is a terminal.

    Returns:
        The cached safetensors file: `vgg19_cache_path`.

    Raises:
        InputError: the download fails, the hash is wrong, ``NST_JAX_OFFLINE`` is set, or the cache
            cannot be written. The message says how to install the file by hand.
    """
    if model != "vgg19":
        raise InputError(f"model is {model!r}; only vgg19 can be downloaded, vgg16 is bundled")
    cached, url = vgg19_cache_path(), url or vgg19_url()
    by_hand = (
        f"by hand: get {VGG19_URL} (MD5 {VGG19_MD5}) and run "
        f"`nst-jax weights convert {VGG19_FILE} {cached}`"
    )
    with suppress(InputError):  # missing or damaged
        if load(cached).model == model:
            return cached
    if cached.is_dir():
        raise InputError(f"{cached} is a folder; remove it")
    if os.environ.get("NST_JAX_OFFLINE", "0") not in ("", "0"):
        raise InputError(f"NST_JAX_OFFLINE is set, so VGG19 cannot be downloaded; {by_hand}")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".download-") as folder:
            file = Path(folder) / VGG19_FILE
            if failure := _transfer(url, file, progress and sys.stderr.isatty()):
                raise InputError(f"VGG19 cannot be downloaded from {url} ({failure}); {by_hand}")
            if (actual := file_hash(file, "md5")) != md5:
                raise InputError(
                    f"{url} is not the published file: MD5 expected {md5}, got {actual}; {by_hand}"
                )
            save(cached, load(file))
    except OSError as error:
        raise InputError(
            f"{cached.parent} cannot be written ({error.strerror}); set NST_JAX_CACHE to a folder "
            f"that you can write"
        ) from None
    return cached


def _transfer(url: str, file: Path, progress: bool) -> str | None:
    """Download ``url`` to ``file``; return what went wrong, or None."""
    # Slow to import, and most runs download nothing.
    import pooch
    import requests

    # Not pooch.retrieve, which would cache the downloaded file instead of the converted one.
    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    transfer = pooch.HTTPDownloader(progressbar=progress, chunk_size=1 << 16, timeout=timeout)
    try:
        transfer(url, str(file), None)
    except requests.RequestException as error:
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return f"{error.response.status_code} {error.response.reason}"
        return type(error).__name__
    except ValueError as error:  # an address or a header that cannot be parsed
        return " ".join(str(error).split())
