"""The studio when its process is killed, a job fails, the disk is full or the browser goes away."""

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.request
from types import SimpleNamespace

import jax
import numpy as np
import PIL.ImageColor
import pytest
from apps.helpers import PROGRAM
from filelock import FileLock
from lazy import Lazy
from reliability.faults import exhaust, fail_with

from nst_jax.apps.studio.choices import MAX_STYLES, chosen_settings, control_values
from nst_jax.apps.studio.job_queue import QueuedJob
from nst_jax.apps.studio.sessions import Sessions
from nst_jax.apps.studio.uploads import MASK_COLORS
from nst_jax.errors import InputError
from nst_jax.optimize import loop
from nst_jax.pipeline import Stylizer, runner
from nst_jax.settings import Settings

pytestmark = pytest.mark.usefixtures("small_photos")
server = Lazy("nst_jax.apps.studio.server")  # It imports gradio, which takes seconds.

BASE = Settings(
    min_size=20,
    dtype="float32",
    optimizer="adam",
    style_layers={"relu1_1": 1.0},
    content_layers={"relu1_2": 1.0},
)
CONTROLS = control_values(BASE, 1) | {"size": 32, "steps": "3,5", "model": "vgg16"}
SETTINGS = chosen_settings(BASE, CONTROLS)
PAGE = SimpleNamespace(
    **{
        name: name
        for name in (
            *("live", "stop", "compare", "command", "snippet", "files", "download", "proceed"),
            *("use_shown", "history"),
        )
    }
)


@pytest.fixture
def events(job_queue, tmp_path):
    (tmp_path / "root").mkdir()
    for name in ("content.png", "style.png"):
        shutil.copy(name, tmp_path / "root")
    sessions = Sessions(tmp_path / "root", job_queue)
    sessions["tab"].base = BASE
    return Lazy("nst_jax.apps.studio.events").Events(PAGE, sessions)


REQUEST = SimpleNamespace(session_hash="tab")


def start(events, steps="3,5"):
    """Start a job as the button does; return the updates of the page."""
    root = events.sessions.root
    styles = [{"path": str(root / "style.png")}, *[None] * (MAX_STYLES - 1)]
    controls = (32, 0.05, "style", "gram", steps, 0, "vgg16", *[1.0] * (2 * MAX_STYLES))
    values = ({"path": str(root / "content.png")}, *styles, "", *controls)
    return events.start(False)(REQUEST, *values)


def last_message(updates):
    return [update["live"] for update in updates if "live" in update][-1]


def raise_error(error):
    raise error


FAILURES = {
    "bug": ZeroDivisionError("secret"),
    "device": jax.errors.JaxRuntimeError("INTERNAL: a bug of XLA"),
    "memory": MemoryError(),
    "device memory": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    "input": InputError("content 'a.png': is damaged"),
    "disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "recursion": RecursionError("maximum recursion depth exceeded"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("place", ["prepare", "compute_targets"])
def test_a_job_that_fails_has_one_line_and_the_next_one_runs(
    place, failure, job_queue, monkeypatch
):
    def prepare():
        if place == "prepare":
            raise_error(FAILURES[failure])
        return Stylizer(SETTINGS).job("content.png", "style.png")

    with monkeypatch.context() as patch:
        if place != "prepare":
            patch.setattr(runner, place, lambda *_: raise_error(FAILURES[failure]))
        run = QueuedJob(prepare)
        job_queue.submit(run)
        list(run.follow())
    assert run.error
    assert "\n" not in run.error
    assert "secret" not in run.error
    following = QueuedJob(lambda: Stylizer(SETTINGS).job("content.png", "style.png"))
    job_queue.submit(following)
    list(following.follow())
    assert (following.error, following.update.step) == ("", 8)


def test_the_studio_keeps_the_image_so_far_and_runs_the_next_job(job_queue, monkeypatch):
    runs = [QueuedJob(lambda: Stylizer(SETTINGS).job("content.png", "style.png")) for _ in range(2)]
    exhaust(monkeypatch, 3)
    for each in runs:
        job_queue.submit(each)
    for each in runs:
        list(each.follow())
    assert runs[0].error.startswith("the device ran out of memory after step ")
    assert runs[0].update.result.metadata["steps_done"] == runs[0].update.step > 0
    assert (runs[1].error, runs[1].update.step) == ("", 8)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=lambda n: errno.errorcode[n])
