"""Reads PyTorch state dicts without PyTorch, and without running what is in them.

A ``.pth`` file is a pickle, and a pickle can call any function. The unpickler here knows only the
few names that a plain state dict needs and maps them to stand-ins that call nothing.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from nst_jax.errors import InputError

__all__ = ["LEGACY_MAGIC", "LazyArrays", "open_legacy", "open_zip"]

LazyArrays = dict[str, Callable[[], npt.NDArray[Any]]]
"""Arrays by name, each read from the open file when called."""

LEGACY_MAGIC: Final = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."

STORAGE_DTYPES: Final = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # NumPy has no bfloat16: the upper half of a float32's bits
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    count: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(STORAGE_DTYPES[self.kind])

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize

    def decode(self, data: bytes) -> npt.NDArray[Any]:
        if len(data) != self.nbytes:
            raise EOFError(f"storage {self.key} has {len(data)} bytes instead of {self.nbytes}")
        values = np.frombuffer(data, self.dtype)
        if self.kind == "BFloat16Storage":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __setstate__(self, _: object) -> None:
        """Ignore what old parameters carry beside the data: flags for training."""

    def over(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # as_strided checks nothing: a wrong stride would read outside the buffer.
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if min((self.offset, *self.stride)) < 0 or min(self.size, default=1) < 1:
            raise ValueError("a tensor has a negative offset or stride, or no elements")
        if last >= len(values):
            raise ValueError("a tensor reaches past the end of its storage")
        strides = [s * values.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(
            values[self.offset :], self.size, strides, writeable=False
        )


class _StateDictUnpickler(pickle.Unpickler):
    """Reads a state dict as descriptions of tensors; an unknown name is refused, not imported."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self.path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        # A pickle can set attributes of what it finds here. So stand-ins are strings and bound
        # methods, which have none to set, or made anew for each file.
        if module == "torch" and name in STORAGE_DTYPES:
            return name
        match f"{module}.{name}":
            case "collections.OrderedDict":
                return OrderedDict
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
                return self._tensor
            case "torch._utils._rebuild_parameter":
                return self._parameter
            case "torch.nn.parameter.Parameter":  # PyTorch 0.1 made a new object of this class
                return type(name, (), {"__new__": lambda _, data, *flags: data})
        raise InputError(
            f"{self.path}: refused {module}.{name}, which no plain state dict needs (loading it "
            f"could run code); save model.state_dict() instead"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        # The legacy format adds a sixth field for a view on another storage, None in practice.
        kind, key, count, *view = pid[1], pid[2], pid[4], *pid[5:]
        if kind not in STORAGE_DTYPES or any(view):
            raise InputError(f"{self.path}: storage {key} is of an unknown kind; save it anew")
        return self.storages.setdefault(key, _Storage(kind, key, count))

    def _tensor(
        self,
        storage: _Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *_: Any,
    ) -> _Tensor:
        return _Tensor(storage, offset, tuple(size), tuple(stride))

    def _parameter(self, data: _Tensor, *_: Any) -> _Tensor:
        return data


@contextmanager
def open_zip(path: Path) -> Iterator[LazyArrays]:
    """Open a state dict in the zip format (PyTorch 1.6 and later)."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise InputError(
                f"{path} is a zip archive without a PyTorch state dict; from Keras, save with "
                f"model.save_weights('NAME.weights.h5')"
            )
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        _require_little_endian(path, order not in names or archive.read(order) == b"little")
        state = _StateDictUnpickler(io.BytesIO(archive.read(pickles[0])), path).load()
        yield _lazy(path, state, lambda key: archive.read(f"{root}data/{key}"))


@contextmanager
def open_legacy(path: Path) -> Iterator[LazyArrays]:
    """Open a state dict in the format before PyTorch 1.6: pickles, then the raw storages."""
    with path.open("rb") as file:
        for _ in ("magic number", "protocol version"):
            _StateDictUnpickler(file, path).load()
        system = _StateDictUnpickler(file, path).load()
        _require_little_endian(path, system["little_endian"])
        unpickler = _StateDictUnpickler(file, path)
        state = unpickler.load()
        places = {}
        for key in _StateDictUnpickler(file, path).load():
            (count,) = struct.unpack("<q", file.read(8))
            places[key] = (file.tell(), count * unpickler.storages[key].dtype.itemsize)
            file.seek(sum(places[key]))

        def read(key: str) -> bytes:
            start, size = places[key]
            file.seek(start)
            return file.read(size)

        yield _lazy(path, state, read)


def _require_little_endian(path: Path, little: bool) -> None:
    if not little:
        raise InputError(f"{path} was saved on a big-endian machine; save it on a usual one")


def _lazy(path: Path, state: Any, read: Callable[[str], bytes]) -> LazyArrays:
    if not isinstance(state, dict):
        raise InputError(f"{path} holds no state dict; save model.state_dict()")

    def reader(tensor: _Tensor) -> Callable[[], npt.NDArray[Any]]:
        return lambda: tensor.over(tensor.storage.decode(read(tensor.storage.key)))

    return {str(k): reader(v) for k, v in state.items() if isinstance(v, _Tensor)}
