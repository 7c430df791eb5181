"""The options: what --help lists, what reaches a job, and what is refused in one line."""

import subprocess
import sys
from unittest import mock

import pytest
from apps.helpers import STYLIZE, call, error_line, make, metadata

from nst_jax.networks.weights import bundled_path
from nst_jax.optimize import multiscale

pytestmark = pytest.mark.usefixtures("small_photos")

SHARED = {
    *("--size", "--steps", "--init", "--preset", "--optimizer", "--learning-rate", "--ema-decay"),
    *("--seed", "--tv-weight", "--normalization", "--pooling", "--padding", "--model", "--weights"),
    *("--dtype", "--devices", "--memory-limit", "--quiet", "--out", "--help"),
}
MIX = {"--style-weights"}
STYLE = {"--min-size", "--style-layers", "--style-loss", "--style-scales"}
CONTENT = {"--content-layers", "--content-weight", "--style-weight", "--color-mode"}
ONE_IMAGE = {
    *("--preview-every", "--resume", "--log", "--loss-plot"),
    *("--coordinator", "--num-processes", "--process-id"),
}
OPTIONS = {
    "stylize": SHARED | STYLE | CONTENT | ONE_IMAGE | MIX | {"--mask", "--mask-colors"},
    "texture": SHARED | STYLE | ONE_IMAGE | MIX,
    "reconstruct": SHARED | ONE_IMAGE | {"--content-layers"},
    "apply": {"--style", "--style-weights", "--size", "--suffix", "--quiet", "--out", "--help"},
    "batch": SHARED | STYLE | CONTENT | {"--styles", "--suffix", "--shard", "--batch-size"},
    "doctor": {"--help"},
    "studio": {"--port", "--host", "--max-upload", "--help"},
    "interpolate": SHARED | STYLE | CONTENT | {"--num-images", "--resume", "--batch-size"},
    "plot": {"--out", "--help"},
    "weights list": {"--help"},
    "weights fetch": {"--url", "--help"},
    "weights convert": {"--preprocessing", "--half", "--help"},
    "weights verify": {"--preprocessing", "--help"},
}


def test_help_lists_all_options_without_jax_and_jobs_need_no_matplotlib():
    program = r"""
import re, sys
from click.testing import CliRunner
from nst_jax.apps.cli.main import main
def leaves(command, *path):
    children = getattr(command, "commands", {})
    return [leaf for n in children for leaf in leaves(children[n], *path, n)] or [path]
for path in leaves(main):
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0, result
    assert result.output == CliRunner().invoke(main, [*path, "-h"]).output
    print(" ".join(path), *re.findall(r"^  (?:-\w, )?(--[\w-]+)", result.output, re.M), sep="|")
assert not {"jax", "optax", "flax"} & set(sys.modules), "JAX was imported"
import nst_jax.apps.cli.run
assert "matplotlib" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    listed = [line.split("|") for line in run.stdout.splitlines()]
    assert {command: set(options) for command, *options in listed} == OPTIONS


EXAMPLES = [  # option, value, metadata
    ("--content-weight", "2", 2.0),
    ("--style-weight", "3", 3.0),
    ("--style-weights", "1, 3", [0.25, 0.75]),
    ("--style-scales", "0.5,1", [0.5, 1.0]),
    ("--color-mode", "luminance", "luminance"),
    ("--tv-weight", "0.5", 0.5),
    ("--normalization", "none", "none"),
    ("--pooling", "l2", "l2"),
    ("--padding", "same", "same"),
    ("--optimizer", "adam", "adam"),
    ("--ema-decay", "0.5", 0.5),
    ("--learning-rate", "0.1", 0.1),
    ("--init", "other.png", "other.png"),
    ("--seed", "7", 7),
    ("--dtype", "bfloat16", "bfloat16"),
    ("--memory-limit", "8GB", "8GB"),
    ("--devices", "2", 2),
    ("--model", "vgg16", "vgg16"),
    ("--weights", bundled_path(), bundled_path().name),
    ("--size", "original", None),
    ("--min-size", "20", 20),
    ("--steps", "0,1", [0, 1]),
    ("--style-layers", "relu1_1:0.4, relu1_2", {"relu1_1": 0.4, "relu1_2": 1.0}),
    ("--content-layers", "relu1_2:2", {"relu1_2": 2.0}),
]


def test_each_option_reaches_the_job():
    words = [word for option, value, _ in EXAMPLES for word in (option, value)]
    image = make("stylize", "content.png", "style.png", "other.png", "-q", *words)
    assert image.shape == (24, 32, 3)
    made = metadata("out.png")
    for option, _, expected in EXAMPLES:
        assert made[option[2:].replace("-", "_")] == expected, option


def test_an_option_changes_the_preset():
    make(*STYLIZE, "--preset", "paper", "--steps", "0", "--pooling", "max")
    made = metadata("out.png")
    names = ("normalization", "init", "padding", "min_size", "content_weight", "pooling")
    assert [made[name] for name in names] == ["none", "noise", "same", None, 1.0, "max"]


VALUES = ("0", "-1", "nan", "inf", "1e30", "99999999999999999999", "", "word")
WEIGHTS = {"0", "1e30", "99999999999999999999"}
ACCEPTED = {  # of VALUES, by option
    "--size": set(),
    "--min-size": set(),
    "--steps": {"0"},
    "--content-weight": WEIGHTS,
    "--style-weight": WEIGHTS,
    "--tv-weight": WEIGHTS,
    "--style-weights": WEIGHTS - {"0"},
    "--style-scales": set(),
    "--style-layers": set(),
    "--style-layers relu1_1:": WEIGHTS - {"0"},
    "--content-layers relu1_2:": WEIGHTS - {"0"},
    "--seed": {"0"},
    "--memory-limit": set(),
    "--optimizer adam --learning-rate": {"1e30", "99999999999999999999"},
    "--optimizer adam --ema-decay": {"0"},
    "--preview-every": {"99999999999999999999"},
    "--batch-size": {"99999999999999999999"},
    "--num-images": set(),
}


@pytest.mark.campaign
@pytest.mark.parametrize("option", ACCEPTED)
def test_each_number_runs_or_is_refused_before_the_job_starts(option, monkeypatch):
    run = mock.Mock(wraps=multiscale.optimize_chunks)
    monkeypatch.setattr(multiscale, "optimize_chunks", run)
    command = [*STYLIZE, "-o", "out.png", "--steps", "1"]
    if option == "--num-images":
        command = ["interpolate", *command[1:3], "other.png", *command[3:]]
    elif option == "--batch-size":
        command = ["batch", "content.png", "--styles", *command[2:], "--optimizer", "adam"]
    for value in VALUES:
        words = f"{option}{value}".split() if option[-1] == ":" else [*option.split(), value]
        run.reset_mock()
        if value in ACCEPTED[option]:
            assert call(*command, *words).exit_code == 0, (option, value)
            assert run.called
        else:
            error_line(*command, *words)
            assert not run.called
