"""The comparison with PyTorch compares the same work, counts it rightly and runs."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import common  # noqa: E402
import jax_side  # noqa: E402
import many  # noqa: E402
import results  # noqa: E402
import torch_reference  # noqa: E402

from nst_jax import VGG, prepare_params
from nst_jax.images import io as images  # noqa: E402

SIZE = 64


@pytest.fixture(scope="module")
def params():
    return common.network()


@pytest.mark.parametrize("batch", [1, 2])
def test_both_sides_have_the_same_loss_and_gradient(params, batch):
    job = common.Job(SIZE, batch, "adam")
    content, styles, start = common.pictures(job)
    objective = torch_reference.objective(params, common.MODEL, content, styles)
    image = torch_reference.to_tensor(start).requires_grad_()
    theirs = objective(image)
    theirs.backward()
    their_gradient = image.grad.permute(0, 2, 3, 1).numpy()

    ours, gradient = our_loss_and_gradient(params, content, styles, start)
    assert ours == pytest.approx(theirs.item(), rel=1e-3)
    for a, b in zip(np.asarray(gradient).reshape(batch, -1), their_gradient, strict=True):
        cosine = a @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b)
        assert cosine > 0.999


def our_loss_and_gradient(params, content, styles, start):
    arrays = jax.tree.map(jnp.asarray, params)  # unprepared, they compile sooner
    shared = jax_side.content_targets(arrays, jnp.asarray(content))
    own = [jax_side.style_targets(arrays, jnp.asarray(style)) for style in styles]

    @jax.jit
    def total(images, each):
        of_each = jax.vmap(jax_side.loss_of_style, (0, 0, None, None, None))
        return of_each(images, each, arrays, shared, jax_side.WEIGHTS)[0].sum()

    each = jax.tree.map(lambda *grams: jnp.stack(grams), *own)
    value, gradient = jax.value_and_grad(total)(jnp.asarray(start), each)
    return float(value), gradient


def test_every_picture_of_a_batch_counts_by_itself(params):
    """A batch's loss is the sum of what its pictures have alone."""
    job = common.Job(SIZE, 2, "adam")
    content, styles, start = common.pictures(job)
    together, _ = our_loss_and_gradient(params, content, styles, start)
    alone = [
        our_loss_and_gradient(params, content, styles[i : i + 1], start[i : i + 1])[0]
        for i in range(2)
    ]
    assert alone[0] != pytest.approx(alone[1], rel=1e-3)
    assert together == pytest.approx(sum(alone), rel=1e-5)


def test_activations_are_as_large_as_a_trained_networks(params, vgg16, cat):
    """Made-up layers among the trained ones neither lose nor blow up what follows."""
    trained = VGG(vgg16)(cat, ("relu4_1", "relu5_1"))
    found = VGG(prepare_params(params, "float32"))(cat, ("relu4_1", "relu5_1"))
    for tap, features in trained.items():
        ratio = float(jnp.square(found[tap]).mean() / jnp.square(features).mean()) ** 0.5
        assert 0.5 < ratio < 2


def test_arithmetic_is_counted():
    convolutions = sum(common.conv_flops(layer, 256) for layer in common.used_convs())
    assert common.used_convs()[-1] == "conv5_1"
    assert 2 * convolutions == pytest.approx(94.7e9, rel=0.01)
    # XLA counts the forward pass much the same; it leaves out what falls on the zeros of a border.
    params = jax.tree.map(jnp.asarray, common.network())
    program = jax.jit(lambda params, image: VGG(params)(image, ("relu5_1",)))
    costs = program.lower(params, jnp.zeros((256, 256, 3))).compile().cost_analysis()
    assert costs["flops"] == pytest.approx(convolutions, rel=0.05)
    assert common.gram_flops("relu3_1", 256) == 2 * 256 * 256 * 64 * 64


def test_the_comparison_runs(tmp_path):
    output, raw = tmp_path / "RESULTS.md", tmp_path / "raw.json"
    output.write_text("# Old\n\nprose\n\n## GPU: another\n\nkept\n")
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--device", "cpu"]
    command += ["--sizes", str(SIZE), "--batches", "1", "--optimizers", "adam"]
    command += ["--steps", "2", "--rounds", "1", "--output", str(output), "--json", str(raw)]
    command += ["--contenders", "nst_jax float32", "torch eager float32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    text = output.read_text()
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles[0] == "# nst_jax and PyTorch"
    assert titles[1] == "## GPU: another"
    assert titles[2].startswith("## CPU: ")
    assert titles[3:] == ["### Milliseconds a step", f"### adam, {SIZE} × {SIZE}, batch 1"]
    assert "kept" in text
    assert "prose" not in text
    assert str(tmp_path) not in text

    (configuration,) = json.loads(raw.read_text())["configurations"]
    assert configuration["steps"] == 2
    ours, theirs = configuration["rows"]
    for row in (ours, theirs):
        assert row["failed"] is None
        assert len(row["ms"]) == 1
        assert row["peak_bytes"] > row["baseline_bytes"] > 0
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-3)


def test_eight_styles_are_eight_pictures_of_one_size(tmp_path):
    files = many.write_styles(tmp_path, 8)
    pixels = [images.read(file).pixels for file in files]
    assert len({picture.shape for picture in pixels}) == 1
    assert len({picture.tobytes() for picture in map(np.asarray, pixels)}) == 8


def test_many_styles_are_held_against_single_commands(monkeypatch):
    ran = []

    def seconds(*words, cache):
        ran.append(words)
        return {"stylize": 10.0, "batch": 24.0}[words[0]]

    monkeypatch.setattr(many, "seconds", seconds)
    done = CliRunner().invoke(many.main, ["--styles", "3", "--steps", "7"])
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "3 single runs: 30.0 s (10.0, 10.0, 10.0)",
        "together: 24.0 s, 0.80 of that",
    ]
    assert [words[0] for words in ran] == ["stylize", "batch", *["stylize"] * 3, "batch"]
    assert all("7" in words for words in ran)


def test_writing_again_replaces_the_own_section(tmp_path):
    path = tmp_path / "RESULTS.md"
    for device, date in (
        ("CPU: a", "2001-01-01"),
        ("GPU: b", "2002-02-02"),
        ("CPU: a", "2003-03-03"),
    ):
        results.write(results.Results(device, {"date": date}, {}, []), path)
    text = path.read_text()
    assert "2001-01-01" not in text
    assert "2002-02-02" in text
    assert "2003-03-03" in text
    assert text.count("## CPU: a") == 1


def test_failures_and_omissions_have_a_line():
    job = common.Job(SIZE, 1, "adam")
    failed = results.Configuration(
        job, rows=[results.Row("torch compile float32", "float32", "no")]
    )
    skipped = results.Configuration(job, skipped="too long")
    found = results.Results("CPU: a", {}, {}, ["torch compile float32"], [failed, skipped])
    text = results.section(found)
    assert "- torch compile float32: not measured: no" in text
    assert "Not run: too long." in text
