"""A job that was stopped continues bit for bit."""

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nst_jax import InputError, prepare_job, reconstruct_content, stylize, synthesize_texture
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline import runner
from nst_jax.settings import override


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.checkpoint"


@pytest.fixture
def stop_at(content, styles, small, path):
    """Return a function that runs the small job up to a step and leaves a checkpoint."""

    def stop(step, **options):
        return stylize(
            content,
            styles[0],
            **small | options,
            checkpoint=path,
            callback_every=1,
            on_progress=lambda progress: progress.step >= step,
        )

    return stop


@pytest.mark.parametrize("step", [2, 3, 6])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_resumed_equals_uninterrupted(
    stop_at, content, styles, small, path, alone, optimizer, step
):
    """Stopped in the first level, at its end, and in the second."""
    part = stop_at(step, optimizer=optimizer)
    assert (part.metadata["stopped"], part.metadata["steps_done"]) == (True, step)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    steps = []
    resumed = stylize(
        content,
        styles[0],
        **small | {"optimizer": optimizer},
        checkpoint=str(path),
        resume=True,
        on_progress=lambda progress: steps.extend(progress.metrics.get("step", ())),
    )
    expected = alone[optimizer][0]
    np.testing.assert_array_equal(resumed.image, expected.image)
    np.testing.assert_array_equal(resumed.history["total"], expected.history["total"])
    assert resumed.history["step"].tolist() == list(range(1, 9))
    assert steps == list(range(step + 1, 9))
    assert not resumed.metadata["stopped"]
    assert not path.exists()


def test_a_job_can_be_stopped_again_and_again(stop_at, content, styles, small, path, alone):
    stop_at(1)
    for step in (2, 4, 7):
        stop_at(step, resume=True)
    resumed = stylize(content, styles[0], **small, checkpoint=path, resume=True)
    np.testing.assert_array_equal(resumed.image, alone["adam"][0].image)


@pytest.mark.parametrize("make", [synthesize_texture, reconstruct_content])
def test_textures_and_reconstructions_resume_too(styles, one_level, path, make):
    make(
        styles[0],
        **one_level,
        checkpoint=path,
        callback_every=1,
        on_progress=lambda progress: progress.step >= 3,
    )
    resumed = make(styles[0], **one_level, checkpoint=path, resume=True)
    np.testing.assert_array_equal(resumed.image, make(styles[0], **one_level).image)


def test_the_state_is_saved_at_intervals(content, styles, small, path, alone, monkeypatch):
    """So a process that is killed loses little. Here it is killed while it computes."""
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)

    class KilledBatch(runner._Batch):
        def progress(self, chunk):
            progress = super().progress(chunk)
            if progress.step == 6:
                raise MemoryError
            return progress

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_Batch", KilledBatch)
        with pytest.raises(MemoryError):
            stylize(content, styles[0], **small, checkpoint=path, callback_every=1)
    job = prepare_job(content, styles[0], override(None, small))
    assert int(checkpoints.load(path, job).state.step) == 5
    resumed = stylize(content, styles[0], **small, checkpoint=path, resume=True)
    np.testing.assert_array_equal(resumed.image, alone["adam"][0].image)


def test_a_checkpoint_that_cannot_be_written_costs_no_image(
    content, styles, small, tmp_path, caplog
):
    result = stylize(
        content,
        styles[0],
        **small,
        checkpoint=tmp_path / "none" / "job.checkpoint",
        on_progress=lambda progress: progress.step >= 3,
    )
    assert result.metadata["stopped"]
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 50}, r"levels is \[34, 48\] there and \[35, 50\] here; give the same"),
        ({"content_weight": 0.5}, "content_weight is 0.05 there and 0.5 here"),
        ({"steps": (3, 6)}, "num_steps is 8 there and 9 here"),
        ({"optimizer": "lbfgs"}, "belongs to another job: ema_decay is 0.9 there and 0.0 here"),
        ({"init": "noise"}, "init is 'content' there and 'noise' here"),
    ],
    ids=str,
)
def test_the_checkpoint_of_another_job_is_refused(
    stop_at, content, styles, small, path, changes, message
):
    stop_at(1)
    with pytest.raises(InputError, match=message):
        stylize(content, styles[0], **small | changes, checkpoint=path, resume=True)
    assert path.exists()


def test_other_pixels_under_the_same_names_are_refused(stop_at, content, styles, small, path):
    stop_at(1)
    for other in ((255 - content, styles[0]), (content, styles[1])):
        with pytest.raises(InputError, match="its images have the same names and other pixels"):
            stylize(*other, **small, checkpoint=path, resume=True)


def test_files_that_are_no_checkpoint_are_refused(stop_at, content, styles, small, path, tmp_path):
    stop_at(1)
    complete = path.read_bytes()
    empty, cut, other, text = (tmp_path / name for name in ("empty", "cut", "other", "text"))
    empty.write_bytes(b"")
    cut.write_bytes(complete[: len(complete) // 2])
    save_file({"image": np.zeros(3)}, other)
    text.write_text("a letter to a friend")
    no_checkpoint = "is no complete checkpoint of this job; start without resume"
    for file, message in (
        (tmp_path / "missing", "does not exist; start without resume"),
        *((file, no_checkpoint) for file in (empty, cut, other, text, tmp_path)),
    ):
        with pytest.raises(InputError, match=message):
            stylize(content, styles[0], **small, checkpoint=file, resume=True)


def test_arrays_of_another_shape_or_dtype_are_refused(stop_at, content, styles, small, path):
    stop_at(1)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    assert arrays[".image"].shape == (26, 34, 3)
    for damaged in (
        {name: array for name, array in arrays.items() if name != ".image"},
        arrays | {".image": arrays[".image"][:1]},
        arrays | {".image": arrays[".image"].astype(np.float64)},
    ):
        save_file(damaged, path, metadata)
        with pytest.raises(InputError, match=r"it has no \.image of shape \(26, 34, 3\)"):
            stylize(content, styles[0], **small, checkpoint=path, resume=True)
