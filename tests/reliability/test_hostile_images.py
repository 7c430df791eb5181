"""Image files that are damaged, false, extreme or no images, in each place of a job."""

import os
import stat
from pathlib import Path

import pytest
from apps.helpers import SMALL
from PIL import EpsImagePlugin
from reliability import hostile_images
from reliability.hostile import assert_clear, assert_each, attempt, rarely, refusal

from nst_jax import images
from nst_jax.apps.studio import reproduce, uploads

pytestmark = [
    pytest.mark.usefixtures("stops_at_start"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]

PLACES = {  # where a job takes an image
    "content": ("bad.png", "style.png"),
    "style": ("content.png", "bad.png"),
    "mask": ("content.png", "style.png", "--mask", "bad.png"),
    "init": ("content.png", "style.png", "--init", "bad.png"),
}


@pytest.fixture(scope="module")
def fake_ghostscript(photo_folder):
    """Put a program named gs into the path, which leaves a file if it runs."""
    program = Path("bin/gs")
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {photo_folder}/ran\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.fspath(photo_folder / "bin"), prepend=os.pathsep)
        patch.setattr(EpsImagePlugin, "gs_binary", None)
        yield


@pytest.mark.parametrize("place", rarely(PLACES, ["content"]))
def test_a_job_takes_a_file_or_refuses_it_in_one_line(place, fake_ghostscript):
    def check(name):
        Path("bad.png").write_bytes(hostile_images.files()[name])
        line = assert_clear(attempt("stylize", *PLACES[place], *SMALL, "-o", "out.png"))
        assert not line or "bad.png" in line or "mask" in line or "content" in line
        assert not Path("ran").exists(), "Ghostscript ran"

    assert_each(check, hostile_images.files())


def test_settings_and_uploads_are_read_from_a_file_or_refused_in_one_line(fake_ghostscript):
    def check(name):
        Path("bad.png").write_bytes(hostile_images.files()[name])
        for read in (images.read_metadata, reproduce.read_settings, uploads.check_image):
            assert "bad.png" in (refusal(read, "bad.png") or "bad.png")
        assert not Path("ran").exists(), "Ghostscript ran"

    assert_each(check, hostile_images.files())
