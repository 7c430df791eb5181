"""A small job: its images, its settings, and the results that tests compare others with.

Most tests use these shapes, layers and optimizers, so that one executable serves them all.
"""

from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from nst_jax import Stylizer, run, stylize
from nst_jax.networks.weights import bundled_path, load
from nst_jax.pipeline import caches, planning
from nst_jax.pipeline.api import many_styles_job
from nst_jax.pipeline.memory import compile_within_limit, required_bytes
from nst_jax.pipeline.planning import choose_tile


@pytest.fixture(scope="session")
def content(photos):
    """48 by 64 pixels of a cat, uint8. At 48 pixels it is 36x48."""
    return photos["chelsea"][60:252:4, 100:356:4]


@pytest.fixture(scope="session")
def styles(photos):
    """Three photos of 48 by 48 pixels, uint8."""
    return [photos[name][40:232:4, 100:292:4] for name in ("coffee", "flower", "astronaut")]


@pytest.fixture(scope="session")
def small():
    """Settings of two levels, 26x34 and 36x48 pixels, with 3 and 5 steps of Adam.

    Shallow layers need a small part of the network.
    """
    return {
        "size": 48,
        "min_size": 34,
        "steps": (3, 5),
        "weights": load(bundled_path()),
        "dtype": "float32",
        "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5},
        "content_layers": {"relu2_2": 1.0},
        "optimizer": "adam",
    }


@pytest.fixture(scope="session")
def one_level(small):
    """The same at the finer level alone."""
    return small | {"min_size": None, "steps": 5}


@pytest.fixture(scope="session")
def large(small):
    """Settings with which tiles of 32 pixels save memory: levels of 51x68 and 72x96 pixels."""
    return small | {"size": 96, "min_size": 68, "steps": 2}


@pytest.fixture(scope="session")
def make(content, styles, small):
    """Return a function that stylizes with the first style and changed settings or options."""
    return lambda **changes: stylize(content, styles[0], **small | changes)


@pytest.fixture(scope="session")
def job_of(content, styles, small):
    """Return a function that prepares a job: the first style by default, one image a style."""

    def prepare(styles=styles[:1], content=content, **changes):
        return many_styles_job(Stylizer(**small | changes), content, styles)

    return prepare


@pytest.fixture(scope="session")
def alone(content, styles, small):
    """The result of each style alone, by optimizer."""
    return {
        name: [stylize(content, style, **small | {"optimizer": name}) for style in styles]
        for name in ("adam", "lbfgs")
    }


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "job.checkpoint"


@pytest.fixture
def leave_at(checkpoint):
    """Return a function that leaves a job after a step, which saves a checkpoint."""

    def leave(job, step, index=0, **options):
        with closing(run(job, checkpoint=checkpoint, callback_every=1, **options)) as progresses:
            next(p for p in progresses if (p.index, p.step) == (index, step))

    return leave


@pytest.fixture
def small_tiles(monkeypatch):
    """Let tiles be smaller than these images."""
    monkeypatch.setattr(planning, "TILE_SIZES", (32,))


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
            patch.setattr(caches, "compile_within_limit", note)
            for level in range(len(job.levels)):
                assert choose_tile(job, level) is None
        return needed

    return list_bytes


@pytest.fixture
def files(folder, tmp_path, content, styles):
    """The images as files in two folders."""
    photos = {"contents/cat": content, "contents/rotated": content[::-1, ::-1]}
    for name, style in zip(("coffee", "flower", "person"), styles, strict=True):
        photos[f"styles/{name}"] = style
    for name, pixels in photos.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return tmp_path
