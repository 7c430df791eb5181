"""Many images of one content: each is what its style alone would give."""

import dataclasses

import numpy as np
import optax
import pytest
from reliability.faults import exhaust

from nst_jax import (
    DivergedError,
    InputError,
    MemoryLimitError,
    Stylizer,
    interpolate_styles,
    run,
    stylize,
    stylize_many,
)
from nst_jax.errors import OutOfMemoryError
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline import planning, runner
from nst_jax.pipeline.api import interpolation_job
from nst_jax.pipeline.engine import Engine


@pytest.fixture(scope="session")
def make_many(content, styles, small):
    """Return a function that stylizes with the three styles and changed settings or options."""
    return lambda **changes: stylize_many(content, styles, **small | changes)


@pytest.fixture
def three(job_of, styles):
    """The job of the three styles."""
    return job_of(styles)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Choose batch sizes as on a GPU."""
    monkeypatch.setattr(planning.jax, "default_backend", lambda: "gpu")


def finished(progresses):
    return [result for p in progresses if p.done for result in p.results()]


def assert_same(results, expected, atol=0.0):
    for result, alone in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.image, alone.image, atol=atol)
        assert result.metadata["styles"] == alone.metadata["styles"]
        assert list(result.history) == list(alone.history)
        for name, column in alone.history.items():
            np.testing.assert_allclose(result.history[name], column, rtol=1e-3 if atol else 0)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_one_after_another_they_are_the_same_bit_for_bit(make_many, alone, optimizer):
    seen = set()

    def on_progress(progress):
        seen.add((progress.index, progress.num_images, progress.image.shape))

    assert_same(make_many(optimizer=optimizer, on_progress=on_progress), alone[optimizer])
    assert seen == {(i, 3, shape) for i in range(3) for shape in ((26, 34, 3), (36, 48, 3))}


@pytest.mark.parametrize(("optimizer", "atol"), [("adam", 2e-3), ("lbfgs", 1e-2)])
def test_in_a_batch_they_are_the_same_up_to_rounding(job_of, styles, alone, optimizer, atol):
    """The last batch has the one image that is left over."""
    results, seen = [], set()
    for progress in run(job_of(styles, optimizer=optimizer), batch_size=2):
        seen.add((progress.index, progress.batch_size, progress.is_last, progress.image.shape))
        results += progress.results() if progress.done else []
    assert_same(results, alone[optimizer], atol=atol)
    shapes = ((26, 34, 3), (36, 48, 3))
    assert seen == {(0, 2, False, (2, *s)) for s in shapes} | {(2, 1, True, s) for s in shapes}


def test_an_image_comes_when_it_is_finished(make_many):
    seen = []
    results = make_many(on_progress=lambda progress: seen.append(progress.index))
    assert next(results).metadata["steps_done"] == 8
    assert set(seen) == {0}


def test_an_image_does_not_count_the_time_of_those_before_it(three):
    long_ago = dataclasses.replace(three, start_time=three.start_time - 1000)
    seconds = [result.metadata["seconds"] for result in finished(run(long_ago))]
    assert seconds[0] > 1000 > sum(seconds[1:])


def test_one_style_need_not_be_a_list(content, small, alone, files):
    (result,) = stylize_many(content, files / "styles" / "coffee.png", **small)
    np.testing.assert_array_equal(result.image, alone["adam"][0].image)


@pytest.mark.parametrize(("step", "stopped"), [(6, True), (8, False)])
def test_a_stop_gives_the_image_so_far_and_no_further_one(make_many, step, stopped):
    """At its last step the image is finished."""
    at_step = {"on_progress": lambda p: p.index == 1 and p.step >= step, "callback_every": 2}
    results = list(make_many(**at_step))
    assert [result.metadata["stopped"] for result in results] == [False, stopped]


def test_an_interpolation_goes_from_the_first_style_to_the_last(content, styles, small, alone):
    first, middle, last = interpolate_styles(content, styles[:2], **small, num_images=3)
    assert_same([first, last], alone["adam"][:2])
    mixed = stylize(content, styles[:2], **small, style_weights=(1.0, 1.0))
    np.testing.assert_array_equal(middle.image, mixed.image)
    assert middle.metadata["style_weights"] == mixed.metadata["style_weights"] == [0.5, 0.5]
    assert len(middle.metadata["styles"]) == 2


def test_an_interpolation_passes_every_style_in_equal_steps(content, styles, small):
    job = interpolation_job(Stylizer(**small), content, styles, num_images=5)
    assert job.mixes == ((1, 0, 0), (0.5, 0.5, 0), (0, 1, 0), (0, 0.5, 0.5), (0, 0, 1))


@pytest.mark.parametrize(("num_styles", "num_images"), [(1, 3), (2, 1)])
def test_an_interpolation_needs_two_styles_and_two_images(
    content, styles, small, num_styles, num_images
):
    with pytest.raises(InputError, match=f"{num_styles} styles and {num_images} images; give at"):
        next(interpolate_styles(content, styles[:num_styles], **small, num_images=num_images))


@pytest.mark.campaign
@pytest.mark.usefixtures("small_tiles")
def test_the_memory_limit_leads_to_tiles_for_many_images_as_for_one(
    content, styles, large, job_of, bytes_of_levels
):
    """At the finer level alone; each level is planned for each image."""
    coarse, fine = bytes_of_levels(job_of(**large))
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


def test_a_limit_that_no_tile_meets_is_refused(make_many):
    with pytest.raises(MemoryLimitError, match="34x26 pixels, even in tiles: this needs about"):
        next(make_many(memory_limit="2MB"))


def test_a_batch_that_was_asked_for_is_not_changed(make_many, three, bytes_of_levels):
    limit = bytes_of_levels(three)[1]
    with pytest.raises(MemoryLimitError, match=r"2 images in one batch: .* or a smaller batch"):
        list(make_many(memory_limit=limit, batch_size=2))


@pytest.mark.usefixtures("as_on_a_gpu", "small_tiles")
def test_a_batch_is_as_large_as_the_memory_allows(job_of, styles, three, bytes_of_levels):
    needed = bytes_of_levels(three)[1]
    for limit, size in ((None, 3), (3 * needed, 3), (3 * needed - 1, 2), (needed, 1), (10**6, 1)):
        assert planning.choose_batch_size(job_of(styles, memory_limit=limit)) == size
    assert planning.choose_batch_size(job_of(styles, optimizer="lbfgs")) == 3


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
    assert_same(finished(run(three)), alone["adam"], atol=1e-4)
    assert batches == [3, 2, 1, 1, 1]


def test_a_job_resumes_in_the_middle_of_its_second_image(make_many, alone, checkpoint):
    options = {"checkpoint": checkpoint, "callback_every": 1}
    seen = set()

    def stop(progress):
        seen.add((progress.index, checkpoint.exists()))
        return progress.index == 1 and progress.step == 5

    first, part = make_many(on_progress=stop, **options)
    assert (first.metadata["stopped"], part.metadata["stopped"]) == (False, True)
    assert seen == {(0, False), (1, True)}  # it is also written after each image
    steps = []

    def follow(progress):
        steps.append((progress.index, progress.step))

    assert_same(make_many(resume=True, on_progress=follow, **options), alone["adam"][1:])
    assert steps == [(1, step) for step in (6, 7, 8)] + [(2, step) for step in range(1, 9)]
    assert not checkpoint.exists()


def test_a_finished_image_comes_again_if_the_caller_stops_there(three, leave_at, alone, checkpoint):
    """Only the caller knows whether it was written."""
    leave_at(three, 8)
    saved = checkpoints.load(checkpoint, three)
    assert (saved.index, saved.num_images, saved.level) == (0, 1, 1)
    assert_same(finished(run(three, checkpoint=checkpoint, resume=True)), alone["adam"])


def test_a_checkpoint_finds_its_image_among_the_rest_of_the_styles(
    job_of, leave_at, styles, three, alone, checkpoint
):
    """The first style is finished and no longer part of the job."""
    leave_at(three, 5, index=1)
    rest = job_of([styles[2], styles[1]])
    indices = [checkpoints.index_of(checkpoint, job) for job in (three, rest, job_of(styles[2:]))]
    assert indices == [1, 1, None]
    assert_same(finished(run(rest, checkpoint=checkpoint, resume=True)), [alone["adam"][1]])


def test_a_batch_resumes_as_a_batch(three, leave_at, checkpoint, monkeypatch):
    leave_at(three, 5, batch_size=2)
    with monkeypatch.context() as patch:  # not as single images, if it no longer fits

        def refuse(*args, **options):
            raise MemoryLimitError("too large")

        patch.setattr(Engine, "compile", refuse)
        with pytest.raises(MemoryLimitError, match="too large, or start without resume"):
            list(run(three, checkpoint=checkpoint, resume=True))
    resumed = finished(run(three, checkpoint=checkpoint, resume=True))
    assert_same(resumed, finished(run(three, batch_size=2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; give a whole number from 1 up"),
        ({"sise": 3}, "no setting 'sise'"),
    ],
)
def test_what_cannot_run_is_refused(make_many, options, message):
    with pytest.raises(InputError, match=message):
        next(make_many(**options))


def test_divergence_gives_the_last_finite_image_of_each(job_of, styles, one_level):
    nan = optax.chain(optax.sgd(1.0), optax.scale(np.nan))
    with pytest.raises(DivergedError) as caught:
        next(run(job_of(styles, **one_level | {"optimizer": nan}), batch_size=2))
    assert len(caught.value.results) == 2
    for result in caught.value.results:
        assert np.isfinite(result.image).all()
        assert (result.metadata["steps_done"], result.metadata["stopped"]) == (0, True)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_batch_that_runs_out_of_memory_gives_its_images_so_far(three, batch_size, monkeypatch):
    monkeypatch.setattr(runner, "choose_batch_size", lambda job: 2)
    exhaust(monkeypatch, 3)
    with pytest.raises(OutOfMemoryError) as caught:
        list(run(three, batch_size=batch_size, callback_every=1))
    assert caught.value.step == 2
    assert [result.metadata["steps_done"] for result in caught.value.results] == [2, 2]


def test_a_batch_that_runs_out_of_memory_at_once_is_halved(three, alone, monkeypatch, caplog):
    caplog.set_level("INFO", "nst_jax")
    monkeypatch.setattr(runner, "choose_batch_size", lambda job: 2)
    exhaust(monkeypatch, 1)
    assert_same(finished(run(three)), alone["adam"])
    assert "2 images do not fit together; they run in batches of 1" in caplog.text
