"""Checkpoints that are damaged, false or of another job, which --resume is given."""

import json
import os
import pickle
import re
import shutil
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from apps.helpers import SMALL, STYLIZE
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from reliability.hostile import assert_clear, attempt, attempt_apart, rarely
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import nst_jax
from nst_jax import images
from nst_jax.pipeline.api import interpolation_job
from nst_jax.pipeline.checkpoint import METADATA_KEY

SETTINGS = {
    "size": 32,
    "steps": 6,
    "model": "vgg16",
    "dtype": "float32",
    "style_layers": {"relu1_1": 1.0},
    "content_layers": {"relu1_2": 1.0},
    "optimizer": "adam",  # It compiles faster.
}
CHECKPOINT = Path("out.png.checkpoint")
RESUME = (*STYLIZE, "--optimizer", "adam", "-o", "out.png", "--resume")


@pytest.fixture(scope="module")
def original(photo_folder):
    """Stop the job of RESUME after a step; return its checkpoint."""
    nst_jax.stylize(
        "content.png",
        "style.png",
        **SETTINGS,
        checkpoint="original",
        callback_every=1,
        on_progress=lambda progress: progress.step >= 1,
    )
    return Path("original")


def resume(expected=None):
    """Resume; a checkpoint that is refused stays, and the job that goes on makes a valid image."""
    Path("out.png").unlink(missing_ok=True)
    outcome = attempt(*RESUME)
    assert_clear(outcome)
    if outcome.code == 0:
        assert np.isfinite(images.read("out.png").pixels).all()
        made = json.loads(images.read_metadata("out.png")["nst_jax"])
        assert not made["stopped"]
    elif "last finite" not in outcome.stderr:
        assert "checkpoint" in outcome.stderr
        assert not Path("out.png").exists()
    assert expected is None or outcome.code == expected, outcome
    return outcome


def test_the_checkpoint_is_taken_before_it_is_damaged(original):
    shutil.copy(original, CHECKPOINT)
    assert resume().code == 0
    assert not CHECKPOINT.exists()


@pytest.mark.parametrize("share", [0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999, 0.999999])
def test_a_checkpoint_that_was_cut_is_refused(share, original):
    CHECKPOINT.write_bytes(original.read_bytes()[: int(original.stat().st_size * share)])
    resume(expected=2)


@pytest.mark.parametrize("seed", rarely(range(60), range(18)))
def test_a_checkpoint_with_bytes_changed_is_taken_or_refused(seed, original):
    """In turn in its header, in its metadata and anywhere."""
    rng, data = np.random.default_rng(seed), bytearray(original.read_bytes())
    end = (8, 8 + int.from_bytes(data[:8], "little"), len(data))[seed % 3]
    for position in rng.integers(0, end, 1 + seed % 7):
        data[position] ^= int(rng.integers(1, 256))
    CHECKPOINT.write_bytes(data)
    resume()


FILES = {
    "empty": b"",
    "text": b"a checkpoint\n",
    "zeros": bytes(9999),
    "a pickle": pickle.dumps({"step": 1}),
    "a long header": struct.pack("<Q", 2**40) + b"{}",
    "a header that is nested": struct.pack("<Q", 99_999 * 5) + b'{"a":' * 99_999,
    "without arrays": struct.pack("<Q", 2) + b"{}",
    "an image": "content.png",
    "the weights": nst_jax.weights.bundled_path(),
    "a folder": None,
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_checkpoint_is_refused(name, original):
    CHECKPOINT.unlink(missing_ok=True)
    content = FILES[name]
    if content is None:
        CHECKPOINT.mkdir()
    else:
        CHECKPOINT.write_bytes(
            content if isinstance(content, bytes) else Path(content).read_bytes()
        )
    resume(expected=2)
    if CHECKPOINT.is_dir():
        CHECKPOINT.rmdir()


@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "/dev/null", "loop", "out.png.checkpoint"])
def test_a_checkpoint_that_is_no_regular_file_is_refused_at_once(target, original):
    for name in ("pipe", "loop"):
        Path(name).unlink(missing_ok=True)
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    CHECKPOINT.unlink(missing_ok=True)
    CHECKPOINT.symlink_to(target)
    if target == "pipe":  # Opening it may wait where no signal is seen.
        assert_clear(outcome := attempt_apart(*RESUME, timeout=60))
        assert outcome.code == 2
    else:
        resume(expected=2)
    CHECKPOINT.unlink()


