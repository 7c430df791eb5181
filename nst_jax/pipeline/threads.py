"""Several pictures at a time on a CPU: each in a thread of its own.

A step of one picture leaves cores idle wherever an operation is too small to be split among them.
Two pictures fill each other's gaps; each runs the program that it would run alone, so that it is
the same picture, and unlike in a vmapped loop its arrays stay in the caches.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

from nst_jax.optimize.loop import OnProgress, Progress
from nst_jax.pipeline.result import Result

__all__ = ["in_threads"]


def in_threads(
    paint: Callable[[int, OnProgress], Result],
    pictures: int,
    threads: int,
    on_progress: OnProgress | None,
) -> Iterator[Result]:
    """Paint some pictures, a few at a time; they come in their order.

    Args:
        paint: makes the picture of a number from 0, telling a callback of it.
        pictures: how many.
        threads: how many at a time.
        on_progress: told of all of them, one call at a time, from their threads. What it returns
            or raises concerns the picture that it was told of.

    Raises:
        Exception: what ``paint`` raises, when it is that picture's turn. Those under way then end
            with their chunk, as they do when the caller wants no more.
    """
    over, telling = Event(), Lock()

    def told(now: Progress) -> bool:
        with telling:
            if over.is_set() or on_progress is None:
                return over.is_set()
            return bool(on_progress(now))

    with ThreadPoolExecutor(threads) as pool:
        begun = [pool.submit(paint, i, told) for i in range(pictures)]
        try:
            for picture in begun:
                yield picture.result()
        finally:
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
