"""What README.md prints runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh[^\n]*\n(.*?)```", README, re.DOTALL)


def test_there_is_code():
    assert len(PYTHON) >= 2
    assert len(SHELL) >= 4


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(code, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_commands_and_options_exist():
    """Every ``nst-jax`` line parses: a wrong option would be click's usage error."""
    from nst_jax.apps.cli.main import main

    lines = [line for block in SHELL for line in block.splitlines() if "nst-jax " in line]
    assert len(lines) >= 8
    for line in lines:
        words = line.split("#")[0].split("nst-jax ")[-1].split()
        command = main.commands[words[0]]
        if words[0] == "weights":
            command, words = command.commands[words[1]], words[1:]
        command.make_context(words[0], words[1:]).close()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()
