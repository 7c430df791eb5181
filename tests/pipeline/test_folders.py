"""Each content in each style, into a folder."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from nst_jax import DivergedError, InputError, stylize_folder
from nst_jax.images import read, read_metadata
from nst_jax.pipeline import folders, list_images, runner


@pytest.fixture
def out(files):
    return files / "out"


@pytest.fixture
def make(files, out, small):
    """Return a function that stylizes contents and styles by name and lists the items."""

    def stylize_files(contents, styles, **options):
        paths = [files / "contents" / f"{name}.png" for name in contents]
        style_paths = [files / "styles" / f"{name}.png" for name in styles]
        return list(stylize_folder(paths, style_paths, out, **small | options))

    return stylize_files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_content_is_stylized_with_each_style(make, out, alone):
    items = make(["cat", "rotated"], ["coffee", "flower"])
    expected = ["cat-coffee.png", "cat-flower.png", "rotated-coffee.png", "rotated-flower.png"]
    assert [item.out.name for item in items] == names(out) == expected
    assert all((item.error, item.skipped) == (None, False) for item in items)
    pixels = read(out / "cat-flower.png").pixels
    assert np.abs(pixels - alone["adam"][1].image).max() <= 0.5 / 255 + 1e-6
    metadata = json.loads(read_metadata(out / "cat-flower.png")["nst_jax"])
    assert (metadata["content"], metadata["styles"]) == ("cat.png", ["flower.png"])


def test_contents_of_one_shape_share_their_executables(make, compilations):
    new_shape = {"size": 52, "min_size": None, "steps": 2}
    items = make(["cat", "rotated"], ["coffee", "flower"], **new_shape)
    assert [item.error for item in items] == [None] * 4
    assert compilations().count("jit(_run_chunk)") == 1


def test_an_image_that_exists_stays(make, out):
    out.mkdir()
    (out / "cat-coffee.png").write_bytes(b"mine")
    items = make(["cat"], ["coffee", "flower"])
    assert [(item.skipped, item.error) for item in items] == [(True, None), (False, None)]
    assert (out / "cat-coffee.png").read_bytes() == b"mine"


def test_a_bad_file_costs_its_own_images_only(make, files, out):
    (files / "contents" / "bad.png").write_bytes(b"no image")
    (files / "styles" / "worse.png").write_bytes(b"")
    items = make(["bad", "cat"], ["worse", "coffee"])
    errors = {item.out.stem: item.error for item in items}
    assert list(errors) == ["bad-worse", "bad-coffee", "cat-worse", "cat-coffee"]
    assert "worse.png" in str(errors["bad-worse"])
    assert "bad.png" in str(errors["bad-coffee"])
    assert "worse.png" in str(errors["cat-worse"])
    assert errors["cat-coffee"] is None
    assert names(out) == ["cat-coffee.png"]


@pytest.fixture(scope="module")
def diverging(alone):
    """An optimizer that diverges in its second step for the flower, which has the largest loss."""
    coffee, flower, person = (result.history["total"][0] for result in alone["adam"])
    assert flower > coffee > person

    def update(updates, step, params=None, **extra):
        diverges = (step == 1) & (extra["value"] > (flower + coffee) / 2)
        return jax.tree.map(lambda g: jnp.where(diverges, jnp.nan, -1e-3 * g), updates), step + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros((), jnp.int32), update)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_divergence_costs_its_own_image_only(make, out, diverging, monkeypatch, batch_size):
    """Also after the checkpoint of a batch that then diverges."""
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    styles = ["coffee", "flower", "person"]
    items = make(["cat"], styles, optimizer=diverging, batch_size=batch_size)
    errors = {item.style.stem: item.error for item in items}
    assert list(errors) == styles
    assert isinstance(errors["flower"], DivergedError)
    assert "the loss stopped being finite" in str(errors["flower"])
    assert (errors["coffee"], errors["person"]) == (None, None)
    assert {"cat-coffee.png", "cat-person.png"} == set(names(out)) - {folders.CHECKPOINT_NAME}


def test_divergence_after_resuming_is_blamed_on_its_own_image(make, out, diverging):
    """The run continues with the second style, before the first one, whose image was removed."""

    def stop(progress):
        return progress.index == 1 and progress.step == 1

    options = {"optimizer": diverging, "styles": ["coffee", "flower"]}
    make(["cat"], **options, on_progress=stop)
    (out / "cat-coffee.png").unlink()
    items = make(["cat"], **options)
    assert [item.style.stem for item in items] == ["flower", "coffee"]
    assert isinstance(items[0].error, DivergedError)
    assert items[1].error is None


def test_a_stopped_run_continues_from_its_checkpoint(make, out, alone):
    def stop(progress):
        return progress.index == 1 and progress.level == 1

    first = make(["cat", "rotated"], ["coffee", "flower"], on_progress=stop)
    assert [item.out.stem for item in first] == ["cat-coffee"]
    assert names(out) == [folders.CHECKPOINT_NAME, "cat-coffee.png"]
    steps = []
    follow = {"on_progress": lambda progress: steps.append(progress.step)}
    second = make(["cat", "rotated"], ["coffee", "flower"], **follow)
    assert [item.skipped for item in second] == [True, False, False, False]
    assert steps[0] > 4
    assert folders.CHECKPOINT_NAME not in names(out)
    pixels = read(out / "cat-flower.png").pixels
    assert np.abs(pixels - alone["adam"][1].image).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(("style_names", "left"), [(["coffee", "flower"], 1), (["coffee"], 0)])
def test_a_stop_at_the_end_of_an_image_saves_it_and_ends_the_run(make, out, style_names, left):
    items = make(["cat", "rotated"], style_names, on_progress=lambda progress: progress.done)
    assert [item.out.stem for item in items] == ["cat-coffee"]
    assert len(names(out)) == 1 + left  # the checkpoint, where the content has another style
    again = make(["cat", "rotated"], style_names)
    assert [item.skipped for item in again] == [True] + [False] * (2 * len(style_names) - 1)
    assert folders.CHECKPOINT_NAME not in names(out)


def test_a_folder_lists_its_images_by_name(files):
    folder = files / "contents"
    (folder / "notes.txt").write_text("no image")
    (folder / "a.JPG").write_bytes(b"")
    assert [path.name for path in list_images([folder])] == ["a.JPG", "cat.png", "rotated.png"]
    assert list_images([folder / "cat.png", folder / "cat.png"]) == [folder / "cat.png"]
    (files / "empty").mkdir()
    for path, message in ((files / "empty", "has no images"), (files / "none", "does not exist")):
        with pytest.raises(InputError, match=message):
            list_images([path])


def test_what_cannot_be_written_is_refused_before_the_first_image(files, small, out):
    contents, styles = ([*(files / name).iterdir()] for name in ("contents", "styles"))

    def refused(contents, folder, message, **options):
        with pytest.raises(InputError, match=message):
            next(stylize_folder(contents, styles, folder, **small | options))

    refused(contents, files / "contents" / "cat.png", "cannot be created")
    refused(contents, out, "unknown extension", suffix=".xyz")
    refused(contents, out, "no setting 'sise'", sise=3)
    Image.new("RGB", (48, 48)).save(files / "cat.png")
    refused([*contents, files / "cat.png"], out, "would both be written to 'cat-[a-z]+.png'")
    assert not list(out.iterdir())
