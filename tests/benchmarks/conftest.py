"""Puts the scripts of benchmarks/ on the path, as Python does when it runs one of them."""

import sys
from pathlib import Path

import pytest

from nst_jax import images

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))


@pytest.fixture(scope="session")
def pair():
    """The example cat and ink, 40 by 48 pixels."""
    examples = BENCHMARKS.parent / "examples"
    return tuple(
        images.resize(images.read(examples / name).pixels, (40, 48))
        for name in ("cat.jpg", "ink.jpg")
    )
