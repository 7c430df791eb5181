"""Child processes that run functions of the benchmarks.

In a process of its own a contender has its own peak memory, and it sleeps while another one runs.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any, Final

ENVIRONMENT: Final = {
    "NST_JAX_OFFLINE": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # other processes need the memory of the GPU
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # the time of compilation is measured
}
CPU_ONLY: Final = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


class ChildError(Exception):
    """A function in a child process failed; the message is one line."""


class ChildProcess:
    """A fresh process that runs one function after another, with these environment variables."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.executor = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), _initialize, (dict(environment),)
        )

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function`` there and return its result; raise `ChildError` if that fails."""
        try:
            return self.executor.submit(_call, function, args).result()
        except BrokenProcessPool:
            raise ChildError("its process was killed, perhaps for lack of memory") from None

    def close(self) -> None:
        """End the process."""
        self.executor.shutdown()


def call_in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Run one function in a fresh process and return its result; raises `ChildError`."""
    with closing(ChildProcess({})) as child:
        return child.call(function, *args)


def _initialize(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.dup2(2, 1)  # standard output belongs to the report of the parent


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return function(*args)
    except Exception as error:  # not every exception can be sent to another process
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ChildError(": ".join([type(error).__name__, *lines[:1]])[:160]) from None
