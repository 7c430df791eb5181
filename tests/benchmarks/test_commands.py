"""The scripts that measure whole commands."""

import commands
import pytest

pytestmark = pytest.mark.extended


def test_a_command_is_measured_and_its_failure_reported(tmp_path):
    usage = commands.run("weights", "list", cache=tmp_path)
    assert 0.1 < usage.seconds < 100
    assert 2**25 < usage.peak_bytes < 2**32
    with pytest.raises(SystemExit, match=r"nst-jax stylize failed: .*missing.jpg"):
        commands.run("stylize", "missing.jpg", commands.STYLE, "-o", tmp_path / "out.png")


def test_the_first_step_is_seen_in_the_progress_bar(tmp_path):
    words = ["stylize", commands.CONTENT, commands.STYLE, "-o", tmp_path / "out.png"]
    words += ["--size", "32", "--steps", "500", "--optimizer", "adam", "--model", "vgg16"]
    assert 0.5 < commands.first_step(*words) < 300
    assert not (tmp_path / "out.png").exists()
