"""Whole jobs with the caller's own statistic, loss, parameters and optimizer."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nst_jax
from nst_jax.errors import InputError
from nst_jax.losses import Gram
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


def brightness_loss(image, params, targets, loss_weights):
    total, terms = nst_jax.loss(image, params, targets, loss_weights)
    return total + jnp.square(image).mean(), {**terms, "brightness": jnp.square(image).mean()}


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


def test_an_own_loss_is_minimized_and_its_terms_are_recorded(make, result):
    own = make(loss_fn=brightness_loss)
    assert np.isfinite(own.history["brightness"]).any()
    assert own.image.mean() < result.image.mean()
    assert "brightness_loss" in own.metadata["loss_fn"]


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
