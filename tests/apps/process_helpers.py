"""Start the processes that share one image, and wait for their ends."""

import os
import socket
import subprocess
import time

from apps.helpers import PROGRAM

STYLIZE = (
    *("stylize", "content.png", "style.png", "--size", "64", "--model", "vgg16"),
    *("--dtype", "float32", "--optimizer", "adam", "-q"),
    *("--style-layers", "relu1_1", "--content-layers", "relu1_2"),
)
SECONDS = 120


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_all(count, *arguments, out="out.png", programs=None):
    """Start processes that share one image, with one virtual device each.

    ``programs`` has, for a process that meets a fault, what runs in place of the command line.
    """
    flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1"
    shared = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", f"{count}")
    programs = programs or {}
    return [
        subprocess.Popen(
            [*programs.get(i, PROGRAM), *arguments, "-o", out, *shared, "--process-id", f"{i}"],
            env=os.environ | {"XLA_FLAGS": flags},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def ends_of(processes):
    """Wait for processes; return each one's exit code and last line about an error."""
    ends = []
    for process in processes:
        _, errors = process.communicate(timeout=SECONDS)
        ends.append((process.returncode, ["", *errors.splitlines()][-1]))
    return ends


def wait_for(path):
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.1)
