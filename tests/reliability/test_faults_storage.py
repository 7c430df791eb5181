"""Full and failing disks, and folders that change while a job runs."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from apps.helpers import call, follow
from reliability.faults import (
    BATCH,
    CHECKPOINT,
    OUT,
    POINTS,
    STYLIZE,
    check_continues,
    fail_with,
    fail_writing,
    left_files,
    one_error_line,
    save_often,
    send,
)

from nst_jax import images
from nst_jax.apps.cli.run import MetricsWriter
from nst_jax.images import io
from nst_jax.optimize import loop

pytestmark = pytest.mark.usefixtures("small_photos")
ERRORS = [errno.ENOSPC, errno.EROFS, errno.EIO]
EXTRAS = {
    "checkpoint": (),
    "preview": ("--preview-every", "4"),
    "log": ("--log", "log.jsonl"),
    "plot": ("--loss-plot", "loss.png"),
}


def notes(result):
    return [line for line in result.stderr.splitlines() if line.startswith("note: ")]


@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
def test_an_output_that_cannot_be_written_leaves_the_checkpoint(number, whole, monkeypatch):
    with monkeypatch.context() as patch:
        fail_writing(patch, "output", number)
        result = call(*STYLIZE, "-o", OUT)
    assert result.exit_code == 2
    reason = os.strerror(number)
    assert one_error_line(result).startswith(
        f"error: output 'out.png': cannot be written ({reason}"
    )
    assert left_files() == {CHECKPOINT.name}
    check_continues(whole)


@pytest.mark.parametrize("number", ERRORS[:2], ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("target", EXTRAS)
def test_what_is_written_beside_the_image_costs_no_image(target, number, whole, monkeypatch):
    with monkeypatch.context() as patch:
        if target == "checkpoint":
            save_often(patch)
        fail_writing(patch, target, number)
        result = call(*STYLIZE, *EXTRAS[target], "-o", OUT)
    assert result.exit_code == 0, result.output
    assert notes(result)
    assert all(os.strerror(number) in line for line in notes(result))
    assert left_files() <= {OUT.name, "log.jsonl"}
    np.testing.assert_array_equal(images.read(OUT).pixels, whole)


def test_a_full_disk_keeps_the_last_checkpoint(whole, monkeypatch):
    with monkeypatch.context() as patch:
        save_often(patch)
        POINTS["third-checkpoint"](patch, fail_with(errno.ENOSPC))
        fail_writing(patch, "output", errno.ENOSPC)
        follow(patch, (0, 4), send_after(patch))
        result = call(*STYLIZE, "-o", OUT)
    assert result.exit_code == 2
    assert left_files() == {CHECKPOINT.name}
    check_continues(whole)


def send_after(patch):
    """Return a function that lets no later checkpoint be written, and stops the job."""

    def action():
        fail_writing(patch, "checkpoint", errno.ENOSPC)
        send(2)()

    return action


def test_a_log_keeps_whole_lines_when_the_disk_takes_a_part_of_a_write():
    """A disk that is nearly full takes a part without an error."""
    line_bytes = len(json.dumps({"step": 1, "total": 1.0, "seconds": 0.0})) + 1
    writer = MetricsWriter(Path("log.jsonl"), resume=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for step in (1, 2, 3):
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            if step == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (line_bytes + 9, hard))
            writer.write(progress_at(step))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        writer.close()
    lines = Path("log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]


def progress_at(step):
    class AtStep:
        metrics = {"step": np.array([step]), "total": np.array([1.0])}  # noqa: RUF012
        seconds = 0.0

    return AtStep


@pytest.mark.parametrize("write", ["write_atomically", "MetricsWriter.append"])
def test_a_resumed_job_that_cannot_write_keeps_its_earlier_log(write, whole, monkeypatch):
    job = (*STYLIZE, "--log", "log.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHUNK_SECONDS", 0.0)
        follow(patch, (0, 4))
        assert call(*job, "-o", OUT).exit_code == 130
    earlier = Path("log.jsonl").read_bytes()
    assert earlier.count(b"\n") == 4
    with monkeypatch.context() as patch:
        patch.setattr(f"nst_jax.apps.cli.run.{write}", fail_with(errno.ENOSPC))
        result = call(*job, "--resume", "-o", OUT)
    assert (result.exit_code, len(notes(result))) == (0, 1)
    assert Path("log.jsonl").read_bytes() == earlier
    np.testing.assert_array_equal(images.read(OUT).pixels, whole)


def during(patch, action, step=4):
    """Do something to the folder when the job reaches a step."""
    patch.setattr(loop, "CHUNK_SECONDS", 0.0)
    follow(patch, (0, step), action)


def test_a_folder_that_is_removed_during_the_run_is_named(monkeypatch):
    Path("sub").mkdir()
    with monkeypatch.context() as patch:
        during(patch, lambda: shutil.rmtree("sub"))
        result = call(*STYLIZE, "-o", "sub/out.png")
    assert result.exit_code == 2
    folder = os.path.realpath("sub")
    assert one_error_line(result) == (
        f"error: output 'sub/out.png': there is no folder '{folder}'; create it first"
    )
    assert len(notes(result)) == 1
    assert "checkpoint 'sub/out.png.checkpoint' cannot be written" in notes(result)[0]


def test_an_output_that_becomes_a_folder_during_the_run_is_named(whole, monkeypatch):
    with monkeypatch.context() as patch:
        during(patch, OUT.mkdir)
        result = call(*STYLIZE, "-o", OUT)
    assert result.exit_code == 2
    assert one_error_line(result) == "error: output 'out.png': is a folder; give a file name"
    OUT.rmdir()
    check_continues(whole)


def test_a_checkpoint_that_becomes_a_folder_during_the_run_costs_no_image(whole, monkeypatch):
    with monkeypatch.context() as patch:
        save_often(patch)
        follow(patch, (0, 4), lambda: (CHECKPOINT.unlink(), CHECKPOINT.mkdir()))
        result = call(*STYLIZE, "-o", OUT)
    assert result.exit_code == 0, result.output
    assert notes(result)
    np.testing.assert_array_equal(images.read(OUT).pixels, whole)
    assert left_files() == {OUT.name, CHECKPOINT.name}


@pytest.mark.parametrize("number", ERRORS[:1], ids=lambda number: errno.errorcode[number])
def test_a_batch_names_an_image_that_cannot_be_written_and_makes_it_next_time(number, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(io, "write_atomically", fail_with(number))
        result = call(*BATCH, "-o", "out")
    assert result.exit_code == 2
    assert os.strerror(number) in one_error_line(result)
    assert "0 images made, 0 skipped, 2 failed" in result.stdout
    again = call(*BATCH, "-o", "out")
    assert (again.exit_code, len(list(Path("out").iterdir()))) == (0, 2)


def test_a_folder_with_the_name_of_an_image_of_a_batch_is_no_image():
    Path("out/content-other.png").mkdir(parents=True)
    result = call(*BATCH, "-o", "out")
    assert result.exit_code == 2
    assert "content-other.png': is a folder" in one_error_line(result)
    assert "1 images made, 0 skipped, 1 failed" in result.stdout


def mounted(folder, size):
    """Mount a small file system of its own; skip without the right to."""
    Path(folder).mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True
    )
    if done.returncode:
        pytest.skip("needs the right to mount")


@pytest.mark.campaign
@pytest.mark.skipif(sys.platform != "linux", reason="mounts tmpfs")
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_real_file_system_that_takes_no_file(kind, monkeypatch):
    mounted("disk", "64k")
    options = ("--preview-every", "2", "--loss-plot", "disk/loss.png")
    if kind == "full":  # Linux makes nothing read-only that has an open file.
        options += ("--log", "disk/log.jsonl")

    def spoil():
        if kind == "full":
            with suppress(OSError), Path("disk/fill").open("wb", buffering=0) as file:
                while file.write(bytes(4096)) == 4096:
                    pass
        else:
            subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)

    try:
        with monkeypatch.context() as patch:
            during(patch, spoil)
            result = call(*STYLIZE, *options, "-o", "disk/out.png")
        names = {path.name for path in Path("disk").iterdir()}
    finally:
        subprocess.run(["umount", "-l", "disk"], check=True)
    assert result.exit_code == 2, result.output
    assert "disk/out.png" in one_error_line(result)
    assert not [name for name in names if name.endswith(".part")]
    assert "out.png" not in names
