"""What happens on the page when the user does something."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import gradio as gr

from nst_jax import images
from nst_jax.apps.studio import reproduce
from nst_jax.apps.studio.choices import MAX_STYLES, PRESETS, Choices, hidden_settings
from nst_jax.apps.studio.job_queue import QueuedJob
from nst_jax.apps.studio.page import MAX_SIZE, STYLE_FILLS, Page
from nst_jax.apps.studio.render import live_view, message_view, still_view
from nst_jax.apps.studio.sessions import Entry, Request, Session, Sessions
from nst_jax.apps.studio.thumbnails import before_and_after, editor_background, thumbnail
from nst_jax.apps.studio.uploads import check_image, uploaded_path
from nst_jax.errors import InputError
from nst_jax.settings import INIT_NAMES, Settings

__all__ = ["Events", "editor_value"]

PREPARING: Final = "Preparing: the network is read, and compiled if this size is new."

Updates = dict[Any, Any]


class Events:
    """The handlers of the page's events.

    Events with ``preprocess=False`` get an image as it was uploaded, so that a file that is no
    image reaches `check_image` and its message.
    """

    def __init__(self, page: Page, sessions: Sessions) -> None:
        self.page, self.sessions = page, sessions

    def take_photo(self, value: Any) -> Updates:
        """Check the photo and show it to paint a mask over it."""
        page, path = self.page, self._path(value)
        if path is None:
            return {page.editor: None}
        if error := _refuse(path):
            return {page.photo: None, page.editor: None, page.live: message_view(error, error=True)}
        return {page.editor: editor_value(path)}

    def take_style(self, value: Any) -> tuple[Any, Any]:
        """Check a style."""
        path = self._path(value)
        if path is not None and (error := _refuse(path)):
            return None, message_view(error, error=True)
        return gr.skip(), gr.skip()

    def show_style_controls(self, *styles: Any) -> list[Any]:
        """Show a stroke size for each style, and the shares if there are several."""
        filled = [self._path(style) is not None for style in styles]
        strokes = [gr.Slider(visible=full or i == 0) for i, full in enumerate(filled)]
        return strokes + [gr.Slider(visible=full and sum(filled) > 1) for full in filled]

    def keep_mask(self, browser: gr.Request, value: Any) -> None:
        """Keep the mask for the job that starts now."""
        self._session(browser).layers = list(value["layers"]) if value else []

    def start(self, continuing: bool) -> Callable[..., Iterator[Updates]]:
        """Return the handler that queues a job and follows it."""

        def handle(browser: gr.Request, *values: Any) -> Iterator[Updates]:
            session = self._session(browser)
            try:
                request = self._request(session, values, continuing=continuing)
                job = self.sessions.submit(session, request)
            except InputError as error:
                yield {self.page.live: message_view(str(error), error=True)}
                return
            try:
                yield {self.page.stop: gr.Button(interactive=True)}
                yield from self._follow(session, job)
                yield self._finish(session, job, request)
            finally:
                if job in session.jobs:  # The browser went away.
                    job.stop()
                    session.jobs.remove(job)

        return handle

    def warm_up(self, browser: gr.Request, *values: Any) -> None:
        """Compile while the user still chooses, so that the first preview comes sooner."""
        session = self._session(browser)
        with suppress(InputError):  # The user has not asked for anything yet.
            request = self._request(session, values, continuing=False, keep_mask=False)
            prepare = partial(request.job, self.sessions.stylizer_for)
            self.sessions.job_queue.warm_up(prepare)

    def _request(self, session: Session, values: tuple[Any, ...], **options: bool) -> Request:
        """Return what the page's inputs ask for; ``options`` as in `Session.request`."""
        photo, *styles = (self._path(value) for value in values[: 1 + MAX_STYLES])
        unpainted, *controls = values[1 + MAX_STYLES :]
        choices = _choices(tuple(controls), [style is not None for style in styles])
        fill = unpainted == STYLE_FILLS
        return session.request(photo, styles, choices, fill=fill, **options)

    def _follow(self, session: Session, job: QueuedJob) -> Iterator[Updates]:
        """Show the updates of a job while it is the first of its tab."""
        live, announced = self.page.live, ""
        for update in job.follow():
            if session.jobs[:1] != [job]:
                continue
            if update is not None:
                waiting = len(session.jobs) - 1
                note = f"{_count(waiting)} of this tab waiting" if waiting else ""
                yield {live: live_view(update, note)}
            elif job.update is None:
                ahead = self.sessions.job_queue.ahead(job)
                message = f"Waiting: {_count(ahead)} ahead." if ahead else PREPARING
                if message != announced:
                    announced = message
                    yield {live: message_view(message)}

    def _finish(self, session: Session, job: QueuedJob, request: Request) -> Updates:
        """Keep the image of a job that ended, and show it."""
        page = self.page
        session.jobs.remove(job)
        updates: Updates = {page.stop: gr.Button(interactive=bool(session.jobs))}
        if job.update is None or job.update.result is None:
            message = job.error or "Stopped before the first step."
            return updates | {page.live: message_view(message, error=bool(job.error))}
        try:
            entry = session.keep(request, job.update.result)
        except InputError as error:
            return updates | {page.live: message_view(str(error), error=True)}
        return (
            updates
            | self._shown(entry)
            | {page.history: [(thumbnail(kept.path), kept.path.stem) for kept in session.entries]}
        )

    def stop(self, browser: gr.Request) -> None:
        """Stop the job of this tab that runs, and keep its image."""
        self._session(browser).stop()

    def select(self, browser: gr.Request, selected: gr.SelectData) -> Updates:
        """Show an image of the history."""
        session = self._session(browser)
        session.shown = int(selected.index)
        entry = session.entries[session.shown]
        made = entry.metadata
        caption = f"{entry.path.name}: {made['width']}×{made['height']}, {made['steps_done']} steps"
        view = still_view(images.read(entry.path).pixels, caption)
        return self._shown(entry) | {self.page.live: view}

    def _shown(self, entry: Entry) -> Updates:
        page, files = self.page, [str(path) for path in entry.request.made_files]
        return {
            page.compare: before_and_after(entry.request.photo, entry.path),
            page.command: entry.command(),
            page.snippet: entry.snippet(),
            page.files: gr.File(value=files, visible=bool(files)),
            page.download: gr.DownloadButton(value=str(entry.path), interactive=True),
            page.proceed: gr.Button(interactive=True),
            page.use_shown: gr.Button(interactive=True),
        }

    def use_preset(self, browser: gr.Request, name: str) -> Updates:
        """Set the controls to a preset."""
        return self._use(self._session(browser), PRESETS[name])

    def use_file(self, browser: gr.Request, path: str | None) -> Updates:
        """Set the controls to the settings inside an image."""
        if path is None:
            return {}
        try:
            settings = reproduce.parse_metadata(reproduce.read_settings(path))
        except InputError as error:
            message = str(error).replace(path, Path(path).name)
            gr.Warning(message, title="No settings")
            return {
                self.page.settings_file: None,
                self.page.live: message_view(message, error=True),
            }
        return self._use(self._session(browser), settings)

    def use_shown(self, browser: gr.Request) -> Updates:
        """Set the controls to the settings of the image on the page."""
        session = self._session(browser)
        metadata = session.entries[session.shown].metadata
        return self._use(session, reproduce.parse_metadata(metadata))

    def _use(self, session: Session, settings: Settings) -> Updates:
        missing = reproduce.missing_files(settings)
        base = replace(settings, masks=None, mask_colors=None)
        if settings.init not in INIT_NAMES:
            base = replace(base, init="content")
        session.base = base
        notes = [f"Also set: {hidden}." for hidden in [hidden_settings(base)] if hidden]
        notes += [f"It also used {missing}, which the settings do not hold."] if missing else []
        choices = Choices.of(settings, MAX_STYLES)
        page = self.page
        return {
            page.size: gr.Slider(value=choices.size, maximum=max(MAX_SIZE, choices.size)),
            page.content_weight: gr.Slider(
                value=choices.content_weight, maximum=max(1, choices.content_weight)
            ),
            page.color_mode: choices.color_mode,
            page.style_loss: choices.style_loss,
            page.steps: choices.steps,
            page.seed: choices.seed,
            page.model: choices.model,
            **dict(zip(page.mixes, choices.mixes, strict=True)),
            **dict(zip(page.strokes, choices.strokes, strict=True)),
            page.hidden: " ".join(notes),
        }

    def close(self, browser: gr.Request) -> None:
        """Forget a tab that was closed."""
        self.sessions.close(str(browser.session_hash))

    def _path(self, value: Any) -> str | None:
        return uploaded_path(value, self.sessions.root)

    def _session(self, browser: gr.Request) -> Session:
        return self.sessions[str(browser.session_hash)]


