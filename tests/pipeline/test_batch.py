"""Many images of one content: each is what its style alone would give."""

from contextlib import closing

import jax
import numpy as np
import optax
import pytest

from nst_jax import (
    DivergedError,
    InputError,
    MemoryLimitError,
    interpolate_styles,
    prepare_job,
    run,
    stylize,
    stylize_many,
)
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline import planning, runner
from nst_jax.pipeline.api import many_styles_job
from nst_jax.settings import override


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.checkpoint"


@pytest.fixture
def three(content, styles, small):
    """The job of the three styles."""
    return many_styles_job(content, styles, override(None, small))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Choose batch sizes as on a GPU."""
    monkeypatch.setattr(planning.jax, "default_backend", lambda: "gpu")


def assert_same(results, expected, atol=0.0):
    for result, alone in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.image, alone.image, atol=atol)
        assert result.metadata["styles"] == alone.metadata["styles"]
        assert list(result.history) == list(alone.history)
        for name, column in alone.history.items():
            np.testing.assert_allclose(result.history[name], column, rtol=1e-3 if atol else 0)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_one_after_another_they_are_the_same_bit_for_bit(content, styles, small, alone, optimizer):
    seen = []
    results = stylize_many(
        content,
        styles,
        **small | {"optimizer": optimizer},
        on_progress=lambda progress: seen.append((progress.index, progress.image.shape)),
    )
    assert_same(results, alone[optimizer])
    assert {index for index, _ in seen} == {0, 1, 2}
    assert {shape for _, shape in seen} == {(26, 34, 3), (36, 48, 3)}


def test_in_a_batch_they_are_the_same_up_to_rounding(three, alone):
    """The last batch has the one image that is left over."""
    results, seen = [], set()
    for progress in run(three, batch_size=2):
        shape = progress.image.shape
        seen.add((progress.index, progress.batch_size, progress.is_last, shape))
        results += progress.results() if progress.done else []
    assert_same(results, alone["adam"], atol=2e-3)
    assert {entry[:3] for entry in seen} == {(0, 2, False), (2, 1, True)}
    assert {entry[3] for entry in seen if entry[1] == 2} == {(2, 26, 34, 3), (2, 36, 48, 3)}


def test_an_image_comes_when_it_is_finished(content, styles, small):
    seen = []
    results = stylize_many(content, styles, **small, on_progress=lambda p: seen.append(p.index))
    assert next(results).metadata["steps_done"] == 8
    assert set(seen) == {0}


def test_one_style_need_not_be_a_list(content, small, alone, files):
    (result,) = stylize_many(content, files / "styles" / "coffee.png", **small)
    np.testing.assert_array_equal(result.image, alone["adam"][0].image)


def test_a_stop_gives_the_image_so_far_and_no_further_one(content, styles, small):
    for step, number, stopped in ((6, 2, True), (8, 2, False)):  # at the last step it is finished

        def on_progress(progress, step=step):
            return progress.index == 1 and progress.step >= step

        results = list(
            stylize_many(content, styles, **small, on_progress=on_progress, callback_every=2)
        )
        assert len(results) == number
        assert results[-1].metadata["stopped"] == stopped


# --- mixes ---------------------------------------------------------------------------------------


def test_an_interpolation_goes_from_the_first_style_to_the_last(content, styles, small, alone):
    first, middle, last = interpolate_styles(content, styles[:2], **small, num_images=3)
    assert_same([first, last], alone["adam"][:2])
    mixed = stylize(content, styles[:2], **small, style_weights=(1.0, 1.0))
    np.testing.assert_array_equal(middle.image, mixed.image)
    assert middle.metadata["style_weights"] == mixed.metadata["style_weights"] == [0.5, 0.5]
    assert len(middle.metadata["styles"]) == 2


def test_an_interpolation_passes_every_style_in_equal_steps(content, styles, one_level):
    settings = one_level | {"steps": 0}
    results = interpolate_styles(content, styles, **settings, num_images=5)
    weights = [result.metadata.get("style_weights") for result in results]
    assert weights == [None, [0.5, 0.5], None, [0.5, 0.5], None]


@pytest.mark.parametrize(("num_styles", "num_images"), [(1, 3), (2, 1)])
def test_an_interpolation_needs_two_styles_and_two_images(
    content, styles, small, num_styles, num_images
):
    with pytest.raises(InputError, match=f"{num_styles} styles and {num_images} images; give at"):
        next(interpolate_styles(content, styles[:num_styles], **small, num_images=num_images))


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_tiles")
def test_the_memory_limit_leads_to_tiles_for_many_images_as_for_one(
    content, styles, large, bytes_of_levels
):
    """At the finer level alone; each level is planned for each image."""
    job = many_styles_job(content, styles[:2], override(None, large))
    coarse, fine = bytes_of_levels(job)
    limited = large | {"memory_limit": fine - 1}
    tiles = set()

    def on_progress(progress):
        (result,) = progress.results()
        tiles.add((progress.index, progress.level, result.metadata["tile"]))

    results = list(stylize_many(content, styles[:2], **limited, on_progress=on_progress))
    assert coarse < fine
    assert tiles == {(0, 0, None), (0, 1, 32), (1, 0, None), (1, 1, 32)}
    assert_same(results, [stylize(content, style, **large) for style in styles[:2]], atol=2e-3)
    assert_same(results[1:], [stylize(content, styles[1], **limited)])


def test_a_limit_that_no_tile_meets_is_refused(content, styles, small):
    with pytest.raises(MemoryLimitError, match="34x26 pixels, even in tiles: this needs about"):
        next(stylize_many(content, styles, **small, memory_limit="2MB"))


def test_a_batch_that_was_asked_for_is_not_changed(content, styles, small, three, bytes_of_levels):
    limit = bytes_of_levels(three)[1]
    with pytest.raises(MemoryLimitError, match="2 images in one batch: .* or a smaller batch_size"):
        list(stylize_many(content, styles, **small, memory_limit=limit, batch_size=2))


@pytest.mark.usefixtures("as_on_a_gpu", "small_tiles")
def test_a_batch_is_as_large_as_the_memory_allows(content, styles, small, three, bytes_of_levels):
    needed = bytes_of_levels(three)[1]
    for limit, size in (
        (None, 3),
        (3 * needed, 3),
        (2.5 * needed, 2),
        (needed, 1),
        (needed - 1, 1),
    ):
        limited = small | {"memory_limit": limit and int(limit)}
        job = many_styles_job(content, styles, override(None, limited))
        assert planning.choose_batch_size(job) == size
    lbfgs = many_styles_job(content, styles, override(None, small | {"optimizer": "lbfgs"}))
    assert planning.choose_batch_size(lbfgs) == 1


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_batch_that_does_not_fit_after_all_is_halved(three, alone, monkeypatch):
    batches = []

    class TooLarge(runner._Batch):
        def run(self, callback_every, saved):
            batches.append(len(self.mixes))
            if len(self.mixes) > 1:
                raise MemoryLimitError("too large")
            return super().run(callback_every, saved)

    monkeypatch.setattr(runner, "_Batch", TooLarge)
    results = [progress.results()[0] for progress in run(three) if progress.done]
    assert batches == [3, 2, 1, 1, 1]
    assert_same(results, alone["adam"], atol=1e-4)


# --- checkpoints ---------------------------------------------------------------------------------


def test_a_job_resumes_in_the_middle_of_its_second_image(content, styles, small, alone, path):
    options = {"checkpoint": path, "callback_every": 1}
    first, part = stylize_many(
        content,
        styles,
        **small,
        **options,
        on_progress=lambda progress: progress.index == 1 and progress.step == 5,
    )
    assert (first.metadata["stopped"], part.metadata["stopped"]) == (False, True)
    seen = []
    resumed = stylize_many(
        content,
        styles,
        **small,
        **options,
        resume=True,
        on_progress=lambda progress: seen.append((progress.index, progress.step)),
    )
    assert_same(resumed, alone["adam"][1:])
    assert seen == [(1, step) for step in (6, 7, 8)] + [(2, step) for step in range(1, 9)]
    assert not path.exists()


def test_a_finished_image_comes_again_if_the_caller_stops_there(three, alone, path):
    """Only the caller knows whether it was written."""
    with closing(run(three, checkpoint=path)) as progresses:
        for progress in progresses:
            if progress.done:
                break
    saved = checkpoints.load(path, three)
    assert (saved.index, saved.num_images, saved.level) == (0, 1, 1)
    results = [p.results()[0] for p in run(three, checkpoint=path, resume=True) if p.done]
    assert_same(results, alone["adam"])


def test_a_checkpoint_finds_its_image_among_the_rest_of_the_styles(
    content, styles, small, three, alone, path
):
    """The first style is finished and no longer part of the job."""
    with closing(run(three, checkpoint=path, callback_every=1)) as progresses:
        next(p for p in progresses if (p.index, p.step) == (1, 5))
    settings = override(None, small)
    rest = many_styles_job(content, [styles[2], styles[1]], settings)
    indices = [checkpoints.index_of(path, job) for job in (three, rest)]
    assert indices == [1, 1]
    assert checkpoints.index_of(path, prepare_job(content, styles[2], settings)) is None
    results = [p.results()[0] for p in run(rest, checkpoint=path, resume=True) if p.done]
    assert_same(results, [alone["adam"][1]])


def test_a_batch_resumes_as_a_batch(three, path):
    whole = [r for p in run(three, batch_size=2) if p.done for r in p.results()]
    with closing(run(three, batch_size=2, checkpoint=path, callback_every=1)) as progresses:
        next(p for p in progresses if p.step == 5)
    resumed = run(three, checkpoint=path, resume=True)
    assert_same([r for p in resumed if p.done for r in p.results()], whole)


def test_the_batch_of_a_checkpoint_that_no_longer_fits_is_refused(three, path, monkeypatch):
    with closing(run(three, batch_size=2, checkpoint=path, callback_every=1)) as progresses:
        next(p for p in progresses if p.step == 5)

    def refuse(*args, **options):
        raise MemoryLimitError("too large")

    monkeypatch.setattr(runner, "compile_within_limit", refuse)
    with pytest.raises(MemoryLimitError, match="too large, or start without resume"):
        list(run(three, checkpoint=path, resume=True))


# --- what fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; give a whole number from 1 up"),
        ({"batch_size": 2, "optimizer": "lbfgs"}, "give a batch_size of 1, or an optimizer such"),
        ({"sise": 3}, "no setting 'sise'"),
    ],
)
def test_what_cannot_run_is_refused(content, styles, small, options, message):
    with pytest.raises(InputError, match=message):
        next(stylize_many(content, styles, **small | options))


def test_a_style_that_cannot_be_read_is_refused_before_the_first_image(content, styles, small):
    with pytest.raises(InputError, match=r"none\.jpg"):
        next(stylize_many(content, [styles[0], "none.jpg"], **small))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_divergence_gives_the_last_finite_image_of_each(content, styles, one_level, batch_size):
    def update(updates, state, params=None):
        return jax.tree.map(lambda g: g * np.nan, updates), state

    diverging = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    with pytest.raises(DivergedError) as caught:
        list(
            stylize_many(
                content, styles, **one_level | {"optimizer": diverging}, batch_size=batch_size
            )
        )
    assert len(caught.value.results) == (batch_size or 1)
    for result in caught.value.results:
        assert np.isfinite(result.image).all()
        assert (result.metadata["steps_done"], result.metadata["stopped"]) == (0, True)
