"""The types of the optimization: its state, its chunks and its result."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt32

__all__ = [
    "Chunk",
    "CompileFn",
    "History",
    "LossFn",
    "MinimizeResult",
    "Optimizer",
    "PlaceFn",
    "State",
]

Optimizer = optax.GradientTransformation | optax.GradientTransformationExtraArgs
"""An Optax transformation, with or without extra arguments."""

LossFn = Callable[..., tuple[Array, Mapping[str, Array]]]
"""``loss(image, *args) -> (total, terms)``, such as `nst_jax.loss`. If the state has a random key,
the loss is called with the keyword ``key``, another one at each step."""

CompileFn = Callable[..., Callable[..., Any]]
"""``compile_fn(jitted, *args, **static)`` returns an executable of ``args``."""


class History(dict[str, np.ndarray]):
    """Metrics by name, one value a step: ``step`` (from 1), ``total`` and the loss terms.

    A first-order optimizer records the losses *before* each step, because that is where it
    evaluates the gradient. A line search records the total *after* each step, and the terms about
    every tenth step and at the last one; they are NaN elsewhere. Values are ``(n,)``, or ``(n, k)``
    for k images.

    >>> import numpy as np
    >>> history = History(step=np.arange(1, 4), total=np.array([4.0, 2.0, 1.0]))
    >>> float(history["total"][-1])
    1.0
    """


class State(NamedTuple):
    """Everything the loop needs to continue. All leaves are arrays; batches come from ``vmap``."""

    image: Float[Array, "*k h w 3"]
    """The optimizer's iterate. With a line search it may leave [0, 1]; see `reflect`."""
    ema: Float[Array, "*k h w 3"] | None
    """The exponential moving average of the iterates without bias correction, if there is one."""
    opt_state: Any
    step: Int[Array, "*k"]
    """The number of steps taken."""
    ema_count: Int[Array, "*k"]
    """The number of steps since the EMA was started: at one level, the steps at that level."""
    key: UInt32[Array, "*k 2"] | None = None
    """The data of a random key, for a loss that draws random numbers at each step."""

    def __repr__(self) -> str:
        """Return a short text without arrays."""
        return f"State(image of shape {jnp.shape(self.image)}, step {self.step})"


PlaceFn = Callable[[State], State]
"""Puts the state of an optimization on devices, such as those of a mesh."""


class Chunk(NamedTuple):
    """What `optimize_chunks` and `nst_jax.optimize.optimize_multiscale` yield."""

    state: State
    """The state after the chunk. The next chunk reuses its memory: read what you need of it, or
    copy it, before you continue the iteration."""
    metrics: History
    """The metrics of this chunk's steps."""
    converged: bool
    """Whether the line search finds nothing better any more; no further chunk follows."""
    seconds: float
    """Wall-clock time since the first step, without compilation."""
    compile_seconds: float
    level: int = 0
    """The index of the level in `nst_jax.optimize.optimize_multiscale`."""


class MinimizeResult(NamedTuple):
    """What `minimize` returns."""

    image: Float[Array, "h w 3"]
    """RGB in [0, 1], float32 or better."""
    history: History
    converged: bool
    """Whether it ended early because the line search found nothing better."""
    compile_seconds: float
    seconds: float
    state: State
    """The last state (of `minimize_batch`, with all images)."""

    def __repr__(self) -> str:
        """Return a short text without arrays."""
        total = self.history["total"][-1] if self.history else "unknown"
        return f"MinimizeResult(image of shape {self.image.shape}, total {total}, {self.state})"
