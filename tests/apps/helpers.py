"""Run the command line on small photos that the fixture ``small_photos`` wrote."""

import errno
import json
import os
import signal
import sys
from unittest import mock

from click.testing import CliRunner

from nst_jax import images
from nst_jax.apps.cli.main import main
from nst_jax.apps.cli.run import ProgressBar

PROGRAM = [sys.executable, "-m", "nst_jax.apps.cli.main"]

# One shape and two shallow layers, so that all tests use the same few executables. They have no
# layer with Winograd's form, which the tests' processes have elsewhere than the command itself.
SMALL = (
    *("--size", "32", "--steps", "6", "--model", "vgg16", "--dtype", "float32", "-q"),
    *("--style-layers", "relu1_1", "--content-layers", "relu1_2"),
)
STYLIZE = ("stylize", "content.png", "style.png", *SMALL)
WITHOUT_CONTENT, WITHOUT_STYLE = SMALL[:-2], (*SMALL[:-4], *SMALL[-2:])


def call(*arguments):
    """Run the command line in this process, which an abort must not end."""
    with mock.patch("os._exit", sys.exit):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])


def make(*arguments, out="out.png"):
    """Run a job that must succeed; return the pixels of its image."""
    result = call(*arguments, "-o", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: ")
    return images.read(out).pixels


def error_line(*arguments):
    """Run a command that must fail with exit code 2; return its one line about the error.

    Notes of what the job decided before may be above it.
    """
    result = call(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    *usage, line = [x for x in result.stderr.splitlines() if not x.startswith("note: ")]
    assert line.lower().startswith("error: ")
    assert not usage or usage[0].startswith("Usage: ")
    return line


def metadata(path):
    return json.loads(images.read_metadata(path)["nst_jax"])


def full_disk(path, data):
    """Stand in for a function that writes a file."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def follow(patch, at=None, action=lambda: os.kill(os.getpid(), signal.SIGINT)):
    """Press Ctrl-C when a job reaches (index of the image, step), after its first chunk, before
    whose end that aborts. Return the list of the (index, step) after each chunk."""
    chunks = []

    def update(self, progress):
        chunks.append((progress.index, progress.step))
        if at and [chunk for chunk in chunks if chunk >= at] == chunks[-1:]:
            action()

    patch.setattr(ProgressBar, "update", update)
    return chunks
