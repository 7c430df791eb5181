"""The functions of the package with values of every kind: an InputError, never another error."""

import datetime
import decimal
import fractions
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lazy import torch
from PIL import Image
from reliability.hostile import assert_each, refusal

import nst_jax
from nst_jax import Settings, images

pytestmark = [
    pytest.mark.usefixtures("stops_at_start", "unchecked"),
    pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning"),
]


class Liar:
    """An object whose array is of another kind than it says."""

    shape, dtype, ndim = (4, 4, 3), np.float32, 3

    def __array__(self, *arguments, **options):
        raise RuntimeError("no array")


def generator():
    yield from range(3)


VALUES = {
    "None": None,
    "true": True,
    "minus one": -1,
    "zero": 0,
    "a fraction": 0.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "a subnormal number": 1e-320,
    "1e30": 1e30,
    "10^20": 10**20,
    "5000 digits": 10**5000,
    "complex": 1j,
    "Decimal": decimal.Decimal("NaN"),
    "Fraction": fractions.Fraction(1, 3),
    "empty text": "",
    "text": "abc",
    "number as text": "5",
    "control characters": "a\nb\x1b[31m",
    "a zero character": "a\0b",
    "long text": "x" * 4000,
    "bytes": b"abc",
    "a path": Path("nothing"),
    "an empty list": [],
    "a list of None": [None],
    "a ragged list": [[1, 2], [3]],
    "a list of text": ["a", "b"],
    "a list of 5000 digits": [10**5000],
    "a nested list": [[[[1]]]],
    "a tuple": (1, 2),
    "a set": {1, 2},
    "a dict": {"a": 1},
    "a dict of None": {"relu1_1": None},
    "a dict of text": {"gram": "x"},
    "a dict of huge numbers": {"relu1_1": 10**400},
    "an array": np.zeros(3),
    "an array of one": np.ones(1),
    "an array without axes": np.array(5),
    "a large array": np.zeros((100, 100)),
    "an array of objects": np.array([None, {}], object),
    "an array of JAX": jnp.zeros(2),
    "a date": datetime.date(2020, 1, 1),
    "a function": len,
    "a class": dict,
    "an instance": object(),
    "a generator": generator(),
    "a module": np,
    "a liar": Liar(),
    "not implemented": NotImplemented,
    "an ellipsis": ...,
}
SETTINGS = tuple(Settings.__dataclass_fields__)
SMALL = {
    "size": 32,
    "steps": 1,
    "model": "vgg16",
    "style_layers": {"relu1_1": 1.0},
    "content_layers": {"relu1_2": 1.0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_taken_or_refused(name):
    """Those that are checked with the files are checked by a job."""

    def check(value):
        if refusal(Settings, **{name: VALUES[value]}) is None:
            changes = SMALL | {name: VALUES[value]}
            refusal(nst_jax.stylize, "content.png", "style.png", **changes)

    assert_each(check, VALUES)


def pixels(shape=(24, 32, 3), dtype=np.float32, fill=0.5):
    return np.full(shape, fill, dtype)


def changed(value):
    array = pixels()
    array[3, 4, 1] = value
    return array


ARRAYS = {
    "NaN": lambda: changed(np.nan),
    "infinity": lambda: changed(np.inf),
    "below 0": lambda: changed(-0.5),
    "above 1": lambda: changed(255.0),
    "NaN in float16": lambda: changed(np.nan).astype(np.float16),
    "long double": lambda: pixels(dtype=np.longdouble),
    "float64 beyond float32": lambda: pixels(dtype=np.float64, fill=1e300),
    "int64": lambda: pixels(dtype=np.int64, fill=1),
    "int8": lambda: pixels(dtype=np.int8, fill=1),
    "uint32": lambda: pixels(dtype=np.uint32, fill=1),
    "bool": lambda: pixels(dtype=bool, fill=True),
    "complex": lambda: pixels(dtype=np.complex64),
    "objects": lambda: pixels(dtype=object),
    "text": lambda: pixels(dtype="U1", fill="a"),
    "bytes": lambda: pixels(dtype="S1", fill=b"a"),
    "dates": lambda: np.zeros((24, 32, 3), "M8[s]"),
    "records": lambda: np.zeros((24, 32), [("r", "f4"), ("g", "f4")]),
    "big-endian float": lambda: pixels(dtype=">f4"),
    "big-endian uint16": lambda: pixels(dtype=">u2", fill=9),
    "no axes": lambda: np.float32(0.5),
    "one axis": lambda: pixels((96,)),
    "four axes": lambda: pixels((1, 24, 32, 3)),
    "32 axes": lambda: pixels((1,) * 32),
    "no rows": lambda: pixels((0, 32, 3)),
    "no channels": lambda: pixels((24, 32, 0)),
    "two channels": lambda: pixels((24, 32, 2)),
    "five channels": lambda: pixels((24, 32, 5)),
    "channels first": lambda: pixels((3, 24, 32)),
    "gray": lambda: pixels((24, 32)),
    "with alpha": lambda: pixels((24, 32, 4)),
    "alpha of 0": lambda: pixels((24, 32, 4), fill=0.0),
    "1x1": lambda: pixels((1, 1, 3)),
    "1x5000": lambda: pixels((1, 5000, 3)),
    "5000x1": lambda: pixels((5000, 1, 3)),
    "strides of 0": lambda: np.broadcast_to(np.float32(0.5), (24, 32, 3)),
    "negative strides": lambda: pixels()[::-1, ::-2],
    "Fortran's order": lambda: np.asfortranarray(pixels()),
    "unaligned": lambda: (
        np.frombuffer(bytes(1 + 4 * 24 * 32 * 3), np.uint8)[1:].view("<f4").reshape(24, 32, 3)
    ),
    "read-only": lambda: np.frombuffer(bytes(24 * 32 * 3), np.uint8).reshape(24, 32, 3),
    "masked": lambda: np.ma.masked_less(pixels(), 0.7),
    "a matrix": lambda: np.matrix(pixels((24, 32))),
    "a list": lambda: pixels().tolist(),
    "a ragged list": lambda: [[[0.5, 0.5]], [[0.5]]],
    "a dict": lambda: {"pixels": pixels()},
    "None": lambda: None,
    "a number": lambda: 5,
    "a generator": generator,
    "a liar": Liar,
    "a memoryview": lambda: memoryview(pixels()),
    "JAX bfloat16": lambda: jnp.full((24, 32, 3), 0.5, jnp.bfloat16),
    "JAX deleted": lambda: deleted(),
    "JAX keys": lambda: jax.random.key(0),
    "JAX shape": lambda: jax.ShapeDtypeStruct((24, 32, 3), jnp.float32),
    "PyTorch": lambda: torch.zeros(24, 32, 3),
    "PyTorch with gradients": lambda: torch.zeros(24, 32, 3, requires_grad=True),
    "PyTorch sparse": lambda: torch.zeros(24, 32).to_sparse(),
    "PyTorch meta": lambda: torch.zeros(24, 32, 3, device="meta"),
    "PyTorch bfloat16": lambda: torch.zeros(24, 32, 3, dtype=torch.bfloat16),
    "PIL closed": lambda: closed(),
    "PIL of no pixels": lambda: Image.new("RGB", (0, 5)),
    "PIL CMYK": lambda: Image.new("CMYK", (32, 24)),
    "PIL float NaN": lambda: Image.fromarray(pixels((24, 32), fill=np.nan)),
    "PIL La": lambda: Image.new("La", (32, 24)),
    "PIL RGBa": lambda: Image.new("RGBa", (32, 24)),
    "PIL I;16B": lambda: Image.new("I;16B", (32, 24)),
    "PIL HSV": lambda: Image.new("HSV", (32, 24)),
    "PIL with a false profile": lambda: profiled(b"junk"),
    "PIL with a profile of text": lambda: profiled("junk"),
    "PIL with a profile of numbers": lambda: profiled(5),
}
PLACES = {
    "content": lambda array: nst_jax.stylize(array, "style.png", **SMALL),
    "style": lambda array: nst_jax.stylize("content.png", array, **SMALL),
    "styles": lambda array: nst_jax.stylize("content.png", [array, array], **SMALL),
    "mask": lambda array: nst_jax.stylize("content.png", "style.png", masks=[array], **SMALL),
    "init": lambda array: nst_jax.stylize("content.png", "style.png", init=array, **SMALL),
    "texture": lambda array: nst_jax.synthesize_texture(array, **SMALL),
    "write": lambda array: images.write("out.png", array),
    "alpha": lambda array: images.write("out.png", pixels(), alpha=array),
}


def deleted():
    array = jnp.zeros((24, 32, 3))
    array.delete()
    return array


def closed():
    image = Image.open("content.png")
    image.close()
    return image


def profiled(profile):
    image = Image.new("RGB", (32, 24))
    image.info["icc_profile"] = profile
    return image


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("place", PLACES)
def test_an_array_is_taken_or_refused(place):
    assert_each(lambda name: refusal(PLACES[place], ARRAYS[name]()), ARRAYS)


OPTIONS = {
    "callback_every": (0, -1, 0.5, "x", float("nan"), [1], 10**20),
    "checkpoint": (5, "", "missing/x", [], b"x", "a\0b"),
    "batch_size": (0, -1, 0.5, "x", float("nan"), [1], 10**20),
    "num_images": (0, 1, -1, 0.5, "x", float("nan"), [2], None),
    "resume": (True,),
}
FUNCTIONS = {
    "callback_every": lambda **o: nst_jax.stylize("content.png", "style.png", **SMALL, **o),
    "checkpoint": lambda **o: nst_jax.stylize("content.png", "style.png", **SMALL, **o),
    "resume": lambda **o: nst_jax.stylize("content.png", "style.png", **SMALL, **o),
    "batch_size": lambda **o: list(
        nst_jax.stylize_many("content.png", ["style.png"], **SMALL, optimizer="adam", **o)
    ),
    "num_images": lambda **o: list(
        nst_jax.interpolate_styles("content.png", ["style.png", "other.png"], **SMALL, **o)
    ),
}
ROWS = [(name, value) for name, values in OPTIONS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), ROWS, ids=ascii)
def test_an_option_of_a_function_is_taken_or_refused(name, value):
    line = refusal(FUNCTIONS[name], **{name: value})
    if name in ("callback_every", "batch_size", "num_images") and value != 10**20:
        assert line is not None


@pytest.mark.parametrize(("name", "value"), [("batch_size", 1), ("num_images", 2)])
def test_whole_numbers_of_numpy_are_taken(name, value):
    assert refusal(FUNCTIONS[name], **{name: np.int64(value)}) is None


WEIGHTS = {
    "nothing": {},
    "no arrays": {"conv1_1": 5},
    "None": {"conv1_1": {"kernel": None}},
    "text": {"conv1_1": {"kernel": "x", "bias": "y"}},
    "prepared": {"conv1_1": {"kernel": object(), "bias": np.zeros(64)}},
    "a number": 5,
    "a list": [1],
    "bytes": b"x",
    "text as a path": "a\0b",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_parameters_are_taken_or_refused(name):
    assert refusal(nst_jax.stylize, "content.png", "style.png", weights=WEIGHTS[name], **SMALL)


OPTIMIZERS = {
    "no transformation": object(),
    "a class": optax.GradientTransformation,
    "a function": optax.adam,
    "a tuple": (1, 2),
    "no change": optax.identity(),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_taken_or_refused(name):
    refusal(nst_jax.stylize, "content.png", "style.png", optimizer=OPTIMIZERS[name], **SMALL)
