"""Programs kept between runs, so that a later run of the same job need not trace them again.

JAX's own cache keeps what XLA compiled, but finds it by the program itself: before it can be read,
Python has traced every operation, which for a step of L-BFGS takes longer than reading. So what was
traced is kept too (StableHLO, as `jax.export` writes it), and found by what decided it: the
function, its static arguments, the shapes of the others, and the versions of all that traced it.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from types import FunctionType
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import export

__all__ = ["compiled", "keep_in"]

_SOURCES: Final = hashlib.sha256(
    b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()
"""At import: they may be replaced while a job runs."""

_TRACED_BY: Final = ("jax", "jaxlib", "flax", "optax", "numpy")
_KNOWN: Final = {"jax", "optax", "nst_jax"}
"""Whose functions are the same if their names, versions and closures are."""

_Jitted: Final = type(jax.jit(lambda: None))

_LOCK: Final = Lock()
"""Threads that want the same program wait for the first, and find it made."""

_made: dict[str, jax.stages.Compiled] = {}
_folder: Path | None = None


def keep_in(folder: Path | None) -> None:
    """Keep programs in a folder from now on, or no longer. Nothing else in it is touched."""
    global _folder
    _folder = folder
    _made.clear()


def compiled(
    jitted: Any,
    *args: Any,
    static: Mapping[str, Any] | None = None,
    donate: Sequence[int] = (),
    **named: Any,
) -> jax.stages.Compiled:
    """Trace and compile a program, or find it.

    Args:
        jitted: what ``jax.jit`` returned. It returns containers that `jax.export` can write.
        *args: its arguments: pytrees of arrays, or of shapes and dtypes.
        static: its static arguments, by name.
        donate: which of ``args`` it reuses the memory of, as ``jitted`` says itself.
        **named: more arrays, by name.

    Returns:
        A program of ``args`` and ``named``.
    """
    static = static or {}
    with _LOCK:
        key = None if _folder is None else _key(jitted, static, args, named)
        if _folder is None or key is None:
            return jitted.lower(*args, **named, **static).compile()
        if key not in _made:
            file = _folder / f"{jitted.__name__.strip('_')}-{key}.stablehlo"
            exported = _read(file)
            if exported is None:
                try:
                    exported = _traced(jitted, static, args, named)
                    data = exported.serialize()
                except (NotImplementedError, ValueError):  # it calls back to Python, say
                    return jitted.lower(*args, **named, **static).compile()
                _write(file, bytes(data))
            call = _calling(exported, jitted.__name__)
            lowered = jax.jit(call, donate_argnums=tuple(donate)).lower(*args, **named)
            _made[key] = lowered.compile()
        return _made[key]


def _traced(
    jitted: Any, static: Mapping[str, Any], args: tuple[Any, ...], named: dict[str, Any]
) -> export.Exported:
    """Of leaves, because `jax.export` cannot write every container that they come in."""
    leaves, tree = jax.tree.flatten((args, named))

    def flat(*leaves: Any) -> Any:
        args, named = jax.tree.unflatten(tree, leaves)
        return jitted(*args, **named, **static)

    return export.export(jax.jit(flat))(*_shapes(leaves))


def _calling(exported: export.Exported, name: str) -> Any:
    used = set(exported.module_kept_var_idx)

    def call(*args: Any, **named: Any) -> Any:
        # JAX does not see that the others are not used, and the plan would count them.
        leaves = [
            x if i in used else jnp.zeros_like(x)
            for i, x in enumerate(jax.tree.leaves((args, named)))
        ]
        return exported.call(*leaves)

    call.__name__ = name
    return call


def _read(file: Path) -> export.Exported | None:
    """None if it is not there, not whole, or of a format that this JAX reads no more."""
    try:
        digest, data = file.read_bytes().split(b"\n", 1)
        if digest.decode() != hashlib.sha256(data).hexdigest():
            return None
        return export.deserialize(bytearray(data))
    except (OSError, ValueError):
        return None


def _write(file: Path, data: bytes) -> None:
    """A cache that cannot be written is done without."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(number, "wb") as part:
                part.write(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)


def _key(
    jitted: Any, static: Mapping[str, Any], args: tuple[Any, ...], named: dict[str, Any]
) -> str | None:
    """What decides a program, or None if that cannot be told."""
    leaves, tree = jax.tree.flatten((args, named))
    if any(isinstance(x, jax.Array) and len(x.devices()) > 1 for x in leaves):
        return None
    try:
        statics = _told([jitted, static])
    except (TypeError, ValueError, RecursionError):
        return None
    arrays = [(x.shape, x.dtype.name, x.weak_type) for x in _shapes(leaves)]
    whole = f"{_surroundings()} {_precision()} {statics} {tree} {arrays}"
    return hashlib.sha256(whole.encode()).hexdigest()


def _shapes(leaves: list[Any]) -> list[Any]:
    return jax.eval_shape(lambda leaves: leaves, leaves)


def _told(value: Any) -> str:
    """Tell everything that a static argument is.

    Raises:
        TypeError: it may change without its description changing.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if type(value) in (tuple, list):
        return f"({','.join(map(_told, value))})"
    if isinstance(value, tuple) and type(value).__module__.split(".")[0] in _KNOWN:
        return f"{type(value).__module__}.{type(value).__qualname__}{_told([*value])}"
    if isinstance(value, Mapping):
        return _told([*value.items()])
    if isinstance(value, partial):
        return f"partial{_told([value.func, value.args, value.keywords])}"
    function = getattr(value, "__wrapped__", None) if isinstance(value, _Jitted) else value
    if isinstance(function, FunctionType):
        module = function.__globals__["__name__"]  # `functools.wraps` changes what it says itself
        if module.split(".")[0] in _KNOWN:
            inside = [cell.cell_contents for cell in function.__closure__ or ()]
            held = _told([inside, function.__defaults__, function.__kwdefaults__])
            return f"{module}.{function.__code__.co_qualname}{held}"
    raise TypeError(f"{value!r} cannot be told")


def _precision() -> str:
    """Settings of JAX's that decide what is traced, and may change while it runs."""
    names = ("jax_default_matmul_precision", "jax_enable_x64")
    return str([getattr(jax.config, name) for name in names])


@cache
def _surroundings() -> str:
    """What decides a program besides its arguments."""
    versions = {name: version(name) for name in _TRACED_BY}
    flags = sorted(item for item in os.environ.items() if item[0].startswith(("JAX_", "XLA_")))
    return f"{_SOURCES} {versions} {flags} {jax.default_backend()}"
