"""Small photos in an empty folder, and a logger that each test gets back as it was."""

import logging

import pytest
from PIL import Image


@pytest.fixture
def small_photos(folder, photos):
    """Write three photos of 32x24 pixels into the working folder."""
    for name, photo in (("content", "chelsea"), ("style", "flower"), ("other", "china")):
        Image.fromarray(photos[photo]).resize((32, 24)).save(f"{name}.png")


@pytest.fixture(autouse=True)
def _logger():
    logger = logging.getLogger("nst_jax")
    handlers, level = logger.handlers, logger.level
    yield
    logger.handlers, logger.propagate = handlers, True
    logger.setLevel(level)
