"""The command line in a process that sends itself a signal: ``POINT SIGNAL ARGUMENTS…``."""

import sys

import pytest
from reliability.faults import POINTS, save_often, send

from nst_jax.apps.cli.main import main

if __name__ == "__main__":
    point, signum, *arguments = sys.argv[1:]
    patch = pytest.MonkeyPatch()
    save_often(patch)
    POINTS[point](patch, send(int(signum)))
    main(arguments)