def rewrite(original, change_metadata=None, change_arrays=None):
    arrays = load_file(original)
    with safe_open(original, "np") as file:
        metadata = json.loads(file.metadata()[METADATA_KEY])
    text = None
    if change_metadata:
        text = change_metadata(metadata)
    if change_arrays:
        arrays = change_arrays(arrays) or arrays
    save_file(arrays, CHECKPOINT, {METADATA_KEY: text or json.dumps(metadata)})


TEXTS = ("", "{}", "[]", "null", "5", "{", "[" * 100_000, '{"job": {}}', "NaN", "9" * 5000)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:20])
def test_metadata_that_is_no_checkpoints_is_refused(text, original):
    rewrite(original, lambda metadata: text or " ")
    resume(expected=2)


VALUES = (None, True, -1, 0, 1, 2, 0.5, 10**30, "1", "abc", "", [], {}, [1], {"a": 1}, [[]], 1e999)


@pytest.mark.parametrize("value", VALUES, ids=ascii)
@pytest.mark.parametrize("key", ["job", "index", "num_images", "level", "columns"])
def test_a_false_value_in_the_metadata_is_taken_or_refused(key, value, original):
    rewrite(original, lambda metadata: metadata.update({key: value}))
    resume()


@pytest.mark.parametrize(
    "value", [None, -1, 10**30, "x" * 100_000, [], {}, "\x1b[31m\n"], ids=ascii
)
@pytest.mark.parametrize("key", ["seed", "levels", "pixels", "images", "unknown"])
def test_a_checkpoint_of_another_job_is_refused(key, value, original):
    rewrite(original, lambda metadata: metadata["job"].update({key: value}))
    resume(expected=2)


def filled(name, value):
    return lambda arrays: arrays.update({name: np.full_like(arrays[name], value)})


NUMBERS = (-1, 0, 5, 6, 7, 2**31 - 1, -(2**31))


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("name", [".step", ".level_step"])
def test_a_false_number_of_steps_is_taken_or_refused(name, value, original):
    rewrite(original, None, filled(name, value))
    resume()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -5.0])
def test_an_image_that_is_not_finite_is_taken_or_refused(value, original):
    rewrite(original, None, filled(".iterate", value))
    resume()


def test_each_array_that_is_missing_or_of_another_shape_or_dtype_is_refused(original):
    for name in load_file(original):
        for change in (
            lambda arrays, name=name: {k: v for k, v in arrays.items() if k != name},
            lambda arrays, name=name: arrays.update({name: arrays[name][..., None][:0]}),
            lambda arrays, name=name: arrays.update({name: arrays[name].astype(np.complex64)}),
        ):
            rewrite(original, None, change)
            resume(expected=2)


@pytest.mark.parametrize("command", ["--size 16", "--steps 7", "--seed 1", "--style-weight 2"])
def test_the_checkpoint_of_other_options_is_refused(command, original):
    shutil.copy(original, CHECKPOINT)
    assert "belongs to another job" in assert_clear(attempt(*RESUME, *command.split()))


@pytest.mark.parametrize(
    "panel", rarely(["nothing", "another size", "false metadata", "another image"], "another image")
)
def test_the_panels_of_another_strip_are_refused(panel, photo_folder):
    line = ("interpolate", "content.png", "style.png", "other.png", *SMALL, "--num-images", "2")
    line = (*line, "--optimizer", "adam")
    settings = nst_jax.Settings(**SETTINGS)
    job = interpolation_job(
        nst_jax.Stylizer(settings), "content.png", ["style.png", "other.png"], num_images=2
    )
    with closing(nst_jax.run(job, checkpoint=Path("strip.png.checkpoint"))) as progresses:
        next(progress for progress in progresses if progress.done)
        next(progresses)
    first = Path("strip.png.1.png")
    first.unlink(missing_ok=True)
    if panel == "another image":
        shutil.copy("content.png", first)
    elif panel != "nothing":
        size = (32, 24) if panel == "false metadata" else (9, 9)
        info = PngInfo()
        info.add_text("nst_jax", "{" if panel == "false metadata" else "{}")
        Image.new("RGB", size).save(first, pnginfo=info)
    outcome = attempt(*line, "-o", "strip.png", "--resume")
    assert re.search(r"strip.png.\d.png' is not of|strip.png.1.png': cannot", assert_clear(outcome))
