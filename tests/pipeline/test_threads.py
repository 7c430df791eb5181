"""Several pictures at a time: their order, what they are told, and what becomes of the others."""

import threading

import numpy as np
import pytest

from nst_jax.optimize.loop import Progress, State
from nst_jax.pipeline.result import Result
from nst_jax.pipeline.threads import in_threads

PICTURE = np.zeros((1, 1, 3), np.float32)


def progress(step, i):
    return Progress(step, 9, PICTURE, [], 0.0, State(PICTURE, None, None, step), i)


def painted(i, **settings):
    return Result(PICTURE, None, [], {"picture": i, **settings})


def test_pictures_come_in_their_order_though_a_later_one_is_done_first():
    second = threading.Event()

    def paint(i, told):
        if i == 0:
            assert second.wait(10)
        if i == 1:
            second.set()
        return painted(i)

    made = list(in_threads(paint, 3, 2, None))
    assert [result.settings["picture"] for result in made] == [0, 1, 2]


def test_as_many_are_under_way_as_were_asked_for():
    together = threading.Barrier(2)
    running = most = 0
    count = threading.Lock()

    def paint(i, told):
        nonlocal running, most
        with count:
            running += 1
            most = max(most, running)
        together.wait(10)  # fails unless two are here
        with count:
            running -= 1
        return painted(i)

    assert len(list(in_threads(paint, 4, 2, None))) == 4
    assert most == 2


def test_the_callback_hears_of_one_picture_at_a_time_and_stops_that_one():
    inside, seen = threading.Lock(), []

    def on_progress(now):
        assert inside.acquire(blocking=False)
        seen.append((now.picture, now.step))
        inside.release()
        return now.picture == 1

    def paint(i, told):
        for step in range(1, 4):
            if told(progress(step, i)):
                return painted(i, stopped=step)
        return painted(i, stopped=None)

    made = list(in_threads(paint, 3, 2, on_progress))
    assert [result.settings["stopped"] for result in made] == [None, 1, None]
    wanted = [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2), (2, 3)]
    assert sorted(seen) == wanted


@pytest.mark.parametrize("by", ["the picture", "the callback"])
def test_an_error_comes_at_its_turn_and_ends_the_others(by):
    broken, stopped, begun = threading.Event(), [], []

    def on_progress(now):
        if by == "the callback" and now.picture == 1:
            broken.set()
            raise ValueError("picture 1")

    def paint(i, told):
        begun.append(i)
        if i == 0:
            assert broken.wait(10)
            return painted(i)
        if i == 1:
            if by == "the callback":
                told(progress(1, i))
            broken.set()
            raise ValueError("picture 1")
        for step in range(1, 1000):
            if told(progress(step, i)):
                stopped.append(i)
                break
            threading.Event().wait(0.01)
        return painted(i)

    pictures = in_threads(paint, 9, 2, on_progress)
    assert next(pictures).settings["picture"] == 0
    with pytest.raises(ValueError, match="picture 1"):
        next(pictures)
    assert set(begun) <= {0, 1, 2, 3}
    assert sorted(stopped) == sorted(i for i in begun if i > 1)


def test_a_caller_who_wants_no_more_ends_those_under_way():
    told_after, going = [], threading.Event()

    def paint(i, told):
        if i == 0:
            assert going.wait(10)
            return painted(i)
        step = 0
        while not told(progress(step := step + 1, i)):
            going.set()
            threading.Event().wait(0.01)
        told_after.append(i)
        return painted(i)

    pictures = in_threads(paint, 9, 2, lambda now: None)
    next(pictures)
    pictures.close()
    assert 1 in told_after
    assert set(told_after) <= {1, 2}
