import copyreg
import hashlib
import importlib.util
import io
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import h5py
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import weight_files as wf
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from nst_jax.errors import InputError
from nst_jax.models.architectures import conv_names
from nst_jax.models.vgg import VGG, tap_names
from nst_jax.models.weights import formats
from nst_jax.models.weights import load as weights
from nst_jax.models.weights import registry as origins
from nst_jax.models.weights.load import load, save, verify

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def photo():
    return astronaut()[100:164, 200:264].astype(np.float32) / 255


@pytest.fixture(scope="session")
def bundled():
    return load(weights.bundled_path())


@pytest.fixture(scope="session", params=["vgg16", "vgg19"])
def keras_net(request, photo):
    net = wf.keras_vgg(request.param)
    return request.param, net, wf.keras_taps(net, photo)


@pytest.fixture(scope="session", params=["vgg16", "vgg19"])
def torch_net(request):
    return request.param, wf.torch_vgg(request.param)


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, emptied at once."""
    yield tmp_path
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.unlink()


@jax.jit
def our_taps(params, photo):
    net = VGG(params, padding="same")
    return net(photo, tap_names(net.model))


def assert_same_taps(params, photo, expected):
    got = our_taps(params, jnp.asarray(photo))
    assert set(got) == set(expected)
    for tap, want in expected.items():
        error = np.abs(np.asarray(got[tap]) - want).max() / np.abs(want).max()
        assert error <= 1e-4, f"{tap}: relative error {error:.1e}"


# --- every format gives the source framework's activations ---------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["legacy", "legacy-old-names", "legacy-with-top", "whole-model", "keras3", "keras3-unnamed"],
)
def test_keras_activations(kind, keras_net, photo, folder):
    model, net, expected = keras_net
    found = load(wf.write_keras(net, kind, folder))
    assert found.model == model
    assert {a.dtype for layer in found.params.values() for a in layer.values()} == {np.dtype("f4")}
    assert_same_taps(found.params, photo, expected)


@pytest.mark.parametrize("preprocessing", ["caffe", "torchvision"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_torch_activations(kind, preprocessing, torch_net, photo, folder):
    model, features = torch_net
    state, path = wf.Classifier(features).state_dict(), folder / "state.pth"
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    found = load(path, preprocessing=preprocessing)
    assert found.model == model
    expected = wf.torch_taps(features, photo, preprocessing, model)
    assert_same_taps(found.params, photo, expected)


def test_gatys_names_imply_caffe(torch_net, photo, folder):
    model, features = torch_net
    path = folder / "vgg_conv.pth"
    torch.save(wf.gatys_names(wf.Classifier(features).state_dict(), model), path)
    assert verify(path).preprocessing == "caffe"
    assert_same_taps(load(path).params, photo, wf.torch_taps(features, photo, "caffe", model))


def test_a_conversion_keeps_the_activations(keras_net, photo, folder):
    _, net, expected = keras_net
    source = load(wf.write_keras(net, "legacy", folder))
    save(folder / "a.safetensors", source)
    found = load(folder / "a.safetensors")
    assert (found.source, found.licence) == (source.source, source.licence)
    assert_same_taps(found.params, photo, expected)


@pytest.mark.parametrize("new", [True, False])
def test_torch_dtypes_views_and_parameters(new, tmp_path):
    """Each way to store a tensor gives PyTorch's own values."""
    state = wf.sparse_state()
    rng = torch.Generator().manual_seed(0)
    flat = torch.randn(64 * 64 * 9 + 7, generator=rng)
    state["features.0.weight"] = torch.randn(64, 3, 3, 3, generator=rng).half()
    state["features.2.weight"] = flat[7:].reshape(3, 3, 64, 64).permute(3, 2, 0, 1)
    state["features.2.bias"] = flat[::99][:64]
    state["features.5.weight"] = torch.randn(128, 64, 3, 3, generator=rng).bfloat16()
    state["features.5.bias"] = torch.randn(128, generator=rng).double()
    state["features.7.bias"] = torch.nn.Parameter(torch.randn(128, generator=rng))
    expected = {key: value.detach().float().numpy() for key, value in state.items()}
    state["features.0.bias"] = wf.RebuiltAsIn2017(state["features.0.bias"])
    state["counter"] = torch.tensor(3)
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    params = load(tmp_path / "a.pth", preprocessing="torchvision").params
    keys = [key for key in state if key.endswith("weight")]
    for name, key in zip(conv_names("vgg16"), keys, strict=True):
        np.testing.assert_array_equal(
            params[name]["kernel"], expected[key].transpose(2, 3, 1, 0), err_msg=key
        )
        bias = key.replace("weight", "bias")
        np.testing.assert_array_equal(params[name]["bias"], expected[bias], err_msg=bias)


