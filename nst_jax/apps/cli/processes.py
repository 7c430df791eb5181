"""Several processes: one image over all of them, or a share of the images for each."""

import os
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click

from nst_jax.errors import InputError

__all__ = ["PROCESS_OPTIONS", "SHARD_OPTION", "Worker", "initialize_processes", "resolve_worker"]


class Worker(NamedTuple):
    """One of several processes that each make a share of the images; ranks count from 0."""

    rank: int
    size: int


FIRST_SLURM_PSEUDO_STEP: Final = 2**32 - 16
"""Slurm numbers the steps of batch scripts and interactive shells from the end of its integers."""
LAUNCHERS: Final = (
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)
"""Environment variables of Slurm's steps, Open MPI and other MPIs: rank, size, rank on the host."""


class ShardType(click.ParamType):
    """``i/n`` with i from 1 to n, or ``auto``."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value."""
        if value == "auto" or isinstance(value, Worker):
            return value
        numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value))
        worker = Worker(int(numbers[1]) - 1, int(numbers[2])) if numbers else None
        if worker is None or not 0 <= worker.rank < worker.size:
            self.fail(
                f"{value!r} is no share; give i/n with i from 1 to n, such as 2/4", param, ctx
            )
        return worker


SHARD_OPTION: Final = click.option(
    "--shard",
    type=ShardType(),
    default="auto",
    show_default=True,
    help="Make only the i-th of n shares of the images. auto: as Slurm or MPI launched it.",
)
PROCESS_OPTIONS: Final[tuple[Callable[..., Any], ...]] = (
    click.option(
        "--coordinator",
        metavar="HOST:PORT",
        help="Share one image with other processes. auto: as Slurm, Open MPI, Kubernetes or Cloud "
        "TPU launched them.",
    ),
    click.option("--num-processes", type=click.IntRange(1), help="How many processes share it."),
    click.option("--process-id", type=click.IntRange(0), help="Which of them this one is, from 0."),
)


def resolve_worker(shard: Any) -> Worker:
    """Return which worker this process is; on a host with several, it takes a GPU of its own.

    ``auto`` reads the variables of a launcher that started several processes. Those of a shell that
    Slurm started, in a batch script or for a terminal, are no such launcher's.

    Raises:
        InputError: the variables of a launcher name no worker.
    """
    if isinstance(shard, Worker):
        return shard
    for rank, size, local_rank in LAUNCHERS:
        if rank in os.environ and size in os.environ:
            found = _parse_worker(os.environ[rank], os.environ[size])
            if found is None:
                raise InputError(
                    f"{rank} is {os.environ[rank][:80]!r} and {size} {os.environ[size][:80]!r}, "
                    "which name no worker; give --shard i/n"
                )
            if found.size == 1 or (rank == "SLURM_PROCID" and not _is_in_slurm_step()):
                continue
            if local_rank in os.environ:
                _take_gpu(os.environ[local_rank])
            return found
    return Worker(0, 1)


def _is_in_slurm_step() -> bool:
    """Return whether srun started this process, or one above it."""
    step = os.environ.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < FIRST_SLURM_PSEUDO_STEP


def _parse_worker(rank: str, size: str) -> Worker | None:
    """Return the worker with this rank; None if there is none."""
    if not all(re.fullmatch(r"\d{1,9}", text) for text in (rank, size)):
        return None
    return Worker(int(rank), int(size)) if int(rank) < int(size) else None


def _take_gpu(local_rank: str) -> None:
    import jax

    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        jax.config.update("jax_cuda_visible_devices", local_rank)


def initialize_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Join the processes that share one image (``jax.distributed.initialize``).

    The coordinator listens at the address that it was given only, not at every interface.

    Raises:
        InputError: the options do not fit each other, or the processes do not find each other.
    """
    explicit = (num_processes, process_id)
    if coordinator in (None, "auto"):
        if explicit != (None, None):
            raise InputError(
                "--num-processes and --process-id need --coordinator HOST:PORT; give it too"
            )
        if coordinator is None:
            return
    elif num_processes is None or process_id is None:
        raise InputError("--coordinator needs --num-processes and --process-id; give them too")
    elif process_id >= num_processes:
        raise InputError(
            f"--process-id is {process_id} of {num_processes} processes; give one from 0 to "
            f"{num_processes - 1}"
        )
    import jax

    options: dict[str, Any] = {}
    if coordinator != "auto":
        options = {
            "coordinator_address": coordinator,
            "coordinator_bind_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
    try:
        jax.distributed.initialize(**options, initialization_timeout=60)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the processes do not find each other: {reason}") from error
