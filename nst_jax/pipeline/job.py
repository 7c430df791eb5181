"""A job: everything that is read and decided before the optimization starts."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, PyTree

from nst_jax import images
from nst_jax.errors import InputError, short_repr
from nst_jax.images import ImageData, ImageSource, color
from nst_jax.losses import LossWeights, StyleStatistic, Term
from nst_jax.losses.objective import normalize_weights
from nst_jax.losses.statistics import is_stochastic, make_statistic
from nst_jax.networks.device import resolve_dtype
from nst_jax.networks.load import LoadedParams, default_network, load_params
from nst_jax.networks.protocol import Network
from nst_jax.optimize import Optimizer, State, init_state, pyramid_lbfgs
from nst_jax.partitioning import check_mesh, make_mesh, replicate
from nst_jax.partitioning.sharding import IMAGES
from nst_jax.pipeline.arrays import term_arrays
from nst_jax.pipeline.levels import LevelSpec, plan_levels
from nst_jax.pipeline.memory import check_pixels_fit
from nst_jax.settings import LEARNING_RATE_REFUSED, MIN_SIZE, Settings, parse_bytes
from nst_jax.term import check_named

__all__ = ["Job", "as_list", "downscale", "prepare_job", "source_name", "style_sizes"]

log = logging.getLogger("nst_jax")

DEFAULT_LEARNING_RATE: Final = 0.01
DEFAULT_EMA_DECAY: Final = 0.9
LBFGS_MEMORY: Final = 10


@dataclass(frozen=True, eq=False)
class Job:
    """What `nst_jax.run` computes: one image a mix of styles, all from one content.

    Images are float32 RGB in [0, 1] at the output's size.

    Attributes:
        settings: the settings.
        mixes: the weight of each style, summing to 1, for each image.
        style_names: the name of each style.
        levels: from coarse to fine; the last has the output's size.
        content: the content in its own colors, or None.
        content_target: the content as the loss compares it (gray for the color mode luminance), or
            None if it does not count.
        alpha: the content's alpha, or None if it is opaque.
        styles: the style images, no larger than the output needs them.
        masks: where each style applies, or None.
        init_image: the image to start from, at the first level's size.
        network: the network.
        params: the network's parameters, prepared for the device.
        loss_weights: the weights of the loss.
        statistic: the style statistic.
        terms: the terms of the caller.
        arrays: what each of these terms compares with, by its name: a pytree, or a function of a
            level's (h, w) that returns it.
        optimizer: the Optax transformation.
        ema_decay: the decay of the EMA of the iterates.
        devices: the devices that share the work; empty for JAX's default device alone.
        memory_limit: bytes that the computation may use on a device; None for the free memory.
        metadata: everything that decides the images, as JSON values.
        start_time: ``time.perf_counter()`` when the job was prepared.
    """

    settings: Settings
    mixes: tuple[tuple[float, ...], ...]
    style_names: tuple[str, ...]
    levels: list[LevelSpec]
    content: Float32[np.ndarray, "h w 3"] | None
    content_target: Float32[np.ndarray, "h w 3"] | None
    alpha: Float32[np.ndarray, "h w"] | None
    styles: list[Float32[np.ndarray, "_ _ 3"]]
    masks: Float32[np.ndarray, "r h w"] | None
    init_image: Float[Array, "h0 w0 3"]
    network: Network
    params: PyTree
    loss_weights: LossWeights
    statistic: StyleStatistic
    terms: tuple[Term, ...]
    arrays: Mapping[str, Any]
    optimizer: Optimizer
    ema_decay: float
    devices: tuple[Any, ...]
    memory_limit: int | None
    metadata: dict[str, Any]
    start_time: float

    @property
    def num_steps(self) -> int:
        """The steps of one image through all levels."""
        return sum(level.steps for level in self.levels)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the loss reads."""
        weights = self.loss_weights
        own = dict.fromkeys(layer for term in self.terms for layer in term.layers)
        return tuple({**weights.content_layers, **weights.style_layers, **own})

    @property
    def key(self) -> Array | None:
        """The random key of a stochastic statistic."""
        return jax.random.key(self.settings.seed) if is_stochastic(self.statistic) else None

    @property
    def num_image_groups(self) -> int:
        """How many images of a batch can have devices of their own."""
        if isinstance(self.settings.devices, Mesh):
            return self.settings.devices.shape[IMAGES]
        return max(1, len(self.devices))

    def mesh(self, level: int, batch_size: int = 1) -> Mesh | None:
        """Return how the devices share the images of a batch at one level; None for one device."""
        if isinstance(self.settings.devices, Mesh):
            return self.settings.devices
        if not self.devices:
            return None
        return make_mesh(self.devices, self.levels[level].shape[0], batch_size)

    def init_state(self, image: Float[Array, "h w 3"]) -> State:
        """Return the state of the optimization before the first step."""
        return init_state(image, optimizer=self.optimizer, ema_decay=self.ema_decay, key=self.key)


