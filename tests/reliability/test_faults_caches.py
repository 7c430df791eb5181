"""Damaged files in the caches: of weights, and of compiled executables."""

import random
import struct

import pytest
from apps.helpers import call
from reliability.faults import one_error_line

from nst_jax.errors import InputError
from nst_jax.models import weights
from nst_jax.models.weights import bundled_path, load

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


@pytest.fixture(scope="module")
def cached_bytes(keras_file, tmp_path_factory):
    """The cached file of a download, whose last array has a value at the end."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "vgg19.h5").write_bytes(keras_file)
    weights.save(folder / "vgg19.safetensors", load(folder / "vgg19.h5"), dtype="float16")
    return (folder / "vgg19.safetensors").read_bytes()


@pytest.mark.parametrize("damage", DAMAGED)
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
    with pytest.raises(InputError, match=r"vgg19\.safetensors is not a regular file; choose"):
        weights.download(url=f"{server.url}/good", md5=server.md5)
    assert [path.name for path in weight_cache.iterdir()] == ["vgg19.safetensors"]
