import hashlib
import importlib
import importlib.util
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from functools import cache, partial
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
import safetensors
from lazy import Lazy, torch
from networks.weights import helpers
from skimage.data import astronaut

from nst_jax.errors import InputError
from nst_jax.networks.architectures import conv_names
from nst_jax.networks.vgg import VGG
from nst_jax.networks.weights import bundled_path, load, load_pretrained, registry, save, verify
from nst_jax.networks.weights.safetensors import write_safetensors

ROOT = Path(__file__).parents[3]
load_module = importlib.import_module("nst_jax.networks.weights.load")  # `load` is the function
keras_vgg, torch_vgg = cache(helpers.keras_vgg), cache(helpers.torch_vgg)


@pytest.fixture(scope="session")
def bundled():
    return load(bundled_path())


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, which is deleted after the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def assert_same_params(actual, expected):
    for name, parts in expected.items():
        for part, array in parts.items():
            np.testing.assert_array_equal(actual[name][part], array, err_msg=f"{name} {part}")


def assert_refused(path, words, **options):
    """Assert that `load` raises an `InputError` of one line with ``words`` and the path."""
    with pytest.raises(InputError, match=words) as caught:
        load(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def assert_state_refused(state, words, tmp_path, new=True):
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    assert_refused(tmp_path / "a.pth", words, preprocessing="caffe")


# --- every format gives the arrays and the activations of its framework --------------------------


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("vgg16", "legacy"),
        ("vgg19", "legacy-old-names"),
        ("vgg16", "whole-model"),
        ("vgg19", "keras3"),
        ("vgg19", "keras3-unnamed"),
    ],
)
def test_keras_files_give_the_arrays_of_keras(model, kind, folder):
    net = keras_vgg(model)
    weights = load(helpers.write_keras(net, kind, folder))
    assert weights.model == model
    assert {a.dtype for parts in weights.params.values() for a in parts.values()} == {
        np.dtype("f4")
    }
    assert_same_params(weights.params, helpers.keras_params(net))


