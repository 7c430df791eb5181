"""Folders, jobs and servers for the tests of bad input and of faults."""

import functools
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from apps.helpers import make
from PIL import Image
from reliability.bad_server import download_module, serve
from reliability.faults import STYLIZE
from reliability.hostile import Started

from nst_jax.networks.weights import bundled_path, pretrained
from nst_jax.pipeline import runner


@pytest.fixture(scope="session")
def whole(tmp_path_factory, photos):
    """The pixels of the image that the job makes when nothing goes wrong."""
    folder, before = tmp_path_factory.mktemp("whole"), os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        for name, photo in (("content", "chelsea"), ("style", "flower")):
            Image.fromarray(photos[photo]).resize((32, 24)).save(f"{name}.png")
        return make(*STYLIZE)
    finally:
        os.chdir(before)


@pytest.fixture
def server(keras_file, monkeypatch):
    """A server that misbehaves."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with serve(keras_file) as server:
        yield server


@pytest.fixture
def weight_cache(folder, tmp_path, monkeypatch):
    """The path of an empty cache; downloads are allowed, and soon give up."""
    monkeypatch.delenv("NST_JAX_OFFLINE")
    monkeypatch.setattr(download_module, "READ_TIMEOUT", 0.3)
    monkeypatch.setattr(pretrained, "_failed_downloads", {})
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    """Work in a folder with three photos of 32x24 pixels, offline. The bundled weights are read
    once: they take longer than all else that a refused command does."""
    load = functools.cache(pretrained.load)
    folder = tmp_path_factory.mktemp("photo_folder")
    logger = logging.getLogger("nst_jax")
    handlers, level = logger.handlers, logger.level
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NST_JAX_OFFLINE", "1")
        patch.setenv("NST_JAX_CACHE", str(folder / "cache"))
        patch.setenv("PYTHONPATH", os.fspath(Path(__file__).parents[2]))
        patch.setattr(
            pretrained,
            "load",
            lambda path, **kw: (
                load(path) if path == bundled_path() else load.__wrapped__(path, **kw)
            ),
        )
        rng = np.random.default_rng(0)
        for name in ("content", "style", "other"):
            Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(f"{name}.png")
        yield folder
    logger.handlers, logger.propagate = handlers, True
    logger.setLevel(level)


@pytest.fixture
def stops_at_start(photo_folder, monkeypatch):
    """End each job where its first step would be compiled."""

    def start(*arguments):
        raise Started

    monkeypatch.setattr(runner, "_run_batches", start)
