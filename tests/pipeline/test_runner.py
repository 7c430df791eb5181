"""The one loop: an iterator of `Progress` that the caller drives."""

import numpy as np
import pytest

from nst_jax import run
from nst_jax.images import replace_luma, resize, rgb_to_luma
from nst_jax.optimize import current_iterate
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline import runner


@pytest.fixture
def job(job_of):
    return job_of()


def test_a_caller_iterates_by_hand(job, alone):
    seen = [(progress, progress.image) for progress in run(job, callback_every=1)]
    progresses, images = zip(*seen, strict=True)
    assert [progress.step for progress in progresses] == list(range(1, 9))
    assert [progress.level for progress in progresses] == [0] * 3 + [1] * 5
    assert [progress.shape for progress in progresses] == [(26, 34)] * 3 + [(36, 48)] * 5
    assert [image.shape[:2] for image in images] == [progress.shape for progress in progresses]
    assert [progress.done for progress in progresses] == [False] * 7 + [True]
    assert {(p.index, p.num_images, p.num_steps) for p in progresses} == {(0, 1, 8)}
    seconds = [progress.seconds for progress in progresses]
    assert seconds == sorted(seconds)
    for name, column in alone["adam"][0].history.items():
        parts = [progress.metrics[name] for progress in progresses]
        np.testing.assert_array_equal(np.concatenate(parts), column)
    np.testing.assert_array_equal(images[-1], alone["adam"][0].image)
    (result,) = progresses[-1].results()  # also after the end of the iteration
    np.testing.assert_array_equal(result.image, images[-1])


def test_the_image_is_computed_when_it_is_read_and_only_once(job, monkeypatch):
    computed = []

    def count(state):
        computed.append(state)
        return current_iterate(state)

    monkeypatch.setattr(runner, "current_iterate", count)
    *_, last = run(job, callback_every=1)
    assert computed == []
    assert last.image is last.image
    assert len(computed) == 1


def test_a_progress_describes_its_own_moment(job):
    """Also after the iteration continued at another level; its image must be read before."""
    earlier = []
    for progress in run(job, callback_every=1):
        if progress.step == 2:
            assert progress.image.shape == (26, 34, 3)
        earlier.append(progress)
    assert earlier[1].history["step"].tolist() == [1, 2]
    (result,) = earlier[1].results()
    assert (result.metadata["steps_done"], result.metadata["width"]) == (2, 34)
    for read in (lambda: earlier[3].image, earlier[3].results):
        with pytest.raises(RuntimeError, match=r"read image or results\(\) before you continue"):
            read()


def test_the_image_is_the_one_that_a_result_would_have(job_of, content):
    """Here with the chroma of the content, at each level."""
    for progress in run(job_of(color_mode="luminance")):
        plain = np.asarray(current_iterate(progress.state))
        photo = resize(resize(content / 255, (36, 48)), progress.shape)
        expected = replace_luma(photo, rgb_to_luma(plain))
        np.testing.assert_allclose(progress.image, expected, atol=1e-6)
        assert np.abs(progress.image - plain).max() > 0.05
        np.testing.assert_array_equal(progress.results()[0].image, progress.image)


def test_a_level_is_planned_and_its_targets_are_computed_when_it_is_reached(job, monkeypatch):
    reached = []
    for name in ("plan_level", "compute_targets"):
        function = getattr(runner, name)

        def note(job, *args, name=name, function=function):
            reached.append(name)
            return function(job, *args)

        monkeypatch.setattr(runner, name, note)
    for progress in run(job, callback_every=1):
        assert reached == ["plan_level", "compute_targets"] * (progress.level + 1)


def test_what_was_planned_is_not_compiled_again(job_of, styles, compilations):
    """One loop a level, and one network a shape: the content's, and the styles' together."""
    smaller_styles = [style[:44, :44] for style in styles]  # no other test has these shapes
    list(run(job_of(smaller_styles, size=54, min_size=37)))
    assert compilations().count("jit(_run_chunk)") == 2
    assert compilations().count("jit(_content_features)") == 2
    assert compilations().count("jit(_style_targets)") == 2


def test_a_caller_who_leaves_saves_a_checkpoint(job, leave_at, checkpoint):
    leave_at(job, 5)
    saved = checkpoints.load(checkpoint, job)
    assert (saved.index, saved.level, int(saved.state.step)) == (0, 1, 5)
    resumed = run(job, checkpoint=checkpoint, resume=True, callback_every=1)
    assert [progress.step for progress in resumed] == [6, 7, 8]
    assert not checkpoint.exists()


def test_a_caller_who_leaves_at_the_end_still_gets_the_image(job, leave_at, checkpoint, alone):
    """For example because the image could not be written."""
    leave_at(job, 8)
    (progress,) = run(job, checkpoint=checkpoint, resume=True)
    assert (progress.done, progress.metrics) == (True, {})
    (result,) = progress.results()
    np.testing.assert_array_equal(result.image, alone["adam"][0].image)
    np.testing.assert_array_equal(result.history["total"], alone["adam"][0].history["total"])
    assert not result.metadata["stopped"]
    assert not checkpoint.exists()
