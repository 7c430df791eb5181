"""What an uninterrupted job makes."""

import os

import pytest
from apps.helpers import make
from PIL import Image
from reliability.faults import STYLIZE


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
