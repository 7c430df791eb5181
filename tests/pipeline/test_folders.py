"""Every content in every style: files, what is left alone, what fails, and strips of blends."""

import json
import os
import signal
import time

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from test_cli import CAT, EXAMPLES, FOR_BOTH, INK, SWIRLS, call, error_line, refused

from nst_jax import InputError, stylize
from nst_jax.apps.cli import batch as cli_many
from nst_jax.images import io as images
from nst_jax.pipeline.folders import pictures_in, stylize_pairs

pytestmark = pytest.mark.usefixtures("folder")

COFFEE = EXAMPLES / "coffee.jpg"
OPTIONS = {
    "size": 64,
    "steps": 3,
    "model": "vgg16",
    "style_layers": {"relu1_1": 1.0, "relu2_1": 0.5},
    "content_layers": {"relu2_2": 1.0},
}


@pytest.fixture
def photos(tmp_path):
    """A folder with a cat, a cup, a file that is no picture and one that claims to be one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for source in (CAT, COFFEE):
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("none either")
    return folder


@pytest.fixture
def styles(tmp_path):
    folder = tmp_path / "styles"
    folder.mkdir()
    for source in (INK, SWIRLS):
        (folder / source.name).write_bytes(source.read_bytes())
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_pair_is_made_and_a_bad_file_is_told_at_the_end(photos, styles, tmp_path):
    (styles / "worse.png").write_bytes(b"")
    result = call("batch", photos, "--styles", styles, "-o", "out", *FOR_BOTH)
    assert result.exit_code == 2
    assert result.stdout == "out: 4 pictures made, 0 there before, 5 failed\n"
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert any("worse.png" in line and line.endswith("(3 of the pictures)") for line in lines)
    assert any("bad.jpg" in line and line.endswith("(2 of the pictures)") for line in lines)
    made = ["cat-ink.png", "cat-swirls.png", "coffee-ink.png", "coffee-swirls.png"]
    assert names(tmp_path / "out") == made
    alone = stylize(photos / "coffee.jpg", styles / "swirls.jpg", **OPTIONS)
    picture = images.read("out/coffee-swirls.png").pixels
    assert np.abs(picture - alone.image).max() < 0.01
    noted = json.loads(images.read_metadata("out/coffee-swirls.png")["nst_jax"])
    assert (noted["content"], noted["styles"]) == ("coffee.jpg", ["swirls.jpg"])


def test_what_is_there_is_left(photos, styles, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat-ink.png").write_bytes(b"mine")
    result = call("batch", photos / "cat.jpg", "--styles", styles, "-o", "out", *FOR_BOTH)
    assert result.exit_code == 0
    assert result.stdout == "out: 1 pictures made, 1 there before, 0 failed\n"
    assert (out / "cat-ink.png").read_bytes() == b"mine"
    result = call("batch", photos / "cat.jpg", "--styles", styles, "-o", "out", *FOR_BOTH)
    assert result.stdout == "out: 0 pictures made, 2 there before, 0 failed\n"


def test_contents_of_one_shape_share_their_programs(photos, styles, tmp_path, compilations):
    photos = [photos / "cat.jpg", tmp_path / "other.jpg"]
    Image.open(CAT).rotate(180).save(photos[1])
    fresh = OPTIONS | {"size": 62, "optimizer": "adam"}  # of a size not compiled before
    pairs = list(stylize_pairs(photos, [styles / "ink.jpg", styles / "swirls.jpg"], "out", **fresh))
    assert [pair.error for pair in pairs] == [None] * 4
    assert compilations().count("jit(_chunk)") == 1


def test_divergence_costs_its_own_pictures_alone(photos, styles):
    """A step that is no number where the loss is above what two of three styles have."""
    order = [styles / "ink.jpg", SWIRLS, EXAMPLES / "mosaic.jpg"]
    once = OPTIONS | {"steps": 1, "optimizer": "adam"}
    first = {style.name: stylize(CAT, style, **once).history[0]["total"] for style in order}
    *_, limit, largest = sorted(first.values())
    (worst,) = (name for name, total in first.items() if total == largest)

    def explode(updates, state, params=None, **extra):
        broken = extra["value"] > (limit + largest) / 2
        return jax.tree.map(lambda g: jax.numpy.where(broken, jax.numpy.nan, 0 * g), updates), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), explode)
    for batch in (None, 3):
        pairs = stylize_pairs(
            [photos / "cat.jpg"],
            order,
            f"out{batch}",
            **OPTIONS | {"optimizer": optimizer},
            batch=batch,
        )
        got = {pair.style.name: pair.error for pair in pairs}
        assert [name for name, error in got.items() if error is not None] == [worst]
        assert "stopped being a finite number" in str(got[worst])


@pytest.mark.parametrize(("step", "kept", "code"), [(1, ["ink"], 130), (3, ["ink", "swirls"], 0)])
def test_an_interrupt_keeps_what_is_done(photos, styles, monkeypatch, step, kept, code):
    seen = []

    def follow(self, progress):
        seen.append(progress.step)
        if seen.count(step) == 2:  # at the first or the last of the second picture's steps
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cli_many.Pictures, "follow", follow)
    command = ("batch", photos / "cat.jpg", "--styles", styles, "-o", "out", *FOR_BOTH)
    result = call(*command, "--batch", "1")
    assert result.exit_code == code  # with the last step, nothing is left to stop
    assert ("the same command goes on" in result.stderr) == (code == 130)
    assert names(photos.parent / "out") == [f"cat-{style}.png" for style in kept]


def test_an_interrupt_ends_all_pictures_under_way(photos, styles, monkeypatch):
    under_way, sent = set(), []

    def follow(self, progress):
        under_way.add(progress.picture)
        if under_way == {0, 1} and not sent:
            sent.append(signal.SIGINT)
            os.kill(os.getpid(), *sent)
            time.sleep(0.5)  # it is the main thread's to handle

    monkeypatch.setattr(cli_many.Pictures, "follow", follow)
    jobs = ("batch", photos / "cat.jpg", "--styles", styles, "-o", "out", *FOR_BOTH)
    result = call(*jobs, "--steps", "9")
    assert result.exit_code == 130
    assert under_way == {0, 1}
    assert len(names(photos.parent / "out")) < 2


def test_formats_and_files_by_name(photos, styles, tmp_path):
    out = ("--styles", styles / "ink.jpg", "--styles", SWIRLS, "--suffix", ".jpg", "-o", "a/b")
    assert call("batch", photos / "cat.jpg", *out, *FOR_BOTH).exit_code == 0
    assert names(tmp_path / "a" / "b") == ["cat-ink.jpg", "cat-swirls.jpg"]


def test_a_folder_gives_its_pictures_in_order(photos):
    assert [path.name for path in pictures_in([photos])] == ["bad.jpg", "cat.jpg", "coffee.jpg"]
    assert pictures_in([photos / "cat.jpg", photos / "cat.jpg"]) == [photos / "cat.jpg"]


def test_what_cannot_be_done_is_one_line(photos, styles, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    job = ("batch", photos, "--styles", styles)
    assert "holds no pictures" in error_line("batch", empty, "--styles", styles, "-o", "out")
    assert "does not exist" in error_line("batch", "none", "--styles", styles, "-o", "out")
    assert "is also an input" in error_line(*job, "-o", photos)
    assert "content_weight is -1.0" in error_line(*job, "-o", "out", "--content-weight", "-1")
    (tmp_path / "file").write_text("")
    assert "cannot be made" in error_line(*job, "-o", "file/out")
    assert ".xyz" in error_line(*job, "-o", "out", "--suffix", ".xyz")
    Image.open(CAT).save(photos / "cat.png")
    assert "would both be 'cat-ink.png'" in error_line(*job, "-o", "out")
    assert "--styles" in refused("batch", photos, "-o", "out")
    with pytest.raises(InputError, match="no setting 'sise'"):
        list(stylize_pairs([CAT], [INK], "out", sise=3))


def test_one_wish_ends_the_run(photos, styles):
    """Also one that comes with the last step of a picture, which is kept."""
    made = stylize_pairs(
        [photos / "cat.jpg"],
        sorted(styles.iterdir()),
        "out",
        batch=1,
        on_progress=lambda now: now.step == now.steps,
        **OPTIONS,
    )
    assert [pair.style.stem for pair in made] == ["ink"]


# --- strips --------------------------------------------------------------------------------------


def test_a_strip_goes_from_style_to_style():
    result = call("interpolate", CAT, INK, SWIRLS, "-o", "strip.png", "--pictures", "3", *FOR_BOTH)
    assert result.exit_code == 0, result.output
    assert result.stdout == "strip.png: 192x43, 3 pictures\n"
    strip = images.read("strip.png").pixels
    first = stylize(CAT, INK, **OPTIONS).image
    last = stylize(CAT, SWIRLS, **OPTIONS).image
    assert np.abs(strip[:, :64] - first).max() < 0.01
    assert np.abs(strip[:, 128:] - last).max() < 0.01
    noted = json.loads(images.read_metadata("strip.png")["nst_jax"])
    assert [made.get("style_weights") for made in noted] == [None, [0.5, 0.5], None]


def test_a_strip_that_is_interrupted_holds_what_was_done(monkeypatch):
    def follow(self, progress):
        if self.done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cli_many.Pictures, "follow", follow)
    pictures = ("--pictures", "3", "--batch", "1")
    result = call("interpolate", CAT, INK, SWIRLS, "-o", "strip.png", *pictures, *FOR_BOTH)
    assert result.exit_code == 130
    assert "stopped after 1 of 3 pictures" in result.stderr
    assert images.read("strip.png").pixels.shape == (43, 64, 3)


def test_a_strip_of_one_style_is_refused():
    assert "at least two styles" in error_line("interpolate", CAT, INK, "-o", "s.png", *FOR_BOTH)
    Image.open(CAT).save("content.png")
    line = error_line("interpolate", "content.png", INK, SWIRLS, "-o", "content.png", *FOR_BOTH)
    assert "is also an input" in line
