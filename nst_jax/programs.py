"""Programs kept between runs, so that a later run of the same job need not trace them again.

JAX's own cache keeps what XLA compiled, but finds it by the program itself: before it can be read,
Python has traced every operation, which for a step of L-BFGS takes longer than reading. So what was
traced is kept too (StableHLO, as `jax.export` writes it), and found by what decided it: the
function, its static arguments, the shapes of the others, and the versions of all that traced it.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from types import FunctionType
from typing import Any, Final

import jax
from jax import export

__all__ = ["compiled", "keep_in"]

_TRACED_BY: Final = ("jax", "jaxlib", "flax", "optax", "numpy")
_KNOWN: Final = {"jax", "optax", "nst_jax"}
"""Whose functions are the same if their names, versions and closures are."""

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
            exported = _read(file) or _write(file, _traced(jitted, static, args, named))

            def call(*args: Any, **named: Any) -> Any:
                return exported.call(*jax.tree.leaves((args, named)))

            call.__name__ = jitted.__name__
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


def _read(file: Path) -> export.Exported | None:
    try:
        return export.deserialize(bytearray(file.read_bytes()))
    except Exception:  # not there, cut off, or of a format that this JAX reads no more
        return None


def _write(file: Path, exported: export.Exported) -> export.Exported:
    data = exported.serialize()
    unfinished = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        unfinished.replace(file)
    except OSError:  # a cache that cannot be written is done without
        pass
    return exported


def _key(
    jitted: Any, static: Mapping[str, Any], args: tuple[Any, ...], named: dict[str, Any]
) -> str | None:
    """What decides a program, or None if that cannot be told."""
    try:
        statics = _told([jitted, static])
    except (TypeError, RecursionError):
        return None
    leaves, tree = jax.tree.flatten((args, named))
    arrays = [(x.shape, x.dtype.name, x.weak_type) for x in _shapes(leaves)]
    whole = f"{_surroundings()} {statics} {tree} {arrays}"
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
    if isinstance(value, tuple | list):
        return f"({','.join(map(_told, value))})"
    if isinstance(value, Mapping):
        return _told([*value.items()])
    if isinstance(value, partial):
        return f"partial{_told([value.func, value.args, value.keywords])}"
    # What jax.jit returns is no function, but holds one.
    function = value if isinstance(value, FunctionType) else getattr(value, "__wrapped__", None)
    if isinstance(function, FunctionType) and function.__module__.split(".")[0] in _KNOWN:
        inside = [cell.cell_contents for cell in function.__closure__ or ()]
        held = _told([inside, function.__defaults__, function.__kwdefaults__])
        return f"{function.__module__}.{function.__qualname__}{held}"
    raise TypeError(f"{value!r} cannot be told")


@cache
def _surroundings() -> str:
    """What decides a program besides its arguments."""
    sources = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(file.read_bytes())
    versions = {name: version(name) for name in _TRACED_BY}
    flags = sorted(item for item in os.environ.items() if item[0].startswith(("JAX_", "XLA_")))
    return f"{sources.hexdigest()} {versions} {flags} {jax.default_backend()}"
