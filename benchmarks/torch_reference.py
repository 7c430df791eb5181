"""Neural style transfer in PyTorch, as a careful PyTorch user writes it: what nst_jax is held to.

The same objective as `nst_jax.loss` with default settings: relative losses, max pooling, the first
convolution padded with the picture's edge. The network's modules are frozen and channels-last,
rectifications happen in place, and whatever does not change from step to step is computed once. In
bfloat16 the network and its Gram products are bfloat16 (accumulated in float32 inside the products,
rounded at their end); the picture, the losses and the optimiser stay float32.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from common import ADAM_LR, LBFGS_LR, LBFGS_MEMORY, SETTINGS, TAPS, Optimizer
from torch import Tensor, nn
from torch.nn import functional as nnf

from nst_jax.models.architectures import conv_names
from nst_jax.models.weights.validation import Params


class Network(nn.Module):
    """VGG up to the deepest of ``taps``, frozen; taps are after the rectification.

    ``padding`` is the first convolution's: the picture's edge (``replicate``) or ``constant`` zeros
    as in training.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        params: Params,
        model: str,
        taps: Iterable[str],
        dtype: torch.dtype,
        padding: Literal["replicate", "constant"] = "replicate",
    ) -> None:
        super().__init__()
        self.taps = frozenset(taps)
        self.dtype = dtype
        self.padding = padding
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(params["input"][name]).view(1, 3, 1, 1))
        self.layers = nn.ModuleDict()
        missing = set(self.taps)
        for name in conv_names(model):
            if name.endswith("_1") and name != "conv1_1":
                self.layers[name.replace("conv", "pool")] = nn.MaxPool2d(2)
            self.layers[name] = _conv(params[name], padding=0 if name == "conv1_1" else 1)
            relu = name.replace("conv", "relu")
            self.layers[relu] = nn.ReLU(inplace=True)
            missing.discard(relu)
            if not missing:
                break
        self.requires_grad_(False)
        self.layers.to(dtype)
        nn.utils.convert_conv2d_weight_memory_format(self.layers, torch.channels_last)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features (b, n, h, w) by tap of RGB pictures in [0, 1], (b, 3, h, w)."""
        x = (image - self.mean) / self.std
        # Not by the first module's padding_mode: of four axes, torch.compile (2.13) mistakes the
        # order of memory that this padding's gradient comes in, and stops.
        x = nnf.pad(x.flatten(0, 1), (1, 1, 1, 1), mode=self.padding).unflatten(0, (-1, 3))
        x = x.to(self.dtype, memory_format=torch.channels_last)
        features = {}
        for name, layer in self.layers.items():
            x = layer(x)
            if name in self.taps:
                features[name] = x
        return features


def _conv(arrays: Any, padding: int) -> nn.Conv2d:
    kernel = torch.tensor(arrays["kernel"]).permute(3, 2, 0, 1)
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=padding)
    conv.load_state_dict({"weight": kernel, "bias": torch.tensor(arrays["bias"])})
    return conv


def mean_gram(features: Tensor) -> Tensor:
    """Gram matrices a position, (b, n, n) float32, of (b, n, h, w)."""
    flat = features.permute(0, 2, 3, 1).flatten(1, 2)  # a view of channels-last memory
    return torch.bmm(flat.transpose(1, 2), flat).float() / flat.shape[1]


class Goal(NamedTuple):
    """A target and its energy, the sum of its squares (one for each picture)."""

    target: Tensor
    energy: Tensor


def _goal(target: Tensor) -> Goal:
    return Goal(target, target.float().square().flatten(1).sum(1))


class Objective(nn.Module):
    """The sum over a batch of every picture's loss: one content, a style for each."""

    def __init__(self, network: Network, content: Tensor, styles: Tensor) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            features = network(content)
            self.content = {tap: _goal(features[tap]) for tap in SETTINGS.content_layers}
            features = network(styles)
            self.style = {tap: _goal(mean_gram(features[tap])) for tap in SETTINGS.style_layers}

    def forward(self, image: Tensor) -> Tensor:
        """The total of pictures (b, 3, h, w)."""
        features = self.network(image)
        total = image.new_zeros(image.shape[0])
        for tap, goal in self.content.items():
            weight = SETTINGS.content_weight * SETTINGS.content_layers[tap]
            total = total + weight * _relative(features[tap], goal)
        for tap, goal in self.style.items():
            weight = SETTINGS.style_weight * SETTINGS.style_layers[tap]
            total = total + weight * _relative(mean_gram(features[tap]), goal)
        return total.sum()


def _relative(found: Tensor, goal: Goal) -> Tensor:
    return (found.float() - goal.target.float()).square().flatten(1).sum(1) / goal.energy


def objective(
    params: Params,
    model: str,
    content: np.ndarray,
    styles: np.ndarray,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Objective:
    """Build it from NumPy pictures, (h, w, 3) and (b, h, w, 3)."""
    network = Network(params, model, TAPS, dtype).to(device)
    return Objective(network, to_tensor(content[None], device), to_tensor(styles, device))


def to_tensor(pictures: np.ndarray, device: str = "cpu") -> Tensor:
    """(b, h, w, 3) as (b, 3, h, w), the usual order of memory, which L-BFGS insists on; the
    network changes it for itself."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).contiguous().to(device)


def optimizer(name: Optimizer, image: Tensor) -> torch.optim.Optimizer:
    """Adam, or L-BFGS with one evaluation a step: no line search, and it never stops early."""
    if name == "adam":
        return torch.optim.Adam([image], lr=ADAM_LR, fused=True)
    return torch.optim.LBFGS(
        [image],
        lr=LBFGS_LR,
        max_iter=1,
        history_size=LBFGS_MEMORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
    )