@pytest.mark.parametrize(
    ("model", "kind"), [("vgg16", "zip"), ("vgg19", "legacy"), ("vgg19", "safetensors")]
)
def test_torch_files_give_the_arrays_of_pytorch(model, kind, folder):
    state, path = torch_vgg(model).state_dict(), folder / "state.pth"
    if kind == "safetensors":
        Lazy("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    weights = load(path, preprocessing="torchvision")
    assert weights.model == model
    for key, tensor in helpers.gatys_names(state, model).items():
        name, part = key.split(".")
        array = tensor.numpy() if part == "bias" else tensor.permute(2, 3, 1, 0).numpy()
        np.testing.assert_array_equal(weights.params[name][part.replace("weight", "kernel")], array)


@pytest.mark.parametrize(
    ("framework", "model", "layer"),
    [
        ("keras", "vgg19", "relu5_4"),
        ("torchvision", "vgg16", "relu5_3"),
        ("gatys", "vgg19", "relu5_4"),
    ],
)
def test_converted_weights_give_the_activations_of_the_framework(framework, model, layer, folder):
    photo = astronaut()[100:132, 200:232].astype(np.float32)
    if framework == "keras":
        weights = load(helpers.write_keras(keras_vgg(model), "legacy", folder))
        expected = helpers.keras_output(keras_vgg(model), photo)
    else:
        net, path = torch_vgg(model), folder / "a.pth"
        state, preprocessing = net.state_dict(), "torchvision"
        if framework == "gatys":  # the names imply the preprocessing
            state, preprocessing = helpers.gatys_names(state, model), None
        torch.save(state, path)
        weights = load(path, preprocessing=preprocessing)
        expected = helpers.torch_output(net, photo, preprocessing or "caffe")
    save(folder / "a.safetensors", weights)
    actual = run_vgg(load(folder / "a.safetensors").params, photo / 255, layer)
    assert np.abs(np.asarray(actual) - expected).max() <= 1e-4 * np.abs(expected).max()


@partial(jax.jit, static_argnums=2)
def run_vgg(params, image, layer):
    return VGG(padding="same").features(params, image, [layer])[layer]


def test_torch_dtypes_views_and_parameters(tmp_path):
    rng = torch.Generator().manual_seed(0)
    flat = torch.randn(64 * 64 * 9 + 7, generator=rng)
    state = helpers.sparse_state() | {
        "features.0.weight": torch.randn(64, 3, 3, 3, generator=rng).half(),
        "features.0.bias": torch.nn.Parameter(torch.randn(64, generator=rng)),
        "features.2.weight": flat[7:].reshape(3, 3, 64, 64).permute(3, 2, 0, 1),
        "features.2.bias": flat[::99][:64],
        "features.5.weight": torch.randn(128, 64, 3, 3, generator=rng).bfloat16(),
        "features.5.bias": torch.randn(128, generator=rng).double(),
        "counter": torch.tensor(3),
    }
    torch.save(state, tmp_path / "a.pth")
    params = load(tmp_path / "a.pth", preprocessing="torchvision").params
    for name, index in (("conv1_1", 0), ("conv1_2", 2), ("conv2_1", 5)):
        kernel, bias = (state[f"features.{index}.{p}"].detach().float() for p in ("weight", "bias"))
        expected = {"kernel": kernel.permute(2, 3, 1, 0).numpy(), "bias": bias.numpy()}
        assert_same_params(params, {name: expected})


# --- preprocessing and provenance ----------------------------------------------------------------


def test_a_file_without_preprocessing_names_the_command_that_adds_it(tmp_path):
    torch.save(helpers.sparse_state(), tmp_path / "a.pth")
    words = r"does not say .*weights convert \S*a\.pth OUT\.safetensors --preprocessing caffe.*"
    assert_refused(tmp_path / "a.pth", words + "in Python pass preprocessing=")


@pytest.mark.parametrize(
    ("digits", "preprocessing"),
    [
        ("dcbb9e9d", "torchvision"),
        ("397923af", "torchvision"),
        ("d01eb7cb", "caffe"),
        ("00b39a1b", "caffe"),
    ],
)
def test_known_files_are_identified_by_their_hash(digits, preprocessing, tmp_path, monkeypatch):
    path = tmp_path / "renamed.bin"
    torch.save(helpers.sparse_state(), path)
    monkeypatch.setattr(load_module, "file_hash", lambda *_: digits + "0" * 56)
    report = verify(path)
    assert report.preprocessing == preprocessing
    assert report.weights.license != "unknown"
    other = {"caffe": "torchvision", "torchvision": "caffe"}[preprocessing]
    assert_refused(path, f"with {preprocessing} preprocessing, not {other}", preprocessing=other)


def test_keras_files_are_caffe_and_the_published_one_has_a_license(tmp_path, monkeypatch):
    path = helpers.write_sparse_keras(tmp_path / "a.h5", "vgg19")
    report = verify(path, preprocessing="caffe")
    assert (report.preprocessing, report.weights.license) == ("caffe", "unknown")
    assert_refused(path, "with caffe preprocessing, not torch", preprocessing="torchvision")
    with pytest.raises(InputError, match="'tensorflow'; choose caffe or torchvision"):
        load(path, preprocessing="tensorflow")
    monkeypatch.setattr(registry, "VGG19_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    assert "CC BY 4.0" in load(path).license


# --- files that cannot be read -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.h5", "no such file"),
        ("folder", "is a folder"),
        ("pipe", "is a pipe or a device"),
        ("link to a device", "is a pipe or a device"),
        ("loop", "cannot be read .*symbolic links"),
    ],
)
def test_a_path_that_is_not_a_regular_file_is_refused_at_once(name, words, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert_refused(tmp_path / name, words)


def safetensors_file(header, length=None):
    return struct.pack("<Q", length or len(header)) + header + b"\0" * 12


def one_tensor(shape, end):
    header = f'{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,{end}]}}}}'
    return safetensors_file(header.encode())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello, I am not a network at all", "unknown format; give safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "git-LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "web page"),
        (pickle.dumps({"features.0.weight": 1}), "unknown format"),
        (b"PK\x03\x04 and no more", "damaged or truncated"),
        (safetensors_file(b"{}", length=2**63), "header too large"),
        (safetensors_file(b"{}", length=10**6), "invalid header length"),
        (safetensors_file(b'{"a": \xff}'), "invalid UTF-8"),
        (one_tensor(shape=4, end=12), "invalid shape"),
        (one_tensor(shape=3, end=99), "invalid shape, data type, or offset"),
        (one_tensor(shape=3, end=12), r"no VGG convolutions \(it has a,"),
    ],
)
def test_files_without_weights_are_refused_in_one_line(data, words, tmp_path):
    path = tmp_path / "vgg19.h5"
    path.write_bytes(data)
    assert_refused(path, words)


