"""The live view as HTML: the image, where the job is, and the curve of the loss.

The image is inside the page, so that previews leave no files behind.
"""

import base64
import html
import io
from typing import Final

import numpy as np
import PIL.Image
from jaxtyping import Float32

from nst_jax import images
from nst_jax.apps.studio.stream import Update
from nst_jax.apps.studio.thumbnails import as_uint8

__all__ = ["describe_time", "live_view", "loss_curve", "message_view", "still_view"]

MAX_PREVIEW: Final = 1024
CURVE_WIDTH: Final = 600
CURVE_HEIGHT: Final = 90


def message_view(message: str, *, error: bool = False) -> str:
    """Return the live view while there is no image, or the reason why there is none."""
    role, name = ("alert", "studio-error") if error else ("status", "studio-message")
    return f'<div class="{name}" role="{role}">{html.escape(message)}</div>'


def live_view(update: Update, note: str = "") -> str:
    """Return the live view of an update.

    Args:
        update: the job after a chunk of steps.
        note: a sentence to add, such as how many jobs wait.
    """
    height, width = update.image.shape[:2]
    fraction = update.step / max(1, update.num_steps)
    if update.result is None:
        left = f", {describe_time(update.seconds_left)} left" if update.seconds_left else ""
    elif update.result.metadata["stopped"]:
        left = ", stopped"
    else:
        left = f", done in {describe_time(update.result.metadata['seconds'])}"
    loss = f", loss {update.losses[-1]:.4g}" if len(update.losses) else ""
    status = (
        f"level {update.level + 1} of {len(update.levels)} ({width}×{height}), "
        f"step {update.step} of {update.num_steps}{loss}{left}"
    )
    if update.step == 0 and update.result is None:
        status = f"a first image by a network ({width}×{height}); the optimization is prepared"
    return (
        f'<figure class="studio-live" data-step="{update.step}">'
        f'<img src="{_data_uri(update.image)}" alt="the image after {update.step} steps">'
        f'<div class="studio-bar"><div style="width: {fraction:.1%}"></div></div>'
        f'<figcaption role="status">{html.escape(status)}</figcaption>'
        f"{loss_curve(update.losses, update.sizes, update.num_steps)}"
        f"{message_view(update.error, error=True) if update.error else ''}"
        f"{message_view(note) if note else ''}</figure>"
    )


def still_view(image: Float32[np.ndarray, "h w 3"], caption: str) -> str:
    """Return the live view of an image of the history."""
    return (
        f'<figure class="studio-live"><img src="{_data_uri(image)}" alt="{html.escape(caption)}">'
        f'<figcaption role="status">{html.escape(caption)}</figcaption></figure>'
    )


def describe_time(seconds: float) -> str:
    """Return a time as people say it.

    >>> describe_time(7.2), describe_time(95), describe_time(3700)
    ('7 s', '1 min 35 s', '1 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def loss_curve(losses: np.ndarray, sizes: np.ndarray, num_steps: int) -> str:
    """Draw the loss at each step as SVG, on a logarithmic axis, with a line for each level.

    Args:
        losses: the loss at each step so far.
        sizes: the longest side of the image at each step so far.
        num_steps: the steps of the whole job, which are the width.
    """
    usable = np.isfinite(losses) & (losses > 0)
    if usable.sum() < 2:
        return ""
    heights = np.log10(np.where(usable, losses, 1.0))
    low, high = heights[usable].min(), heights[usable].max()
    x = (np.arange(len(losses)) + 1) / num_steps * CURVE_WIDTH
    y = CURVE_HEIGHT * (0.95 - 0.9 * (heights - low) / max(high - low, 1e-9))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[usable], y[usable], strict=True))
    starts = x[1:][np.diff(sizes) != 0] if len(sizes) == len(losses) else ()
    lines = "".join(f'<path class="level" d="M{a:.1f} 0V{CURVE_HEIGHT}"/>' for a in starts)
    return (
        f'<svg class="studio-curve" viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" role="img" '
        f'aria-label="the loss at each step" preserveAspectRatio="none">{lines}'
        f'<polyline points="{points}"/></svg>'
    )


def _data_uri(image: Float32[np.ndarray, "h w 3"]) -> str:
    if max(image.shape) > MAX_PREVIEW:
        image = images.resize(image, images.fit_longest_side(image.shape, MAX_PREVIEW))
    encoded = io.BytesIO()
    PIL.Image.fromarray(as_uint8(image)).save(encoded, "JPEG", quality=90, subsampling="4:4:4")
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
