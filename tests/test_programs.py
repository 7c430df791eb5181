"""Programs are kept between runs, found by all that decided them, and by nothing less."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax import programs
from nst_jax.programs import compiled


@pytest.fixture
def folder(tmp_path):
    programs.keep_in(tmp_path / "kept")
    yield tmp_path / "kept"
    programs.keep_in(None)


TRACED = []


def _scaled(x, factors, *, offset, power=1):
    TRACED.append(offset)
    return {"scaled": factors["a"] * x**power + offset}


_scaled.__module__ = "nst_jax.of_this_test"


@pytest.fixture
def scaled():
    TRACED.clear()
    jax.clear_caches()
    return jax.jit(_scaled, static_argnames=("offset", "power"), donate_argnums=0)


def another_run():
    """Forget what is in memory."""
    programs.keep_in(programs._folder)
    jax.clear_caches()


X = np.arange(3, dtype=np.float32)


def run(scaled, *, dtype=jnp.float32, factor=2.0, shape=(3,), **static):
    x, factors = jnp.resize(jnp.asarray(X), shape).astype(dtype), {"a": factor}
    static = {"offset": 1} | static
    return compiled(scaled, x, factors, static=static, donate=(0,))(x, factors)["scaled"]


def test_a_later_run_does_not_trace_it_again(folder, scaled):
    first = run(scaled)
    another_run()
    second = run(scaled)
    np.testing.assert_array_equal(first, 2 * X + 1)
    np.testing.assert_array_equal(first, second)
    assert TRACED == [1]
    assert len(list(folder.iterdir())) == 1


def test_one_run_compiles_it_once(folder, scaled):
    x = jnp.asarray(X)
    first, second = (compiled(scaled, x, {"a": 1.0}, static={"offset": 1}) for _ in range(2))
    assert first is second


@pytest.mark.parametrize(
    "other",
    [
        {"offset": 2},
        {"power": 2},
        {"dtype": jnp.float16},
        {"factor": jnp.float32(2)},  # not weak
        {"shape": (4,)},
    ],
)
def test_what_decides_it_is_told_apart(folder, scaled, other):
    run(scaled)
    another_run()
    run(scaled, **other)
    assert len(TRACED) == 2
    assert len(list(folder.iterdir())) == 2


def test_other_numbers_are_no_other_program(folder, scaled):
    run(scaled)
    np.testing.assert_array_equal(run(scaled, factor=3.0), 3 * X + 1)
    assert len(TRACED) == 1


def test_memory_given_is_used(folder, scaled):
    for _ in range(2):
        x = jnp.asarray(X)
        compiled(scaled, x, {"a": 2.0}, static={"offset": 1}, donate=(0,))(x, {"a": 2.0})
        assert x.is_deleted()
        another_run()


def test_nothing_is_kept_without_a_folder(tmp_path, scaled):
    np.testing.assert_array_equal(run(scaled), 2 * X + 1)
    assert not list(tmp_path.iterdir())


def test_a_function_of_somewhere_else_is_not_kept(folder):
    def own(x, factors, *, offset):
        return {"scaled": factors["a"] * x + offset}

    function = jax.jit(own, static_argnames="offset")
    np.testing.assert_array_equal(run(function), 2 * X + 1)
    assert not folder.exists()


@pytest.mark.parametrize("damage", [b"", b"no program", None])
def test_a_damaged_file_is_written_anew(folder, scaled, damage):
    run(scaled)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    for _ in range(2):
        another_run()
        np.testing.assert_array_equal(run(scaled), 2 * X + 1)
    assert len(TRACED) == 2


def test_a_folder_that_cannot_be_written_is_done_without(folder, scaled):
    folder.write_text("in the way")
    np.testing.assert_array_equal(run(scaled), 2 * X + 1)


@pytest.mark.parametrize("same", [optax.adam, optax.lbfgs, partial(optax.sgd, momentum=0.9)])
def test_an_optimizer_is_told_by_its_numbers(same):
    def told(*numbers):
        return programs._told(optax.with_extra_args_support(same(*numbers)))

    assert told(0.1) == told(0.1)
    assert told(0.1) != told(0.2)
    assert "0x" not in told(0.1)


def test_what_may_change_unseen_is_not_told():
    for value in (lambda x: x, jnp.ones(3), object(), optax.adam(lambda step: 0.1)):
        with pytest.raises(TypeError):
            programs._told(value)
