"""The PyTorch side of the comparison: neural style transfer as a careful PyTorch user writes it.

The objective is that of `nst_jax.loss` with default settings: losses relative to the energy of
their targets, max pooling, the first convolution padded with the edge pixels of the image. The
network is frozen and channels-last, activations are in place, and whatever is the same in all steps
is computed once. With bfloat16 the network and its Gram products are bfloat16 (float32 inside the
products, rounded at their end); the image, the losses and the optimizer stay float32.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from compare import workload
from compare.workload import SETTINGS, Job, Timing
from nst_jax._types import ModelName
from nst_jax.networks.architectures import conv_names

DTYPES: Final = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


class Network(nn.Module):
    """VGG up to the deepest of ``layers`` (named relu…), frozen.

    ``padding`` is that of the first convolution: the edge pixels of the image (``replicate``), or
    zeros as in training (``constant``).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        params: Mapping[str, Any],
        model: ModelName,
        layers: Iterable[str],
        dtype: torch.dtype,
        padding: Literal["replicate", "constant"] = "replicate",
    ) -> None:
        super().__init__()
        self.outputs = frozenset(layers)
        self.dtype = dtype
        self.padding = padding
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(params["input"][name]).view(1, 3, 1, 1))
        self.layers = nn.ModuleDict()
        missing = set(self.outputs)
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
        """Return features (b, n, h, w) by layer for RGB images in [0, 1], (b, 3, h, w)."""
        x = (image - self.mean) / self.std
        # Not padding_mode of the first module, nor a pad of four axes: torch.compile (2.13) gets
        # the memory order of that padding's gradient wrong and stops.
        x = nnf.pad(x.flatten(0, 1), (1, 1, 1, 1), mode=self.padding).unflatten(0, (-1, 3))
        x = x.to(self.dtype, memory_format=torch.channels_last)
        features = {}
        for name, layer in self.layers.items():
            x = layer(x)
            if name in self.outputs:
                features[name] = x
        return features


def _conv(arrays: Mapping[str, np.ndarray], padding: int) -> nn.Conv2d:
    kernel = torch.tensor(arrays["kernel"]).permute(3, 2, 0, 1)
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=padding)
    conv.load_state_dict({"weight": kernel, "bias": torch.tensor(arrays["bias"])})
    return conv


def mean_gram(features: Tensor) -> Tensor:
    """Return Gram matrices, a mean over positions: (b, n, h, w) to (b, n, n) float32."""
    flat = features.permute(0, 2, 3, 1).flatten(1, 2)  # a view of channels-last memory
    return torch.bmm(flat.transpose(1, 2), flat).float() / flat.shape[1]


class Objective(nn.Module):
    """The sum of the losses of a batch: one content, one style for each image."""

    def __init__(self, network: Network, content: Tensor, styles: Tensor) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            targets = [x.float() for x in self.compared(network(content), network(styles))]
        self.targets = [(target, target.square().flatten(1).sum(1)) for target in targets]
        self.weights = [SETTINGS.content_weight * w for w in SETTINGS.content_layers.values()]
        self.weights += [SETTINGS.style_weight * w for w in SETTINGS.style_layers.values()]

    def compared(self, content: dict[str, Tensor], style: dict[str, Tensor]) -> list[Tensor]:
        """Return content features and Gram matrices."""
        grams = [mean_gram(style[name]) for name in SETTINGS.style_layers]
        return [content[name] for name in SETTINGS.content_layers] + grams

    def forward(self, image: Tensor) -> Tensor:
        """Return the total loss of images (b, 3, h, w)."""
        features = self.network(image)
        values = self.compared(features, features)
        total = image.new_zeros(image.shape[0])
        for weight, value, (target, energy) in zip(self.weights, values, self.targets, strict=True):
            squares = (value.float() - target).square().flatten(1).sum(1)
            total = total + weight * squares / energy
        return total.sum()


def make_objective(
    params: Any, content: np.ndarray, styles: np.ndarray, dtype: Any, device: str
) -> Objective:
    """Build the objective from NumPy images, (h, w, 3) and (b, h, w, 3)."""
    network = Network(params, workload.MODEL, workload.LAYERS, dtype).to(device)
    return Objective(network, to_tensor(content[None], device), to_tensor(styles, device))


def to_tensor(images: np.ndarray, device: str = "cpu") -> Tensor:
    """Convert (b, h, w, 3) to (b, 3, h, w) in contiguous memory, as `torch.optim.LBFGS` needs it;
    the network converts it to channels-last."""
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous().to(device)


def make_optimizer(name: workload.OptimizerName, image: Tensor) -> torch.optim.Optimizer:
    """Return Adam, or L-BFGS with one evaluation a step: no line search, no early stop."""
    if name == "adam":
        return torch.optim.Adam([image], lr=workload.LEARNING_RATES[name], fused=True)
    options: Any = {"history_size": workload.LBFGS_MEMORY, "max_iter": 1}
    options |= {"tolerance_grad": 0.0, "tolerance_change": 0.0}
    return torch.optim.LBFGS([image], lr=workload.LEARNING_RATES[name], **options)


def gpu_name() -> str | None:
    """Return the name of the GPU that PyTorch uses, or None."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def device_peak_bytes() -> int:
    """Return the most memory that tensors have had on the GPU."""
    return torch.cuda.max_memory_allocated()


class Contender:
    """Modes: ``eager``, ``compile`` (its default mode), ``graphs`` (compiled, with CUDA graphs)."""

    def __init__(self, job: Job, mode: str, precision: str, device: str) -> None:
        # The older of two interfaces. The newer one, `fp32_precision`, makes torch.compile fail
        # (https://github.com/pytorch/pytorch/issues/166387), and the two must not be mixed.
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = True  # choose the fastest kernels for these shapes
        self.job, self.dtype, self.graphs = job, DTYPES[precision], mode == "graphs"
        self.device = "cuda" if device == "gpu" else "cpu"
        content, styles, init = workload.read_images(job)
        self.init = to_tensor(init, self.device)
        self.objective: Any = make_objective(
            workload.network(), content, styles, self.dtype, self.device
        )
        if mode != "eager":
            options: dict[str, Any] = {"mode": "reduce-overhead"} if self.graphs else {}
            self.objective = torch.compile(self.objective, fullgraph=True, **options)

    def run(self, steps: int) -> Timing:
        """Take ``steps`` steps; the first run includes compilation.

        Losses stay on the device until the end, so that the host does not wait for them.
        """
        # Adam is elementwise. L-BFGS has a memory of its own for each image.
        parts = self.init.split(1) if self.job.optimizer == "lbfgs" else [self.init]
        images = [part.clone().requires_grad_() for part in parts]
        optimizers = [make_optimizer(self.job.optimizer, image) for image in images]
        losses: list[Any] = []

        def evaluate() -> None:
            if self.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss = self.objective(torch.cat(images) if len(images) > 1 else images[0])
            loss.backward()
            losses.append(loss.detach().clone())

        self.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            evaluate()
            for optimizer in optimizers:
                optimizer.step(lambda: losses[-1])
            with torch.no_grad():
                for image in images:
                    image.clamp_(0, 1)
        self.synchronize()
        seconds = time.perf_counter() - start
        if self.device == "cuda":
            torch.cuda.empty_cache()  # the other contenders need the memory
        return Timing(seconds, torch.stack(losses).tolist())

    def matmul(self, size: int) -> Callable[[], None]:
        """Return a function that multiplies two square matrices and waits for the product."""
        a = torch.randn(size, size, device=self.device).to(self.dtype)

        def multiply() -> None:
            _ = a @ a
            self.synchronize()

        return multiply

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