@pytest.mark.parametrize("new", [True, False])
def test_parameters_as_pickled_in_2017(new, tmp_path, monkeypatch):
    def reduce(self, _):
        return copyreg.__newobj__, (torch.nn.Parameter, self.data), (True, False, OrderedDict())

    monkeypatch.setattr(torch.nn.Parameter, "__reduce_ex__", reduce)
    state = wf.sparse_state()
    state["features.0.bias"] = torch.nn.Parameter(torch.arange(64.0))
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    params = load(tmp_path / "a.pth", preprocessing="torchvision").params
    np.testing.assert_array_equal(params["conv1_1"]["bias"], np.arange(64))


# --- preprocessing -------------------------------------------------------------------------------


def test_features_alone_do_not_tell_the_preprocessing(tmp_path):
    torch.save(wf.sparse_state(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth does not say .*--preprocessing caffe"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("digits", "preprocessing"),
    [
        ("dcbb9e9d", "torchvision"),
        ("397923af", "torchvision"),
        ("d01eb7cb", "caffe"),
        ("00b39a1b", "caffe"),
    ],
)
def test_published_files_are_known_by_their_hash(digits, preprocessing, tmp_path, monkeypatch):
    path = tmp_path / "renamed.bin"
    torch.save(wf.sparse_state(), path)
    monkeypatch.setattr(weights, "digest", lambda *_: digits + "0" * 56)
    report = verify(path)
    assert report.preprocessing == preprocessing
    assert report.weights.licence != "unknown"
    other = {"caffe": "torchvision", "torchvision": "caffe"}[preprocessing]
    with pytest.raises(InputError, match=f"with {preprocessing} preprocessing, not {other}"):
        load(path, preprocessing=other)


def test_keras_files_are_caffe_and_nothing_else(tmp_path):
    wf.write_sparse_keras(tmp_path / "a.h5", "vgg16")
    assert verify(tmp_path / "a.h5", preprocessing="caffe").preprocessing == "caffe"
    with pytest.raises(InputError, match="with caffe preprocessing, not torchvision"):
        load(tmp_path / "a.h5", preprocessing="torchvision")
    with pytest.raises(InputError, match="'tensorflow'; choose caffe or torchvision"):
        load(tmp_path / "a.h5", preprocessing="tensorflow")


def test_the_published_keras_file_is_known_by_its_hash(tmp_path, monkeypatch):
    wf.write_sparse_keras(tmp_path / "a.h5", "vgg19")
    assert load(tmp_path / "a.h5").licence == "unknown"
    md5 = hashlib.md5((tmp_path / "a.h5").read_bytes()).hexdigest()
    monkeypatch.setattr(origins, "VGG19_MD5", md5)
    assert "CC BY 4.0" in load(tmp_path / "a.h5").licence


# --- errors --------------------------------------------------------------------------------------


def test_unreadable_paths(tmp_path):
    with pytest.raises(InputError, match=r"none\.h5: no such file"):
        load(tmp_path / "none.h5")
    with pytest.raises(InputError, match="is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello, I am no network at all", "unknown format; give Keras HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "git-LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "web page"),
        (pickle.dumps({"features.0.weight": 1}), "unknown format"),
        (b"PK\x03\x04 and no more", "damaged or truncated"),
    ],
)
def test_files_that_hold_no_weights(data, words, tmp_path):
    path = tmp_path / "vgg19.h5"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["h5", "zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.999])
def test_truncated_files(kind, kept, tmp_path, bundled):
    path = tmp_path / "vgg"
    if kind == "h5":
        wf.write_sparse_keras(path, "vgg16")
    elif kind == "safetensors":
        path.write_bytes(bundled.path.read_bytes())
    else:
        torch.save(wf.sparse_state(), path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError, match="damaged or truncated") as caught:
        load(path, preprocessing=None if kind in ("h5", "safetensors") else "caffe")
    assert "\n" not in str(caught.value)


def refuses(state, words, tmp_path, **options):
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(InputError, match=words):
        load(tmp_path / "a.pth", **{"preprocessing": "caffe", **options})


def test_other_architectures_in_torch(tmp_path):
    refuses(wf.sparse_state((2, 2, 2, 2, 2)), "lacks the layer conv3_3", tmp_path)  # VGG13
    refuses(wf.sparse_state((1, 1, 2, 2, 2)), "lacks the layer conv1_2", tmp_path)  # VGG11
    refuses(
        wf.sparse_state((2, 2, 4, 4, 3)), "lacks the layer conv5_4, so it is no VGG19", tmp_path
    )
    refuses(wf.sparse_state((2, 2, 5, 4, 4)), "conv3_5, which VGG16 and VGG19 have not", tmp_path)
    refuses(wf.sparse_state(gap=3), "features.7 after features.3", tmp_path)
    normalised = wf.sparse_state(gap=3) | {"features.1.weight": torch.ones(64)}
    refuses(normalised, "batch normalisation", tmp_path)
    resnet = {"conv1.weight": torch.ones(2), "layer1.0.conv1.weight": torch.ones(2)}
    refuses(resnet, r"no VGG convolutions \(it has conv1\.weight", tmp_path)
    refuses([torch.ones(2)], "no state dict", tmp_path)
    refuses({"epoch": 3}, "no VGG convolutions", tmp_path)


def test_other_architectures_in_keras(tmp_path):
    with h5py.File(tmp_path / "resnet.h5", "w") as file:
        file["conv1_conv/conv1_conv/kernel:0"] = np.zeros((7, 7, 3, 64), np.float32)
    with pytest.raises(InputError, match=r"no VGG convolutions \(it has conv1_conv"):
        load(tmp_path / "resnet.h5")
    with h5py.File(tmp_path / "k3.weights.h5", "w") as file:
        for index in range(5):
            file[f"layers/conv2d_{index}/vars/0"] = np.zeros((3, 3, 3, 64), np.float32)
    with pytest.raises(InputError, match=r"no VGG convolutions \(it has conv2d_0"):
        load(tmp_path / "k3.weights.h5")
    with zipfile.ZipFile(tmp_path / "vgg.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(InputError, match=r"model\.save_weights\('NAME\.weights\.h5'\)"):
        load(tmp_path / "vgg.keras")


def test_bad_layers(tmp_path):
    state = wf.sparse_state()
    del state["features.12.bias"]
    refuses(state, "conv3_2 has no bias", tmp_path)
    state = wf.sparse_state() | {"features.5.weight": torch.ones(128, 64, 5, 5)}
    words = r"conv2_1 kernel has shape \(5, 5, 64, 128\), expected \(3, 3, 64, 128\)"
    refuses(state, words, tmp_path)
    state = wf.sparse_state() | {"features.5.bias": torch.ones(64)}
    refuses(state, r"conv2_1 bias has shape \(64,\), expected \(128,\)", tmp_path)
    state = wf.sparse_state() | {"features.5.bias": torch.ones(128, dtype=torch.int8)}
    refuses(state, "conv2_1 bias has dtype int8", tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite(bad, tmp_path):
    state = wf.sparse_state()
    state["features.17.weight"] = torch.full((1,), bad, dtype=torch.float64).expand(512, 256, 3, 3)
    refuses(state, "conv4_1 kernel has values that are NaN or infinite", tmp_path)


# --- pickles that would run code -----------------------------------------------------------------


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_that_runs_a_command_is_refused(new, tmp_path):
    mark = tmp_path / "was-here"
    state = wf.sparse_state() | {"features.0.weight": Attack(os.system, f"touch {mark}")}
    torch.save(state, tmp_path / "evil.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match=rf"evil\.pth: refused {os.name}\.system"):
        load(tmp_path / "evil.pth", preprocessing="caffe")
    assert not mark.exists()


@pytest.mark.parametrize("call", [(eval, "1"), (getattr, 1, "x"), (torch.load, "x")])
def test_no_other_function_is_called(call, tmp_path):
    refuses({"features.0.weight": Attack(*call)}, "refused .*which no plain state dict", tmp_path)


def test_a_pickled_module_is_refused(tmp_path):
    refuses(wf.torch_vgg("vgg16")[:1], r"refused torch\.nn.*save model\.state_dict", tmp_path)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (64, 3, 3, 3), (10**9, 9, 3, 1)), (-8, (64, 3, 3, 3), (0, 0, 0, 0)), (9, (64,), (0,))],
)
def test_a_tensor_outside_its_storage_is_refused(offset, size, stride, tmp_path):
    lying = wf.RebuiltAsIn2017(torch.ones(8))
    storage = lying.__reduce__()[1][0]
    view = Attack(torch._utils._rebuild_tensor, storage, offset, size, stride)
    refuses({"features.0.weight": view}, "damaged or truncated .*(storage|negative)", tmp_path)


# --- save ----------------------------------------------------------------------------------------


def test_save_and_load_give_the_same_parameters_and_facts(tmp_path, bundled):
    rng = np.random.default_rng(0)
    params = {
        name: {
            part: rng.normal(size=a.shape).astype(np.float32) if name != "input" else a
            for part, a in parts.items()
        }
        for name, parts in bundled.params.items()
    }
    path = tmp_path / "a.safetensors"
    save(path, params, source="somewhere", licence="CC0", source_sha256="12")
    report = verify(path)
    found = report.weights
    assert (found.source, found.licence, found.model) == ("somewhere", "CC0", "vgg16")
    assert (report.dtype, report.preprocessing, report.pinned) == ("float32", "torchvision", False)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(found.params) == ["input", *conv_names("vgg16")]
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {
            "format": "nst_jax",
            "version": "1",
            "model": "vgg16",
            "preprocessing": "torchvision",
            "source": "somewhere",
            "licence": "CC0",
            "source_sha256": "12",
        }
        np.testing.assert_array_equal(
            file.get_tensor("conv5_3.kernel"), params["conv5_3"]["kernel"]
        )


def test_half_precision_rounds_once_and_writes_the_same_bytes(tmp_path, bundled):
    save(tmp_path / "a", bundled, dtype="float16")
    again = load(tmp_path / "a")
    jax.tree.map(np.testing.assert_array_equal, again.params, bundled.params)
    assert verify(tmp_path / "a").dtype == "float16"
    save(tmp_path / "b", bundled, dtype="float16")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_save_replaces_all_or_nothing(tmp_path, bundled):
    path = tmp_path / "a.safetensors"
    path.write_text("before")
    huge = {name: dict(parts) for name, parts in bundled.params.items()}
    huge["conv1_1"]["bias"] = np.full(64, 1e6, np.float32)
    with pytest.raises(InputError, match=r"conv1_1 bias has values .* infinite as float16"):
        save(path, huge, dtype="float16")
    with pytest.raises(InputError, match=r"input\.mean is not three"):
        save(path, {name: huge[name] for name in conv_names("vgg16")})
    with pytest.raises(InputError, match=r"input\.std is not positive"):
        save(path, huge | {"input": {"mean": np.zeros(3, "f4"), "std": np.zeros(3, "f4")}})
    assert path.read_text() == "before"
    with pytest.raises(InputError, match=r"cannot be written .*folder of yours"):
        save(path / "under a file", bundled)
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        save(tmp_path / "taken", bundled)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "taken"]


