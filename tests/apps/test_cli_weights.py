import pytest
from click.testing import CliRunner
from lazy import torch
from networks.weights import helpers

from nst_jax.apps.cli.weights import weights
from nst_jax.errors import InputError
from nst_jax.networks.weights import bundled_path, load_pretrained, vgg19_cache_path
from nst_jax.networks.weights.registry import BUNDLED_SHA256, VGG19_MD5, VGG19_URL


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NST_JAX_OFFLINE", "1")


def run(*arguments):
    return CliRunner().invoke(weights, [str(argument) for argument in arguments])


def fields(result):
    """Read the printed fields; of several files, those of the last."""
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if ":" in line]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_list_shows_the_bundled_file_and_the_download():
    printed = fields(run("list"))
    assert str(bundled_path()) in printed["bundled"]
    assert printed["sha256"] == f"{BUNDLED_SHA256} (the bundled file's)"
    assert printed["downloadable"] == "VGG19 (80.1 MB)"
    assert printed["url"] == VGG19_URL
    assert printed["md5"] == VGG19_MD5
    assert printed["destination"] == str(vgg19_cache_path())


def test_a_file_converted_into_the_cache_is_listed_and_used(tmp_path):
    helpers.write_sparse_keras(tmp_path / "a.h5", "vgg19")
    cached = vgg19_cache_path()
    printed = fields(run("convert", tmp_path / "a.h5", cached))
    assert printed["model"] == "VGG19, 16 convolutions"
    assert printed["format"] == "nst_jax safetensors, float32"
    assert printed["preprocessing"] == "caffe"
    assert load_pretrained("auto").path == cached
    listed = run("list")
    assert str(cached) in fields(listed)["cached"]
    assert VGG19_URL not in listed.output
    fetched = run("fetch", "vgg19")
    assert str(cached) in fields(fetched)["cached"]


def test_convert_needs_the_preprocessing_and_can_halve_the_file(tmp_path):
    torch.save(helpers.sparse_state(), tmp_path / "a.pth")
    result = run("convert", tmp_path / "a.pth", tmp_path / "b")
    assert isinstance(result.exception, InputError)
    assert "--preprocessing caffe" in str(result.exception)
    assert not (tmp_path / "b").exists()
    options = ("--preprocessing", "torchvision", "--half")
    printed = fields(run("convert", tmp_path / "a.pth", tmp_path / "b", *options))
    assert printed["format"] == "nst_jax safetensors, float16"
    assert printed["preprocessing"] == "torchvision"
    assert (tmp_path / "b").stat().st_size < 30e6


def test_verify_reports_the_bundled_file_and_others(tmp_path):
    result = run("verify")
    assert fields(result)["license"] == "BSD-3-Clause, torchvision"
    assert "all values are finite" in result.output
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(bundled_path().read_bytes())
    assert fields(run("verify", copy))["sha256"].startswith(BUNDLED_SHA256)
    assert isinstance(run("verify", tmp_path).exception, InputError)


def test_fetch_shows_size_and_destination_before_it_starts():
    url = "http://127.0.0.1:9/a.h5"
    result = run("fetch", "vgg19", "--url", url)
    assert result.output == f"VGG19 (80.1 MB) from {url} to {vgg19_cache_path()}\n\n"
    assert isinstance(result.exception, InputError)
    assert "by hand: get https://" in str(result.exception)
    assert run("fetch", "vgg16").exit_code == 2