def prepare_job(
    content: ImageSource | None,
    styles: ImageSource | Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    mixes: Sequence[Sequence[float]] | None = None,
    arrays: Mapping[str, Any] | None = None,
) -> Job:
    """Read a job's images and weights and decide everything else.

    Args:
        content: a path, PIL image or array; None for a texture.
        styles: such an image, or a list of them.
        settings: see `Settings`.
        mixes: the weight of each style, for each image to be made; None for one image with the
            settings' ``style_weights``.
        arrays: as in `nst_jax.stylize`.

    Raises:
        InputError: a file or a setting that the job cannot use.

    >>> import numpy as np
    >>> import nst_jax
    >>> photo, painting = np.random.default_rng(0).random((2, 48, 64, 3))
    >>> layers = {"content_layers": {"relu1_1": 1}, "style_layers": {"relu1_1": 1}}
    >>> settings = nst_jax.Settings(size=32, min_size=16, model="vgg16", **layers)
    >>> job = prepare_job(photo, painting, settings)
    >>> [level.shape for level in job.levels], job.num_steps
    ([(17, 23), (24, 32)], 300)
    """
    start_time = time.perf_counter()
    settings = settings or Settings()
    terms, arrays = tuple(settings.terms), {} if arrays is None else arrays
    check_named("arrays", arrays, terms)
    styles = as_list(styles)
    statistic = make_statistic(settings.style_loss, settings.normalization)
    optimizer = _optimizer(settings, statistic)
    content_data = None if content is None else images.read(content, name="content")
    shape = _output_shape(content_data, settings)
    check_pixels_fit(shape)
    use_content = content_data is not None and settings.content_weight > 0
    use_style = settings.style_weight > 0
    content_layers = settings.content_layers if use_content else {}
    style_layers = settings.style_layers if use_style else {}
    layers = [*content_layers, *style_layers, *(layer for t in terms for layer in t.layers)]
    network = settings.network or default_network(settings.pooling, settings.padding)
    levels = plan_levels(settings, shape, max(MIN_SIZE, network.min_size(layers)))
    term_arrays(terms, arrays, shape, shape)  # Bad arrays are refused here.
    if use_style and not styles:
        raise InputError("there is no style image; give at least one, or a style_weight of 0")
    style_images = []
    if use_style:
        for style, size in zip(styles, style_sizes(settings, len(styles), shape), strict=True):
            style_images.append(downscale(images.read(style, name="style").pixels, size))
    if mixes is None:
        style_weights = settings.style_weights if use_style else None
        mixes = [normalize_weights(len(style_images), style_weights)]
    masks = _read_masks(settings, content_data, len(style_images), shape)
    own_colors = alpha = None
    if content_data is not None:
        own_colors = images.resize(content_data.pixels, shape)
        if content_data.alpha is not None:
            alpha = images.resize(content_data.alpha, shape)
    target = own_colors
    if target is not None:
        target, style_images = color.apply_color_mode(
            settings.color_mode, target, alpha, style_images
        )
    init_image = _init_image(settings, target, levels[0].shape)
    loaded = load_params(network, settings.weights, settings.model)
    dtype = resolve_dtype(settings.dtype).name
    params = network.prepare(loaded.params, dtype, layers)
    if "auto" in (settings.model, settings.dtype):
        # Another machine may choose otherwise, and then makes another image.
        log.info("the network is %s in %s", str(loaded.metadata["model"]).upper(), dtype)
    devices = _devices(settings)
    if devices and network.receptive_radius(params, layers) is None:
        raise InputError(
            f"devices is {short_repr(settings.devices)} and {network} has no finite receptive "
            "radius, so its images cannot be divided; give 1"
        )
    ema_decay = settings.ema_decay
    if ema_decay is None:
        ema_decay = DEFAULT_EMA_DECAY if _optimizer_name(settings, statistic) == "adam" else 0.0
    job = Job(
        settings=settings,
        mixes=tuple(tuple(map(float, mix)) for mix in mixes),
        style_names=tuple(source_name(style) for style in styles),
        levels=levels,
        content=own_colors,
        content_target=target if use_content else None,
        alpha=alpha,
        styles=style_images,
        masks=masks,
        init_image=init_image,
        network=network,
        params=params,
        loss_weights=LossWeights(
            settings.content_weight,
            settings.style_weight,
            settings.tv_weight,
            content_layers,
            style_layers,
            {term.name: settings.term_weights.get(term.name, 1.0) for term in terms},
        ),
        statistic=statistic,
        terms=terms,
        arrays=arrays,
        optimizer=optimizer,
        ema_decay=ema_decay,
        devices=devices,
        memory_limit=None if settings.memory_limit is None else parse_bytes(settings.memory_limit),
        metadata={},
        start_time=start_time,
    )
    if mesh := job.mesh(len(levels) - 1):
        job = replace(job, params=replicate(params, mesh))
    job.metadata.update(_metadata(job, content, loaded))
    return job


