"""Two processes that share one image, when one of them is killed or fails."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from apps.helpers import make, metadata
from apps.process_helpers import STYLIZE, ends_of, start_all, wait_for
from reliability.faults import CHECKPOINT, OUT, left_files

from nst_jax import images

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.usefixtures("small_photos"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX"),
]
LONG = ("--steps", "3000", "--preview-every", "5")
SHORT = ("--steps", "8")
FIRST_PREVIEW = Path("out-000005.png")
NO_SIGNAL = 0
TESTS = Path(__file__).parents[1]


def faulty(point, signum):
    return [sys.executable, "-m", "reliability.faulty_process", point, str(int(signum))]


@pytest.fixture(autouse=True)
def _helpers_of_tests(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (TESTS, TESTS.parent))))


def previews():
    return {path.name for path in Path().glob("out-*.png")}


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_both_start_again(victim):
    processes = start_all(2, *STYLIZE, *LONG)
    wait_for(FIRST_PREVIEW)
    processes[victim].kill()
    start = time.monotonic()
    ends = ends_of(processes)
    assert time.monotonic() - start < 60
    assert ends[victim][0] == -signal.SIGKILL
    code, line = ends[1 - victim]
    assert code == 2, line
    assert line.startswith("error: another process of this image ended or cannot be reached")
    assert not OUT.exists()
    for name in previews():
        assert images.read(name).pixels.shape == (48, 64, 3)
    assert [code for code, _ in ends_of(start_all(2, *STYLIZE, *SHORT))] == [0, 0]
    assert metadata(OUT)["steps_done"] == 8


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_to_either_process_stops_both_with_a_checkpoint(victim, signum):
    processes = start_all(2, *STYLIZE, *LONG)
    wait_for(FIRST_PREVIEW)
    processes[victim].send_signal(signum)
    assert [code for code, _ in ends_of(processes)] == [130, 130]
    assert {OUT.name, CHECKPOINT.name} <= left_files()
    assert images.read(OUT).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("point", ["start-up", "first-step", "middle", "output"])
def test_a_process_that_is_killed_at_a_point_leaves_no_image(point):
    programs = {0: faulty(point, signal.SIGKILL), 1: faulty(point, NO_SIGNAL)}
    ends = ends_of(start_all(2, *STYLIZE, *SHORT, programs=programs))
    assert ends[0][0] == -signal.SIGKILL, ends
    assert not OUT.exists()
    resume = ("--resume",) if CHECKPOINT.exists() else ()
    assert [code for code, _ in ends_of(start_all(2, *STYLIZE, *SHORT, *resume))] == [0, 0]
    assert metadata(OUT)["steps_done"] == 8


def test_a_process_that_is_killed_while_it_writes_a_checkpoint_leaves_the_last_one():
    killed = faulty("third-checkpoint", signal.SIGKILL)  # Only the first one writes it.
    ends = ends_of(start_all(2, *STYLIZE, *SHORT, programs={0: killed, 1: killed}))
    assert ends[0][0] == -signal.SIGKILL, ends
    assert CHECKPOINT.exists()
    make(*STYLIZE, *SHORT, "--resume")  # with one process
    assert metadata(OUT)["steps_done"] == 8