def _refuse(path: str) -> str:
    """Say on the page why a file cannot be used; return the reason, or an empty text."""
    try:
        check_image(path)
    except InputError as error:
        gr.Warning(str(error), title="This file cannot be used")
        return str(error)
    return ""


def _choices(values: tuple[Any, ...], filled: list[bool]) -> Choices:
    """Return the choices from the values of `Page.controls`, without those of empty places."""
    size, content_weight, color_mode, style_loss, steps, seed, model, *each = values
    try:
        numbers = [float(value) for value in each]
        mixes, strokes = numbers[:MAX_STYLES], numbers[MAX_STYLES:]
        return Choices(
            size=int(size),
            content_weight=float(content_weight),
            color_mode=color_mode,
            style_loss=str(style_loss),
            steps=str(steps or ""),
            seed=int(seed),
            model=model,
            mixes=tuple(mix for mix, full in zip(mixes, filled, strict=True) if full),
            strokes=tuple(stroke for stroke, full in zip(strokes, filled, strict=True) if full),
        )
    except (TypeError, ValueError, OverflowError):
        raise InputError("a control is empty or holds no number; give each a value") from None


def _count(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"


def editor_value(path: str) -> dict[str, Any]:
    """Return what the mask's editor shows for a photo."""
    return {"background": editor_background(path), "layers": [], "composite": None}
