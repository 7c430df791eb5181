"""Weight files that are damaged, false or malicious, in each command that reads one."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from apps.helpers import SMALL
from reliability import hostile_weights
from reliability.hostile import assert_clear, attempt, memory_limit, rarely

pytestmark = pytest.mark.usefixtures("stops_at_start")

GIB = 2**30
PLACES = {
    "verify": ("weights", "verify", "weights"),
    "convert": ("weights", "convert", "weights", "out.safetensors", "--preprocessing", "caffe"),
    "stylize": (
        "stylize",
        "content.png",
        "style.png",
        *SMALL,
        "--weights",
        "weights",
        "-o",
        "o.png",
    ),
}


@pytest.mark.parametrize("place", rarely(PLACES, ["verify"]))
@pytest.mark.parametrize("name", hostile_weights.FILES)
def test_a_weight_file_is_taken_or_refused_in_one_line(name, place, photo_folder):
    for file in ("weights", "ran", "out.safetensors"):
        Path(file).unlink(missing_ok=True)
    if not Path("other.h5").exists():
        with h5py.File("other.h5", "w") as file:
            file["a"] = np.zeros((3, 3, 3, 64), np.float32)
    hostile_weights.FILES[name](Path("weights"))
    outcome = attempt(*PLACES[place])
    line = assert_clear(outcome)
    assert not line or "weights" in line
    assert not Path("ran").exists(), "code of the file ran"
    assert Path("out.safetensors").exists() == (place == "convert" and outcome.code == 0)


@pytest.mark.parametrize("name", hostile_weights.BASES)
def test_the_files_are_taken_before_they_are_damaged(name, photo_folder):
    hostile_weights.BASES[name](Path("weights"))
    assert attempt(*PLACES["verify"]).code == (2 if "PyTorch" in name else 0)
    assert attempt(*PLACES["convert"]).code == (2 if name == "native" else 0)


@pytest.mark.parametrize("name", hostile_weights.BOMBS)
def test_a_weight_file_that_claims_gigabytes_takes_no_gigabytes(name, photo_folder):
    Path("weights").unlink(missing_ok=True)
    hostile_weights.BOMBS[name](Path("weights"))
    with memory_limit(GIB // 2):
        line = assert_clear(attempt(*PLACES["verify"]))
    assert re.search("too large|has a layer|has shape", line), line
    Path("weights").unlink()
