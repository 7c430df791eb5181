"""What the TPU compiler makes of the loop, where ``libtpu`` is installed; no TPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


@pytest.mark.tpu
@pytest.mark.parametrize("program", ["loop, Adam", "loop, L-BFGS"])
def test_the_loop_fits_a_tpu_and_stays_on_it(program):
    pytest.importorskip("libtpu")
    # In a process of its own, because libtpu and the backend of these tests get in each other's way
    command = [sys.executable, PROJECT / "benchmarks" / "tpu.py", "--json"]
    finished = subprocess.run(
        [*command, "--chips", "v5e", "--sizes", "256", "--programs", program],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    (row,) = json.loads(finished.stdout)
    assert row["needed"] <= row["capacity"]
    assert row["host_transfers"] == []
    assert row["foreign_calls"] == []
    assert row["in_place"]
    assert row["products"] > 0  # its loop was found and read
