"""Whole jobs with the caller's own statistic, terms, parameters and optimizer."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from losses.channel_statistics import ChannelMean
from losses.example_terms import Declared, Peak, Temporal

import nst_jax
from nst_jax import Settings, Term, run
from nst_jax.errors import InputError
from nst_jax.losses import Gram
from nst_jax.losses.statistics import WeightedSum
from nst_jax.networks import resolve_dtype
from nst_jax.optimize import pyramid_lbfgs
from nst_jax.pipeline.descriptions import fingerprint


@dataclass(frozen=True)
class SignedRoots:
    """A statistic that is not additive."""

    additive: ClassVar[bool] = False

    def measure(self, features, mask=None):
        return jnp.sort(features.astype(jnp.float32).mean(-1).ravel())[:16]

    def distance(self, measured, target):
        return jnp.square(measured - target).mean()


@dataclass(frozen=True)
class Brightness(Term):
    name = "brightness"

    def measure(self, image, features, target):
        return jnp.square(image).mean()

    def value(self, measured, num_positions, target):
        return measured


@dataclass(frozen=True)
class Recorder(Brightness):
    """Compares with an array whose values are its height and width."""

    name = "recorder"

    def measure(self, image, features, target):
        assert target["size"].shape == image.shape[:2]
        return target["size"].max()


@pytest.fixture
def result(alone):
    return alone["adam"][0]


def test_the_gram_statistic_given_by_hand_is_the_default(make, result):
    own = make(style_loss=Gram("target_energy"))
    np.testing.assert_array_equal(own.image, result.image)
    assert result.metadata["style_loss"] == "gram"
    assert own.metadata["style_loss"] == "Gram(normalization='target_energy')"


@pytest.mark.extended
def test_a_statistic_that_is_not_additive_makes_an_image_and_refuses_tiles(make):
    own = make(style_loss=SignedRoots())
    assert np.isfinite(own.image).all()
    with pytest.raises(InputError, match="memory"):
        make(style_loss=SignedRoots(), memory_limit="1MB")


def test_a_term_is_minimized_by_its_weight_and_recorded(make, result):
    own = make(terms=[Brightness()], term_weights={"brightness": 2.0})
    history = own.history
    expected = 0.05 * history["content"] + history["style"] + 2 * history["brightness"]
    np.testing.assert_allclose(history["total"], expected, rtol=1e-5)
    assert own.image.mean() < result.image.mean()
    assert own.metadata["terms"] == ["Brightness()"]
    assert own.metadata["term_weights"] == {"brightness": 2.0}


def test_terms_alone_make_an_image(make):
    own = make(terms=[Brightness()], content_weight=0, style_weight=0)
    np.testing.assert_allclose(own.history["total"], own.history["brightness"])


def test_frames_with_other_arrays_compile_nothing_after_the_first(
    make, content, monkeypatch, tmp_path, compilations
):
    """With two levels, tiles, a checkpoint, and the pixels of the last frame as arrays."""
    monkeypatch.setattr("nst_jax.pipeline.planning.choose_tile", lambda *args: 32)
    job = {"terms": [Temporal()], "term_weights": {"temporal": 50.0}}
    previous, path, logs, first = np.zeros((36, 48, 3)), tmp_path / "frame", [], 0
    for _ in range(5):
        arrays = {"temporal": {"previous": previous, "mask": np.full((36, 48, 1), 0.5)}}
        result = make(arrays=arrays, checkpoint=path, **job)
        logs.append(result.history["temporal"])
        previous = result.image
        first = first or len(compilations())
    assert first > 0
    assert compilations()[first:] == []
    assert result.metadata["tile"] == 32
    assert logs[0][-1] > 2 * logs[4][-1]  # Each frame has arrays of its own.


def test_arrays_are_resampled_for_each_level_or_given_by_a_function(make):
    given = np.broadcast_to(np.linspace(0, 1, 48), (36, 48))
    own = make(terms=[Recorder()], arrays={"recorder": {"size": given}})
    fine = own.history["size"] == 48
    np.testing.assert_allclose(own.history["recorder"][fine], 1)
    assert (np.abs(own.history["recorder"][~fine] - 1) < 0.02).all()

    def of_level(shape):
        return {"size": np.full(shape, shape[1], np.float32)}

    by_function = make(terms=[Recorder()], arrays={"recorder": of_level})
    np.testing.assert_array_equal(by_function.history["recorder"], by_function.history["size"])


def test_a_checkpoint_with_other_arrays_is_refused(small, leave_at, checkpoint, content, styles):
    settings = {"terms": [Temporal()], "term_weights": {"temporal": 5.0}}
    images = [np.full((36, 48, 3), value) for value in (0.25, 0.5)]
    stylizer = nst_jax.Stylizer(**small | settings)
    jobs = [
        stylizer.job(content, styles[0], arrays={"temporal": {"previous": x, "mask": np.ones(1)}})
        for x in images
    ]
    leave_at(jobs[0], 4)
    with pytest.raises(InputError, match=r"arrays is \{'temporal': "):
        next(run(jobs[1], checkpoint=checkpoint, resume=True))
    *_, resumed = run(jobs[0], checkpoint=checkpoint, resume=True)
    *_, whole = run(jobs[0])
    np.testing.assert_array_equal(resumed.image, whole.image)


def test_bad_arrays_are_refused_before_the_job_starts(content, styles, small):
    settings = Settings(**small, terms=[Declared()])
    for arrays, message in (
        ({"other": 1}, "arrays has 'other' and the terms are temporal; name a term"),
        ({}, "the array previous of the term temporal is missing"),
        (
            {"temporal": {"previous": content, "mask": content}},
            r"the array previous of the term temporal has the shape \(48, 64, 3\); give one of the "
            r"image's height and width, \(36, 48\)",
        ),
    ):
        with pytest.raises(InputError, match=message):
            nst_jax.Stylizer(settings).job(content, styles[0], arrays=arrays)


def test_an_own_statistic_is_mixed_with_gram_by_weights(make):
    own = make(style_loss={"gram": 1.0, ChannelMean(): 0.5})
    by_hand = make(style_loss=WeightedSum(((Gram(), 1.0), (ChannelMean(), 0.5))))
    np.testing.assert_array_equal(own.image, by_hand.image)
    assert own.metadata["style_loss"] == {"gram": 1.0, "ChannelMean()": 0.5}


@pytest.mark.extended
def test_a_term_of_layers_that_is_not_additive_refuses_tiles_by_its_name(make):
    with pytest.raises(
        InputError, match="cannot run in tiles, because the term peak is not additive"
    ):
        make(terms=[Peak()], memory_limit="1MB")


def test_parameters_in_memory_give_the_same_image_as_their_file(make, result):
    params = nst_jax.weights.load_pretrained("vgg16").params
    own = make(weights=params, model="auto")
    np.testing.assert_array_equal(own.image, result.image)
    assert own.metadata["weights"] == "<params>"
    with pytest.raises(InputError, match="has no layer conv1_1"):
        make(weights={"input": params["input"]}, model="auto")


@pytest.mark.extended
def test_a_checkpoint_of_another_transformation_is_refused(make, tmp_path):
    path = tmp_path / "job.checkpoint"
    stop = {"on_progress": lambda progress: True, "checkpoint": path}
    make(optimizer=optax.adam(0.05), **stop)
    with pytest.raises(InputError, match="transformation"):
        make(optimizer=optax.adam(0.06), checkpoint=path, resume=True)
    schedule = optax.exponential_decay(0.05, 10, 0.5)
    with pytest.raises(InputError, match="transformation"):
        make(optimizer=optax.adam(schedule), checkpoint=path, resume=True)
    resumed = make(optimizer=optax.adam(0.05), checkpoint=path, resume=True)
    whole = make(optimizer=optax.adam(0.05))
    np.testing.assert_array_equal(resumed.image, whole.image)


def test_l_bfgs_over_pixels_has_a_pyramid_of_one_band(job_of):
    for name, num_bands in (("lbfgs", 5), ("lbfgs-pixels", 1)):
        expected = pyramid_lbfgs(memory_size=10, num_bands=num_bands)
        assert fingerprint(job_of(optimizer=name).engine.optimizer) == fingerprint(expected)


def test_the_log_and_the_metadata_say_what_auto_is(job_of, caplog):
    caplog.set_level("INFO", "nst_jax")
    job_of(dtype="float32", model="vgg16")
    assert caplog.messages == []
    job = job_of(dtype="auto")
    assert (job.metadata["model"], job.metadata["dtype"]) == ("vgg16", resolve_dtype("auto").name)
    assert caplog.messages == [f"the network is VGG16 in {job.metadata['dtype']}"]
