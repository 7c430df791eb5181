"""The one loop: an iterator of `Progress` that the caller drives."""

from contextlib import closing

import numpy as np
import pytest

from nst_jax import run, stylize
from nst_jax.images import replace_luma, resize, rgb_to_luma
from nst_jax.optimize import current_image
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline import prepare_job, runner
from nst_jax.pipeline.api import many_styles_job
from nst_jax.settings import override


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.checkpoint"


def test_a_caller_iterates_by_hand(job, alone):
    seen = [(progress, progress.image) for progress in run(job, callback_every=1)]
    progresses, images = zip(*seen, strict=True)
    assert [progress.step for progress in progresses] == list(range(1, 9))
    assert [progress.level for progress in progresses] == [0] * 3 + [1] * 5
    assert [progress.shape for progress in progresses] == [(26, 34)] * 3 + [(36, 48)] * 5
    assert [image.shape[:2] for image in images] == [progress.shape for progress in progresses]
    assert [progress.done for progress in progresses] == [False] * 7 + [True]
    for progress in progresses:
        numbers = (progress.index, progress.num_images, progress.num_steps, progress.is_last)
        assert numbers == (0, 1, 8, True)
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

    def count(state, ema_decay):
        computed.append(state)
        return current_image(state, ema_decay)

    monkeypatch.setattr(runner, "current_image", count)
    progresses = [progress for progress in run(job, callback_every=1) if progress.step != 4]
    assert computed == []
    assert progresses[-1].image is progresses[-1].image
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


def test_the_image_is_the_one_that_a_result_would_have(content, styles, small):
    """Here with the chroma of the content, at each level."""
    settings = override(None, small | {"color_mode": "luminance"})
    for progress in run(prepare_job(content, styles[0], settings)):
        plain = np.asarray(current_image(progress.state, 0.9))
        photo = resize(resize(content / 255, (36, 48)), progress.shape)
        expected = replace_luma(photo, rgb_to_luma(plain))
        np.testing.assert_allclose(progress.image, expected, atol=1e-6)
        assert np.abs(progress.image - plain).max() > 0.05
        np.testing.assert_array_equal(progress.results()[0].image, progress.image)


def test_a_level_is_planned_and_its_targets_are_computed_when_it_is_reached(job, monkeypatch):
    reached = []
    for name in ("choose_tile", "compute_targets"):
        function = getattr(runner, name)

        def note(job, *args, name=name, function=function):
            reached.append(name)
            return function(job, *args)

        monkeypatch.setattr(runner, name, note)
    for progress in run(job, callback_every=1):
        assert reached == ["choose_tile", "compute_targets"] * (progress.level + 1)


def test_what_was_planned_is_not_compiled_again(content, styles, small, compilations):
    """One loop a level, and one network a shape: the content's, and the styles' together."""
    settings = override(None, small | {"size": 54, "min_size": 37})
    smaller_styles = [style[:44, :44] for style in styles]  # no other test has these shapes
    list(run(many_styles_job(content, smaller_styles, settings)))
    assert compilations().count("jit(_run_chunk)") == 2
    assert compilations().count("jit(_content_features)") == 2
    assert compilations().count("jit(_style_targets)") == 2


@pytest.mark.parametrize("leave", ["break", "error"])
def test_a_caller_who_leaves_saves_a_checkpoint(job, path, leave, alone):
    with closing(run(job, callback_every=1, checkpoint=path)) as progresses:
        try:
            for progress in progresses:
                assert not path.exists()
                if progress.step == 5:
                    if leave == "break":
                        break
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
    saved = checkpoints.load(path, job)
    assert (saved.index, saved.level, int(saved.state.step)) == (0, 1, 5)
    steps = [progress.step for progress in run(job, checkpoint=path, resume=True, callback_every=1)]
    assert steps == [6, 7, 8]
    assert not path.exists()


def test_a_caller_who_leaves_at_the_end_still_gets_the_image(job, path, alone):
    """For example because the image could not be written."""
    with closing(run(job, checkpoint=path)) as progresses:
        for progress in progresses:
            if progress.done:
                break
    assert path.exists()
    (progress,) = run(job, checkpoint=path, resume=True)
    assert (progress.done, progress.metrics) == (True, {})
    (result,) = progress.results()
    np.testing.assert_array_equal(result.image, alone["adam"][0].image)
    np.testing.assert_array_equal(result.history["total"], alone["adam"][0].history["total"])
    assert not result.metadata["stopped"]
    assert not path.exists()


def test_an_iterator_that_never_started_leaves_nothing(job, path):
    run(job, checkpoint=path).close()
    assert not path.exists()


def test_levels_without_steps_pass_the_image_on(content, styles, small):
    settings = override(None, small | {"steps": (3, 0)})
    coarse, *_, last = run(prepare_job(content, styles[0], settings), callback_every=3)
    assert not coarse.done
    assert (last.done, last.metrics, last.step, last.image.shape) == (True, {}, 3, (36, 48, 3))
    result = stylize(content, styles[0], settings)
    np.testing.assert_array_equal(result.image, last.image)
    assert result.history["size"].tolist() == [34] * 3
