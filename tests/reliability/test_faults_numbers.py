"""Numbers that stop being finite: the last finite image is saved, and one line says why."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from apps.helpers import call, make, metadata
from reliability.faults import (
    BATCH,
    CHECKPOINT,
    OUT,
    STYLIZE,
    fail_writing,
    left_files,
    one_error_line,
    save_often,
)

from nst_jax import DivergedError, Stylizer, images
from nst_jax.optimize import loop
from nst_jax.pipeline import runner
from nst_jax.pipeline.engine import Engine
from nst_jax.settings import Settings, override

pytestmark = pytest.mark.usefixtures("small_photos")
SETTINGS = Settings(
    size=32,
    min_size=20,
    model="vgg16",
    dtype="float32",
    steps=(3, 5),
    style_layers={"relu1_1": 1.0},
    content_layers={"relu1_2": 1.0},
)


class Spoiled:
    """An executable that puts a value into a part of the state before one of its calls."""

    def __init__(self, executable, calls, part, value):
        self.executable, self.calls, self.part, self.value = executable, calls, part, value

    def __call__(self, state, *args):
        if next(self.calls):

            def spoil(path, leaf):
                name = jax.tree_util.keystr(path)
                return leaf.at[0, 0].set(self.value) if name == self.part else leaf

            state = jax.tree_util.tree_map_with_path(spoil, state)
        return self.executable(state, *args)


def spoil(patch, part, value, number):
    """Spoil a part of the state before the ``number``-th chunk of one step."""
    calls = (i == number for i in range(1, 1000))
    compile_fn = Engine.compile
    patch.setattr(loop, "CHUNK_SECONDS", 0.0)
    patch.setattr(
        Engine, "compile", lambda *a, **kw: Spoiled(compile_fn(*a, **kw), calls, part, value)
    )


PARTS = {"image": ".iterate", "average": ".ema.average", "mean": ".opt_state[0].mu"}


CASES = [  # The levels have 3 and 5 steps.
    *(("image", np.nan, number) for number in (1, 4, 7)),
    ("image", np.inf, 3),
    ("average", np.nan, 3),
    ("average", np.inf, 7),
    *(("mean", np.nan, number) for number in (1, 4, 7)),
]


@pytest.mark.parametrize(("part", "value", "number"), CASES)
def test_a_value_that_is_not_finite_ends_with_the_last_finite_image(
    part, value, number, monkeypatch
):
    with monkeypatch.context() as patch:
        spoil(patch, PARTS[part], value, number)
        ended = call(*STYLIZE, "-o", OUT)
    assert ended.exit_code == 2, ended.output
    assert one_error_line(ended) == (
        f"error: the loss stopped being finite between steps {number - 1} and {number}; try a "
        "smaller learning rate or smaller weights"
    )
    assert f"out.png: the image of step {number - 1}, the last finite one" in ended.stderr
    assert left_files() == {OUT.name}
    assert metadata(OUT)["steps_done"] == number - 1
    assert images.read(OUT).pixels.std() > 0.01


def test_after_a_disturbance_the_last_checkpoint_resumes(whole, monkeypatch):
    with monkeypatch.context() as patch:
        save_often(patch)
        spoil(patch, ".iterate", np.nan, 7)
        assert call(*STYLIZE, "-o", OUT).exit_code == 2
    assert left_files() == {OUT.name, CHECKPOINT.name}
    np.testing.assert_array_equal(make(*STYLIZE, "--resume"), whole)


def test_an_image_that_diverged_and_cannot_be_written_has_one_line_for_both(monkeypatch):
    with monkeypatch.context() as patch:
        spoil(patch, ".iterate", np.nan, 4)
        fail_writing(patch, "output", errno.ENOSPC)
        ended = call(*STYLIZE, "-o", OUT)
    assert ended.exit_code == 2
    assert one_error_line(ended).startswith(
        "error: the loss stopped being finite between steps 3 and 4; try a smaller learning rate "
        "or smaller weights; output 'out.png': cannot be written (No space left on device); "
    )
    assert left_files() == set()


@pytest.mark.campaign
def test_raw_sums_beyond_float32_end_with_the_photo():
    options = ("--normalization", "none", "--style-weight", "1e30", "--content-weight", "1e30")
    ended = call(*STYLIZE, *options, "-o", OUT)
    assert ended.exit_code == 2, ended.output
    assert "try a smaller learning rate or smaller weights" in one_error_line(ended)
    assert metadata(OUT)["steps_done"] < 8
    assert left_files() == {OUT.name}


def test_a_learning_rate_beyond_float32_is_refused():
    ended = call(*STYLIZE, "--learning-rate", "1e39", "-o", OUT)
    assert (ended.exit_code, left_files()) == (2, set())
    assert "give a finite number above 0, up to 1e+30" in one_error_line(ended)


@pytest.mark.campaign
@pytest.mark.parametrize("rate", ["1e3", "1e30"])
def test_a_huge_learning_rate_saturates_pixels_and_ends(rate):
    """The clip to [0, 1] keeps a first-order step from diverging, however long it is."""
    pixels = make(*STYLIZE, "--learning-rate", rate, "--ema-decay", "0")
    assert np.isin(pixels, (0, 1)).mean() > 0.9


def gradient_with(value, at_step):
    """Return a transformation that puts a value into the gradient at one step."""

    def update(gradient, count, params=None):
        spoiled = gradient.at[0, 0, 0].set(value)
        return jnp.where(count == at_step, spoiled, gradient), count + 1

    first = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
    return optax.chain(first, optax.adam(0.01))


@pytest.mark.campaign
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "infinity"])
def test_a_gradient_that_is_not_finite_at_one_step_is_noticed_there(value, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    settings = override(SETTINGS, {"optimizer": gradient_with(value, 5)})
    with pytest.raises(DivergedError, match="between steps 5 and 6") as caught:
        list(runner.run(Stylizer(settings).job("content.png", "style.png")))
    (last,) = caught.value.results
    assert (caught.value.step, last.metadata["steps_done"]) == (5, 5)
    assert np.isfinite(last.image).all()


def test_an_image_of_a_batch_that_diverges_costs_itself_alone(monkeypatch):
    with monkeypatch.context() as patch:
        spoil(patch, ".iterate", np.nan, 2)
        ended = call(*BATCH, "-o", "out")
    assert ended.exit_code == 2
    assert "stopped being finite between steps 1 and 2" in one_error_line(ended)
    assert "1 images made, 0 skipped, 1 failed" in ended.stdout
    again = call(*BATCH, "-o", "out")
    assert (again.exit_code, "1 images made, 1 skipped" in again.stdout) == (0, True)


@pytest.mark.campaign
@pytest.mark.parametrize("number", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "infinity"])
def test_with_lbfgs_too_the_last_finite_image_is_saved(number, value, monkeypatch):
    job = [word if word != "adam" else "lbfgs" for word in STYLIZE]
    with monkeypatch.context() as patch:
        spoil(patch, ".opt_state.accepted", value, number)
        ended = call(*job, "-o", OUT)
    assert ended.exit_code == 2, ended.output
    assert f"between steps {number - 1} and {number}" in one_error_line(ended)
    assert left_files() == {OUT.name}
    assert metadata(OUT)["steps_done"] == number - 1


def test_lbfgs_refuses_a_trial_that_is_not_finite_and_finishes(monkeypatch):
    job = [word if word != "adam" else "lbfgs" for word in STYLIZE]
    with monkeypatch.context() as patch:
        spoil(patch, ".iterate", np.nan, 6)
        ended = call(*job, "-o", OUT)
    assert ended.exit_code == 0, ended.output
    assert metadata(OUT)["steps_done"] == 8
    assert np.isfinite(images.read(OUT).pixels).all()
