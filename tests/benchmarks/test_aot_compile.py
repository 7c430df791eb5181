"""The optimization compiles for devices that are not there, and their programs are as they should.

Each marker needs an environment of its own: ``tpu`` with libtpu, ``gpu`` with jax-cuda12-plugin.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import commands
import pytest

SCRIPT = Path(commands.__file__).with_name("aot_compile.py")
HLO = """
import sys
import jax.numpy as jnp
import aot_compile
chip, optimizer, dtype = sys.argv[1:]
aot_compile.compile_only()
devices = aot_compile.described_devices(chip, 1)
optimizer = aot_compile.OPTIMIZERS[optimizer]
print(aot_compile.lower(devices, (256, 320), optimizer, jnp.dtype(dtype)).compile().as_text())
"""
ELEMENT = {"bfloat16": "bf16", "float32": "f32"}


def run(*command, **environment):
    """Run Python in a process of its own: a compiler and the backend of these tests interfere."""
    folder = str(SCRIPT.parent)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": folder, **environment}
    process = subprocess.run([sys.executable, *command], env=environment, stdout=-1, text=True)
    assert process.returncode == 0
    return process.stdout


def report(*options):
    """Return the cells of the last row of a report, by the names of their columns."""
    head, _, *rows = run(SCRIPT, *options).split("\n\n")[1].splitlines()
    return dict(zip(*(line.strip("| ").split(" | ") for line in (head, rows[-1])), strict=True))


@pytest.mark.tpu
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_loop_compiles_for_a_tpu_and_stays_on_it(optimizer):
    pytest.importorskip("libtpu")
    found = report("--chips", "v5e", "--sizes", "256", "--optimizers", optimizer)
    assert (found["fits"], found["in place"]) == ("yes", "yes")
    assert (found["host transfers"], found["collectives"]) == ("0", "0")


@pytest.mark.tpu
@pytest.mark.parametrize(("chip", "num_devices"), [("v5e", 4), ("v6e", 4), ("v5e", 16)])
def test_the_loop_compiles_for_the_rows_of_several_tpus(chip, num_devices):
    pytest.importorskip("libtpu")
    options = ("--sizes", "1024", "--optimizers", "adam", "--chips", chip)
    alone, found = (report(*options, "--num-devices", n) for n in ("1", f"{num_devices}"))
    assert (found["fits"], found["in place"], found["host transfers"]) == ("yes", "yes", "0")
    assert int(found["collectives"]) > 0
    # Less than a fair share more: rows are exchanged, and the parameters are on every device.
    assert float(found["GFLOP"]) < 1.2 * float(alone["GFLOP"]) / num_devices


@pytest.mark.gpu
@pytest.mark.parametrize("chip", ["h100", "a100"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_gpu_gets_convolutions_of_cudnn_without_detours(chip, optimizer, dtype):
    pytest.importorskip("jax_cuda12_plugin")
    text = run("-c", HLO, chip, optimizer, dtype)
    lines = [line for line in text.splitlines() if 'custom_call_target="__cudnn$conv' in line]
    assert {re.search(r"= \(?(\w+)\[", line)[1] for line in lines} == {ELEMENT[dtype]}
    # Bias and ReLU in the same call, and the gradient that reverses no kernel.
    kinds = {re.search(r"__cudnn\$conv(\w+)", line)[1] for line in lines}
    assert kinds == {"BiasActivationForward", "BackwardInput"}
    assert sum('"kRelu"' in line for line in lines) * 2 >= len(lines)
    assert " convolution(" not in text
    assert "select-and-scatter" not in text
    assert not re.search(r" (infeed|outfeed|send|recv)(-done)?\(|callback", text)
    # Before Hopper, XLA computes float32 with the channels first, and transposes for that.
    if chip == "h100" or dtype == "bfloat16":
        layouts = {re.search(r"dim_labels=(\w+)->", line)[1] for line in lines}
        assert layouts == {"b01f_o01i"}
        maps = r"256,320|128,160|64,80|32,40|16,20"
        features = rf"(1,)?((64|128|256|512),({maps})|({maps}),(64|128|256|512))"
        assert not re.search(rf"= \w+\[{features}\]\S* (transpose|copy)\(", text)


@pytest.mark.gpu
def test_a_gpu_program_needs_no_operation_that_differs_from_run_to_run():
    pytest.importorskip("jax_cuda12_plugin")
    flags = "--xla_gpu_exclude_nondeterministic_ops"
    assert "__cudnn" in run("-c", HLO, "h100", "adam", "bfloat16", XLA_FLAGS=flags)


@pytest.mark.gpu
@pytest.mark.parametrize(("optimizer", "gib"), [("adam", 0.22), ("lbfgs", 0.32)])
def test_the_planned_memory_of_a_gpu_is_that_of_the_docs(optimizer, gib):
    pytest.importorskip("jax_cuda12_plugin")
    found = report("--chips", "h100", "--sizes", "512", "--optimizers", optimizer)
    assert found["in place"] == "yes"
    assert float(found["memory, GiB"]) <= gib


@pytest.mark.gpu
def test_eight_gpus_hold_a_part_of_the_image_each():
    pytest.importorskip("jax_cuda12_plugin")
    options = ("--sizes", "2048", "--optimizers", "adam", "--chips", "h100")
    alone, found = (report(*options, "--num-devices", n) for n in ("1", "8"))
    assert int(found["collectives"]) > 0
    assert float(found["memory, GiB"]) < 0.3 * float(alone["memory, GiB"])
