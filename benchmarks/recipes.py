"""Two other recipes for style transfer, in PyTorch, to compare the images of nst_jax with.

They follow the descriptions of their projects and share the network of `compare.torch_side`. Both
compare content at relu4_2 and style at relu1_1 … relu5_1, use max pooling, and start as their
projects do by default. With F of N filters at M positions, G = F Fᵀ, and mse a mean of squares:

**neural-style-pt** (github.com/ProGamerGov/neural-style-pt, after jcjohnson/neural-style):
5 · mse(F, P) + 100 · Σ_l mse(G/NM, A/NM) + 0.001 · (Σ|Δx| + Σ|Δy|), on pixels in 0..255 less their
mean, from noise of deviation 0.001; L-BFGS with a memory of 100, steps of 1 without a line search,
no bounds until the image is done. It runs as many iterations as fit the time (the project: 1000).

**crowsonkb** (github.com/crowsonkb/style-transfer-pytorch at commit 4937825, the last with Gram
matrices): with s(d) = Σd² / (Σ|d| + 1e-8), whose gradient has an L1 norm of about 1,
0.015 · s(F − P) + Σ_l w_l s(G/M − A/M) + 2 · tv; w_l as 256:64:16:4:1 with the sum 1; tv the mean
over nine points; the first convolution padded with edge pixels; from the content at 128 pixels, by
√2 up to the full size; each level starts with the average of the iterates of the one before (decay
0.99, restarted) and with its resized Adam moments; Adam with rate 0.02 and betas 0.9 and 0.999,
clipped to [0, 1]. Its 1000 steps at the first level and 500 at the others are scaled by one factor.

Their own networks were trained on pixels in other units (Caffe: 0..255; torchvision: deviation 1),
and the balance of neural-style-pt depends on the size of the features. A network of ReLU
convolutions scales with its input and biases. Therefore features are multiplied by the gain that
they would have if this network had been trained on pixels in the recipe's units (`PIXEL_STD`); with
the bundled weights it is 57.6 for neural-style-pt. The ratios between layers stay this network's.
"""

from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from common import resize
from compare.torch_side import Network, mean_gram, to_tensor
from torch import Tensor
from torch.nn import functional as nnf

from nst_jax import weights

CONTENT_LAYER: Final = "relu4_2"
STYLE_LAYERS: Final = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
PIXEL_STD: Final = {"neural-style-pt": 1 / 255, "crowsonkb": 0.226}
"""The deviation of pixels in 0..1 that was 1 in the training of the recipe's own network."""
Callback = Callable[[int, Callable[[], np.ndarray]], bool]
"""Called with the number of new steps and a function that returns the image; True stops."""
Images = tuple[np.ndarray, np.ndarray]
"""Content and style, RGB in [0, 1], (h, w, 3)."""


class Statistics(NamedTuple):
    """What both losses compare; float32, with the gain."""

    content: Tensor  # F at `CONTENT_LAYER`, (1, n, h, w)
    grams: dict[str, Tensor]  # G/M at `STYLE_LAYERS`, (1, n, n)


class Extractor:
    """The network of a recipe with the weights in ``file``, and the gain of its features."""

    def __init__(
        self, recipe: str, file: Path, dtype: Any = torch.float32, device: Any = "cpu"
    ) -> None:
        loaded = weights.load(file)
        padding = "replicate" if recipe == "crowsonkb" else "constant"
        layers = (CONTENT_LAYER, *STYLE_LAYERS)
        self.network = Network(loaded.params, loaded.model, layers, dtype, padding).to(device)
        self.gain = float(loaded.params["input"]["std"].mean()) / PIXEL_STD[recipe]

    def __call__(self, image: Tensor) -> Statistics:
        """Measure RGB in [0, 1], (1, 3, h, w)."""
        features = self.network(image)
        grams = {name: mean_gram(features[name]) * self.gain**2 for name in STYLE_LAYERS}
        return Statistics(features[CONTENT_LAYER].float() * self.gain, grams)

    def targets(self, content: Tensor, style: Tensor) -> Statistics:
        """Measure the content of one image and the style of another."""
        with torch.no_grad():
            return Statistics(self(content).content, self(style).grams)

    def read(self, pixels: np.ndarray, size: int) -> Tensor:
        """Convert an image to a tensor and resize it to a longest side."""
        return to_tensor(resize(pixels, size)[None], str(self.network.mean.device))


def neural_style_pt_loss(found: Statistics, targets: Statistics, image: Tensor) -> Tensor:
    """Return the loss of an image with pixels in 0..255, or in 0..255 less a constant."""
    style = [
        nnf.mse_loss(found.grams[name] / len(gram[0]), gram / len(gram[0]))
        for name, gram in targets.grams.items()
    ]
    variation = image.diff(dim=3).abs().sum() + image.diff(dim=2).abs().sum()
    content = nnf.mse_loss(found.content, targets.content)
    return 5 * content + 100 * torch.stack(style).sum() + 1e-3 * variation


