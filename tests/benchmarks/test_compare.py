"""The comparison with PyTorch compares the same work, counts it right, and reports failures."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import __main__ as compare_main
from compare import jax_side, report, workload
from lazy import Lazy, torch
from processes import ChildError, ChildProcess, call_in_child

from nst_jax import VGG

pytestmark = pytest.mark.extended
torch_side = Lazy("compare.torch_side")

JOB = workload.Job(64, 2, "adam")


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, workload.network())


def test_both_sides_have_the_same_loss_and_gradient(params):
    content, styles, init = workload.read_images(JOB)
    image = torch_side.to_tensor(init).requires_grad_()
    network = workload.network()
    total = torch_side.make_objective(network, content, styles, torch.float32, "cpu")(image)
    total.backward()
    gradients = image.grad.permute(0, 2, 3, 1).numpy()

    shared = jax_side.content_targets(params, content)
    loss = jax.jit(jax.value_and_grad(jax_side.style_loss, has_aux=True))
    values = []
    for x, style, theirs in zip(init, styles, gradients, strict=True):
        target = jax_side.style_targets(params, style)
        (value, _), ours = loss(jnp.asarray(x), target, params, shared, jax_side.LOSS_WEIGHTS)
        values.append(float(value))
        assert np.vdot(ours, theirs) > 0.999 * np.linalg.norm(ours) * np.linalg.norm(theirs)
    assert values[0] != pytest.approx(values[1], rel=1e-3)
    assert total.item() == pytest.approx(sum(values), rel=1e-3)


def test_flops_and_activations_agree_with_xla_and_the_trained_network(params, vgg16, cat):
    layers = ("relu4_1", "relu5_1")
    features = jax.jit(lambda params, image: VGG().features(params, image, layers))
    image = cat[:64, :64]
    compiled = features.lower(params, image).compile()
    trained, generated = features(vgg16, image), compiled(params, image)
    for layer in layers:
        ratio = jnp.square(generated[layer]).mean() / jnp.square(trained[layer]).mean()
        assert 0.25 < ratio < 4
    convs = sum(workload.conv_flops(conv, 64) for conv in workload.used_convs())
    # XLA leaves out the products with the zeros of the padding.
    assert compiled.cost_analysis()["flops"] == pytest.approx(convs, rel=0.2)
    assert workload.gram_flops("relu3_1", 256) == 2 * 256 * 256 * 64 * 64
    assert workload.step_flops(JOB) == 2 * workload.step_flops(workload.Job(64, 1, "adam"))


def test_the_command_prints_the_tables():
    command = [sys.executable, Path(report.__file__).parent, "--device", "cpu", "--sizes", "32"]
    command += ["--batches", "1", "--optimizers", "lbfgs", "--steps", "2", "--rounds", "1"]
    command += ["--contenders", "nst_jax float32", "torch eager float32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    assert "python benchmarks/compare --device cpu" in done.stdout
    titles = [line[3:] for line in done.stdout.splitlines() if line.startswith("## ")]
    assert titles == ["Milliseconds a step", "Peak memory, MiB", "lbfgs, 32 × 32, batch 1"]
    ours, theirs = [line.split(" | ") for line in done.stdout.splitlines()[-2:]]
    assert ours[0] == "| nst_jax float32"
    assert float(ours[1]) > 0
    assert float(ours[7]) > float(ours[8]) > 0  # peak memory and its growth
    assert float(ours[9]) < 1e-3  # difference of the first loss
    assert theirs[0] == "| torch eager float32"


def test_a_contender_that_does_other_work_fails():
    same = report.Row("torch eager float32", milliseconds=[1.0], losses=[2.0])
    other = report.Row("nst_jax float32", milliseconds=[1.0], losses=[2.1])
    configuration = report.Configuration(JOB, rows=[same, other])
    compare_main.check_agreement(configuration)
    assert same.failed is None
    text = report.markdown("", ["nst_jax float32"], [configuration])
    assert "- nst_jax float32 failed: its first loss differs by 5.0e-02" in text


def test_a_child_process_reports_errors_and_keeps_its_environment():
    child = ChildProcess({"NST_JAX_TEST": "1"})
    assert child.call(os.getenv, "NST_JAX_TEST") == "1"
    with pytest.raises(ChildError, match="ValueError: invalid literal"):
        child.call(int, "x")
    child.close()
    with pytest.raises(ChildError, match="its process was killed"):
        call_in_child(signal.raise_signal, signal.SIGKILL)
