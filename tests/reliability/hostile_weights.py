"""Weight files that are damaged, false or malicious. Each function writes one file of few bytes;
the arrays of most are holes or fill values."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from functools import partial

import h5py
import numpy as np
from lazy import torch
from networks.weights.helpers import sparse_state, write_sparse_keras

from nst_jax.networks.architectures import conv_names, conv_shape

HEADER_END = 8


def native_layout(changes=()):
    """Return the header of a file of the project's own format, and its size in bytes."""
    header, end = {"__metadata__": {"format": "nst_jax", "version": "1"}}, 0
    shapes = {"input.mean": (3,), "input.std": (3,)}
    for name in conv_names("vgg16"):
        shapes |= {f"{name}.kernel": conv_shape(name), f"{name}.bias": conv_shape(name)[-1:]}
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return header | dict(changes), end


def write_safetensors(path, header, size, *, length=None, std=1.0):
    """Write a header, given as JSON or as bytes, before a hole of this size."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text) if length is None else length) + text)
        file.write(struct.pack("<6f", *[0.5] * 3, *[std] * 3)[:size])
        file.truncate(HEADER_END + len(text) + size)


def native(changes, path, *, extra=0, length=None, std=1.0):
    """Write a file of the project's own format with some keys of its header changed or removed."""
    header, size = native_layout(changes)
    header = {name: value for name, value in header.items() if value is not None}
    write_safetensors(path, header, size + extra, length=length, std=std)


def claim(dtype="F32", shape=(64,), start=0, end=256):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def only(entry, path):
    write_safetensors(path, {"conv1_1.weight": entry}, 256)


def raw(data, path):
    path.write_bytes(data)


def cut(share, write, path):
    write(path)
    os.truncate(path, int(path.stat().st_size * share))


def flip(seed, write, path):
    """Change some bytes of the first 4096, where the structure of a file is."""
    write(path)
    rng, data = np.random.default_rng(seed), bytearray(path.read_bytes()[:200_000])
    for position in rng.integers(0, min(4096, len(data)), 1 + seed % 6):
        data[position] ^= int(rng.integers(1, 256))
    size = path.stat().st_size
    path.write_bytes(data)
    os.truncate(path, size)


def keras(path):
    write_sparse_keras(path, "vgg16")


def keras_with(change, path):
    """Write a Keras file and change it, given the file and its first kernel's name."""
    keras(path)
    with h5py.File(path, "a") as file:
        change(file, "block1_conv1/block1_conv1_W_1:0")


def replaced(shape, dtype, options, file, name):
    del file[name]
    file.create_dataset(name, shape, dtype, **options)


def linked(link, file, name):
    del file[name]
    file[name] = link


def torch_file(change, path, legacy=False):
    state = sparse_state()
    change(state)
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)


FIRST = "features.0.weight"


def with_tensor(make, path, key=FIRST):
    torch_file(lambda state: state.update({key: make()}), path)


class Malicious:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self):
        return (os.system, ("touch ran",))


