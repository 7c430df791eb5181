import pytest
import torch
import weight_files as wf
from click.testing import CliRunner

from nst_jax.apps.cli.weights import group
from nst_jax.errors import InputError
from nst_jax.models.weights import load as weights
from nst_jax.models.weights import registry as origins


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NST_JAX_OFFLINE", "1")


def run(*arguments):
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def fields(result):
    """Read the printed fields, those of the last file if there are several."""
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if ":" in line]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_list_names_what_is_bundled_and_what_can_be_had():
    found = fields(run("list"))
    assert str(weights.bundled_path()) in found["bundled"]
    assert found["sha256"] == f"{origins.BUNDLED_SHA256} (as pinned)"
    assert found["url"] == origins.VGG19_URL
    assert found["md5"] == origins.VGG19_MD5
    assert found["goes to"] == str(weights.cached_path())


def test_convert_into_the_cache_and_list(tmp_path):
    wf.write_sparse_keras(tmp_path / "a.h5", "vgg19")
    target = weights.cached_path()
    written = fields(run("convert", tmp_path / "a.h5", target))
    assert written["model"] == "VGG19, 16 convolutions"
    assert written["format"] == "nst_jax safetensors, float32"
    assert written["preprocessing"] == "caffe"
    assert weights.resolve("auto").path == target
    listed = run("list")
    assert str(target) in fields(listed)["cached"]
    assert origins.VGG19_URL not in listed.output


def test_convert_half_with_preprocessing(tmp_path):
    torch.save(wf.sparse_state(), tmp_path / "a.pth")
    result = run("convert", tmp_path / "a.pth", tmp_path / "b")
    assert isinstance(result.exception, InputError)
    assert "pass --preprocessing" in str(result.exception)
    assert not (tmp_path / "b").exists()
    options = ("--preprocessing", "torchvision", "--half")
    written = fields(run("convert", tmp_path / "a.pth", tmp_path / "b", *options))
    assert written["format"] == "nst_jax safetensors, float16"
    assert written["preprocessing"] == "torchvision"
    assert (tmp_path / "b").stat().st_size < 30e6


def test_verify(tmp_path):
    result = run("verify")
    assert fields(result)["sha256"].endswith("(as pinned)")
    assert fields(result)["licence"] == "BSD-3-Clause, torchvision"
    assert "all values are finite" in result.output
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.bundled_path().read_bytes())
    assert fields(run("verify", copy))["sha256"] == origins.BUNDLED_SHA256
    copy.write_bytes(copy.read_bytes()[:1000])
    result = run("verify", copy)
    assert isinstance(result.exception, InputError)
    assert "damaged or truncated" in str(result.exception)


def test_fetch_offline_tells_the_manual_way():
    result = run("fetch", "vgg19", "--url", "http://127.0.0.1:9/a.h5")
    assert isinstance(result.exception, InputError)
    assert "by hand: get https://" in str(result.exception)
    assert run("fetch", "vgg16").exit_code == 2
