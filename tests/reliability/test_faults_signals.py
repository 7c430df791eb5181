"""SIGINT, SIGTERM and SIGKILL at any moment: no half file, and the job continues."""

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from apps.helpers import call, make
from reliability.faults import (
    BATCH,
    CHECKPOINT,
    OUT,
    POINTS,
    STYLIZE,
    check_continues,
    check_files,
    child,
    left_files,
    save_often,
    send,
)

from nst_jax import images
from nst_jax.optimize import loop
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline import list_images

pytestmark = [
    pytest.mark.usefixtures("small_photos"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX"),
]
QUICK = ("compiling", "third-checkpoint")
"""Where a process is killed in the default suite; the others take a process each, too."""
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def _signals_end_the_command_alone():
    """Let a SIGTERM that the command does not handle fail the test, not end the tests."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    yield
    signal.signal(signal.SIGTERM, before)


ABORTS = {"start-up", "compiling", "first-step", "checkpoint"}
"""Before the first chunk is done the first signal aborts, and later the second one does."""


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
@pytest.mark.parametrize("point", [point for point in POINTS if point != "third-checkpoint"])
def test_a_signal_leaves_complete_files_and_the_job_continues(point, signum, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHUNK_SECONDS", 0.0)
        if point == "checkpoint":  # It is written as the job stops.
            POINTS["middle"](patch, send(signum))
        POINTS[point](patch, send(signum))
        result = call(*STYLIZE, "-o", OUT)
    assert "Traceback" not in result.output
    check_files()
    if point == "output":  # All steps are done.
        assert (result.exit_code, left_files()) == (0, {OUT.name})
        return
    assert result.exit_code == 130, result.output
    if point in ABORTS:
        assert left_files() == set()
        assert result.stderr.endswith("Aborted!\n")
    else:
        assert left_files() == {OUT.name, CHECKPOINT.name}
        assert "stopped after" in result.stderr
    check_continues(whole)


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_second_signal_while_the_image_so_far_is_written_leaves_the_checkpoint(
    signum, whole, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHUNK_SECONDS", 0.0)
        POINTS["middle"](patch, send(signum))
        POINTS["output"](patch, send(signum))
        result = call(*STYLIZE, "-o", OUT)
    assert (result.exit_code, left_files()) == (130, {CHECKPOINT.name})
    assert result.stderr.endswith("Aborted!\n")
    check_continues(whole)


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_second_signal_while_a_checkpoint_is_written_leaves_the_last_one(
    signum, whole, monkeypatch
):
    with monkeypatch.context() as patch:
        save_often(patch)
        POINTS["middle"](patch, send(signum))
        save = checkpoints.save
        step_of_save = []

        def save_or_stop(path, job, checkpoint):
            step_of_save.append(int(checkpoint.state.step))
            if len(step_of_save) == 5:
                POINTS["checkpoint"](patch, send(signum))
            save(path, job, checkpoint)

        patch.setattr(checkpoints, "save", save_or_stop)
        result = call(*STYLIZE, "-o", OUT)
    assert (result.exit_code, left_files()) == (130, {CHECKPOINT.name})
    check_continues(whole)


@pytest.mark.parametrize(
    "point",
    [
        point if point in QUICK else pytest.param(point, marks=pytest.mark.campaign)
        for point in POINTS
    ],
)
def test_sigkill_leaves_no_half_file_and_the_job_continues(point, whole):
    done = child(point, signal.SIGKILL, *STYLIZE, "-o", OUT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = left_files()
    temporary = {name for name in left if name.endswith(".part")}
    assert not OUT.exists()
    assert left - temporary <= {CHECKPOINT.name}
    assert len(temporary) == (point in ("output", "checkpoint", "third-checkpoint"))
    assert all(name.startswith(".") for name in temporary)
    saved = ("middle", "level-change", "output", "third-checkpoint")
    assert CHECKPOINT.exists() == (point in saved)
    check_continues(whole)


@pytest.mark.parametrize(
    "signum",
    [*SIGNALS, pytest.param(signal.SIGKILL, marks=pytest.mark.campaign)],
    ids=lambda signum: signum.name,
)
def test_a_batch_continues_after_a_signal_while_it_writes_an_image(signum, monkeypatch):
    assert call(*BATCH, "-o", "expected").exit_code == 0
    if signum == signal.SIGKILL:
        done = child("output", signum, *BATCH, "-o", "out")
        assert done.returncode == -signum, done.stderr
    else:
        with monkeypatch.context() as patch:
            POINTS["output"](patch, send(signum))
            assert call(*BATCH, "-o", "out").exit_code == 130
    again = call(*BATCH, "-o", "out")
    assert again.exit_code == 0, again.output
    assert "0 failed" in again.stdout
    expected = sorted(path for path in Path("expected").iterdir())
    for path in expected:
        made = images.read(Path("out", path.name)).pixels
        np.testing.assert_array_equal(made, images.read(path).pixels)
    others = {path.name for path in Path("out").iterdir()} - {path.name for path in expected}
    assert all(name.endswith(".part") for name in others)
    assert len(others) == (signum == signal.SIGKILL)
    assert list_images([Path("out")]) == [Path("out", path.name) for path in expected]


class SignalAtCall:
    """Sends this process a signal at one of the calls of this library's functions."""

    def __init__(self, number, signum):
        self.number, self.signum, self.calls = number, signum, 0

    def __call__(self, frame, event, argument):
        if event == "call" and f"{os.sep}nst_jax{os.sep}" in frame.f_code.co_filename:
            self.calls += 1
            if self.calls == self.number:
                os.kill(os.getpid(), self.signum)

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *error):
        sys.setprofile(None)


def interrupt_at_random(seed, whole, patch):
    """Send a signal at a random one of all calls; check what is left and that it continues."""
    rng = random.Random(seed)
    with patch.context() as inner:
        save_often(inner)
        with SignalAtCall(0, 0) as dry_run:
            make(*STYLIZE)
        OUT.unlink()
        number = rng.randint(1, dry_run.calls)
        with SignalAtCall(number, rng.choice(SIGNALS)) as sent:
            result = call(*STYLIZE, "-o", OUT)
    assert sent.calls >= number
    assert "Traceback" not in result.output
    assert result.exit_code in (0, 130), (result.output, result.exception)
    check_files()
    assert result.exit_code == 130 or left_files() == {OUT.name}
    check_continues(whole)


@pytest.mark.parametrize("seed", range(2))
def test_a_signal_at_a_random_call_leaves_complete_files(seed, whole, monkeypatch):
    interrupt_at_random(seed, whole, monkeypatch)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(100, 220))
def test_signals_at_many_random_calls_leave_complete_files(seed, whole, monkeypatch):
    interrupt_at_random(seed, whole, monkeypatch)