def _metadata(job: Job, content: ImageSource | None, loaded: LoadedParams) -> dict[str, Any]:
    """Return everything that decides the images as JSON values; files by name, without folders."""
    settings = job.settings
    values: dict[str, Any] = {f.name: getattr(settings, f.name) for f in fields(settings)}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return (
        values
        | lists
        | loaded.metadata
        | {
            "version": version("nst-jax"),
            "content": None if content is None else source_name(content),
            "styles": list(job.style_names),
            "init": source_name(settings.init),
            "masks": [source_name(mask) for mask in as_list(settings.masks)],
            "optimizer": _optimizer_name(settings, job.statistic),
            "devices": max(1, len(job.devices)),
            "style_loss": _describe_style_loss(settings.style_loss),
            "terms": [repr(term) for term in job.terms],
            "term_weights": dict(job.loss_weights.terms),
            "ema_decay": job.ema_decay,
            "content_layers": dict(settings.content_layers),
            "style_layers": dict(settings.style_layers),
            "levels": [max(level.shape) for level in job.levels],
            "steps": [level.steps for level in job.levels],
            "num_steps": job.num_steps,
            "dtype": resolve_dtype(settings.dtype).name,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
        }
    )


def _describe_style_loss(style_loss: Any) -> Any:
    if isinstance(style_loss, Mapping):
        return {_describe_style_loss(part): weight for part, weight in style_loss.items()}
    return style_loss if isinstance(style_loss, str) else repr(style_loss)


def as_list(sources: ImageSource | Sequence[ImageSource] | None) -> list[ImageSource]:
    """Return one image, several or none as a list."""
    if sources is None:
        return []
    several = list(sources) if isinstance(sources, list | tuple) else [sources]
    return cast(list[ImageSource], several)


def source_name(source: ImageSource) -> str:
    """Return the name of an image: its file without the folder, or its type."""
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    return f"<{type(source).__name__}>"


def style_sizes(settings: Settings, num_styles: int, shape: tuple[int, int]) -> list[int]:
    """Return the longest side of each style for an image of this (h, w).

    Raises:
        InputError: there is not one style scale a style.
    """
    scales = settings.style_scales or (1.0,) * num_styles
    if len(scales) != num_styles:
        raise InputError(f"{len(scales)} style scales for {num_styles} styles; give one each")
    return [max(1, round(max(shape) * scale)) for scale in scales]


