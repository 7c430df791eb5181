"""The state of a job in a file, to continue from: safetensors, with the job's identity inside."""

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nst_jax.errors import InputError, short_repr
from nst_jax.files import atomic_path, parse_json, why_not_writable
from nst_jax.optimize import History, State, to_host
from nst_jax.pipeline.descriptions import fingerprint
from nst_jax.pipeline.job import Job
from nst_jax.pipeline.result import style_metadata
from nst_jax.settings import MACHINE_SETTINGS

__all__ = ["Checkpoint", "index_of", "load", "remove", "save"]

METADATA_KEY: Final = "nst_jax.checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Where a job is.

    Attributes:
        index: the index of the image, or of a batch's first image, among the job's images.
        num_images: the number of images that run in one batch.
        level: the index of the level.
        state: the state of the optimization.
        history: the metrics of all steps so far.
    """

    index: int
    num_images: int
    level: int
    state: State
    history: History


def save(path: str | os.PathLike[str], job: Job, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; one that was there before stays until the new one is complete.

    If the state spans several processes, all of them must call it; the first one writes.

    Raises:
        InputError: it cannot be written.
    """
    arrays = {
        name: to_host(_key_data(leaf)) for name, leaf in _named_leaves(checkpoint.state).items()
    }
    if jax.process_index() > 0:
        return
    arrays |= {f"history/{name}": values for name, values in checkpoint.history.items()}
    metadata = {
        "job": _identity(job, checkpoint.index, checkpoint.num_images),
        "index": checkpoint.index,
        "num_images": checkpoint.num_images,
        "level": checkpoint.level,
        "columns": list(checkpoint.history),
    }
    label = f"checkpoint {os.fspath(path)!r}"
    if reason := why_not_writable(path):
        raise InputError(f"{label} cannot be written: {reason}")
    try:
        with atomic_path(Path(path)) as temporary:
            save_file(arrays, temporary, {METADATA_KEY: json.dumps(metadata)})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{label} cannot be written: {error}") from error


def load(path: str | os.PathLike[str], job: Job) -> Checkpoint:
    """Read a checkpoint of this job.

    The images that it holds may have another index now, because those before them were finished.

    Raises:
        InputError: the file does not exist, is damaged, is no checkpoint, or belongs to another
            job. Optax transformations are told apart by their code and by the values that they
            close over, not by objects of other types (`nst_jax.pipeline.descriptions`).
    """
    label = f"checkpoint {os.fspath(path)!r}"
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name that is too long.
        raise InputError(f"{label} does not exist; start without resume")
    if not os.path.isfile(path):  # noqa: PTH113 - opening a pipe would wait for a writer
        raise InputError(f"{label} is a folder, pipe or device; start without resume")
    incomplete = InputError(f"{label} is no complete checkpoint of this job; start without resume")
    try:
        with safe_open(path, "np") as file:
            metadata = parse_json((file.metadata() or {})[METADATA_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved, saved_index = metadata["job"], metadata["index"]
        level, num_images = metadata["level"], metadata["num_images"]
        history = History({name: arrays[f"history/{name}"] for name in metadata["columns"]})
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
        raise incomplete from error
    if not (
        isinstance(saved, dict)
        and _is_index(saved_index, math.inf)
        and _is_index(level, len(job.levels))
        and _is_index(num_images, len(job.mixes) + 1)
        and num_images > 0
        and _is_history(history, num_images)
    ):
        raise incomplete
    candidates = (saved_index, *range(len(job.mixes)))
    index = next((i for i in candidates if _identity(job, i, num_images) == saved), None)
    if index is None:
        current = _identity(job, 0, num_images)
        raise InputError(
            f"{label} belongs to another job: {_difference(saved, current)}; give the same, "
            "or start without resume"
        )
    like = jax.eval_shape(lambda: _state_template(job, job.levels[level].shape, num_images))
    leaves = []
    for name, leaf in _named_leaves(like).items():
        array, expected = arrays.get(name), jax.eval_shape(_key_data, leaf)
        if array is None or (array.shape, array.dtype) != (expected.shape, expected.dtype):
            raise InputError(
                f"{label} does not fit this job's optimizer (it has no {name} of shape "
                f"{expected.shape}); start without resume"
            )
        values = jnp.asarray(array)
        leaves.append(jax.random.wrap_key_data(values) if _is_key(leaf) else values)
    state = jax.tree.unflatten(jax.tree.structure(like), leaves)
    done, steps = np.ravel(state.level_step), np.ravel(state.step)
    if not (
        (done == done[0]).all()
        and 0 <= done[0] <= job.levels[level].steps
        and ((steps >= 0) & (steps <= job.num_steps)).all()
        and np.isfinite(np.asarray(state.iterate)).all()
    ):
        raise incomplete
    return Checkpoint(index, num_images, level, state, history)


def index_of(path: str | os.PathLike[str], job: Job) -> int | None:
    """Return the index of the image in a checkpoint of this job; None if there is no such file."""
    try:
        return load(path, job).index
    except InputError:
        return None


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a checkpoint, if there is one that can be removed; of several processes, the first."""
    if jax.process_index() > 0:
        return
    with suppress(OSError):
        Path(path).unlink()


def _identity(job: Job, index: int, num_images: int) -> dict[str, Any]:
    """Return what decides these images of a job, as JSON values."""
    mixes = job.mixes[index : index + num_images]
    used = sorted({i for mix in mixes for i, weight in enumerate(mix) if weight})
    identity = job.metadata | {
        "styles": None,
        "style_weights": None,
        **dict.fromkeys(MACHINE_SETTINGS),  # After a job ran out of memory, a smaller limit helps.
        "images": [style_metadata(job, mix) for mix in mixes],
        "pixels": [*job.hashes.shared, *(job.hashes.styles[i] for i in used if job.styles)],
        "transformation": fingerprint(job.engine.optimizer),
        "code of terms": [
            fingerprint((type(term).measure, type(term).value))
            for term in job.engine.settings.terms
        ],
        "arrays": job.hashes.arrays,
    }
    return json.loads(json.dumps(identity))


def _is_index(value: Any, end: float) -> bool:
    return type(value) is int and 0 <= value < end


def _is_history(history: History, num_images: int) -> bool:
    """Return whether the columns are numbers, one a step, or one a step and image."""
    columns = [np.asarray(column) for column in history.values()]
    numbers = all(column.ndim and column.dtype.kind in "fiu" for column in columns)
    shapes = {column.shape for column in columns} if numbers else set()
    rows = {shape[0] for shape in shapes}
    return (
        numbers
        and len(rows) <= 1
        and all(shape[1:] in ((), (num_images,)) for shape in shapes)
        and (not columns or {"step", "total"} <= set(history))
    )


def _difference(saved: dict[str, Any], current: dict[str, Any]) -> str:
    missing = object()
    names = sorted({*saved, *current})
    name = next(n for n in names if saved.get(n, missing) != current.get(n, missing))
    if name == "pixels":
        return "its images have the same names and other pixels"
    return f"{name} is {short_repr(saved.get(name))} there and {short_repr(current.get(name))} here"


def _state_template(job: Job, shape: tuple[int, int], num_images: int) -> State:
    init = partial(job.engine.init_state, seed=job.settings.seed)
    if num_images == 1:
        return init(jnp.zeros((*shape, 3)))
    return jax.vmap(init)(jnp.zeros((num_images, *shape, 3)))


def _named_leaves(state: State) -> dict[str, Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: Array) -> Array:
    """Return an array as a file can hold it: the data of a random key."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf
