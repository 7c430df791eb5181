"""Which handler answers which event of the page."""

from pathlib import Path
from typing import Any

import gradio as gr

from nst_jax.apps.studio.choices import MAX_STYLES
from nst_jax.apps.studio.events import Events, editor_value
from nst_jax.apps.studio.page import Page
from nst_jax.apps.studio.sessions import Sessions

__all__ = ["connect"]


def connect(
    blocks: gr.Blocks, page: Page, sessions: Sessions, photos: list[Path], paintings: list[Path]
) -> None:
    """Connect the page's events, inside its `gradio.Blocks`."""
    events = Events(page, sessions)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    raw = {**quiet, "preprocess": False}

    photo_outputs = [page.photo, page.editor, page.live]
    for event in (page.photo.upload, page.photo.clear):
        event(events.take_photo, page.photo, photo_outputs, **raw)

    def choose_photo(index: int) -> dict[Any, Any]:
        path = photos[index]
        return {page.photo: str(path), page.editor: editor_value(str(path))}

    def choose_style(index: int, *styles: Any) -> list[Any]:
        empty = [i for i, style in enumerate(styles) if style is None]
        place = empty[0] if empty else MAX_STYLES - 1
        return [str(paintings[index]) if i == place else gr.skip() for i in range(len(styles))]

    page.photo_examples.click(choose_photo, page.photo_examples, photo_outputs, **quiet)
    page.style_examples.click(choose_style, [page.style_examples, *page.styles], page.styles, **raw)
    for style in page.styles:
        style.upload(events.take_style, style, [style, page.live], **raw)
        sliders = page.per_style["style_weights"] + page.per_style["style_scales"]
        style.change(events.show_style_controls, page.styles, sliders, **raw)

    inputs = [page.photo, *page.styles, page.unpainted, *page.controls]
    for image in (page.photo, *page.styles):
        image.change(events.warm_up, inputs, None, **raw)
    shown = [page.compare, page.command, page.snippet, page.files, page.download, page.proceed]
    shown += [page.use_shown, page.live]
    for button, continuing in ((page.start, False), (page.proceed, True)):
        button.click(events.keep_mask, page.editor, None, trigger_mode="multiple", **quiet).then(
            events.start(continuing),
            inputs,
            [*shown, page.stop, page.history],
            trigger_mode="multiple",
            **raw,
        )
    page.stop.click(events.stop, None, None, **quiet)
    page.history.select(events.select, None, shown, **quiet)

    controls = [*page.controls, page.hidden]
    page.preset.input(events.use_preset, page.preset, controls, **quiet)
    page.settings_file.upload(
        events.use_file, page.settings_file, [*controls, page.settings_file, page.live], **quiet
    )
    page.use_shown.click(events.use_shown, None, controls, **quiet)
    blocks.unload(events.close)
