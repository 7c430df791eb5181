"""Whole jobs with each style loss by its name."""

import numpy as np
import pytest

from nst_jax import Settings, run, stylize, stylize_many
from nst_jax.errors import InputError
from nst_jax.settings import override

pytestmark = pytest.mark.extended


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("moments", "lbfgs"),
        ("sliced", "adam"),
        ("sliced", "lbfgs"),
        ("nearest", "adam"),
    ],
)
def test_a_style_loss_falls_and_is_in_the_metadata(make, one_level, name, optimizer):
    result = make(**one_level | {"style_loss": name, "optimizer": optimizer, "steps": 12})
    style = result.history["style"]
    style = style[np.isfinite(style)]
    assert style[-1] < style[0]
    assert result.metadata["style_loss"] == name


@pytest.mark.parametrize(
    ("style_loss", "optimizer"),
    [("gram", "lbfgs"), ("sliced", "adam"), ({"gram": 1.0, "nearest": 0.5}, "adam")],
)
def test_auto_takes_adam_for_random_draws(job_of, style_loss, optimizer):
    job = job_of(style_loss=style_loss, optimizer="auto")
    assert job.metadata["optimizer"] == optimizer
    assert job.metadata["ema_decay"] == {"adam": 0.9, "lbfgs": 0.0}[optimizer]


def test_a_learning_rate_is_for_the_optimizer_that_auto_takes(job_of):
    job = job_of(style_loss="sliced", optimizer="auto", learning_rate=0.02, ema_decay=0.5)
    assert (job.metadata["optimizer"], job.metadata["learning_rate"]) == ("adam", 0.02)
    assert job.engine.ema_decay == 0.5
    with pytest.raises(InputError, match="learning_rate is for adam; L-BFGS finds its own step"):
        job_of(optimizer="auto", learning_rate=0.02)


def test_a_mixture_is_in_the_metadata(make, one_level):
    result = make(**one_level | {"style_loss": {"gram": 1.0, "nearest": 0.5}, "steps": 2})
    assert result.metadata["style_loss"] == {"gram": 1.0, "nearest": 0.5}


@pytest.mark.extended
@pytest.mark.usefixtures("small_tiles")
def test_moments_run_tile_by_tile_and_samples_refuse_it(job_of, large, make, bytes_of_levels):
    limited = large | {"style_loss": "moments"}
    limit = bytes_of_levels(job_of(**limited))[1] - 1
    assert make(**limited, memory_limit=limit).metadata["tile"] == 32
    with pytest.raises(InputError, match="memory"):
        make(**limited | {"style_loss": "nearest", "memory_limit": limit // 2})


def test_only_additive_losses_mix_styles(content, styles, one_level):
    settings = override(None, one_level | {"steps": 1})
    mixed = stylize(content, styles[:2], settings, style_loss="moments")
    assert np.isfinite(mixed.image).all()
    with pytest.raises(InputError, match="cannot mix several styles"):
        stylize(content, styles[:2], settings, style_loss="sliced")


def test_a_batch_draws_the_same_numbers_as_one_image(content, styles, one_level):
    settings = override(None, one_level | {"style_loss": "sliced"})
    together = list(stylize_many(content, styles[:2], settings, batch_size=2))
    alone = list(stylize_many(content, styles[:2], settings, batch_size=1))
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.image, b.image, atol=2e-3)


def test_resume_draws_the_numbers_of_an_uninterrupted_run(job_of, checkpoint, leave_at):
    job = job_of(style_loss="sliced")
    *_, whole = run(job)
    leave_at(job, 5)
    *_, resumed = run(job, checkpoint=checkpoint, resume=True)
    np.testing.assert_array_equal(resumed.image, whole.image)


@pytest.mark.parametrize("wrong", ["grams", {}, {"gram": -1}, {"gram": 0.0}, 3, {"gram": "x"}])
def test_an_unknown_style_loss_is_refused(wrong):
    with pytest.raises(InputError, match=r"style_loss is .*gram, moments, sliced, nearest"):
        Settings(style_loss=wrong)