def test_a_custom_preprocessing_survives(tmp_path, bundled):
    own = {"mean": np.float32([0.1, 0.2, 0.3]), "std": np.float32([1, 2, 3])}
    save(tmp_path / "a", {**bundled.params, "input": own})
    report = verify(tmp_path / "a")
    assert report.preprocessing == "custom"
    jax.tree.map(np.testing.assert_array_equal, report.weights.params["input"], own)
    with pytest.raises(InputError, match="custom preprocessing, not caffe"):
        load(tmp_path / "a", preprocessing="caffe")


def test_a_newer_version_is_refused(tmp_path):
    formats.write(tmp_path / "a", {}, {"version": "2"})
    with pytest.raises(InputError, match="another version of the format; update nst-jax"):
        load(tmp_path / "a")


@settings(max_examples=50, deadline=None)
@given(
    layers=st.dictionaries(
        st.text("abc_1", min_size=1),
        st.dictionaries(
            st.sampled_from(["kernel", "bias"]),
            hnp.arrays(st.sampled_from([np.float32, np.float16]), hnp.array_shapes(max_side=4)),
            min_size=1,
        ),
    ),
    source=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_what_is_written_is_read_back(layers, source, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round-trip.safetensors"
    formats.write(path, layers, {"source": source})
    found = formats.read(path)
    assert found.metadata["source"] == source
    assert {k: set(v) for k, v in found.layers.items()} == {k: set(v) for k, v in layers.items()}
    for name, parts in layers.items():
        for part, array in parts.items():
            assert found.layers[name][part].dtype == array.dtype
            np.testing.assert_array_equal(found.layers[name][part], array)


# --- the bundled file ----------------------------------------------------------------------------


def test_the_bundled_file_is_the_pinned_one(bundled):
    digest = hashlib.sha256((ROOT / "weights/vgg16.safetensors").read_bytes()).hexdigest()
    assert digest == origins.BUNDLED_SHA256 == bundled.sha256
    assert digest in (ROOT / "weights/README.md").read_text()
    assert verify(weights.bundled_path()).pinned
    assert (bundled.model, bundled.licence) == ("vgg16", "BSD-3-Clause, torchvision")


def test_the_bundled_file_is_torchvisions(bundled):
    # The first numbers of features.0.weight and .bias, as PyTorch prints the published file.
    kernel, bias = bundled.params["conv1_1"]["kernel"], bundled.params["conv1_1"]["bias"]
    np.testing.assert_allclose(kernel[0, :, 0, 0], [-0.5537, 0.1427, 0.5290], atol=3e-4)
    np.testing.assert_allclose(bias[0], 0.4034, atol=3e-4)


def test_a_changed_bundled_file_is_refused(tmp_path, monkeypatch, bundled):
    path = tmp_path / "vgg16.safetensors"
    data = bytearray(bundled.path.read_bytes())
    data[-1] ^= 1  # still a number, but another
    path.write_bytes(data)
    monkeypatch.setattr(weights, "_find_bundled", lambda: path)
    with pytest.raises(InputError, match=f"SHA-256 expected {bundled.sha256}, got"):
        weights.resolve("vgg16")
    monkeypatch.setattr(weights, "_find_bundled", lambda: None)
    with pytest.raises(InputError, match=r"bundled .* is missing; reinstall"):
        weights.resolve("vgg16")


def test_an_installed_package_has_the_file_inside(tmp_path, bundled):
    shutil.copytree(ROOT / "nst_jax", tmp_path / "nst_jax")
    (tmp_path / "nst_jax" / "bundled").mkdir()
    inside = shutil.copy(bundled.path, tmp_path / "nst_jax" / "bundled")
    code = "from nst_jax.models.weights.load import bundled_path; print(bundled_path())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={})
    assert done.stdout.strip() == str(inside), done.stderr


def test_the_script_unpickles_arrays_only():
    spec = importlib.util.spec_from_file_location(
        "convert", ROOT / "weights/convert_lpips_vgg16.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    # As NumPy 1 wrote it.
    data = pickle.dumps({"a": np.arange(3.0)}, protocol=3).replace(b"numpy._core", b"numpy.core")
    array = script.ArraysOnly(io.BytesIO(data)).load()["a"]
    np.testing.assert_array_equal(array, [0, 1, 2])
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        script.ArraysOnly(io.BytesIO(pickle.dumps(Attack(os.system, "true")))).load()


def test_weights_are_quick_to_import():
    code = (
        "import nst_jax.cli_weights, sys;"
        "print({'jax', 'flax', 'torch', 'h5py', 'pooch', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
