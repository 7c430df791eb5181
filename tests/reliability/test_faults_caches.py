"""Damaged files in the caches: of weights, and of compiled executables."""

import os
import random
import struct
import subprocess
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from apps.helpers import PROGRAM, call
from jax.experimental.compilation_cache import compilation_cache
from reliability.faults import OUT, STYLIZE, one_error_line

from nst_jax import images
from nst_jax.apps.cli import run
from nst_jax.apps.cli.run import enable_compilation_cache, trim_folder
from nst_jax.errors import InputError
from nst_jax.networks import weights
from nst_jax.networks.weights import bundled_path, load

pytestmark = pytest.mark.usefixtures("small_photos", "weight_cache")

DAMAGED = {
    "random": lambda good: random.Random(1).randbytes(10_000),
    "truncated": lambda good: good[: len(good) // 2],
    "header-only": lambda good: good[:500],
    "empty": lambda good: b"",
    "web-page": lambda good: b"<!DOCTYPE html><p>Please log in",
    "long-header": lambda good: (2**62).to_bytes(8, "little") + b"{" + good[9:],
    "another-network": lambda good: bundled_path().read_bytes(),
    "one-layer-missing": lambda good: good.replace(b"conv5_4.kernel", b"conv5_5.kernel"),
    "one-value-nan": lambda good: good[:-4] + struct.pack("<f", float("nan")),
}
QUICK = ("random", "truncated", "another-network")


@pytest.fixture(scope="module")
def cached_bytes(keras_file, tmp_path_factory):
    """The cached file of a download, whose last array has a value at the end."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "vgg19.h5").write_bytes(keras_file)
    weights.save(folder / "vgg19.safetensors", load(folder / "vgg19.h5"), dtype="float16")
    return (folder / "vgg19.safetensors").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        damage if damage in QUICK else pytest.param(damage, marks=pytest.mark.campaign)
        for damage in DAMAGED
    ],
)
def test_a_damaged_file_in_the_cache_is_named_and_can_be_fetched_again(
    damage, cached_bytes, server, weight_cache
):
    weight_cache.mkdir()
    path = weight_cache / "vgg19.safetensors"
    path.write_bytes(DAMAGED[damage](cached_bytes))
    for model in ("vgg19", "auto"):
        ended = call("stylize", "content.png", "style.png", "-o", "out.png", "--model", model)
        assert ended.exit_code == 2, (ended.output, ended.exception)
        assert str(path) in one_error_line(ended)
        assert "nst-jax weights fetch vgg19" in one_error_line(ended)
    assert weights.download(url=f"{server.url}/good", md5=server.md5) == path
    assert load(path).model == "vgg19"


def test_a_folder_in_place_of_the_cached_file_is_named(server, weight_cache):
    (weight_cache / "vgg19.safetensors").mkdir(parents=True)
    with pytest.raises(InputError, match=r"vgg19\.safetensors is a folder; remove it"):
        weights.download(url=f"{server.url}/good", md5=server.md5)
    assert [path.name for path in weight_cache.iterdir()] == ["vgg19.safetensors"]


def flip_bits(good):
    flipped = bytearray(good)
    for i in random.Random(2).sample(range(len(good)), 20):
        flipped[i] ^= 1 << (i % 8)
    return bytes(flipped)


DAMAGED_ENTRIES = {
    "random": lambda good: random.Random(1).randbytes(len(good)),
    "truncated": lambda good: good[: len(good) // 2],
    "empty": lambda good: b"",
    "flipped-bits": flip_bits,
}


@pytest.fixture
def compiled(weight_cache, monkeypatch):
    """The folder of compiled functions, which the command line would use, for this process."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    yield weight_cache / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_silently(number):
    """Compile a function with the cache of the command line; return whether it is right."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        enable_compilation_cache()
        add = jax.jit(lambda x: jnp.sort(x)[::-1] + number)
        right = add(jnp.arange(8.0)).tolist() == [number + i for i in range(7, -1, -1)]
    return right and not shown


@pytest.mark.parametrize("damage", DAMAGED_ENTRIES)
def test_a_damaged_entry_of_the_compilation_cache_is_compiled_again(damage, compiled):
    number = 10 + list(DAMAGED_ENTRIES).index(damage)
    assert compile_silently(number)
    entries = list(compiled.glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(DAMAGED_ENTRIES[damage](entry.read_bytes()))
    compilation_cache.reset_cache()
    assert compile_silently(number)


@pytest.mark.parametrize("place", ["file", "file-above", "no-rights", "folder-entries"])
def test_a_compilation_cache_that_cannot_be_used_is_not_used(place, compiled, monkeypatch):
    number = 20 + len(place)
    if place == "folder-entries":
        assert compile_silently(number)
        for entry in list(compiled.glob("*-cache")):
            entry.unlink()
            entry.mkdir()
        compilation_cache.reset_cache()
    elif place == "file":
        compiled.parent.mkdir()
        compiled.write_text("")
    elif place == "file-above":
        compiled.parent.write_text("")
    else:  # Nobody may write there, the superuser included.
        monkeypatch.setenv("NST_JAX_CACHE", "/proc/nst_jax")
    assert compile_silently(number)


def test_a_full_compilation_cache_loses_what_was_not_used_for_the_longest_time(
    compiled, monkeypatch
):
    (compiled / "folder").mkdir(parents=True)
    for age, name in enumerate(("newest", "new", "old", "oldest")):
        (compiled / name).write_bytes(bytes(100))
        os.utime(compiled / name, (1e9 - age, 1e9 - 10))
    trim_folder(compiled, 400)
    assert len(list(compiled.iterdir())) == 5
    monkeypatch.setattr(run, "MAX_COMPILED_BYTES", 299)
    enable_compilation_cache()
    assert {path.name for path in compiled.iterdir()} == {"folder", "newest", "new"}
    trim_folder(compiled / "missing", 0)


@pytest.mark.campaign
@pytest.mark.parametrize("damage", [*DAMAGED_ENTRIES, "file", "no-rights"])
def test_a_command_with_a_damaged_cache_makes_the_same_image(damage, whole, weight_cache):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    compiled = weight_cache / "compiled"

    def command():
        done = subprocess.run(
            [*PROGRAM, *STYLIZE, "-o", OUT], env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        np.testing.assert_array_equal(images.read(OUT).pixels, whole)

    if damage == "file":
        weight_cache.mkdir()
        compiled.write_text("")
    elif damage == "no-rights":
        environment["NST_JAX_CACHE"] = "/proc/nst_jax"
    else:
        command()
        for entry in compiled.glob("*-cache"):
            entry.write_bytes(DAMAGED_ENTRIES[damage](Path(entry).read_bytes()))
    command()
