"""The queue of the one device: jobs of all tabs run one after another, in their order."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from nst_jax.apps.studio.stream import Update, stream
from nst_jax.errors import DivergedError, InputError, is_out_of_memory
from nst_jax.pipeline import Job

__all__ = ["JobQueue", "QueuedJob"]

MAX_WAITING: Final = 20
POLL_SECONDS: Final = 0.5

log = logging.getLogger("nst_jax")


class QueuedJob:
    """One job in the queue, and the newest update of it.

    Args:
        prepare: returns the job. It runs on the device's thread, when the job's turn comes.
        first_chunk_only: stop after the first chunk of steps, when everything is compiled.
    """

    def __init__(self, prepare: Callable[[], Job], *, first_chunk_only: bool = False) -> None:
        self.prepare, self.first_chunk_only = prepare, first_chunk_only
        self.update: Update | None = None
        self.error = ""
        self.done = False
        self._stop = threading.Event()
        self._changed = threading.Condition()

    def stop(self) -> None:
        """Stop after the current chunk with the image so far; a job that waits never starts."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return self._stop.is_set()

    def follow(self) -> Iterator[Update | None]:
        """Yield the newest update each time that there is a new one, until the job is done.

        Yields None about twice a second while there is no new one, so that a page can say how many
        jobs are ahead. Updates that came while the caller was busy are skipped.
        """
        shown = None
        while True:
            with self._changed:
                if self.update is shown and not self.done:
                    self._changed.wait(POLL_SECONDS)
                update, done = self.update, self.done
            if update is not shown or not done:
                yield None if update is shown else update
            if done:  # No update comes after this one.
                return
            shown = update

    def publish(self, update: Update) -> None:
        """Show an update to those who follow."""
        with self._changed:
            self.update = update
            self._changed.notify_all()

    def finish(self, error: str = "") -> None:
        """End the job, with the reason if there was an error."""
        with self._changed:
            self.done, self.error = True, error
            self._changed.notify_all()


class JobQueue:
    """Runs jobs one after another on a thread of its own, so that no closed tab can hold it."""

    def __init__(self) -> None:
        self._jobs: deque[QueuedJob] = deque()
        self._warm_up: QueuedJob | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="nst-jax-jobs", daemon=True)
        self._thread.start()

    def submit(self, job: QueuedJob) -> None:
        """Append a job.

        Raises:
            InputError: too many jobs wait.
        """
        with self._changed:
            if len(self._jobs) > MAX_WAITING:
                raise InputError(f"{MAX_WAITING} images wait already; try again when one is done")
            self._jobs.append(job)
            self._changed.notify_all()

    def warm_up(self, prepare: Callable[[], Job]) -> None:
        """Compile a job that the user may start soon, once nothing else runs.

        It replaces a job for which this was asked before and that has not begun.
        """
        with self._changed:
            self._warm_up = QueuedJob(prepare, first_chunk_only=True)
            self._changed.notify_all()

    def ahead(self, job: QueuedJob) -> int:
        """Return how many jobs come before this one; 0 if it runs or is done."""
        with self._changed:
            return self._jobs.index(job) if job in self._jobs else 0

    def close(self, timeout: float | None = None) -> bool:
        """Stop all jobs and end the thread; return whether it ended in time."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.stop()
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._warm_up or self._closed)
                if self._jobs:
                    job = self._jobs[0]
                elif self._closed:
                    return
                else:
                    assert self._warm_up is not None
                    job, self._warm_up = self._warm_up, None
            error = _execute(job)
            with self._changed:
                if self._jobs and self._jobs[0] is job:
                    self._jobs.popleft()
            job.finish(error)


def _execute(job: QueuedJob) -> str:
    """Run a job to its end and return the error, if there was one, in one line."""
    if job.stopping:
        return ""
    try:
        for update in stream(job.prepare(), lambda: job.stopping or job.first_chunk_only):
            job.publish(update)
            if update.error:
                return update.error
    except (InputError, DivergedError) as error:
        return str(error)
    except Exception as error:
        if is_out_of_memory(error):
            return "the device ran out of memory; choose a smaller size"
        log.exception("a job of the studio failed")  # The thread serves the other tabs.
        return f"the job failed: {type(error).__name__}; the terminal says more"
    return ""
