"""What an uninterrupted job makes, a server that misbehaves, and an empty cache of weights."""

import os

import pytest
from apps.helpers import make
from models.weights import helpers
from PIL import Image
from reliability.bad_server import download_module, serve
from reliability.faults import STYLIZE

from nst_jax.models.weights import pretrained


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


@pytest.fixture(scope="session")
def keras_file(tmp_path_factory):
    """A file of VGG19 as Keras publishes it, of a few kilobytes."""
    path = tmp_path_factory.mktemp("keras") / "vgg19.h5"
    return helpers.write_sparse_keras(path, "vgg19").read_bytes()


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
