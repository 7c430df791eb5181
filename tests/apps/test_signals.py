"""Ctrl-C, SIGTERM and outputs that cannot be written: nothing is lost, --resume continues."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from apps.helpers import PROGRAM, STYLIZE, call, error_line, follow, make, metadata

from nst_jax import images
from nst_jax.apps.cli.run import stop_on_signal

pytestmark = [
    pytest.mark.usefixtures("small_photos"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX"),
]

CHECKPOINT = Path("out.png.checkpoint")


def send_when(word, signum, command, *, timeout=120, **options):
    """Start a process, send the signal when this word is in its stderr; return its outputs."""
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options
    ) as running:
        printed = b""
        while word not in printed:
            printed += (piece := os.read(running.stderr.fileno(), 4096))
            assert piece, printed.decode()
        running.send_signal(signum)
        out, rest = running.communicate(timeout=timeout)
    return running.returncode, out, (printed + rest).decode()


@pytest.mark.extended
def test_a_signal_saves_the_image_so_far_and_resume_gives_the_uninterrupted_image():
    job = [*STYLIZE, "--optimizer", "adam", "--steps", "1000"]
    command = [*PROGRAM, *(word for word in job if word != "-q"), "-o", "out.png"]
    steps_done = [0]
    for signum, options in ((signal.SIGINT, []), (signal.SIGTERM, ["--resume"])):
        code, out, err = send_when(b"loss=", signum, [*command, *options])
        assert (code, out) == (130, b""), err
        assert "Traceback" not in err
        assert "stopping after this chunk" in err
        steps_done.append(metadata("out.png")["steps_done"])
        assert f"out.png: stopped after {steps_done[-1]} of 1000 steps" in err
        assert images.read("out.png").pixels.shape == (24, 32, 3)
        assert CHECKPOINT.exists()
    assert steps_done == sorted({*steps_done})
    assert steps_done[-1] < 1000
    subprocess.run([*command, "--resume", "-q"], check=True, capture_output=True)
    assert not CHECKPOINT.exists()
    assert metadata("out.png")["steps_done"] == 1000
    np.testing.assert_array_equal(images.read("out.png").pixels, make(*job, out="whole.png"))


def test_ctrl_c_before_the_first_step_ends_at_once():
    environment = os.environ | {"JAX_LOG_COMPILES": "1", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    del environment["XLA_FLAGS"]  # With optimizations it compiles for 10 seconds.
    command = [*PROGRAM, "stylize", "content.png", "style.png", "-o", "out.png"]
    command += ["--model", "vgg16", "--size", "32"]
    compiling = b"Finished jaxpr to MLIR module conversion jit(_run_chunk)"
    code, out, err = send_when(compiling, signal.SIGINT, command, timeout=5, env=environment)
    assert (code, out) == (130, b"")
    assert err.endswith("Aborted!\n")
    assert not list(Path().glob("out.png*"))


def test_the_second_signal_interrupts_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_that_python_ignores_stops_after_the_first_chunk():
    with stop_on_signal() as stop_requested:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop_requested()


def test_a_resumed_job_completes_its_log(monkeypatch):
    job = (*STYLIZE, "--preview-every", "2")
    make(*job, "--log", "whole.jsonl", out="whole.png")
    Path("out.jsonl").write_text("of an earlier job")
    with monkeypatch.context() as patch:
        follow(patch, (0, 4))
        assert call(*job, "--log", "out.jsonl", "-o", "out.png").exit_code == 130
    with Path("out.jsonl").open("a") as log:  # Written after the checkpoint, and cut short.
        log.write('{"step": 5, "total": 1.0}\n{"step": 6, "to')
    make(*job, "--log", "out.jsonl", "--resume")
    whole, resumed = (
        [json.loads(line) for line in Path(name).read_text().splitlines()]
        for name in ("whole.jsonl", "out.jsonl")
    )
    assert [row["step"] for row in resumed] == [1, 2, 3, 4, 5, 6]
    assert [row["total"] for row in resumed] == [row["total"] for row in whole]
    assert "does not exist" in error_line(*job, "-o", "out.png", "--resume")


def test_the_log_of_another_job_is_replaced(monkeypatch):
    with monkeypatch.context() as patch:
        chunks = follow(patch, (0, 2))
        assert call(*STYLIZE, "-o", "out.png").exit_code == 130
    Path("log.jsonl").write_text("no JSON\n")
    result = call(*STYLIZE, "--resume", "--log", "log.jsonl", "-o", "out.png")
    assert (result.exit_code, result.stderr.count("\n")) == (0, 1)
    assert "belonged to another job" in result.stderr
    assert json.loads(Path("log.jsonl").read_text().splitlines()[0])["step"] == chunks[-1][1] + 1