def neural_style_pt(
    extract: Extractor, images: Images, size: int, steps: int | None, callback: Callback
) -> np.ndarray:
    """Run ``steps`` iterations, or until ``callback`` returns True."""
    content, style = (extract.read(image, size) for image in images)
    targets = extract.targets(content, style)
    mean = extract.network.mean * 255
    noise = torch.randn(content.shape, generator=torch.Generator().manual_seed(0))
    image = (1e-3 * noise).to(mean.device).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [image], max_iter=1, history_size=100, tolerance_grad=-1, tolerance_change=-1
    )

    def evaluate() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = neural_style_pt_loss(extract((image + mean) / 255), targets, image)
        loss.backward()
        return loss

    def current_image() -> np.ndarray:
        return _to_array((image + mean) / 255)

    for _ in islice(count(), steps):
        optimizer.step(evaluate)
        if callback(1, current_image):
            break
    return current_image()


MIN_SIZE: Final = 128
FIRST_LEVEL_STEPS: Final = 2
"""Steps at the first level for each step at another level."""
LAYER_WEIGHTS: Final = {name: 4.0 ** (4 - i) / 341 for i, name in enumerate(STYLE_LAYERS)}
EMA_DECAY: Final = 0.99


def crowsonkb_loss(found: Statistics, targets: Statistics, image: Tensor) -> Tensor:
    """Return the loss of an image (1, 3, h, w) in [0, 1]."""
    style = [
        weight * _scaled_square(found.grams[name] - targets.grams[name])
        for name, weight in LAYER_WEIGHTS.items()
    ]
    content = _scaled_square(found.content - targets.content)
    return 0.015 * content + torch.stack(style).sum() + 2 * _total_variation(image)


def _scaled_square(difference: Tensor) -> Tensor:
    return difference.square().sum() / (difference.abs().sum() + 1e-8)


def _total_variation(image: Tensor) -> Tensor:
    straight = image.diff(dim=3).square().sum() + image.diff(dim=2).square().sum()
    padded = nnf.pad(image, (1, 1, 1, 1), mode="replicate")
    falling = padded[..., 1:, 1:] - padded[..., :-1, :-1]
    rising = padded[..., 1:, :-1] - padded[..., :-1, 1:]
    diagonal = falling.square().mean() + rising.square().mean()
    return 2 / 3 * straight / image.numel() + 1 / 6 * diagonal


def level_sizes(size: int) -> list[int]:
    """Return the longest sides of the levels, `MIN_SIZE` or more, each √2 times the one before.

    >>> level_sizes(512)
    [128, 181, 256, 362, 512]
    """
    sizes = {round(size / 2 ** (i / 2)) for i in range(64)}
    return sorted(side for side in sizes if side >= min(MIN_SIZE, size))


def crowsonkb(
    extract: Extractor, images: Images, size: int, steps: int | None, callback: Callback
) -> np.ndarray:
    """Run ``steps`` steps at each level but the first, or until ``callback`` returns True."""
    assert steps is not None
    ema, moments = None, {}
    for side in level_sizes(size):
        content = extract.read(images[0], side)
        targets = extract.targets(content, extract.read(images[1], min(side, max(images[1].shape))))
        image = content if ema is None else _interpolate(ema.image(), content, "bicubic")
        image = image.clamp(0, 1).requires_grad_()
        optimizer = torch.optim.Adam([image], lr=0.02, betas=(0.9, 0.999), fused=True)
        if moments:
            optimizer.state[image] = {
                "step": moments["step"],
                "exp_avg": _interpolate(moments["exp_avg"], content, "bicubic"),
                "exp_avg_sq": _interpolate(moments["exp_avg_sq"], content, "bilinear").relu_(),
            }
        level_steps = steps * FIRST_LEVEL_STEPS if ema is None else steps
        ema = Ema(image)
        for _ in range(level_steps):
            optimizer.zero_grad(set_to_none=True)
            crowsonkb_loss(extract(image), targets, image).backward()
            optimizer.step()
            with torch.no_grad():
                image.clamp_(0, 1)
            ema.update(image)
            if callback(1, lambda ema=ema: _to_array(ema.image())):
                return _to_array(ema.image())
        moments = optimizer.state[image]
    assert ema is not None
    return _to_array(ema.image())


class Ema:
    """The exponential moving average of iterates, the first included, with bias correction."""

    def __init__(self, image: Tensor) -> None:
        self.sum, self.weight = torch.zeros_like(image, requires_grad=False), 0.0
        self.update(image)

    def update(self, image: Tensor) -> None:
        self.sum.lerp_(image.detach(), 1 - EMA_DECAY)
        self.weight += (1 - EMA_DECAY) * (1 - self.weight)

    def image(self) -> Tensor:
        return self.sum / self.weight


def _interpolate(values: Tensor, like: Tensor, mode: str) -> Tensor:
    return nnf.interpolate(values, like.shape[2:], mode=mode, align_corners=False)


def _to_array(image: Tensor) -> np.ndarray:
    return image.detach().clamp(0, 1)[0].permute(1, 2, 0).cpu().numpy()


RECIPES: Final = {"neural-style-pt": neural_style_pt, "crowsonkb": crowsonkb}
