"""Programs kept between runs, so that a later run of the same job need not trace them again.

JAX's own cache keeps what XLA compiled, but finds it by the program itself: before it can be read,
Python has traced every operation, which for a step of L-BFGS takes longer than reading. So what was
traced is kept too (StableHLO, as `jax.export` writes it), and found by what decided it: the
function, its static arguments, the shapes of the others, and the versions of all that traced it.
Of a program that is not run soon one number may be all that is wanted, such as the memory that it
will take: that is kept likewise, so that the program need not even be loaded.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
from jax.extend.backend import get_backend

__all__ = ["compiled", "is_kept", "keep_in", "number_of"]

_SOURCES: Final = hashlib.sha256(
    b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()
"""At import: they may be replaced while a job runs."""

_TRACED_BY: Final = ("jax", "jaxlib", "flax", "optax", "numpy")
_KNOWN: Final = {"jax", "optax", "nst_jax"}
"""Whose functions are the same if their names, versions and closures are."""

_Jitted: Final = type(jax.jit(lambda: None))

_locks: dict[Path | None, Lock] = {}
"""Threads that want the same program wait for the first, and find it made, by JAX if not here."""

_made: dict[Path, jax.stages.Compiled] = {}
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
    place = _place(jitted, static, args, named)
    with _locks.setdefault(place, Lock()):
        if place is None:
            return jitted.lower(*args, **named, **static).compile()
        if place not in _made:
            file = place.with_suffix(".stablehlo")
            exported = _deserialized(_read(file))
            if exported is None:
                try:
                    exported = _traced(jitted, static, args, named)
                    data = exported.serialize()
                except (NotImplementedError, ValueError):  # it calls back to Python, say
                    return jitted.lower(*args, **named, **static).compile()
                _write(file, bytes(data))
            call = _calling(exported, jitted.__name__)
            # Arrays may say where they are, and XLA's cache would take it for another program.
            args, named = _shapes((args, named))
            lowered = jax.jit(call, donate_argnums=tuple(donate)).lower(*args, **named)
            _made[place] = lowered.compile()
        return _made[place]


def is_kept(
    jitted: Any,
    *args: Any,
    static: Mapping[str, Any] | None = None,
    donate: Sequence[int] = (),
    **named: Any,
) -> bool:
    """Tell whether an earlier run has kept a program; arguments are as of `compiled`."""
    place = _place(jitted, static or {}, args, named)
    return place is not None and place.with_suffix(".stablehlo").exists()


def number_of(
    tell: Callable[[jax.stages.Compiled], int | None],
    jitted: Any,
    *args: Any,
    static: Mapping[str, Any] | None = None,
    donate: Sequence[int] = (),
    **named: Any,
) -> int | None:
    """Give what ``tell`` says of a program: now, or in an earlier run.

    Args:
        tell: a function of this package.
        jitted: and the rest: as of `compiled`, which will find it made if nothing was kept.
    """
    place = _place(jitted, static or {}, args, named)
    file = None if place is None else place.with_suffix(f".{tell.__name__}")
    kept = None if file is None else _read(file)
    if kept is not None:
        return int(kept)
    number = tell(compiled(jitted, *args, static=static, donate=donate, **named))
    if file is not None and number is not None:
        _write(file, str(number).encode())
    return number


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


def _deserialized(data: bytes | None) -> export.Exported | None:
    """None if there is none, or it is of a format that this JAX reads no more."""
    try:
        return None if data is None else export.deserialize(bytearray(data))
    except ValueError:
        return None


def _read(file: Path) -> bytes | None:
    """None if it is not there, or not whole."""
    try:
        digest, data = file.read_bytes().split(b"\n", 1)
        return data if digest.decode() == hashlib.sha256(data).hexdigest() else None
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


def _place(
    jitted: Any, static: Mapping[str, Any], args: tuple[Any, ...], named: dict[str, Any]
) -> Path | None:
    """Where a program is kept, by all that decides it; None if that cannot be told."""
    if _folder is None:
        return None
    leaves, tree = jax.tree.flatten((args, named))
    if any(isinstance(x, jax.Array) and x.devices() != {jax.devices()[0]} for x in leaves):
        return None  # what is kept says nothing of devices
    try:
        statics = _told([jitted, static])
    except (TypeError, ValueError, RecursionError):
        return None
    arrays = [(x.shape, x.dtype.name, x.weak_type) for x in _shapes(leaves)]
    whole = f"{_surroundings()} {_precision()} {statics} {tree} {arrays}"
    key = hashlib.sha256(whole.encode()).hexdigest()
    return _folder / f"{jitted.__name__.strip('_')}-{key}"


def _shapes(arrays: Any) -> Any:
    return jax.eval_shape(lambda arrays: arrays, arrays)


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
    """What decides a program, and the numbers of one, besides its arguments."""
    versions = {name: version(name) for name in _TRACED_BY}
    prefixes = ("JAX_", "XLA_", "LIBTPU_")
    flags = sorted(item for item in os.environ.items() if item[0].startswith(prefixes))
    compiler = get_backend().platform_version
    return f"{_SOURCES} {versions} {flags} {compiler} {jax.devices()[0].device_kind}"
