"""The page: its controls, and what it shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, get_args

import gradio as gr
from gradio import themes

from nst_jax._types import StyleLossName
from nst_jax.apps.studio.choices import MAX_STYLES, PER_STYLE, PRESETS, SINGLE, control_values
from nst_jax.apps.studio.render import message_view
from nst_jax.apps.studio.uploads import MASK_COLORS
from nst_jax.settings import SETTINGS, Settings

__all__ = ["CSS", "SLIDER_ENDS", "STYLE_FILLS", "Page", "lay_out", "theme"]

CSS: Final = Path(__file__).with_name("studio.css")
SLIDER_ENDS: Final = {"size": 2048, "content_weight": 1}
"""Settings that are read from an image move them."""
PHOTO_STAYS, STYLE_FILLS = "the photo stays", "style 1 applies"
WELCOME: Final = "Drop a photo and a style, or choose examples, and press Stylize."


@dataclass(frozen=True)
class Page:
    """The parts of the page that events read or write.

    ``single`` and ``per_style`` have the controls of settings, by the names of `SINGLE` and
    `PER_STYLE`.
    """

    photo: gr.Image
    styles: list[gr.Image]
    photo_examples: gr.Dataset
    style_examples: gr.Dataset
    preset: gr.Dropdown
    single: dict[str, Any]
    per_style: dict[str, list[gr.Slider]]
    hidden: gr.Markdown
    editor: gr.ImageEditor
    unpainted: gr.Radio
    settings_file: gr.File
    start: gr.Button
    proceed: gr.Button
    stop: gr.Button
    live: gr.HTML
    compare: gr.ImageSlider
    command: gr.Code
    snippet: gr.Code
    files: gr.File
    download: gr.DownloadButton
    history: gr.Gallery
    use_shown: gr.Button

    @property
    def controls(self) -> list[Any]:
        """The controls of settings, in the order of `SINGLE` and `PER_STYLE`."""
        single = [self.single[name] for name in SINGLE]
        return [*single, *chain(*(self.per_style[name] for name in PER_STYLE))]


def lay_out(photos: Sequence[Path], paintings: Sequence[Path]) -> Page:
    """Lay the page out inside a `gradio.Blocks`.

    Args:
        photos: the example photos.
        paintings: the example styles.
    """
    gr.HTML('<header class="studio-title"><h1>nst_jax studio</h1></header>')
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=380):
            inputs = _inputs(photos, paintings)
            with gr.Tabs():
                with gr.Tab("Settings"):
                    controls = _controls()
                with gr.Tab("Mask"):
                    mask = _mask()
                with gr.Tab("Use settings again"):
                    settings_file = gr.File(
                        label="An image that nst_jax saved",
                        file_types=[".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"],
                        height=140,
                        elem_id="settings-file",
                    )
        with gr.Column(scale=7, min_width=420):
            outputs = _outputs()
    return Page(**inputs, **controls, **mask, settings_file=settings_file, **outputs)


def _inputs(photos: Sequence[Path], paintings: Sequence[Path]) -> dict[str, Any]:
    image: dict[str, Any] = {"type": "filepath", "sources": ["upload", "clipboard"], "buttons": []}
    with gr.Row(equal_height=True):
        with gr.Column(scale=1, min_width=200):
            photo = gr.Image(label="Photo", height=250, elem_id="photo", **image)
            photo_examples = _examples("Example photos", photos)
        with gr.Column(scale=1, min_width=200):
            styles = []
            for row in range(MAX_STYLES // 2):
                with gr.Row():
                    for i in (2 * row, 2 * row + 1):
                        options = {"height": 116, "min_width": 100, "elem_id": f"style-{i + 1}"}
                        styles.append(gr.Image(label=f"Style {i + 1}", **options, **image))
            style_examples = _examples("Example styles", paintings)
    return {
        "photo": photo,
        "styles": styles,
        "photo_examples": photo_examples,
        "style_examples": style_examples,
    }


def _examples(label: str, paths: Sequence[Path]) -> gr.Dataset:
    return gr.Dataset(
        label=label,
        components=[gr.Image(visible=False, render=False)],
        samples=[[str(path)] for path in paths],
        type="index",
        layout="gallery",
        elem_classes="studio-examples",
    )


def _controls() -> dict[str, Any]:
    first = control_values(Settings(), MAX_STYLES)
    choices = {name: list(SETTINGS[name].kind.choices) for name in ("color_mode", "model")}
    single: dict[str, Any] = {}
    with gr.Row():
        preset = gr.Dropdown(list(PRESETS), value="Default", label="Preset", elem_id="preset")
        single["size"] = gr.Slider(
            *(0, SLIDER_ENDS["size"], first["size"]),
            step=1,
            label="Size (0: as photo)",
            elem_id="size",
        )
    with gr.Row():
        single["content_weight"] = gr.Slider(
            *(0, SLIDER_ENDS["content_weight"], first["content_weight"]),
            step=0.005,
            label="Content weight",
            elem_id="content-weight",
        )
        single["color_mode"] = gr.Dropdown(
            choices["color_mode"], value=first["color_mode"], label="Colors"
        )
    strokes, shares = [], []
    with gr.Row():
        for i in range(1, MAX_STYLES + 1):
            strokes.append(
                gr.Slider(
                    *(0.25, 4, 1),
                    step=0.05,
                    label=f"Strokes of style {i}",
                    min_width=200,
                    visible=i == 1,
                    elem_id=f"stroke-{i}",
                )
            )
            shares.append(
                gr.Slider(
                    *(0, 1, 1),
                    step=0.01,
                    label=f"Share of style {i}",
                    min_width=200,
                    visible=False,
                    elem_id=f"share-{i}",
                )
            )
    with gr.Accordion("More", open=False), gr.Row():
        single["style_loss"] = gr.Dropdown(
            list(get_args(StyleLossName)),
            value=first["style_loss"],
            label="Style loss",
            allow_custom_value=True,
        )
        single["steps"] = gr.Textbox(
            first["steps"], label="Steps at each level", placeholder="by the size", elem_id="steps"
        )
        single["seed"] = gr.Number(first["seed"], label="Seed", precision=0)
        single["model"] = gr.Dropdown(choices["model"], value=first["model"], label="Network")
    return {
        "preset": preset,
        "single": single,
        "per_style": {"style_weights": shares, "style_scales": strokes},
        "hidden": gr.Markdown(elem_id="hidden-settings"),
    }


def _mask() -> dict[str, Any]:
    names = " · ".join(
        f'<span style="color:{color}">⬤</span> style {i}'
        for i, color in enumerate(MASK_COLORS, start=1)
    )
    gr.HTML(f'<p class="studio-hint">Paint where each style goes: {names}</p>')
    editor = gr.ImageEditor(
        label="Mask",
        type="numpy",
        image_mode="RGBA",
        format="png",
        sources=(),
        transforms=(),
        layers=False,
        buttons=[],
        brush=gr.Brush(default_size=40, colors=list(MASK_COLORS), color_mode="fixed"),
        elem_id="mask",
    )
    unpainted = gr.Radio(
        [PHOTO_STAYS, STYLE_FILLS], value=PHOTO_STAYS, label="Where nothing is painted"
    )
    return {"editor": editor, "unpainted": unpainted}


def _outputs() -> dict[str, Any]:
    with gr.Row():
        start = gr.Button("Stylize", variant="primary", elem_id="start")
        stop = gr.Button("Stop and keep", interactive=False, elem_id="stop")
        proceed = gr.Button("Continue from here", interactive=False, elem_id="continue")
    with gr.Tabs():
        with gr.Tab("Image"):
            live = gr.HTML(message_view(WELCOME), elem_id="live")
        with gr.Tab("Before and after", elem_id="compare-tab"):
            compare = gr.ImageSlider(
                label="Photo and image",
                type="pil",
                format="png",
                interactive=False,
                buttons=[],
                max_height=640,
                elem_id="compare",
            )
        with gr.Tab("Make it again"):
            command = gr.Code(
                label="Command", language="shell", wrap_lines=True, max_lines=6, elem_id="command"
            )
            snippet = gr.Code(label="Python", language="python", elem_id="snippet")
            files = gr.File(
                label="Files that the command needs",
                file_count="multiple",
                visible=False,
                elem_id="files",
            )
    with gr.Row():
        download = gr.DownloadButton(
            "Download with settings inside", interactive=False, elem_id="download"
        )
        use_shown = gr.Button("Use these settings", interactive=False, elem_id="use-shown")
    history = gr.Gallery(
        label="History",
        columns=6,
        height=170,
        allow_preview=False,
        interactive=False,
        object_fit="cover",
        fit_columns=False,
        buttons=[],
        format="jpeg",
        elem_id="history",
    )
    return {
        **{"start": start, "stop": stop, "proceed": proceed, "live": live, "compare": compare},
        **{"command": command, "snippet": snippet, "files": files, "download": download},
        **{"history": history, "use_shown": use_shown},
    }


def theme() -> themes.Base:
    """Return the look of the page, with the fonts of the system."""
    fonts = ["system-ui", "sans-serif"]
    return themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        font=fonts,
        font_mono=["ui-monospace", "monospace"],
        spacing_size="sm",
        radius_size="md",
    )
