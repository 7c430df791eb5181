"""Two other recipes for style transfer, in PyTorch, to hold nst_jax's pictures against.

Written from what their projects say of them, in the manner of `torch_reference`: a frozen network,
channels-last, it and its Gram products in float32 or bfloat16, everything after in float32. Both
compare content at relu4_2 and style at relu1_1 … relu5_1, pool by maximum, and start with
their defaults. With F of N filters at M positions, G = F Fᵀ, mse a mean of squares:

**neural-style-pt** (github.com/ProGamerGov/neural-style-pt, after jcjohnson/neural-style):
5 · mse(F, P) + 100 · Σ_l mse(G/NM, A/NM) + 0.001 · (Σ|Δx| + Σ|Δy|), on pixels in 0..255 less their
mean, from noise of deviation 0.001; L-BFGS with a memory of 100, steps of 1 without a line search,
no bounds until the picture is done. The recipe's 1000 iterations become as many as the time allows.

**crowsonkb** (github.com/crowsonkb/style-transfer-pytorch at commit 4937825, the last whose style
is a Gram matrix): with s(d) = Σd² / (Σ|d| + 1e-8), whose gradient's L1 norm is about 1,
0.015 · s(F − P) + Σ_l w_l s(G/M − A/M) + 2 · tv, w_l as 256:64:16:4:1 with the sum 1, tv the mean
over nine points; the first convolution padded with the picture's edge; from the photo at 128
pixels, up by √2 to the whole size, each scale beginning with the average of the last one's iterates
(decay 0.99, begun anew) and with Adam's moments resized along; Adam with a rate of 0.02 and betas
0.9 and 0.999, clipped to [0, 1]. Its 1000 steps at the first scale and 500 at every other are
multiplied by one factor to fit the time.

What cannot be equal is the network. neural-style-pt's weights belong to Caffe's VGG19, which was
trained on pixels in 0..255, crowsonkb's to torchvision's, trained on pixels of deviation 1; the
parts of neural-style-pt's loss are second and fourth powers of the features, so that their size
decides the balance. A network of rectified convolutions scales with its input and biases: here
features are multiplied by a gain that makes them what they were if this network had been trained
on pixels in the recipe's units (`UNITS`). With the bundled weights that is 57.6 for
neural-style-pt. At its first iteration 100 · style is then 6 times 5 · content for astronaut and
swirls and 20 times for coffee and ink; its INSTALL.md prints 7.5 times for its own network and
pictures. How the layers share in it stays this network's own.
"""

from itertools import count, islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from common import Watch
from torch import Tensor
from torch.nn import functional as nnf
from torch_reference import Network, mean_gram, to_tensor

from nst_jax.images import io as images
from nst_jax.models.weights import load as weights

CONTENT_LAYER: Final = "relu4_2"
STYLE_LAYERS: Final = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")

UNITS: Final = {"neural-style-pt": 1 / 255, "crowsonkb": 0.226}
"""The deviation of the pixels, of 0..1, that a recipe's own network was trained to see as 1; the
mean of three colours."""


class Measures(NamedTuple):
    """What of a picture both losses look at; float32, the gain included."""

    content: Tensor
    """F at `CONTENT_LAYER`, (1, n, h, w)."""
    grams: dict[str, Tensor]
    """G/M at `STYLE_LAYERS`, (1, n, n)."""


class Extractor(NamedTuple):
    """A network, and what its features are multiplied by."""

    network: Network
    gain: float

    def __call__(self, image: Tensor) -> Measures:
        """Measure RGB in [0, 1], (1, 3, h, w)."""
        features = self.network(image)
        return Measures(
            features[CONTENT_LAYER].float() * self.gain,
            {tap: mean_gram(features[tap]) * self.gain**2 for tap in STYLE_LAYERS},
        )


# --- neural-style-pt -----------------------------------------------------------------------------


def neural_style_pt_loss(found: Measures, goal: Measures, image: Tensor) -> Tensor:
    """Of a picture whose pixels ``image`` are in 0..255, whatever they have been reduced by."""
    style = torch.stack(
        [nnf.mse_loss(found.grams[tap] / len(a[0]), a / len(a[0])) for tap, a in goal.grams.items()]
    )
    across, down = image.diff(dim=3).abs().sum(), image.diff(dim=2).abs().sum()
    content = nnf.mse_loss(found.content, goal.content)
    return 5 * content + 100 * style.sum() + 1e-3 * (across + down)


def neural_style_pt(
    extract: Extractor,
    content: np.ndarray,
    style: np.ndarray,
    size: int,
    steps: int | None,
    watch: Watch,
) -> np.ndarray:
    """Paint until ``watch`` says stop, or for so many iterations."""
    device = str(extract.network.mean.device)
    photo, painting = (_tensor(pixels, size, device) for pixels in (content, style))
    with torch.no_grad():
        goal = Measures(extract(photo).content, extract(painting).grams)
    mean = extract.network.mean * 255
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    image = (1e-3 * noise).to(device).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [image], max_iter=1, history_size=100, tolerance_grad=-1, tolerance_change=-1
    )

    def evaluate() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = neural_style_pt_loss(extract((image + mean) / 255), goal, image)
        loss.backward()
        return loss

    def picture() -> np.ndarray:
        return _array((image + mean) / 255)

    for _ in islice(count(), steps):
        optimizer.step(evaluate)
        if watch(1, picture):
            break
    return picture()


