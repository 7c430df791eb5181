"""A program that does not fit is refused before it runs, whoever notices."""

import jax
import jax.numpy as jnp
import pytest

from nst_jax import TooLargeError, memory


def test_a_program_that_fits_is_compiled():
    compiled = memory.compile_to_fit(jax.jit(lambda x: 2 * x), jnp.ones(3))
    assert compiled(jnp.ones(3)).tolist() == [2, 2, 2]


def test_a_plan_beyond_the_capacity_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "_capacity", lambda device: 100)
    with pytest.raises(TooLargeError, match=r"GiB of memory .* choose a smaller size"):
        memory.compile_to_fit(jax.jit(lambda x: 2 * x), jnp.ones(1000))


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
