"""A folder with small photos, in which a test file works, and jobs that stop at their start."""

import functools
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reliability.hostile import Started

from nst_jax.models.weights import bundled_path, pretrained
from nst_jax.pipeline import runner


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Work in a folder with three photos of 32x24 pixels, offline. The bundled weights are read
    once: they take longer than all else that a refused command does."""
    load = functools.cache(pretrained.load)
    folder = tmp_path_factory.mktemp("workshop")
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
def stops_at_start(workshop, monkeypatch):
    """End each job where its first step would be compiled."""

    def start(*arguments):
        raise Started

    monkeypatch.setattr(runner, "_run_batches", start)
