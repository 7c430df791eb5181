"""Too little memory: while compiling it leads to tiles, and later to one line and no lost step."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from apps.helpers import call, make, metadata
from reliability.faults import (
    BATCH,
    CHECKPOINT,
    OUT,
    STYLIZE,
    check_continues,
    exhaust,
    left_files,
    nth_call,
    one_error_line,
    out_of_device_memory,
    save_often,
)

from nst_jax import Stylizer, images
from nst_jax.errors import MemoryLimitError, OutOfMemoryError
from nst_jax.optimize import loop
from nst_jax.pipeline import caches, planning, result, runner, stylize_many, targets
from nst_jax.settings import Settings

pytestmark = pytest.mark.usefixtures("small_photos")
TESTS = Path(__file__).parents[1]
SETTINGS = Settings(
    size=32,
    min_size=20,
    model="vgg16",
    dtype="float32",
    optimizer="adam",
    steps=(3, 5),
    style_layers={"relu1_1": 1.0},
    content_layers={"relu1_2": 1.0},
)


def out_of_host_memory():
    raise MemoryError


@pytest.mark.parametrize(
    ("done", "saved"),
    [(0, False), (1, False), (2, True), (3, False), (3, True), (6, False), (6, True)],
)
def test_a_device_that_runs_out_of_memory_leaves_the_image_so_far(done, saved, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHUNK_SECONDS", 0.0)
        if saved:
            save_often(patch)
        exhaust(patch, done + 1)
        ended = call(*STYLIZE, "-o", OUT)
    assert ended.exit_code == 2
    assert one_error_line(ended) == (
        f"error: the device ran out of memory after step {done}; close other programs, or choose "
        "a smaller size"
    )
    assert f"out.png: the image of step {done}, the last finite one" in ended.stderr
    assert metadata(OUT)["steps_done"] == done
    # Between the levels, after step 3, the state of the last chunk is still there.
    has_checkpoint = done == 3 or (saved and done > 0)
    assert left_files() == {OUT.name} | ({CHECKPOINT.name} if has_checkpoint else set())
    check_continues(whole)


def fail_at_second_level(function, fault):
    """Return ``function`` with a fault once its job is at the second level."""
    return nth_call(function, 2, fault)


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (runner, "compute_targets", out_of_device_memory),
        (targets, "downscale", out_of_host_memory),
        (planning, "choose_tile", lambda: refuse("even in tiles")),
    ],
    ids=["targets", "images", "planning"],
)
def test_a_level_that_does_not_fit_leaves_the_last_state(module, name, fault, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail_at_second_level(getattr(module, name), fault))
        ended = call(*STYLIZE, "-o", OUT)
    assert ended.exit_code == 2
    assert "smaller" in one_error_line(ended)
    assert left_files() == {CHECKPOINT.name}
    check_continues(whole)


def test_a_job_that_ran_out_of_memory_resumes_with_a_memory_limit(whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHUNK_SECONDS", 0.0)
        exhaust(patch, 4)
        assert call(*STYLIZE, "-o", OUT).exit_code == 2
    check_continues(whole, *STYLIZE, "--memory-limit", "4GB")


def refuse(why):
    raise MemoryLimitError(f"32x24 pixels, {why}; choose a smaller size")


@pytest.mark.parametrize(
    ("target", "name"),
    [(images.io.Image, "fromarray"), (result.images, "write"), (result, "postprocess")],
    ids=["pillow", "write", "numpy"],
)
def test_a_host_out_of_memory_at_the_end_leaves_the_checkpoint(target, name, whole, monkeypatch):
    module = runner if name == "postprocess" else target
    with monkeypatch.context() as patch:

        def install():
            patch.setattr(module, name, nth_call(getattr(module, name), 1, out_of_host_memory))

        patch.setattr(runner.Progress, "results", before(runner.Progress.results, install))
        ended = call(*STYLIZE, "-o", OUT)
    assert ended.exit_code == 2
    assert "memory" in one_error_line(ended)
    assert left_files() == {CHECKPOINT.name}
    check_continues(whole)


def before(function, action):
    """Return ``function`` after an action."""

    def wrapped(*args):
        action()
        return function(*args)

    return wrapped


def test_an_image_that_does_not_fit_into_the_memory_costs_itself_alone(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(images.io, "_from_pil", nth_call(images.io._from_pil, 1, out_of_host_memory))
        ended = call(*BATCH, "-o", "out")
    assert ended.exit_code == 2
    assert one_error_line(ended) == (
        "error: style 'style.png': needs more memory than there is; close other programs, or "
        "scale it down first (1 of the images)"
    )
    assert "1 images made, 0 skipped, 1 failed" in ended.stdout


def test_a_batch_whose_device_runs_out_of_memory_makes_the_other_photos(monkeypatch):
    job = ("batch", "other.png", *BATCH[1:])
    with monkeypatch.context() as patch:
        exhaust(patch, 1)
        ended = call(*job, "-o", "out")
    assert ended.exit_code == 2
    assert "the device ran out of memory after step 0" in one_error_line(ended)
    assert "2 images made, 0 skipped, 2 failed" in ended.stdout
    again = call(*job, "-o", "out")
    assert (again.exit_code, "2 images made, 2 skipped" in again.stdout) == (0, True)


@pytest.mark.campaign
def test_images_in_one_batch_that_run_out_of_memory_run_in_smaller_ones(monkeypatch):
    names = ["style.png", "other.png"]
    with monkeypatch.context() as patch:
        patch.setattr(runner, "choose_batch_size", lambda job: 2)
        exhaust(patch, 1)
        made = [made.image for made in stylize_many("content.png", names, SETTINGS)]
    expected = [made.image for made in stylize_many("content.png", names, SETTINGS, batch_size=1)]
    np.testing.assert_array_equal(made, expected)


def test_from_python_the_error_holds_the_image_so_far(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHUNK_SECONDS", 0.0)
        exhaust(patch, 3)
        with pytest.raises(OutOfMemoryError) as caught:
            list(runner.run(Stylizer(SETTINGS).job("content.png", "style.png")))
    error = caught.value
    (last,) = error.results
    assert (error.step, len(error.history["total"])) == (2, 2)
    assert last.metadata["stopped"]
    np.testing.assert_array_equal(last.image, error.image)


def refuse_whole_images(patch, sizes):
    """Let the compiler run out of memory for all but tiles of 16 pixels."""

    def compile_fn(jitted, *args, limit, **static):
        if "optimizer" in static and getattr(static["loss"], "keywords", None) is None:
            refuse("whole")
        return compile_within_limit(jitted, *args, limit=limit, **static)

    compile_within_limit = caches.compile_within_limit
    patch.setattr(planning, "TILE_SIZES", sizes)
    patch.setattr(caches, "compile_within_limit", compile_fn)


def test_a_compiler_without_memory_for_tiles_too_leaves_no_file(monkeypatch):
    with monkeypatch.context() as patch:
        refuse_whole_images(patch, ())
        ended = call(*STYLIZE, "-o", OUT)
    assert ended.exit_code == 2
    assert "even in tiles" in one_error_line(ended)
    assert left_files() == set()


@pytest.mark.campaign
def test_a_compiler_without_memory_for_the_whole_image_leads_to_tiles(whole, monkeypatch):
    with monkeypatch.context() as patch:
        refuse_whole_images(patch, (16,))
        tiled = make(*STYLIZE)
    assert metadata(OUT)["tile"] == 16
    assert np.abs(tiled - whole).max() < 3 / 255


LIMITED = """
import resource, sys
from pathlib import Path
from nst_jax.apps.cli.main import main
from nst_jax.optimize import loop
from reliability.faults import nth_call

def take_memory():  # What a step allocates at once no longer fits; small arrays do.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used - 150 * 2**20, -1))

loop.CHUNK_SECONDS = 0.0
loop._is_finite = nth_call(loop._is_finite, 3, take_memory)
main(sys.argv[1:])
"""


@pytest.mark.campaign
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_whose_memory_is_really_used_up_saves_the_image_so_far():
    job = [*STYLIZE, "--size", "512", "--min-size", "512", "--steps", "8", "-o", "out.png"]
    paths = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *job],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert one_error_line(done).startswith("error: the device ran out of memory after step 3; ")
    assert metadata(OUT)["steps_done"] == 3
