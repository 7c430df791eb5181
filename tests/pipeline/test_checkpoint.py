"""A job that was stopped goes on as if nothing had happened."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nst_jax import InputError, reconstruct, stylize, texture
from nst_jax.pipeline import runner as painting

SMALL = {
    "size": 48,
    "min_scale": 32,
    "steps": (5, 9),
    "model": "vgg16",
    "dtype": "float32",
    "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5},
    "content_layers": {"relu2_2": 1.0},
}


def stopped(step, pictures, path, **options):
    return stylize(
        *pictures, **options, checkpoint=path, every=1, on_progress=lambda now: now.step >= step
    )


@pytest.fixture
def pictures(cat, roofs):
    return cat, roofs


@pytest.fixture
def kept(tmp_path, pictures):
    """A checkpoint at the second scale."""
    path = tmp_path / "kept.checkpoint"
    stopped(7, pictures, path, **SMALL)
    return path


@pytest.mark.parametrize("step", [3, 5, 8])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_resumed_equals_uninterrupted(tmp_path, pictures, optimizer, step):
    """Bit for bit: stopped at the first scale, at its end, and at the second."""
    options, path = SMALL | {"optimizer": optimizer}, tmp_path / "kept"
    whole = stylize(*pictures, **options)
    part = stopped(step, pictures, path, **options)
    assert part.settings["stopped"]
    assert part.settings["steps_done"] == step
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    steps = []
    resumed = stylize(
        *pictures,
        **options,
        checkpoint=path,
        resume=True,
        on_progress=lambda now: steps.extend(entry["step"] for entry in now.losses),
    )
    np.testing.assert_array_equal(resumed.image, whole.image)
    totals = [[entry["total"] for entry in made.history] for made in (resumed, whole)]
    assert totals[0] == totals[1]
    assert steps == list(range(step + 1, 15))
    assert not resumed.settings["stopped"]
    assert not path.exists()


def test_a_job_can_be_stopped_again_and_again(tmp_path, pictures):
    path = tmp_path / "kept"
    stopped(2, pictures, path, **SMALL)
    for step in (4, 7, 11):
        stopped(step, pictures, path, **SMALL, resume=True)
    resumed = stylize(*pictures, **SMALL, checkpoint=path, resume=True)
    np.testing.assert_array_equal(resumed.image, stylize(*pictures, **SMALL).image)


def test_textures_and_reconstructions_too(tmp_path, cat):
    for make in (texture, reconstruct):
        path = tmp_path / "kept"
        options = SMALL | {"checkpoint": path, "steps": 6}
        make(cat, **options, every=1, on_progress=lambda now: now.step >= 4)
        plain = {name: value for name, value in options.items() if name != "checkpoint"}
        resumed = make(cat, **options, resume=True)
        np.testing.assert_array_equal(resumed.image, make(cat, **plain).image)


def test_the_state_is_kept_at_intervals(tmp_path, pictures, monkeypatch):
    """What a crash leaves behind is enough to go on from."""
    monkeypatch.setattr(painting, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "kept"

    def crash(now):
        if now.step >= 7:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stylize(*pictures, **SMALL, checkpoint=path, every=1, on_progress=crash)
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["nst_jax.checkpoint"])["step"] == 6
    resumed = stylize(*pictures, **SMALL, checkpoint=path, resume=True)
    np.testing.assert_array_equal(resumed.image, stylize(*pictures, **SMALL).image)


def test_a_checkpoint_that_cannot_be_written_costs_no_picture(tmp_path, pictures, caplog):
    made = stopped(3, pictures, tmp_path / "none" / "kept", **SMALL)
    assert made.settings["steps_done"] == 3
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 64}, "its scales was .* give the same"),
        ({"content_weight": 0.5}, "its content_weight was 0.05 and is 0.5"),
        ({"steps": (5, 10)}, "its steps"),
        ({"optimizer": "adam"}, "belongs to another job"),
        ({"init": "noise"}, "its init was 'content'"),
    ],
)
def test_another_job_is_refused(kept, pictures, changes, message):
    with pytest.raises(InputError, match=message):
        stylize(*pictures, **SMALL | changes, checkpoint=kept, resume=True)
    assert kept.exists()


def test_other_pictures_are_refused(kept, pictures, face):
    with pytest.raises(InputError, match="other pictures"):
        stylize(face, pictures[1], **SMALL, checkpoint=kept, resume=True)
    with pytest.raises(InputError, match="other pictures"):
        stylize(pictures[0], 1 - pictures[1], **SMALL, checkpoint=kept, resume=True)


def test_files_that_are_no_checkpoint_are_refused(kept, tmp_path, pictures):
    whole = kept.read_bytes()
    none, empty, cut, other, text = (tmp_path / name for name in "abcde")
    empty.write_bytes(b"")
    cut.write_bytes(whole[: len(whole) // 2])
    save_file({"image": np.zeros(3)}, other)
    text.write_text("a letter to a friend")
    for path, message in [
        (none, "does not exist; there is nothing to resume"),
        *[(path, "is not a whole checkpoint") for path in (empty, cut, other, text)],
        (tmp_path, "is not a whole checkpoint"),
    ]:
        with pytest.raises(InputError, match=message):
            stylize(*pictures, **SMALL, checkpoint=path, resume=True)


def test_arrays_of_another_kind_are_refused(kept, pictures):
    with safe_open(kept, "np") as file:
        note = file.metadata()
    arrays = load_file(kept)
    first = next(iter(arrays))
    for wrong in (
        {name: array for name, array in arrays.items() if name != first},
        arrays | {first: arrays[first][:1]},
        arrays | {first: arrays[first].astype(np.float64)},
    ):
        save_file(wrong, kept, note)
        with pytest.raises(InputError, match="lacks"):
            stylize(*pictures, **SMALL, checkpoint=kept, resume=True)
