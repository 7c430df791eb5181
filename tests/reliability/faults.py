"""Faults to inject into a small job, and what must hold after each of them."""

import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import jax
import numpy as np
from apps.helpers import make

from nst_jax import images
from nst_jax.apps import plots
from nst_jax.apps.cli import run
from nst_jax.images import io
from nst_jax.optimize import loop, multiscale
from nst_jax.pipeline import caches, job, runner
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline.engine import Engine

# Two levels and two shallow layers, so that all tests use the same few executables.
STYLIZE = (
    *("stylize", "content.png", "style.png", "--size", "32", "--min-size", "20"),
    *("--model", "vgg16", "--dtype", "float32", "--optimizer", "adam", "--steps", "3,5", "-q"),
    *("--style-layers", "relu1_1", "--content-layers", "relu1_2"),
)
BATCH = ("batch", "content.png", "--styles", "style.png", "--styles", "other.png", *STYLIZE[3:])
OUT = Path("out.png")
CHECKPOINT = Path("out.png.checkpoint")
INPUTS = {"content.png", "style.png", "other.png", "cache", "whole.png"}


def nth_call(function, number, fault, *, after=False):
    """Return ``function`` with a fault at its ``number``-th call, before it or after."""
    calls = 0

    def faulty(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number and not after:
            fault()
        result = function(*args, **kwargs)
        if calls == number and after:
            fault()
        return result

    return faulty


def fail_with(number):
    """Return a function that raises the error of the operating system with this number."""

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def half_written(function, fault, number=1):
    """Return a function that cuts the ``number``-th file that it writes in half, and faults."""

    def write(data, path, *args):
        function(data, path, *args)
        os.truncate(path, Path(path).stat().st_size // 2)
        fault()

    calls = iter([function] * (number - 1) + [write])
    return lambda *args: next(calls, function)(*args)


@contextmanager
def _fault_before_rename(fault):
    real, os.fsync = os.fsync, lambda descriptor: fault()
    try:
        yield
    finally:
        os.fsync = real


def _patch_output(patch, fault):
    def write(path, data):
        with _fault_before_rename(fault):
            return write_atomically(path, data)

    write_atomically = io.write_atomically
    patch.setattr(io, "write_atomically", write)


def _patch_checkpoint(number):
    def install(patch, fault):
        patch.setattr(checkpoints, "save_file", half_written(checkpoints.save_file, fault, number))

    return install


def _patch(module, name, number=1):
    def install(patch, fault):
        patch.setattr(module, name, nth_call(getattr(module, name), number, fault))

    return install


def fail_writing(patch, target, number):
    """Let the system refuse the files of one kind, after half of their bytes are written."""
    fail = fail_with(number)
    if target == "checkpoint":

        def save_file(arrays, path, metadata):
            half_written(real_save, fail)(arrays, path, metadata)

        real_save = checkpoints.save_file
        patch.setattr(checkpoints, "save_file", save_file)
        return
    if target == "log":
        patch.setattr(run.MetricsWriter, "append", fail)
        return

    def write(path, data):
        is_target = Path(path).name.startswith({"output": "out.png", "preview": "out-"}[target])
        with _fault_before_rename(fail) if is_target else nullcontext():
            return write_atomically(path, data)

    module = plots if target == "plot" else io
    write_atomically = module.write_atomically
    patch.setattr(module, "write_atomically", fail if target == "plot" else write)


POINTS = {
    "start-up": _patch(job, "plan_levels"),
    "compiling": _patch(caches, "compile_within_limit"),
    "first-step": _patch(loop, "_is_finite"),
    "middle": _patch(loop, "_is_finite", 5),
    "level-change": _patch(multiscale, "resample_state"),
    "output": _patch_output,
    "checkpoint": _patch_checkpoint(1),
    "third-checkpoint": _patch_checkpoint(3),
}
"""Where a fault can be, by name: each installs the fault with a ``pytest.MonkeyPatch``."""


def save_often(patch):
    """Save a checkpoint after each chunk, and let a chunk have one step."""
    patch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    patch.setattr(loop, "CHUNK_SECONDS", 0.0)


def out_of_device_memory():
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


class Exhausted:
    """An executable that runs out of memory at one of its calls, after it has taken the state."""

    def __init__(self, executable, calls):
        self.executable, self.calls = executable, calls

    def __call__(self, state, *args):
        if next(self.calls):
            jax.tree.map(lambda leaf: isinstance(leaf, jax.Array) and leaf.delete(), state)
            out_of_device_memory()
        return self.executable(state, *args)


def exhaust(patch, number, count=1):
    """Let ``count`` chunks, from the ``number``-th one, run out of memory."""
    calls = (number <= i < number + count for i in range(1, 1000))
    compile_fn = Engine.compile
    patch.setattr(Engine, "compile", lambda *a, **kw: Exhausted(compile_fn(*a, **kw), calls))


def send(signum):
    """Return a function that sends this process a signal."""
    return lambda: os.kill(os.getpid(), signum)


def left_files():
    """Return the names in the working folder, without the inputs."""
    return {path.name for path in Path().iterdir()} - INPUTS


def check_files(*allowed):
    """Check that each file is complete: an image can be read, and nothing temporary is left."""
    assert left_files() <= {OUT.name, CHECKPOINT.name, *allowed}
    if OUT.exists():
        assert images.read(OUT).pixels.shape[2] == 3


def check_continues(whole, *job):
    """Check that the job resumes, or starts afresh without a checkpoint, bit for bit."""
    job = job or STYLIZE
    resumed = make(*job, *(("--resume",) if CHECKPOINT.exists() else ()))
    np.testing.assert_array_equal(resumed, whole)
    assert not CHECKPOINT.exists()


def one_error_line(result):
    """Return the one line about the error, among the lines of stderr."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def child(point, signum, *arguments, **options):
    """Run the command line in a process that sends itself a signal at a point."""
    command = [sys.executable, "-m", "reliability.faulty_process", point, str(int(signum))]
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent))),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
        **options,
    )
