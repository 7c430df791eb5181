"""What an executable needs, and what becomes of a job that does not fit."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import psutil
import pytest

from nst_jax import MemoryLimitError, run
from nst_jax.pipeline import caches, memory, planning
from nst_jax.pipeline.memory import (
    available_bytes,
    check_pixels_fit,
    compile_within_limit,
    required_bytes,
)
from nst_jax.pipeline.planning import choose_tile

double = jax.jit(lambda x: 2 * x)


def test_an_executable_needs_its_arguments_its_result_and_what_is_between():
    @jax.jit
    def product(a, b):
        return (a @ b) @ a

    a = jnp.ones((100, 100))
    assert 4 * 40_000 <= required_bytes(compile_within_limit(product, a, a)) < 6 * 40_000
    in_place = jax.jit(lambda x: 2 * x, donate_argnums=0)
    assert 40_000 <= required_bytes(compile_within_limit(in_place, a)) < 50_000


def test_an_executable_above_the_limit_is_refused():
    x = jnp.ones(1000)  # 4000 bytes in and as many out
    assert compile_within_limit(double, x, limit=8000)(x).sum() == 2000
    with pytest.raises(MemoryLimitError, match=r"GiB of memory .* choose a smaller size"):
        compile_within_limit(double, x, limit=7999)


def test_the_default_limit_is_the_free_memory(monkeypatch):
    x = jnp.ones(1000)
    monkeypatch.setattr(memory, "available_bytes", lambda: 4000)  # the argument is there already
    compile_within_limit(double, x)
    monkeypatch.setattr(memory, "available_bytes", lambda: 3999)
    with pytest.raises(MemoryLimitError):
        compile_within_limit(double, x)
    monkeypatch.setattr(memory, "available_bytes", lambda: None)  # not every device reports it
    compile_within_limit(double, x)


class Refusing:
    """A function whose compiler gives up, as a TPU's does."""

    def __init__(self, message):
        self.message = message

    def lower(self, *args, **static):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


def test_a_compiler_that_runs_out_of_memory_is_understood_and_no_other_failure():
    with pytest.raises(MemoryLimitError, match="more memory than the device has; choose a smaller"):
        compile_within_limit(Refusing("RESOURCE_EXHAUSTED: exceeds available HBM (15.75G)"))
    with pytest.raises(MemoryLimitError, match="more memory than the device has"):
        compile_within_limit(
            Refusing("INTERNAL: Failed to determine best cudnn convolution algorithm for: ...")
        )
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compile_within_limit(Refusing("INTERNAL: a bug"))


def test_a_cpu_has_what_the_system_can_give():
    assert 2**20 < available_bytes() < psutil.virtual_memory().total


@pytest.fixture
def write_cgroup(tmp_path, monkeypatch):
    """Return a function that writes the memory files of a group; the process is in /job/step."""
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "self")
    free = SimpleNamespace(available=10_000)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)

    def write(version, group, limit, use, cached=0):
        lines = {1: "7:cpu,cpuacct:/a\n4:memory:/job/step\n0::/", 2: "0::/job/step\n"}
        (tmp_path / "self").write_text(lines[version])
        names = {
            1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
            2: ("memory.max", "memory.current", ""),
        }
        limit_name, use_name, prefix = names[version]
        folder = tmp_path / {1: "memory", 2: ""}[version] / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit_name).write_text(f"{limit}\n")
        (folder / use_name).write_text(f"{use}\n")
        stat = {"active_file": cached // 4, "inactive_file": cached - cached // 4, "shmem": 99}
        lines = [f"{prefix}{name} {value}" for name, value in stat.items()]
        (folder / "memory.stat").write_text("anon 5\n" + "\n".join(lines) + "\n")

    return write


@pytest.mark.parametrize(("version", "unlimited"), [(1, 2**63 - 4096), (2, "max")])
def test_a_container_has_what_the_smallest_limit_of_its_groups_leaves(
    write_cgroup, version, unlimited
):
    write_cgroup(version, "job/step", unlimited, 600, cached=8)
    assert available_bytes() == 10_000
    write_cgroup(version, "job", 4000, 1000, cached=400)
    assert available_bytes() == 3400
    write_cgroup(version, "job/step", 2000, 600, cached=8)
    assert available_bytes() == 1408
    write_cgroup(version, "", 500, 700)
    assert available_bytes() == 0
    with pytest.raises(MemoryLimitError, match=r"4x4 pixels need .* and 0 GiB are free"):
        check_pixels_fit((4, 4))


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_that_sees_only_its_own_group_has_that_limit(write_cgroup, version):
    """The path in /proc is the host's."""
    write_cgroup(version, "", 3000, 1000)
    assert available_bytes() == 2000


def test_without_cgroups_the_free_memory_counts(write_cgroup, tmp_path):
    assert available_bytes() == 10_000
    (tmp_path / "self").write_text("0::/../other\n")
    assert available_bytes() == 10_000


@pytest.mark.parametrize(
    ("stats", "available"),
    [({"bytes_limit": 1000, "bytes_in_use": 300}, 700), ({"bytes_in_use": 3}, None), (None, None)],
)
def test_an_accelerator_has_its_limit_less_what_is_used(monkeypatch, stats, available):
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
    empty = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 5000})
    monkeypatch.setattr(jax, "local_devices", lambda: [device, empty])
    assert available_bytes() == available


@pytest.fixture
def compiler_out_of_memory(monkeypatch):
    """Let the compiler run out of memory for everything but tiles."""

    def compile_fn(jitted, *args, limit, **static):
        if not isinstance(static.get("loss"), partial):
            jitted = Refusing("RESOURCE_EXHAUSTED: exceeds available HBM (15.75G)")
        return compile_within_limit(jitted, *args, limit=limit, **static)

    monkeypatch.setattr(caches, "compile_within_limit", compile_fn)


@pytest.mark.usefixtures("small_tiles", "compiler_out_of_memory")
def test_a_compiler_that_runs_out_of_memory_leads_to_tiles(
    job_of, styles, large, caplog, monkeypatch
):
    caplog.set_level("INFO", "nst_jax")
    job = job_of(styles[:2], **large)
    assert choose_tile(job, 1) == 32
    assert "96x72 pixels run in tiles of up to 32 pixels" in caplog.text
    monkeypatch.setattr(planning.jax, "default_backend", lambda: "tpu")
    assert planning.choose_batch_size(job) == 1


@pytest.mark.usefixtures("small_tiles")
def test_a_gpu_runs_tile_by_tile_what_cudnn_cannot_index(job_of, large, monkeypatch):
    job = job_of(**large)
    monkeypatch.setattr(planning, "MAX_GPU_ELEMENTS", 72 * 96 * 64)
    assert choose_tile(job, 1) is None
    monkeypatch.setattr(planning.jax, "default_backend", lambda: "gpu")
    assert choose_tile(job, 1) == 32
    monkeypatch.setattr(planning, "MAX_GPU_ELEMENTS", 72 * 96 * 64 + 1)
    assert choose_tile(job, 1) is None


def test_a_state_that_fits_in_no_way_is_refused_at_once(job_of, large, compilations):
    """L-BFGS remembers 10 steps and gradients."""
    job = job_of(**large | {"optimizer": "lbfgs", "memory_limit": "1.5MB"})
    with pytest.raises(MemoryLimitError, match=r"96x72 pixels need .* for the optimizer alone"):
        next(run(job))
    assert not {"jit(_run_chunk)", "jit(_style_targets)"} & set(compilations())
