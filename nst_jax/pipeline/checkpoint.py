"""A job's state in a file, to go on from: safetensors, with the job's record beside the arrays."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nst_jax.errors import InputError
from nst_jax.optimize.loop import State
from nst_jax.optimize.multiscale import Where
from nst_jax.pipeline.job import Job, average_of, optimizer_of, record

__all__ = ["load", "save"]

KEY: Final = "nst_jax.checkpoint"


def save(path: str | os.PathLike[str], job: Job, where: Where) -> None:
    """Write where a job is; a file that was there stays whole until the new one is.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    arrays = {name: np.asarray(leaf) for name, leaf in _named(where.state).items()}
    note = {
        "job": record(job),
        "pixels": _hashes(job),
        "scale": where.scale,
        "step": where.state.step,
        "averaged": where.state.averaged,
        "history": where.history,
    }
    part = path.with_name(f"{path.name}.part")
    try:
        save_file(arrays, part, {KEY: json.dumps(note)})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise InputError(f"checkpoint {str(path)!r} cannot be written: {error}") from error


def load(path: str | os.PathLike[str], job: Job) -> Where:
    """Read where a job was.

    Raises:
        InputError: no such file, not a checkpoint, a damaged one, or one of another job.
    """
    label = f"checkpoint {os.fspath(path)!r}"
    if not os.path.exists(path):  # noqa: PTH110
        raise InputError(f"{label} does not exist; there is nothing to resume")
    try:
        with safe_open(path, "np") as file:
            note = json.loads((file.metadata() or {})[KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{label} is not a whole checkpoint; start without it") from error
    theirs, ours = note["job"], json.loads(json.dumps(record(job)))
    for name in sorted(set(theirs) | set(ours)):
        if theirs.get(name) != ours.get(name):
            raise InputError(
                f"{label} belongs to another job: its {name} was {theirs.get(name)!r} and is "
                f"{ours.get(name)!r} now; give the same, or start without it"
            )
    if note["pixels"] != _hashes(job):
        raise InputError(f"{label} belongs to other pictures of the same names; start without it")
    like = jax.eval_shape(lambda: _blank(job, job.scales[note["scale"]].shape))
    for name, leaf in _named(like).items():
        found = arrays.get(name)
        if found is None or (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            raise InputError(f"{label} lacks {name} as this job has it; start without it")
    leaves = [jnp.asarray(arrays[name]) for name in _named(like)]
    image, mean, opt_state = jax.tree.unflatten(jax.tree.structure(like[:3]), leaves)
    state = State(image, mean, opt_state, note["step"], note["averaged"])
    return Where(note["scale"], state, note["history"])


def _blank(job: Job, shape: tuple[int, int]) -> State:
    image = jnp.zeros((*shape, 3))
    optimizer = optax.with_extra_args_support(optimizer_of(job.settings))
    mean = image if average_of(job.settings) else None
    return State(image, mean, optimizer.init(image), 0)


def _named(state: State) -> dict[str, Array]:
    """The state's arrays by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tuple(state[:3]))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _hashes(job: Job) -> list[str | None]:
    """Tell apart the pictures that a job computes with."""
    arrays = (job.goal, job.start, job.alpha, job.photo, job.regions, *job.style_pixels)
    return [
        None if x is None else hashlib.sha256(np.asarray(x).tobytes()).hexdigest() for x in arrays
    ]