@pytest.mark.parametrize("kind", ["h5", "zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.2, 0.999])
def test_truncated_files_are_refused(kind, share, tmp_path, bundled):
    path, options = tmp_path / "vgg", {}
    if kind == "h5":
        helpers.write_sparse_keras(path, "vgg16")
    elif kind == "safetensors":
        path.write_bytes(bundled.path.read_bytes())
    else:
        torch.save(helpers.sparse_state(), path, _use_new_zipfile_serialization=kind == "zip")
        options = {"preprocessing": "caffe"}
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert_refused(path, "damaged or truncated", **options)


def test_other_architectures_are_refused(tmp_path):
    vgg13, longer = (2, 2, 2, 2, 2), (2, 2, 5, 4, 4)
    batch_norm = helpers.sparse_state(gap=3)
    for state in (helpers.sparse_state(vgg13), helpers.sparse_state(longer), batch_norm):
        assert_state_refused(state, "other layers in `features`", tmp_path)
    vgg16 = helpers.gatys_names(helpers.sparse_state(), "vgg16")
    vgg19 = helpers.gatys_names(helpers.sparse_state((2, 2, 4, 4, 4)), "vgg19")
    missing = {key: value for key, value in vgg16.items() if "conv3_3" not in key}
    extra = vgg19 | {"conv6_1.weight": torch.ones(2)}
    resnet = {"conv1.weight": torch.ones(2), "layer1.0.conv1.weight": torch.ones(2)}
    for state, words in (
        (missing, "no layer conv3_3, so it is not VGG16"),
        (extra, "a layer conv6_1, which VGG16 and VGG19 do not have"),
        (resnet, r"no VGG convolutions \(it has conv1\.weight"),
        ({"epoch": 3}, r"no VGG convolutions \(it has nothing"),
        ([torch.ones(2)], "contains no state dict"),
    ):
        assert_state_refused(state, words, tmp_path)
    for key in ("conv1_conv/kernel:0", "layers/conv2d_0/vars/0"):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file[key] = np.zeros((7, 7, 3, 64), np.float32)
        assert_refused(tmp_path / "a.h5", rf"no VGG convolutions \(it has {key}")
    with zipfile.ZipFile(tmp_path / "vgg.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    assert_refused(tmp_path / "vgg.keras", r"model\.save_weights\('NAME\.weights\.h5'\)")


def test_wrong_layers_and_values_are_refused(tmp_path):
    def full(value):
        return torch.full((1,), value, dtype=torch.float64).expand(512, 256, 3, 3)

    shapes = r"conv2_1 kernel has shape \(5, 5, 64, 128\) .* expected \(3, 3, 64, 128\)"
    for key, wrong, words in (
        ("features.5.weight", torch.ones(128, 64, 5, 5), shapes),
        ("features.5.bias", torch.ones(128, dtype=torch.int8), "conv2_1 bias .* dtype int8"),
        ("features.12.bias", None, "conv3_2 has no bias"),
        ("features.17.weight", full(np.nan), "conv4_1 kernel has values that are NaN"),
        ("features.17.weight", full(1e300), "conv4_1 kernel has values that are NaN or infinite"),
    ):
        assert_state_refused(helpers.sparse_state() | {key: wrong}, words, tmp_path)
    state = {key: value.contiguous().bfloat16() for key, value in helpers.sparse_state().items()}
    Lazy("safetensors.torch").save_file(state, tmp_path / "a")
    assert_refused(tmp_path / "a", r"has dtype BF16; save it as float32", preprocessing="caffe")


# --- files that would run code or read other files -----------------------------------------------


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_cannot_run_code(new, tmp_path):
    mark = tmp_path / "was-here"
    for obj, name in (
        ({"a": Attack(os.system, f"touch {mark}")}, rf"{os.name}\.system"),
        ({"a": Attack(eval, "1")}, "eval"),
        ({"a": Attack(torch.load, "x")}, r"torch\.serialization\.load"),
        (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
    ):
        # PyTorch's own message advises weights_only=False.
        words = rf"^(?!.*weights_only).*contains {name}, and loading it could run code; save only"
        assert_state_refused(obj, words, tmp_path, new)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", "contains other objects than tensors")


def test_a_pytorch_file_without_pytorch_names_what_to_install(tmp_path, monkeypatch):
    torch.save(helpers.sparse_state(), tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    words = "needs PyTorch: pip install torch. Weights in safetensors or Keras HDF5 files need no"
    assert_refused(tmp_path / "a.pth", words, preprocessing="caffe")


@pytest.mark.parametrize("how", ["external link", "soft link", "external data", "virtual", "huge"])
def test_an_hdf5_file_cannot_read_other_files_or_claim_huge_arrays(how, tmp_path):
    path = helpers.write_sparse_keras(tmp_path / "a.h5", "vgg16")
    other = str(helpers.write_sparse_keras(tmp_path / "b.h5", "vgg16"))
    name, shape = "block1_conv1/block1_conv1_W_1:0", (3, 3, 3, 64)
    with h5py.File(path, "a") as file:
        del file[name]
        if how == "external link":
            file[name] = h5py.ExternalLink(other, name)
        elif how == "soft link":
            file["elsewhere"] = h5py.ExternalLink(other, "/")
            file[name] = h5py.SoftLink(f"/elsewhere/{name}")
        elif how == "external data":
            file.create_dataset(name, shape, "f4", external=[(other, 0, 6912)])
        elif how == "virtual":
            layout = h5py.VirtualLayout(shape, "f4")
            layout[...] = h5py.VirtualSource(other, name, shape)
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, (10**6, 10**6), "f4", chunks=True)
    words = "conv1_1 has no kernel" if "link" in how else "too large for VGG|stored in another file"
    assert_refused(path, words)


# --- save ----------------------------------------------------------------------------------------


def test_save_and_load_give_the_same_params_and_provenance(tmp_path, bundled):
    rng = np.random.default_rng(0)
    params = {
        name: {part: rng.standard_normal(a.shape, np.float32) for part, a in parts.items()}
        for name, parts in bundled.params.items()
    }
    params["input"] = {"mean": np.float32([0.1, 0.2, 0.3]), "std": np.float32([1, 2, 3])}
    # JAX arrays and arrays that are not contiguous are saved too.
    params["conv1_1"]["bias"] = jax.device_put(params["conv1_1"]["bias"])
    params["conv1_2"]["kernel"] = params["conv1_2"]["kernel"].swapaxes(0, 1)
    path = tmp_path / "new folder" / "a.safetensors"
    save(path, params, source="somewhere", license="CC0", source_sha256="12")
    report = verify(path)
    weights = report.weights
    assert (weights.source, weights.license, weights.model) == ("somewhere", "CC0", "vgg16")
    assert (report.dtype, report.preprocessing) == ("float32", "custom")
    assert not report.hash_verified
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(weights.params) == ["input", *conv_names("vgg16")]
    assert_same_params(weights.params, params)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = {"format": "nst_jax", "version": "1", "model": "vgg16", "source_sha256": "12"}
        provenance = {"preprocessing": "custom", "source": "somewhere", "license": "CC0"}
        assert file.metadata() == metadata | provenance
    assert len(repr(weights)) < 500
    assert_refused(path, "custom preprocessing, not caffe", preprocessing="caffe")


def test_half_precision_rounds_once(tmp_path, bundled):
    save(tmp_path / "a", bundled, dtype="float16")
    report = verify(tmp_path / "a")
    assert_same_params(report.weights.params, bundled.params)
    assert (report.dtype, report.weights.license) == ("float16", bundled.license)


def test_save_writes_the_whole_file_or_nothing(tmp_path, bundled):
    path = tmp_path / "a.safetensors"
    path.write_text("before")
    os.mkfifo(tmp_path / "pipe")
    huge = bundled.params | {"conv1_1": bundled.params["conv1_1"] | {"bias": np.full(64, 1e6)}}
    no_input = {name: huge[name] for name in conv_names("vgg16")}
    no_std = huge | {"input": {"mean": np.zeros(3, "f4"), "std": np.zeros(3, "f4")}}
    for target, params, words in (
        (path, huge, r"conv1_1 bias has values .* infinite as float16"),
        (path, no_input, r"input\.mean is not three finite"),
        (path, no_std, r"input\.std is not three positive"),
        (path / "under a file", bundled, r"cannot be written .*folder that you own"),
        (tmp_path / "pipe", bundled, "is a pipe or device"),
    ):
        with pytest.raises(InputError, match=words):
            save(target, params, dtype="float16")
    assert path.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "pipe"]
    write_safetensors(path, {}, {"version": "2"})
    assert_refused(path, "another version of the format; update nst-jax")


# --- the bundled file ----------------------------------------------------------------------------


def test_the_bundled_file_has_the_pinned_hash_and_torchvisions_values(bundled):
    sha256 = hashlib.sha256((ROOT / "weights/vgg16.safetensors").read_bytes()).hexdigest()
    assert sha256 == registry.BUNDLED_SHA256 == bundled.sha256
    assert sha256 in (ROOT / "weights/README.md").read_text()
    assert verify(bundled_path()).hash_verified
    assert (bundled.model, bundled.license) == ("vgg16", "BSD-3-Clause, torchvision")
    # The first numbers of features.0.weight and .bias in the published file.
    kernel, bias = bundled.params["conv1_1"]["kernel"], bundled.params["conv1_1"]["bias"]
    np.testing.assert_allclose(kernel[0, :, 0, 0], [-0.5537, 0.1427, 0.5290], atol=3e-4)
    np.testing.assert_allclose(bias[0], 0.4034, atol=3e-4)


def test_a_changed_or_missing_bundled_file_is_refused(tmp_path, monkeypatch, bundled):
    path = tmp_path / "vgg16.safetensors"
    data = bytearray(bundled.path.read_bytes())
    data[-1] ^= 1  # another valid number
    path.write_bytes(data)
    pretrained_module = importlib.import_module("nst_jax.networks.weights.pretrained")
    monkeypatch.setattr(pretrained_module, "find_bundled", lambda: path)
    monkeypatch.setattr(load_module, "find_bundled", lambda: path)
    with pytest.raises(InputError, match=f"SHA-256 expected {bundled.sha256}, got"):
        load_pretrained("vgg16")
    monkeypatch.setattr(pretrained_module, "find_bundled", lambda: None)
    with pytest.raises(InputError, match=r"bundled .* is missing; reinstall"):
        load_pretrained("vgg16")


def run_python(code, folder):
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={}
    ).stdout.strip()


def test_an_installed_package_finds_the_file_inside_itself(tmp_path, bundled):
    shutil.copytree(ROOT / "nst_jax", tmp_path / "nst_jax")
    (tmp_path / "nst_jax" / "bundled").mkdir()
    inside = shutil.copy(bundled.path, tmp_path / "nst_jax" / "bundled")
    code = "from nst_jax.networks.weights import bundled_path; print(bundled_path())"
    assert run_python(code, tmp_path) == str(inside)


def test_the_weight_commands_import_no_slow_library():
    slow = {"jax", "flax", "torch", "h5py", "pooch", "requests"}
    code = f"import nst_jax.apps.cli.weights, sys; print({slow} & set(sys.modules))"
    assert run_python(code, ROOT) == "set()"


def test_the_conversion_script_unpickles_only_arrays():
    path = ROOT / "weights/convert_lpips_vgg16.py"
    spec = importlib.util.spec_from_file_location("convert", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    # The format of NumPy 1.
    data = pickle.dumps({"a": np.arange(3.0)}, protocol=3).replace(b"numpy._core", b"numpy.core")
    array = script.ArraysOnly(io.BytesIO(data)).load()["a"]
    np.testing.assert_array_equal(array, [0, 1, 2])
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        script.ArraysOnly(io.BytesIO(pickle.dumps(Attack(os.system, "true")))).load()
