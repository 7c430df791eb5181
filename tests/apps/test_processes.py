"""One image over several processes, and shares of a folder for processes that do not meet."""

import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from apps.helpers import SMALL, call, error_line, make, metadata
from apps.process_helpers import STYLIZE, ends_of, start_all, wait_for

from nst_jax import images
from nst_jax.apps.cli.processes import Worker, resolve_worker

pytestmark = pytest.mark.usefixtures("small_photos")

BATCH = ("batch", "content.png", "other.png", "--styles", "style.png", *SMALL)


@pytest.mark.parametrize(
    "count",
    [pytest.param(2, marks=pytest.mark.extended), pytest.param(4, marks=pytest.mark.campaign)],
)
def test_processes_that_share_an_image_make_it_once(count):
    expected = make(*STYLIZE, "--steps", "6", out="alone.png")
    assert [code for code, _ in ends_of(start_all(count, *STYLIZE, "--steps", "6"))] == [0] * count
    assert metadata("out.png")["devices"] == count
    assert np.abs(images.read("out.png").pixels - expected).max() < 3 / 255


@pytest.mark.extended
def test_a_killed_process_ends_the_others_with_one_line():
    processes = start_all(2, *STYLIZE, "--steps", "100000", "--preview-every", "5")
    wait_for(Path("out-000005.png"))
    processes[1].kill()
    start = time.monotonic()
    (code, line), _ = ends_of(processes)
    assert code == 2
    assert line.startswith("error: another process of this image ended or cannot be reached")
    assert time.monotonic() - start < 60


@pytest.mark.extended
def test_sigterm_to_one_process_saves_a_checkpoint_for_any_number_of_them():
    steps = ("--steps", "3000", "--preview-every", "5")
    processes = start_all(2, *STYLIZE, *steps)
    wait_for(Path("out-000005.png"))
    processes[1].send_signal(signal.SIGTERM)
    assert [code for code, _ in ends_of(processes)] == [130, 130]
    done = metadata("out.png")["steps_done"]
    assert 0 < done < 3000
    processes = start_all(1, *STYLIZE, *steps, "--resume")
    wait_for(Path(f"out-{-(-(done + 1) // 5) * 5:06d}.png"))
    processes[0].send_signal(signal.SIGTERM)
    ends_of(processes)
    assert metadata("out.png")["steps_done"] > done


def test_options_of_processes_that_do_not_fit_are_an_error():
    assert "need --coordinator" in error_line(*STYLIZE, "-o", "a.png", "--num-processes", "2")
    alone = ("--coordinator", "127.0.0.1:1")
    assert "needs --num-processes" in error_line(*STYLIZE, "-o", "a.png", *alone)
    beyond = (*alone, "--num-processes", "2", "--process-id", "2")
    assert "give one from 0 to 1" in error_line(*STYLIZE, "-o", "a.png", *beyond)


def test_shares_of_a_folder_complete_each_other():
    first = call(*BATCH, "-o", "out", "--shard", "1/2")
    assert first.exit_code == 0
    assert "share 1 of 2 ends with 1 of 2 images in the folder" in first.stdout
    assert [path.name for path in Path("out").iterdir()] == ["content-style.png"]
    second = call(*BATCH, "-o", "out", "--shard", "2/2")
    assert "share 2 of 2 ends with 2 of 2 images in the folder" in second.stdout
    again = call(*BATCH, "-o", "out")
    assert "0 images made, 2 skipped, 0 failed" in again.stdout


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "a/b", "-1/2", "1/0"])
def test_a_share_out_of_range_is_an_error(share):
    assert "give i/n with i from 1 to n" in error_line(*BATCH, "-o", "out", f"--shard={share}")


def test_a_share_that_a_launcher_gives_is_announced(monkeypatch):
    assert call(*BATCH, "-o", "out").stderr == ""
    for name, value in (SLURM | {"SLURM_STEP_ID": "3", "SLURM_PROCID": "1"}).items():
        monkeypatch.setenv(name, value)
    ended = call(*BATCH, "-o", "out")
    assert ended.stderr == (
        "out: share 2 of 4, 1 of 2 images, as the launcher says; --shard 1/1 makes all\n"
    )
    assert "share 2 of 4 ends with 2 of 2 images in the folder" in ended.stdout


SLURM = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Worker(0, 1)),
        (SLURM | {"SLURM_STEP_ID": "0"}, Worker(2, 4)),
        ({"SLURM_PROCID": "0"}, Worker(0, 1)),  # a batch script, outside of srun
        (SLURM, Worker(0, 1)),
        (SLURM | {"SLURM_STEP_ID": f"{2**32 - 5}"}, Worker(0, 1)),  # the step of a batch script
        (SLURM | {"SLURM_STEP_ID": f"{2**32 - 6}"}, Worker(0, 1)),  # of an interactive shell
        (SLURM | MPI, Worker(1, 2)),  # mpirun in a batch script
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"}, Worker(0, 1)),
        (MPI, Worker(1, 2)),
        ({"PMI_RANK": "3", "PMI_SIZE": "8"}, Worker(3, 8)),
    ],
)
def test_the_launcher_gives_the_share(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert resolve_worker("auto") == expected
    assert resolve_worker(Worker(1, 3)) == Worker(1, 3)


def test_processes_on_one_host_take_a_gpu_each(monkeypatch):
    updates = {}
    monkeypatch.setattr(jax.config, "update", updates.__setitem__)
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_ID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    resolve_worker("auto")
    assert updates == {"jax_cuda_visible_devices": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    updates.clear()
    resolve_worker("auto")
    assert not updates
