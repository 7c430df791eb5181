"""A program that does not fit is refused before it runs, whoever notices."""

import ctypes
import sys

import jax
import jax.numpy as jnp
import psutil
import pytest

from nst_jax import TooLargeError
from nst_jax.errors import InputError
from nst_jax.pipeline import memory

double = jax.jit(lambda x: 2 * x)


def test_a_program_that_fits_is_compiled():
    compiled = memory.compile_to_fit(double, jnp.ones(3))
    assert compiled(jnp.ones(3)).tolist() == [2, 2, 2]


def test_the_plan_counts_arguments_results_and_what_is_between():
    @jax.jit
    def program(a, b):
        return (a @ b) @ a

    a = jnp.ones((100, 100))
    assert 4 * 40_000 <= memory.planned_bytes(memory.compile_to_fit(program, a, a)) < 6 * 40_000
    in_place = jax.jit(lambda x: 2 * x, donate_argnums=0)
    assert 40_000 <= memory.planned_bytes(memory.compile_to_fit(in_place, a)) < 50_000


def test_a_plan_beyond_the_budget_is_refused():
    x = jnp.ones(1000)  # 4000 bytes in and as many out
    assert memory.compile_to_fit(double, x, budget=8000)(x).sum() == 2000
    with pytest.raises(TooLargeError, match=r"GiB of memory .* choose a smaller size"):
        memory.compile_to_fit(double, x, budget=7999)


def test_by_default_the_budget_is_what_is_free(monkeypatch):
    x = jnp.ones(1000)
    monkeypatch.setattr(memory, "free_bytes", lambda: 4000)  # the argument is there already
    memory.compile_to_fit(double, x)
    monkeypatch.setattr(memory, "free_bytes", lambda: 3999)
    with pytest.raises(TooLargeError):
        memory.compile_to_fit(double, x)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)  # not every device tells
    memory.compile_to_fit(double, x)


def test_a_processor_has_what_the_system_can_give():
    assert 2**20 < memory.free_bytes() < psutil.virtual_memory().total


class Accelerator:
    platform = "gpu"

    def __init__(self, stats):
        self.memory_stats = lambda: stats


@pytest.mark.parametrize(
    ("stats", "free"),
    [({"bytes_limit": 1000, "bytes_in_use": 300}, 700), ({"bytes_in_use": 3}, None), (None, None)],
)
def test_an_accelerator_has_its_limit_less_what_is_used(monkeypatch, stats, free):
    monkeypatch.setattr(jax, "devices", lambda: [Accelerator(stats)])
    assert memory.free_bytes() == free


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("750MB", 750 * 10**6),
        ("6GiB", 6 * 2**30),
        ("0.5g", 5 * 10**8),
        (" 2 tib ", 2 * 2**40),
        (".5Ki", 512),
        ("1.kB", 1000),
    ],
)
def test_sizes_are_read(text, size):
    assert memory.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8", "GB", "-1GB", "0GB", "1e3MB", "8 GBs", "8PB", "nanGB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="is no size of memory; give one like 8GB"):
        memory.parse_bytes(text)


class Refusing:
    """A function whose compiler gives up, as a TPU's does."""

    def __init__(self, message):
        self.message = message

    def lower(self, *args, **kwargs):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


def test_a_compiler_that_finds_no_room_is_understood():
    with pytest.raises(TooLargeError, match="choose a smaller size"):
        memory.compile_to_fit(Refusing("RESOURCE_EXHAUSTED: exceeds available HBM (15.75G)"))


def test_other_failures_of_the_compiler_are_not_hidden():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        memory.compile_to_fit(Refusing("INTERNAL: a bug"))


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_what_was_freed_is_given_back():
    """The system's allocator, which blocks of this size come from, keeps what lies between others
    that are still used."""
    blocks = [bytes(2**16) for _ in range(4000)]
    used = memory.used_bytes()
    between = blocks[::8]
    del blocks
    kept = memory.used_bytes()
    memory.give_back()
    assert len(between) == 500
    assert kept > used - 50 * 2**20
    assert memory.used_bytes() < used - 150 * 2**20
