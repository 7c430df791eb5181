"""What each tab of the browser has: its finished images, its jobs and a folder."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL.Image

from nst_jax.apps.studio import reproduce
from nst_jax.apps.studio.choices import Choices, continued
from nst_jax.apps.studio.job_queue import JobQueue, QueuedJob
from nst_jax.apps.studio.uploads import MASK_COLORS, check_image, paint_mask, without_folders
from nst_jax.errors import InputError
from nst_jax.pipeline import Job, Result, Stylizer
from nst_jax.pipeline.job import prepare_job
from nst_jax.settings import INIT_NAMES, Settings

__all__ = ["Entry", "Request", "Session", "Sessions"]

MAX_ENTRIES: Final = 100


@dataclass(frozen=True)
class Request:
    """What a user asks for: a photo, styles and settings. Images in the settings are paths.

    Attributes:
        photo: the path of the photo.
        styles: the paths of the styles.
        settings: the settings.
    """

    photo: Path
    styles: tuple[Path, ...]
    settings: Settings

    @property
    def made_files(self) -> list[Path]:
        """The files that the studio made for the job: a mask, or an image to continue from."""
        masks = self.settings.masks
        named = (*(masks if isinstance(masks, list) else ()), self.settings.init)
        return [path for path in named if isinstance(path, Path)]

    def job(self, stylizer_for: Callable[[Settings], Stylizer] = Stylizer) -> Job:
        """Prepare the job.

        Args:
            stylizer_for: returns a stylizer for these settings.

        Raises:
            InputError: as in `nst_jax.Stylizer.job`, without the folders of the files.
        """
        try:
            engine = stylizer_for(self.settings).engine
            return prepare_job(engine, self.photo, self.styles, self.settings)
        except InputError as error:
            raise InputError(
                without_folders(str(error), [self.photo, *self.styles, *self.made_files])
            ) from error


@dataclass(frozen=True)
class Entry:
    """A finished or stopped image of the history.

    Attributes:
        path: its PNG, with the settings inside.
        request: what was asked for.
        metadata: `nst_jax.Result.metadata`.
    """

    path: Path
    request: Request
    metadata: dict[str, Any]

    def command(self) -> str:
        """Return the command that makes this image again."""
        return self._reproduce(reproduce.command)

    def snippet(self) -> str:
        """Return the Python that makes this image again."""
        return self._reproduce(reproduce.snippet)

    def _reproduce(self, write: Any) -> str:
        settings = reproduce.settings_as_stopped(self.metadata)
        styles = [path.name for path in self.request.styles]
        return write(settings, self.request.photo.name, styles, self.path.name)


@dataclass
class Session:
    """One tab.

    Attributes:
        folder: its files, which nobody else uses.
        base: the settings that no control shows, of the preset or the image that the user chose.
        entries: its finished images, oldest first.
        shown: the index of the entry on the page.
        jobs: its jobs that are not done.
        layers: the mask as it was when the user started the newest job.
    """

    folder: Path
    base: Settings = field(default_factory=Settings)
    entries: list[Entry] = field(default_factory=list)
    shown: int = -1
    jobs: list[QueuedJob] = field(default_factory=list)
    layers: list[np.ndarray] = field(default_factory=list)
    _files: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def request(
        self,
        photo: str | None,
        styles: Sequence[str | None],
        choices: Choices,
        *,
        fill: bool = False,
        continuing: bool = False,
        keep_mask: bool = True,
    ) -> Request:
        """Return what the page asks for.

        Args:
            photo: the path of the photo.
            styles: the path of each style, or None for an empty place.
            choices: the values of the controls.
            fill: as in `paint_mask`.
            continuing: whether to start from the image on the page.
            keep_mask: whether to write the mask as a file, which the user gets with the image.

        Raises:
            InputError: an image is missing or unusable, or a choice is out of range.
        """
        if not photo:
            raise InputError("there is no photo; drop one, or choose an example")
        paths = tuple(Path(style) for style in styles if style)
        if not paths:
            raise InputError("there is no style; drop a painting, or choose an example")
        shape = check_image(photo)
        for path in paths:
            check_image(path)
        files: dict[str, Any] = {}
        if mask := paint_mask(self.layers, shape, len(paths), fill=fill):
            masks = [self._save_mask(mask) if keep_mask else mask]
            files = {"masks": masks, "mask_colors": MASK_COLORS[: len(paths)]}
        settings = choices.settings(self.base, **files)
        if not isinstance(settings.init, str) or settings.init not in INIT_NAMES:
            raise InputError(f"init is {str(settings.init)!r}; choose a preset to start afresh")
        if continuing:
            if not self.entries:
                raise InputError("there is no image to continue from; make one first")
            entry = self.entries[self.shown]
            size = max(entry.metadata["width"], entry.metadata["height"])
            settings = continued(settings, shape, entry.path, size)
        return Request(Path(photo), paths, settings)

    def _save_mask(self, mask: PIL.Image.Image) -> Path:
        path = self.new_file("mask")
        try:
            mask.save(path)
        except OSError as error:
            raise InputError(
                f"the mask cannot be written ({error.strerror}); free some space"
            ) from error
        return path

    def new_file(self, stem: str) -> Path:
        """Return the name of a new file."""
        with self._lock:
            self._files += 1
            return self.folder / f"{stem}-{self._files}.png"

    def keep(self, request: Request, result: Result) -> Entry:
        """Save an image and show it. The oldest image goes when there are too many.

        Raises:
            InputError: it cannot be written.
        """
        path = self.new_file("image")
        try:
            result.save(path)
        except InputError as error:
            message = without_folders(str(error), [path, self.folder])
            raise InputError(message) from error
        entry = Entry(path, request, result.metadata)
        with self._lock:
            self.entries.append(entry)
            for old in self.entries[:-MAX_ENTRIES]:
                old.path.unlink(missing_ok=True)
            del self.entries[:-MAX_ENTRIES]
            self.shown = len(self.entries) - 1
        return entry

    def stop(self) -> None:
        """Stop the job that runs, or else the first that waits."""
        for job in self.jobs:
            if not job.stopping:
                job.stop()
                return


class LatestStylizer:
    """Returns the stylizer of the job before, if it fits, so that nothing is loaded or compiled
    again. It is called on the thread of the jobs alone."""

    def __init__(self) -> None:
        self.stylizer: Stylizer | None = None

    def __call__(self, settings: Settings) -> Stylizer:
        """Return a stylizer for these settings."""
        if self.stylizer is None or not self.stylizer.engine.fits(settings):
            self.stylizer = None  # Its memory is free before the next one is loaded.
            self.stylizer = Stylizer(settings)
        return self.stylizer


class Sessions:
    """The tabs, by the session's name, and the queue that they share."""

    def __init__(self, root: Path, job_queue: JobQueue) -> None:
        self.root, self.job_queue = root, job_queue
        self.stylizer_for = LatestStylizer()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Session:
        """Return the session of this name, a new one the first time."""
        with self._lock:
            if name not in self._sessions:
                folder = Path(tempfile.mkdtemp(prefix="session-", dir=self.root))
                self._sessions[name] = Session(folder)
            return self._sessions[name]

    def close(self, name: str) -> None:
        """Stop the jobs of a tab that was closed and remove its files."""
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            for job in session.jobs:
                job.stop()
            shutil.rmtree(session.folder, ignore_errors=True)

    def submit(self, session: Session, request: Request) -> QueuedJob:
        """Queue a job.

        Raises:
            InputError: too many jobs wait.
        """
        job = QueuedJob(partial(request.job, self.stylizer_for))
        self.job_queue.submit(job)
        session.jobs.append(job)
        return job
