"""A job that was stopped continues bit for bit."""

from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nst_jax import InputError, run
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline import job as job_module
from nst_jax.pipeline import runner


@pytest.mark.parametrize("step", [2, 3, 6])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_resumed_equals_uninterrupted(job_of, leave_at, make, checkpoint, alone, optimizer, step):
    """Stopped in the first level, at its end, and in the second."""
    leave_at(job_of(optimizer=optimizer), step)
    assert [file.name for file in checkpoint.parent.iterdir()] == [checkpoint.name]
    steps = []

    def on_progress(progress):
        steps.extend(progress.metrics.get("step", ()))

    options = {"checkpoint": str(checkpoint), "resume": True, "on_progress": on_progress}
    resumed = make(optimizer=optimizer, **options)
    expected = alone[optimizer][0]
    np.testing.assert_array_equal(resumed.image, expected.image)
    np.testing.assert_array_equal(resumed.history["total"], expected.history["total"])
    assert list(resumed.history) == list(expected.history)
    assert steps == list(range(step + 1, 9))
    assert not resumed.metadata["stopped"]
    assert not checkpoint.exists()


def test_the_state_is_saved_at_intervals(job_of, checkpoint, monkeypatch):
    """So a process that is killed loses little."""
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    job, saved_steps = job_of(), []
    for _ in run(job, checkpoint=checkpoint, callback_every=1):
        if checkpoint.exists():
            saved_steps.append(int(checkpoints.load(checkpoint, job).state.step))
    assert saved_steps == list(range(1, 8))  # always the step before


def test_a_checkpoint_that_cannot_be_written_costs_no_image(make, tmp_path, caplog):
    path = tmp_path / "none" / "job.checkpoint"
    assert make(checkpoint=path, on_progress=lambda progress: True).metadata["stopped"]
    assert "cannot be written" in caplog.text


def test_the_checkpoint_of_another_job_is_refused(job_of, leave_at, content, styles, checkpoint):
    leave_at(job_of(), 1)
    for changes, message in (
        ({"size": 50}, r"levels is \[34, 48\] there and \[35, 50\] here; give the same"),
        ({"content_weight": 0.5}, "content_weight is 0.05 there and 0.5 here"),
        ({"steps": (3, 6)}, "num_steps is 8 there and 9 here"),
        ({"optimizer": "lbfgs"}, "belongs to another job: ema_decay is 0.9 there and 0.0 here"),
        ({"init": "noise"}, "init is 'content' there and 'noise' here"),
        ({"content": 255 - content}, "its images have the same names and other pixels"),
        ({"styles": styles[1:2]}, "its images have the same names and other pixels"),
    ):
        with pytest.raises(InputError, match=message):
            next(run(job_of(**changes), checkpoint=checkpoint, resume=True))
    assert checkpoint.exists()


def test_each_image_is_hashed_once_however_many_styles_there_are(
    job_of, leave_at, styles, checkpoint, monkeypatch
):
    hashed = []
    sha256 = job_module.hashlib.sha256
    counting = SimpleNamespace(sha256=lambda x: hashed.append(x) or sha256(x))
    monkeypatch.setattr(job_module, "hashlib", counting)
    job = job_of(styles)
    leave_at(job, 1)
    assert len(hashed) == 3 + len(styles)  # the content twice, and the first image
    other = job_of([255 - style for style in styles])
    hashed.clear()
    assert [checkpoints.index_of(checkpoint, one) for one in (job, other)] == [0, None]
    assert hashed == []


def test_damaged_files_are_refused(job_of, leave_at, checkpoint, tmp_path):
    leave_at(job_of(), 1)
    complete, arrays = checkpoint.read_bytes(), load_file(checkpoint)
    with safe_open(checkpoint, "np") as file:
        metadata = file.metadata()

    def refused(
        path,
        message="is no complete checkpoint of this job; start without resume",
    ):
        with pytest.raises(InputError, match=message):
            checkpoints.load(path, job_of())

    refused(tmp_path / "missing", "does not exist; start without resume")
    refused(tmp_path, "is a folder, pipe or device; start without resume")
    for damaged in (b"", complete[: len(complete) // 2], b"a letter to a friend"):
        checkpoint.write_bytes(damaged)
        refused(checkpoint)
    save_file(arrays, checkpoint)  # without metadata
    refused(checkpoint)
    image = arrays.pop(".iterate")
    for damaged in ({}, {".iterate": image[:1]}, {".iterate": image.astype(np.float64)}):
        save_file(arrays | damaged, checkpoint, metadata)
        refused(checkpoint, r"it has no \.iterate of shape \(26, 34, 3\)")
