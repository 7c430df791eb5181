"""A small job: its images, its settings, and the results that tests compare others with.

Most tests use these shapes, layers and optimizers, so that one executable serves them all.
"""

import numpy as np
import pytest
from PIL import Image

from nst_jax import prepare_job, stylize
from nst_jax.models.weights import bundled_path, load
from nst_jax.pipeline import planning
from nst_jax.pipeline.memory import compile_within_limit, required_bytes
from nst_jax.pipeline.planning import choose_tile
from nst_jax.pipeline.targets import level_inputs
from nst_jax.settings import override


@pytest.fixture(scope="session")
def content(photos):
    """48 by 64 pixels of a cat, uint8. At 48 pixels it is 36x48."""
    return photos["chelsea"][60:252:4, 100:356:4]


@pytest.fixture(scope="session")
def styles(photos):
    """Three photos of 48 by 48 pixels, uint8."""
    return [photos[name][40:232:4, 100:292:4] for name in ("coffee", "flower", "astronaut")]


@pytest.fixture(scope="session")
def vgg16_file():
    """The loaded weight file of VGG16."""
    return load(bundled_path())


@pytest.fixture(scope="session")
def small(vgg16_file):
    """The settings of a job of two levels, 26x34 and 36x48 pixels, with 3 and 5 steps of Adam.

    Shallow layers need a small part of the network.
    """
    return {
        "size": 48,
        "min_size": 34,
        "steps": (3, 5),
        "weights": vgg16_file,
        "dtype": "float32",
        "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5},
        "content_layers": {"relu2_2": 1.0},
        "optimizer": "adam",
    }


@pytest.fixture(scope="session")
def one_level(small):
    """The same at the finer level alone."""
    return small | {"min_size": None, "steps": 5}


@pytest.fixture
def job(content, styles, small):
    """The small job, prepared."""
    return prepare_job(content, styles[0], override(None, small))


@pytest.fixture(scope="session")
def alone(content, styles, small):
    """The small job's result for each style, by optimizer."""
    return {
        optimizer: [stylize(content, style, **small | {"optimizer": optimizer}) for style in styles]
        for optimizer in ("adam", "lbfgs")
    }


@pytest.fixture(scope="session")
def large(small):
    """Settings with which tiles of 32 pixels save memory: levels of 51x68 and 72x96 pixels."""
    return small | {"size": 96, "min_size": 68, "steps": 2}


@pytest.fixture
def small_tiles(monkeypatch):
    """Let tiles be smaller than these images."""
    monkeypatch.setattr(planning, "TILE_SIZES", (None, 32))


@pytest.fixture
def bytes_of_levels(monkeypatch):
    """Return a function that lists what each level of a job needs without tiles."""

    def list_bytes(job):
        needed = []

        def note(*args, **options):
            executable = compile_within_limit(*args, **options)
            needed.append(required_bytes(executable))
            return executable

        with monkeypatch.context() as patch:
            patch.setattr(planning, "compile_within_limit", note)
            for level in range(len(job.levels)):
                assert choose_tile(job, level, level_inputs(job, level)) is None
        return needed

    return list_bytes


@pytest.fixture
def files(folder, tmp_path, content, styles):
    """The small job's images as files in two folders."""
    for name, photos in (
        ("contents", {"cat": content, "rotated": content[::-1, ::-1]}),
        ("styles", dict(zip(("coffee", "flower", "person"), styles, strict=True))),
    ):
        (tmp_path / name).mkdir()
        for stem, pixels in photos.items():
            Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / name / f"{stem}.png")
    return tmp_path