def test_an_image_that_cannot_be_written_is_said_on_the_page(number, events, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("nst_jax.images.io.write_atomically", fail_with(number))
        message = last_message(start(events))
    assert f"output &#x27;image-1.png&#x27;: cannot be written ({os.strerror(number)})" in message
    assert str(events.sessions.root) not in message
    session = events.sessions["tab"]
    assert (session.jobs, session.entries) == ([], [])
    assert [update for update in start(events)][-1]["history"]


def test_a_folder_of_a_tab_that_was_removed_is_said_on_the_page(events):
    shutil.rmtree(events.sessions["tab"].folder)
    message = last_message(start(events))
    assert "there is no folder" in message
    assert str(events.sessions.root) not in message


def test_a_mask_that_cannot_be_written_is_said_on_the_page(events, monkeypatch):
    layer = np.zeros((24, 32, 4), np.uint8)
    layer[:, :16] = (*PIL.ImageColor.getrgb(MASK_COLORS[0]), 255)
    events.sessions["tab"].layers = [layer]
    monkeypatch.setattr("PIL.Image.Image.save", fail_with(errno.ENOSPC))
    message = last_message(start(events))
    assert "the mask cannot be written (No space left on device)" in message


def test_a_browser_that_goes_away_stops_its_job_and_the_tab_can_go_on(events, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    updates = start(events, steps="100000,100000")
    while "step " not in str(next(updates).get("live")):
        pass
    session = events.sessions["tab"]
    (abandoned,) = session.jobs
    updates.close()
    assert (abandoned.stopping, session.jobs) == (True, [])
    later = list(start(events))
    assert any("step " in str(update.get("live")) for update in later)
    assert [entry.path.name for entry in session.entries] == ["image-1.png"]
    assert later[-1]["stop"].interactive is False


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    tempfile.tempdir = None


def test_a_start_removes_the_folders_of_studios_that_were_killed_and_no_others(temporary):
    killed, running, other, young = (
        temporary / name
        for name in ("nst-jax-studio-a", "nst-jax-studio-b", "elsewhere", "nst-jax-studio-c")
    )
    for folder in (killed, running, other, young):
        (folder / "session-1").mkdir(parents=True)
        if folder is not young:  # It has no lock yet.
            (folder / server.LOCK_NAME).touch()
    with FileLock(running / server.LOCK_NAME):
        server.remove_abandoned_folders()
    assert {path.name for path in temporary.iterdir()} == {running.name, other.name, young.name}


def start_server(port, **environment):
    """Start the studio; return its process and address."""
    process = subprocess.Popen(
        [*PROGRAM, "studio", "--port", str(port)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().split()[1]


@pytest.mark.campaign
def test_a_studio_that_is_killed_leaves_its_port_and_its_folder_to_the_next(temporary):
    process, address = start_server(0)
    (folder,) = temporary.glob("nst-jax-studio-*")
    requests = [threading.Thread(target=fetch, args=(address,)) for _ in range(4)]
    for request in requests:
        request.start()
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    for request in requests:
        request.join(30)
    assert folder.exists()
    process, again = start_server(address.rpartition(":")[2])
    assert again == address
    assert fetch(address)
    (its_own,) = temporary.glob("nst-jax-studio-*")
    assert its_own != folder
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert list(temporary.glob("nst-jax-studio-*")) == []


def fetch(address):
    try:
        return urllib.request.urlopen(address, timeout=30).read()
    except OSError:
        return b""
