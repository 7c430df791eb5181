"""Programs are kept between runs, found by all that decided them, and by nothing less."""

import os
import subprocess
import sys
from functools import partial, wraps
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_cli import CAT, INK

from nst_jax import stylize
from nst_jax.pipeline import programs
from nst_jax.pipeline.programs import compiled


@pytest.fixture
def folder(tmp_path):
    programs.keep_in(tmp_path / "kept")
    yield tmp_path / "kept"
    programs.keep_in(None)


TRACED = []


def _scaled(x, factors, *, offset, power=1):
    TRACED.append(offset)
    return {"scaled": factors["a"] * x**power + offset}


@pytest.fixture
def scaled(monkeypatch):
    monkeypatch.setattr(programs, "_KNOWN", {*programs._KNOWN, __name__})
    TRACED.clear()
    jax.clear_caches()
    return jax.jit(_scaled, static_argnames=("offset", "power"), donate_argnums=0)


def another_run():
    """Forget what is in memory."""
    programs.keep_in(programs._folder)
    jax.clear_caches()


PAIR = (CAT, INK)
SMALL = {
    "size": 48,
    "steps": 3,
    "model": "vgg16",
    "style_layers": {"relu1_1": 1.0},
    "content_layers": {"relu1_2": 1.0},
}

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


def _sized(program):
    ASKED.append(program)
    return program.memory_analysis().output_size_in_bytes


ASKED = []


def size(scaled, **options):
    ASKED.clear()
    x = jax.ShapeDtypeStruct((3,), jnp.float32)
    return programs.number_of(_sized, scaled, x, {"a": 2.0}, static={"offset": 1}, **options)


def test_a_number_of_a_program_is_told_without_it(folder, scaled):
    x = jax.ShapeDtypeStruct((3,), jnp.float32)
    asked = {"static": {"offset": 1}, "donate": (0,)}
    assert not programs.is_kept(scaled, x, {"a": 2.0}, **asked)
    assert size(scaled, donate=(0,)) == 12
    another_run()
    assert programs.is_kept(scaled, x, {"a": 2.0}, **asked)
    assert size(scaled, donate=(0,)) == 12
    assert ASKED == []
    assert programs._made == {}
    run(scaled)  # the program that the number is of is found, too
    assert len(TRACED) == 1


def test_xla_is_given_the_same_for_arrays_as_for_their_shapes(folder, scaled, monkeypatch):
    """Its cache would miss otherwise."""
    given, compile_ = [], jax.stages.Lowered.compile

    def compile_and_tell(self):
        given.append(self.as_text())
        return compile_(self)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_and_tell)
    placed = jax.device_put(jnp.asarray(X), jax.devices()[0])
    for x in (placed, jax.ShapeDtypeStruct((3,), jnp.float32)):
        compiled(scaled, x, {"a": 2.0}, static={"offset": 1}, donate=(0,))
        another_run()
    assert len(given) == 2
    assert given[0] == given[1]


def test_a_damaged_number_is_told_anew(folder, scaled):
    size(scaled)
    (file,) = folder.glob("*._sized")
    file.write_bytes(file.read_bytes()[:-1] + b"3")
    assert size(scaled) == 12
    assert len(ASKED) == 1


def test_a_number_is_told_where_nothing_is_kept(scaled):
    assert [size(scaled), len(ASKED)] == [12, 1]


def test_what_is_not_known_is_asked_again(folder, scaled):
    asked = []
    for _ in range(2):
        options = {"static": {"offset": 1}}
        assert programs.number_of(asked.append, scaled, X, {"a": 2.0}, **options) is None
    assert len(asked) == 2


def test_nothing_is_kept_without_a_folder(tmp_path, scaled):
    np.testing.assert_array_equal(run(scaled), 2 * X + 1)
    assert not list(tmp_path.iterdir())


def test_a_function_of_somewhere_else_is_not_kept(folder):
    def own(x, factors, *, offset):
        return {"scaled": factors["a"] * x + offset}

    function = jax.jit(own, static_argnames="offset")
    np.testing.assert_array_equal(run(function), 2 * X + 1)
    assert not folder.exists()


@pytest.mark.parametrize(
    "damaged",
    [
        lambda whole: b"",
        lambda whole: b"no program",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :],
    ],
)
def test_a_damaged_file_is_written_anew(folder, scaled, damaged):
    run(scaled)
    (file,) = folder.iterdir()
    file.write_bytes(damaged(file.read_bytes()))
    for _ in range(2):
        another_run()
        np.testing.assert_array_equal(run(scaled), 2 * X + 1)
    assert len(TRACED) == 2


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(folder, scaled, monkeypatch, error):
    def replace(self, target):
        raise error

    monkeypatch.setattr(programs.Path, "replace", replace)
    if isinstance(error, OSError):
        np.testing.assert_array_equal(run(scaled), 2 * X + 1)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(scaled)
    assert list(folder.iterdir()) == []


def _calling_back(x, factors, *, offset):
    TRACED.append(offset)
    jax.debug.callback(lambda: None)
    return {"scaled": factors["a"] * x + offset}


@pytest.mark.usefixtures("scaled")
def test_what_cannot_be_exported_is_compiled_all_the_same(folder):
    function = jax.jit(_calling_back, static_argnames="offset")
    np.testing.assert_array_equal(run(function), 2 * X + 1)
    assert TRACED
    assert not folder.exists()


def jobs_with_and_without(folder):
    """Run in a process of its own, whose functions are not wrapped in checks of their arguments."""
    for optimizer in ("adam", "lbfgs"):
        job = SMALL | {"optimizer": optimizer}
        programs.keep_in(None)
        made = [stylize(*PAIR, **job)]
        for _ in range(2):
            programs.keep_in(folder / optimizer)
            made.append(stylize(*PAIR, **job))
        assert len(list((folder / optimizer).glob("*.stablehlo"))) == 2
        for other in made[1:]:
            np.testing.assert_array_equal(other.image, made[0].image)
            assert other.settings["planned_bytes"] == made[0].settings["planned_bytes"]


def test_a_job_is_the_same_with_what_was_kept(tmp_path):
    code = "import sys, test_programs as t; t.jobs_with_and_without(t.Path(sys.argv[1]))"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Other:
    platform_version = "of a compiler"


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(programs, "_SOURCES", "others"),
        lambda patch: patch.setattr(programs, "version", lambda name: "1.2.3"),
        lambda patch: patch.setenv("XLA_FLAGS", "--xla_cpu_use_onednn=false"),
        lambda patch: patch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_anything"),
        lambda patch: patch.setattr(programs, "get_backend", Other),
        lambda patch: jax.config.update("jax_default_matmul_precision", "highest"),
    ],
)
def test_what_it_is_traced_with_decides_too(folder, scaled, monkeypatch, change):
    run(scaled)
    change(monkeypatch)
    programs._surroundings.cache_clear()
    try:
        run(scaled)
    finally:
        jax.config.update("jax_default_matmul_precision", None)
        programs._surroundings.cache_clear()
    assert len(list(folder.iterdir())) == 2


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
    @wraps(optax.sgd(0.1).update)
    def disguised(*args):
        return args

    class Own(NamedTuple):
        number: int = 1

    own = [lambda x: x, jnp.ones(3), object(), optax.adam(lambda step: 0.1), disguised, Own()]
    for value in own:
        with pytest.raises(TypeError):
            programs._told(value)
