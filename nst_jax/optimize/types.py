"""The types of the optimization: its state, its chunks and its result."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import export
from jaxtyping import Array, Float, Int, Key

__all__ = [
    "Chunk",
    "CompileFn",
    "Ema",
    "History",
    "LossFn",
    "MinimizeResult",
    "Optimizer",
    "Project",
    "ShardFn",
    "State",
]

Optimizer = optax.GradientTransformation | optax.GradientTransformationExtraArgs
"""An Optax transformation, with or without extra arguments."""

LossFn = Callable[..., tuple[Array, Mapping[str, Array]]]
"""``loss(x, *args) -> (total, terms)``, such as `nst_jax.loss`. If the state has a random key, the
loss is called with the keyword ``key``, another one at each step."""

Project = Callable[[Any], Any]
"""Brings a variable back to where it is allowed, after each step."""

CompileFn = Callable[..., Callable[..., Any]]
"""``compile_fn(jitted, *args, **static)`` returns an executable of ``args``."""


class History(dict[str, np.ndarray]):
    """Metrics by name, one value a step: ``step`` (from 1), ``total`` and the loss terms.

    A step evaluates the loss once, before it changes the variable, and records what it saw. A trial
    that L-BFGS then refuses has a row too. Values are ``(n,)``, or ``(n, k)`` for a batch of k.

    >>> import numpy as np
    >>> history = History(step=np.arange(1, 4), total=np.array([4.0, 2.0, 1.0]))
    >>> float(history["total"][-1])
    1.0
    """


class Ema(NamedTuple):
    """An exponential moving average of the iterates."""

    average: Any
    """(1 − d) Σ dⁱ xₜ₋ᵢ over the steps of this level, without bias correction."""
    decay: Float[Array, "*k"]
    """d."""


class State(NamedTuple):
    """Everything the loop needs to continue. All leaves are arrays; batches come from ``vmap``."""

    iterate: Any
    """The variable where the next step evaluates the loss: an image ``(h, w, 3)``, or any pytree of
    floats. With L-BFGS it may be a trial that the next step refuses: see `current_iterate`."""
    ema: Ema | None
    opt_state: Any
    step: Int[Array, "*k"]
    """The number of steps taken."""
    level_step: Int[Array, "*k"]
    """The number of steps taken at this level."""
    key: Key[Array, "*k"] | None = None
    """A random key, for a loss that draws random numbers at each step."""

    def __repr__(self) -> str:
        """Return a short text without arrays."""
        shapes = [str(jnp.shape(leaf)) for leaf in jax.tree.leaves(self.iterate)]
        return f"State(iterate of shape {', '.join(shapes)}, step {self.step})"


export.register_namedtuple_serialization(State, serialized_name="nst_jax.State")
export.register_namedtuple_serialization(Ema, serialized_name="nst_jax.Ema")

ShardFn = Callable[[State], State]
"""Divides the state of an optimization over devices, such as those of a mesh."""


class Chunk(NamedTuple):
    """What `optimize_chunks` and `nst_jax.optimize.optimize_multiscale` yield."""

    state: State
    """The state after the chunk. The next chunk reuses its memory: read what you need of it, or
    copy it, before you continue the iteration."""
    metrics: History
    """The metrics of this chunk's steps."""
    converged: bool
    """Whether the optimizer finds nothing better any more; no further chunk follows."""
    seconds: float
    """Wall-clock time since the first step, without compilation."""
    compile_seconds: float
    level: int = 0
    """The index of the level in `nst_jax.optimize.optimize_multiscale`."""


class MinimizeResult(NamedTuple):
    """What `minimize` returns."""

    iterate: Any
    """The best point, or the average of the points (`nst_jax.optimize.current_iterate`): an image
    ``(h, w, 3)`` in [0, 1], float32 or better, or whatever pytree ``start`` was."""
    history: History
    converged: bool
    """Whether it ended early because the optimizer found nothing better."""
    compile_seconds: float
    seconds: float
    state: State
    """The last state (of `minimize_batch`, with all of the batch)."""

    def __repr__(self) -> str:
        """Return a short text without arrays."""
        total = self.history["total"][-1] if self.history else "unknown"
        return f"MinimizeResult(total {total}, {self.state})"