# --- crowsonkb -----------------------------------------------------------------------------------

FIRST_SCALE: Final = 128
FIRST_STEPS: Final = 2
"""Steps at the first scale, for one at each of the others."""
LAYER_WEIGHTS: Final = {
    tap: weight / 341 for tap, weight in zip(STYLE_LAYERS, (256, 64, 16, 4, 1), strict=True)
}
AVERAGE: Final = 0.99


def crowsonkb_loss(found: Measures, goal: Measures, image: Tensor) -> Tensor:
    """Of a picture (1, 3, h, w) in [0, 1]."""
    style = torch.stack(
        [w * _scaled_square(found.grams[tap] - goal.grams[tap]) for tap, w in LAYER_WEIGHTS.items()]
    )
    content = _scaled_square(found.content - goal.content)
    return 0.015 * content + style.sum() + 2 * _total_variation(image)


def _scaled_square(difference: Tensor) -> Tensor:
    return difference.square().sum() / (difference.abs().sum() + 1e-8)


def _total_variation(image: Tensor) -> Tensor:
    straight = image.diff(dim=3).square().sum() + image.diff(dim=2).square().sum()
    edged = nnf.pad(image, (1, 1, 1, 1), mode="replicate")
    falling = edged[..., 1:, 1:] - edged[..., :-1, :-1]
    rising = edged[..., 1:, :-1] - edged[..., :-1, 1:]
    diagonal = falling.square().mean() + rising.square().mean()
    return 2 / 3 * straight / image.numel() + 1 / 6 * diagonal


def scales(size: int) -> list[int]:
    """Longest sides from `FIRST_SCALE` or more up to ``size``, each √2 of the one before.

    >>> scales(512)
    [128, 181, 256, 362, 512]
    """
    down = (round(size / 2 ** (i / 2)) for i in range(64))
    return sorted({scale for scale in down if scale >= min(FIRST_SCALE, size)})


def crowsonkb(
    extract: Extractor,
    content: np.ndarray,
    style: np.ndarray,
    size: int,
    steps: int | None,
    watch: Watch,
) -> np.ndarray:
    """Paint with ``steps`` steps at each scale but the first, or until ``watch`` says stop."""
    assert steps is not None
    device = str(extract.network.mean.device)
    average, moments = None, {}
    for scale in scales(size):
        photo = _tensor(content, scale, device)
        painting = _tensor(style, min(scale, max(style.shape)), device)
        with torch.no_grad():
            goal = Measures(extract(photo).content, extract(painting).grams)
        image = photo if average is None else _resized(average.picture(), photo, "bicubic")
        image = image.clamp(0, 1).requires_grad_()
        optimizer = torch.optim.Adam([image], lr=0.02, betas=(0.9, 0.999), fused=True)
        if moments:
            optimizer.state[image] = {
                "step": moments["step"],
                "exp_avg": _resized(moments["exp_avg"], photo, "bicubic"),
                "exp_avg_sq": _resized(moments["exp_avg_sq"], photo, "bilinear").relu_(),
            }
        first, average = average is None, Average(image)
        for _ in range(steps * FIRST_STEPS if first else steps):
            optimizer.zero_grad(set_to_none=True)
            crowsonkb_loss(extract(image), goal, image).backward()
            optimizer.step()
            with torch.no_grad():
                image.clamp_(0, 1)
            average.update(image)
            if watch(1, lambda average=average: _array(average.picture())):
                return _array(average.picture())
        moments = optimizer.state[image]
    assert average is not None
    return _array(average.picture())


class Average:
    """The average of iterates, the first of them included, without the bias towards zero."""

    def __init__(self, image: Tensor) -> None:
        self.sum, self.weight = torch.zeros_like(image, requires_grad=False), 0.0
        self.update(image)

    def update(self, image: Tensor) -> None:
        self.sum.lerp_(image.detach(), 1 - AVERAGE)
        self.weight += (1 - AVERAGE) * (1 - self.weight)

    def picture(self) -> Tensor:
        return self.sum / self.weight


def _resized(values: Tensor, like: Tensor, mode: str) -> Tensor:
    return nnf.interpolate(values, like.shape[2:], mode=mode, align_corners=False)


# --- the network, the pictures -------------------------------------------------------------------

RECIPES: Final = {"neural-style-pt": neural_style_pt, "crowsonkb": crowsonkb}


def extractor(
    recipe: str, file: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Extractor:
    """A recipe's network with the weights in ``file``."""
    loaded = weights.load(file)
    taps = (CONTENT_LAYER, *STYLE_LAYERS)
    padding = "replicate" if recipe == "crowsonkb" else "constant"
    network = Network(loaded.params, loaded.model, taps, dtype, padding).to(device)
    return Extractor(network, float(loaded.params["input"]["std"].mean()) / UNITS[recipe])


def _tensor(pixels: np.ndarray, longest_side: int, device: str = "cpu") -> Tensor:
    return to_tensor(images.resize(pixels, images.fit(pixels.shape, longest_side))[None], device)


def _array(image: Tensor) -> np.ndarray:
    return image.detach().clamp(0, 1)[0].permute(1, 2, 0).cpu().numpy()