def downscale(pixels: Float32[np.ndarray, "_ _ 3"], size: int) -> Float32[np.ndarray, "_ _ 3"]:
    """Scale down to a longest side. A smaller image stays, as enlarging blurs its texture."""
    if max(pixels.shape[:2]) <= size:
        return pixels
    return images.resize(pixels, images.fit_longest_side(pixels.shape, size))


def _output_shape(content: ImageData | None, settings: Settings) -> tuple[int, int]:
    if content is None:
        if settings.size is None:
            raise InputError("a texture has no size of its own; give a size in pixels")
        return settings.size, settings.size
    height, width = content.pixels.shape[:2]
    if settings.size is None:
        return height, width
    return images.fit_longest_side((height, width), settings.size)


def _read_masks(
    settings: Settings, content: ImageData | None, num_styles: int, shape: tuple[int, int]
) -> Float32[np.ndarray, "r h w"] | None:
    if settings.masks is None or num_styles == 0:
        return None
    if content is None:
        raise InputError("masks divide a content and a texture has none; leave them out")
    height, width = content.pixels.shape[:2]
    masks = images.read_masks(
        settings.masks, num_styles, (height, width), colors=settings.mask_colors
    )
    return np.stack([images.resize(mask, shape) for mask in masks])


def _init_image(
    settings: Settings, content: Float32[np.ndarray, "h w 3"] | None, shape: tuple[int, int]
) -> Float[Array, "h0 w0 3"]:
    name = settings.init if isinstance(settings.init, str) else None
    if name == "content":
        if content is None:
            raise InputError("init is 'content' but there is no content; choose noise or gray")
        return jnp.asarray(images.resize(content, shape))
    if name == "noise":
        return jax.random.uniform(jax.random.key(settings.seed), (*shape, 3))
    if name == "gray":
        return jnp.full((*shape, 3), 0.5)
    return jnp.asarray(images.resize(images.read(settings.init, name="init").pixels, shape))


def _devices(settings: Settings) -> tuple[Any, ...]:
    if isinstance(settings.devices, Mesh):
        check_mesh(settings.devices)
        return tuple(settings.devices.devices.flat)
    available, count = jax.devices(), settings.devices
    if jax.process_count() > 1:  # A process without a device of the mesh could not take part.
        if count not in (1, "all", len(available)):
            raise InputError(
                f"devices is {short_repr(count)} and the processes have {len(available)} together; "
                "give all"
            )
        count = "all"
    if count == "all":
        count = len(available)
    if count > len(available):
        raise InputError(
            f"devices is {short_repr(count)} and JAX finds {len(available)}; give a smaller "
            "number, or all"
        )
    return () if count == 1 else tuple(available[:count])


def _optimizer_name(settings: Settings, statistic: StyleStatistic) -> str:
    if not isinstance(settings.optimizer, str):
        return "custom"
    if settings.optimizer == "auto":
        return "adam" if is_stochastic(statistic) else "lbfgs"
    return settings.optimizer


def _optimizer(settings: Settings, statistic: StyleStatistic) -> Optimizer:
    if not isinstance(settings.optimizer, str):
        return settings.optimizer
    name = _optimizer_name(settings, statistic)
    if settings.learning_rate is not None and name != "adam":
        raise InputError(LEARNING_RATE_REFUSED)
    return _named_optimizer(name, settings.learning_rate)


@cache  # The loop is compiled once for each optimizer object.
def _named_optimizer(name: str, learning_rate: float | None) -> optax.GradientTransformation:
    if name == "adam":
        # Gradients shrink as an image grows: their median is 2e-5 at 512 pixels, 4e-7 at 4096.
        return optax.adam(learning_rate or DEFAULT_LEARNING_RATE, b1=0.9, b2=0.99, eps=1e-12)
    if name == "lbfgs-pixels":
        return pyramid_lbfgs(memory_size=LBFGS_MEMORY, num_bands=1)
    return pyramid_lbfgs(memory_size=LBFGS_MEMORY)