def malicious_zip(path):
    torch_file(lambda state: state.update(extra=0), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(name, pickle.dumps(Malicious()) if name.endswith(".pkl") else data)


def archive(entries, path, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(name, data)


def npz(path, array):
    with path.open("wb") as file:
        np.savez(file, array)


def npy(path, array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    path.write_bytes(file.getvalue())


def put(name, value):
    return lambda state: state.update({name: value})


KERAS = {
    f"Keras, {name}": partial(keras_with, change)
    for name, change in {
        "a layer missing": lambda file, name: file.pop("block3_conv2"),
        "a layer too many": lambda file, name: file.copy("block1_conv1", "block1_conv7"),
        "layers of another name": lambda file, name: file.move("block1_conv1", "conv1"),
        "no group": lambda file, name: [file.pop(key) for key in list(file)],
        "no bias": lambda file, name: file.pop("block1_conv1/block1_conv1_b_1:0"),
        "another shape": partial(replaced, (3, 3, 64, 3), "f4", {}),
        "a scalar": partial(replaced, (), "f4", {}),
        "no values": partial(replaced, (0,), "f4", {}),
        "an empty array": partial(replaced, None, "f4", {}),
        "integers": partial(replaced, (3, 3, 3, 64), "i4", {}),
        "complex numbers": partial(replaced, (3, 3, 3, 64), "c16", {}),
        "text": partial(replaced, (3, 3, 3, 64), h5py.string_dtype(), {}),
        "long text": partial(replaced, (2_000_000,), "S1000000", {"chunks": (1,)}),
        "compound values": partial(replaced, (3, 3, 3, 64), [("a", "f4"), ("b", "i8")], {}),
        "references": partial(replaced, (3, 3, 3, 64), h5py.ref_dtype, {}),
        "NaN": partial(replaced, (3, 3, 3, 64), "f4", {"fillvalue": np.nan}),
        "infinity": partial(replaced, (3, 3, 3, 64), "f4", {"fillvalue": np.inf}),
        "a float64 beyond float32": partial(replaced, (3, 3, 3, 64), "f8", {"fillvalue": 1e300}),
        "a huge array": partial(replaced, (2**20, 2**20), "f4", {"chunks": (1, 1)}),
        "a huge bias": lambda file, name: replaced(
            (2**40,), "f4", {"chunks": (1,)}, file, "block1_conv1/block1_conv1_b_1:0"
        ),
        "an external link": partial(linked, h5py.ExternalLink("other.h5", "/a")),
        "an external link to itself": partial(linked, h5py.ExternalLink("weights", "/")),
        "a soft link to nothing": partial(linked, h5py.SoftLink("/nothing")),
        "a soft link to itself": lambda file, name: linked(h5py.SoftLink(f"/{name}"), file, name),
        "a loop of groups": lambda file, name: linked(file["/"], file, name),
        "control characters": lambda file, name: file.move("block1_conv1", "a\n\x1b[31m"),
        "a name of 30 KB": lambda file, name: [
            *(file.pop(key) for key in list(file)),
            file.create_dataset("x" * 30_000, (3,), "f4"),
        ],
    }.items()
}
SAFETENSORS = {
    "header longer than the file": partial(native, {}, length=2**40),
    "header of 2^64 - 1 bytes": partial(native, {}, length=2**64 - 1),
    "header of 2^63 bytes": partial(native, {}, length=2**63),
    "header of 0 bytes": partial(native, {}, length=0),
    "header of 1 byte": partial(native, {}, length=1),
    "header shorter than it is": partial(native, {}, length=999),
    "header that is no JSON": partial(write_safetensors, header=b"{nothing", size=9),
    "header that is nested": partial(write_safetensors, header=b'{"a":' * 99_999, size=9),
    "header that is a list": partial(write_safetensors, header=b"{}[]", size=9),
    "header that is empty": partial(write_safetensors, header={}, size=0),
    "a key twice": partial(
        write_safetensors,
        header=b'{"conv1_1.weight":%s,"conv1_1.weight":%s}' % ((json.dumps(claim()).encode(),) * 2),
        size=256,
    ),
    "values beyond the file": partial(native, {}, extra=-4),
    "values left over": partial(native, {}, extra=4),
    "negative offsets": partial(only, claim(start=-256, end=0)),
    "offsets in reverse": partial(only, claim(start=256, end=0)),
    "overlapping offsets": partial(native, {"conv1_1.bias": claim(start=24, end=280)}),
    "offsets beyond 64 bits": partial(only, claim(end=2**70)),
    "a shape beyond 64 bits": partial(only, claim(shape=(2**62, 2**62))),
    "a shape whose size wraps": partial(only, claim(shape=(2**32, 2**32))),
    "a negative shape": partial(only, claim(shape=(-64,))),
    "a shape of fractions": partial(only, claim(shape=(64.5,))),
    "a shape of 1000 axes": partial(only, claim(shape=(64, *[1] * 1000))),
    "an empty shape": partial(only, claim(shape=())),
    "an unknown dtype": partial(only, claim("F99")),
    "integers": partial(only, claim("I32")),
    "bfloat16": partial(only, claim("BF16", (128,))),
    "floats of 8 bits": partial(only, claim("F8_E4M3", (256,))),
    "a layer missing": partial(native, {"conv3_2.kernel": None}),
    "a layer too many": partial(native, {"conv6_1.bias": claim(start=0, end=0, shape=(0,))}),
    "a key without a layer": partial(native, {"": claim(start=0, end=0, shape=(0,))}),
    "control characters": partial(write_safetensors, header={"a\n\x1b[31m": claim()}, size=256),
    "a name of 1 MB": partial(write_safetensors, header={"x" * 1_000_000: claim()}, size=256),
    "another version": partial(native, {"__metadata__": {"format": "nst_jax", "version": "9"}}),
    "metadata of numbers": partial(native, {"__metadata__": {"format": 1}}),
    "metadata of control characters": partial(
        native,
        {
            "__metadata__": {
                "format": "nst_jax",
                "version": "1",
                "source": "x\nsha256: 0 (the bundled file's)\x1b[2J",
                "license": "\u202e",
            }
        },
    ),
    "metadata of 1 MB": partial(
        native, {"__metadata__": {"format": "nst_jax", "version": "1", "source": "x" * 1_000_000}}
    ),
    "a deviation of 0": partial(native, {}, std=0.0),
    "a deviation of NaN": partial(native, {}, std=float("nan")),
    "a deviation of 1e-45": partial(native, {}, std=1e-45),
    "transposed kernels": partial(
        native, {"conv1_1.kernel": claim(shape=(64, 3, 3, 3), start=24, end=6936)}
    ),
}
TORCH = {
    "malicious": malicious_zip,
    "malicious, legacy": lambda path: torch_file(put("x", Malicious()), path, legacy=True),
    "malicious, a bare pickle": lambda path: path.write_bytes(pickle.dumps(Malicious())),
    "malicious, behind the magic number": lambda path: path.write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Malicious(), 2)
    ),
    "a zip without a pickle": partial(archive, {"a": b"1"}),
    "a zip with an empty pickle": partial(archive, {"a/data.pkl": b"", "a/version": b"3"}),
    "a zip with a false pickle": partial(archive, {"a/data.pkl": b"\x80\x02.", "a/version": b"3"}),
    "a zip with a path outside": partial(archive, {"../ran": b"1", "a/data.pkl": b"\x80\x02}."}),
    "an empty zip": partial(archive, {}),
    "an npz": partial(npz, array=np.zeros(3)),
    "an npz with objects": partial(npz, array=np.array([Malicious()], object)),
    "an npy": partial(npy, array=np.zeros(3)),
    "an npy with objects": partial(npy, array=np.array([Malicious()], object)),
    "an empty state": partial(torch_file, dict.clear),
    "keys that are no text": partial(with_tensor, lambda: torch.zeros(3), key=5),
    "no tensor": partial(torch_file, put(FIRST, 5)),
    "a state in a state": partial(with_tensor, lambda: {"a": torch.zeros(3)}),
    "a list": lambda path: torch.save([torch.zeros(3)], path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "NaN": partial(with_tensor, lambda: torch.full((1,), torch.nan).expand(64, 3, 3, 3)),
    "infinity": partial(with_tensor, lambda: torch.full((1,), torch.inf).expand(64, 3, 3, 3)),
    "a scalar": partial(with_tensor, lambda: torch.zeros(())),
    "no values": partial(with_tensor, lambda: torch.zeros(0)),
    "five axes": partial(with_tensor, lambda: torch.zeros(1, 1, 1, 1, 1)),
    "integers": partial(with_tensor, lambda: torch.zeros(64, 3, 3, 3, dtype=torch.int32)),
    "complex numbers": partial(with_tensor, lambda: torch.zeros(64, 3, 3, 3) * 1j),
    "sparse values": partial(with_tensor, lambda: torch.zeros(64, 3).to_sparse()),
    "values without memory": partial(with_tensor, lambda: torch.zeros(64, 3, device="meta")),
    "values on a GPU": partial(raw, b"\x80\x02ctorch\ncuda\n."),
    "a key of control characters": lambda path: torch.save({"a\n\x1b[31m": torch.zeros(3)}, path),
    "a layer missing": partial(torch_file, lambda state: state.pop("features.5.weight")),
    "a layer too many": partial(with_tensor, lambda: torch.zeros(3), key="features.99.weight"),
}
OTHERS = {
    name: partial(raw, data)
    for name, data in {
        "empty": b"",
        "zeros": bytes(4096),
        "text": b"not weights\n",
        "HTML": b"<!DOCTYPE html><html></html>",
        "a pointer of git-LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "gzip": b"\x1f\x8b\x08" + bytes(99),
        "only HDF5's signature": b"\x89HDF\r\n\x1a\n",
        "HDF5 behind a user block": bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(99),
        "only zip's signature": b"PK\x03\x04",
        "a pickle of text": pickle.dumps("text"),
        "a pickle that recurses": b"\x80\x02" + b"]" * 99_999 + b".",
    }.items()
}


def user_block(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["block1_conv1/kernel"] = np.zeros(3)


OTHERS["a Keras file behind a user block"] = user_block
BASES = {"Keras": keras, "native": partial(native, {}), "PyTorch": partial(torch_file, len)}
BASES["old PyTorch"] = partial(torch_file, len, legacy=True)
CUT = {
    f"{name} cut at {share:g}": partial(cut, share, write)
    for name, write in BASES.items()
    for share in (0.0001, 0.01, 0.2, 0.5, 0.9, 0.999)
}
FLIPPED = {
    f"{name} with bytes changed, seed {seed}": partial(flip, seed, write)
    for name, write in BASES.items()
    for seed in range(10)
}
BOMBS = {  # files of some KB or MB that claim gigabytes
    "a chunk of Keras": lambda path: keras_with(large_chunk, path),
    "text of Keras": partial(
        keras_with, partial(replaced, (3, 3, 3, 64), "S1000000", {"chunks": True})
    ),
    "a tensor of bfloat16": partial(
        with_tensor, lambda: torch.zeros(1, dtype=torch.bfloat16).expand(1000, 10**6)
    ),
    "a pickle in a zip": lambda path: archive(
        {"a/data.pkl": bytes(2**27), "a/version": b"3"}, path, zipfile.ZIP_DEFLATED
    ),
    "a hole of safetensors": lambda path: write_safetensors(
        path, {"conv1_1.weight": claim(shape=(96 * 2**20,), end=384 * 2**20)}, 384 * 2**20
    ),
    "100 layers of Keras": lambda path: many_layers(path),
}


def large_chunk(file, name):
    """Give a bias of 64 values a chunk of 256 MB, which little more than 1 MB of file fills."""
    options = {"chunks": (2**26,), "maxshape": (None,), "compression": 1}
    bias = "block1_conv1/block1_conv1_b_1:0"
    replaced((64,), "f4", options, file, bias)
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    file[bias].id.write_direct_chunk((0,), packed)


def many_layers(path):
    with h5py.File(path, "w") as file:
        for i in range(100):
            for part in ("kernel", "bias"):
                name = f"block{i // 10}_conv{i % 10}/{part}"
                shape = (2_359_296,) if part == "bias" else (3, 3, 512, 512)
                file.create_dataset(name, shape, "f8", chunks=True, fillvalue=0.1)


FILES = {**KERAS, **{f"safetensors, {k}": v for k, v in SAFETENSORS.items()}}
FILES |= {**{f"PyTorch, {k}": v for k, v in TORCH.items()}, **OTHERS, **CUT, **FLIPPED}
