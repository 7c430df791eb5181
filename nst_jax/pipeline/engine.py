"""What is made once and serves many images: network, parameters, optimizer, devices and caches."""

import logging
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Final

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from nst_jax.errors import InputError, short_repr
from nst_jax.kinds import parse_bytes
from nst_jax.losses import StyleStatistic
from nst_jax.losses.statistics import is_stochastic, make_statistic
from nst_jax.networks.device import resolve_dtype
from nst_jax.networks.load import LoadedParams, default_network, load_params
from nst_jax.networks.protocol import Network
from nst_jax.optimize import Optimizer, State, init_state, pyramid_lbfgs
from nst_jax.partitioning import check_mesh, make_mesh, replicate
from nst_jax.partitioning.sharding import IMAGES
from nst_jax.pipeline.caches import ArrayCache, Executables
from nst_jax.settings import (
    DEFAULT_EMA_DECAY,
    DEFAULT_LEARNING_RATE,
    ENGINE_SETTINGS,
    LEARNING_RATE_REFUSED,
    Settings,
)

__all__ = ["Engine", "make_engine"]

log = logging.getLogger("nst_jax")

LBFGS_MEMORY: Final = 10


@dataclass(frozen=True, eq=False)
class Engine:
    """The parts of a `nst_jax.Stylizer` that do not belong to one image.

    Attributes:
        settings: the settings; those of `nst_jax.settings.ENGINE_SETTINGS` are fixed here.
        network: the network. Its parameters are loaded when they are first needed, so that an image
            that cannot be read is reported before a download.
        statistic: the style statistic.
        optimizer: the Optax transformation.
        optimizer_name: its name; ``custom`` for one from the caller.
        ema_decay: the decay of the EMA of the iterates.
        devices: the devices that share the work; empty for JAX's default device alone.
        memory_limit: bytes that the computation may use on a device; None for the free memory.
        executables: the compiled programs.
        targets: the targets that were computed, by the image's hash and the level's shape.
        plans: how each kind of level runs.
    """

    settings: Settings
    network: Network
    statistic: StyleStatistic
    optimizer: Optimizer
    optimizer_name: str
    ema_decay: float
    devices: tuple[Any, ...]
    memory_limit: int | None
    executables: Executables = field(default_factory=Executables)
    targets: ArrayCache = field(default_factory=ArrayCache)
    plans: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def _loaded(self) -> LoadedParams:
        """The parameters, prepared for the device, and what names them."""
        settings = self.settings
        loaded = load_params(self.network, settings.weights, settings.model)
        layers = [*settings.content_layers, *settings.style_layers]
        layers += [layer for term in settings.terms for layer in term.layers]
        params = self.network.prepare(loaded.params, self.dtype, layers)
        if "auto" in (settings.model, settings.dtype):
            # Another machine may choose otherwise, and then makes another image.
            model = loaded.metadata["model"]
            log.info(
                "the network is %s in %s", model.upper() if model else self.network, self.dtype
            )
        if mesh := self.mesh(1):
            if self.network.receptive_radius(params, layers) is None:
                raise InputError(
                    f"devices is {short_repr(settings.devices)} and {self.network} has no finite "
                    "receptive radius, so its images cannot be divided; give 1"
                )
            params = replicate(params, mesh)
        return LoadedParams(params, loaded.metadata)

    @property
    def params(self) -> PyTree:
        """The network's parameters, prepared for the device."""
        return self._loaded.params

    @property
    def metadata(self) -> dict[str, Any]:
        """What names the network and its parameters, as JSON values."""
        return self._loaded.metadata

    @property
    def dtype(self) -> str:
        """The dtype in which the network computes."""
        return resolve_dtype(self.settings.dtype).name

    @property
    def num_image_groups(self) -> int:
        """How many images of a batch can have devices of their own."""
        if isinstance(self.settings.devices, Mesh):
            return self.settings.devices.shape[IMAGES]
        return max(1, len(self.devices))

    def mesh(self, height: int, batch_size: int = 1) -> Mesh | None:
        """Return how the devices share a batch of images of this height; None for one device."""
        if isinstance(self.settings.devices, Mesh):
            return self.settings.devices
        if not self.devices:
            return None
        return make_mesh(self.devices, height, batch_size)

    def key(self, seed: int) -> Array | None:
        """Return the random key of a stochastic statistic."""
        if not is_stochastic(self.statistic):
            return None
        return jax.random.fold_in(jax.random.key(seed), 1)  # The noise of the start has the seed's.

    def init_state(self, image: Float[Array, "h w 3"], seed: int) -> State:
        """Return the state of the optimization before the first step."""
        return init_state(
            image, optimizer=self.optimizer, ema_decay=self.ema_decay, key=self.key(seed)
        )

    def compile(self, jitted: Any, *args: Any, **static: Any) -> jax.stages.Compiled:
        """Return the compiled loop for these arguments, within the memory limit.

        Raises:
            MemoryLimitError: it needs more memory.
        """
        return self.executables.compile(jitted, *args, limit=self.memory_limit, **static)

    def fits(self, settings: Settings) -> bool:
        """Return whether an image with these settings needs no other engine."""
        return all(
            getattr(settings, name) == getattr(self.settings, name) for name in ENGINE_SETTINGS
        )


def make_engine(settings: Settings) -> Engine:
    """Decide everything that does not belong to one image.

    Raises:
        InputError: devices or an optimizer that cannot be used.
    """
    statistic = make_statistic(settings.style_loss, settings.normalization)
    optimizer, name = _optimizer(settings, statistic)
    network = settings.network or default_network(settings.pooling, settings.padding)
    ema_decay = settings.ema_decay
    if ema_decay is None:
        ema_decay = DEFAULT_EMA_DECAY.get(name, 0.0)
    limit = None if settings.memory_limit is None else parse_bytes(settings.memory_limit)
    return Engine(
        settings=settings,
        network=network,
        statistic=statistic,
        optimizer=optimizer,
        optimizer_name=name,
        ema_decay=ema_decay,
        devices=_devices(settings),
        memory_limit=limit,
    )


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


def _optimizer(settings: Settings, statistic: StyleStatistic) -> tuple[Optimizer, str]:
    """Return the optimizer and its name."""
    if not isinstance(settings.optimizer, str):
        return settings.optimizer, "custom"
    name = settings.optimizer
    if name == "auto":
        name = "adam" if is_stochastic(statistic) else "lbfgs"
    if settings.learning_rate is not None and name != "adam":
        raise InputError(LEARNING_RATE_REFUSED)
    return _named_optimizer(name, settings.learning_rate), name


@cache  # The loop is compiled once for each optimizer object.
def _named_optimizer(name: str, learning_rate: float | None) -> optax.GradientTransformation:
    if name == "adam":
        # Gradients shrink as an image grows: their median is 2e-5 at 512 pixels, 4e-7 at 4096.
        return optax.adam(learning_rate or DEFAULT_LEARNING_RATE, b1=0.9, b2=0.99, eps=1e-12)
    if name == "lbfgs-pixels":
        return pyramid_lbfgs(memory_size=LBFGS_MEMORY, num_bands=1)
    return pyramid_lbfgs(memory_size=LBFGS_MEMORY)
