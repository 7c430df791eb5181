"""What the doctor finds, and what it advises."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import shallow
from apps.helpers import call

from nst_jax.apps.cli import doctor
from nst_jax.settings import Settings


def test_the_doctor_reports_the_machine_and_a_test(monkeypatch, tmp_path):
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "SIZE", 32)
    for setting, layers in shallow.LAYERS.items():
        monkeypatch.setitem(Settings.__init__.__kwdefaults__, setting, layers)
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "program").write_bytes(bytes(3 * 2**20))
    result = call("doctor")
    assert result.exit_code == 0, result.output
    facts = dict(line.split(":", 1) for line in result.stdout.splitlines())
    assert f"jax {jax.__version__}" in facts["packages"]
    assert "8 × cpu (cpu)" in facts["devices"]
    assert "vgg16.safetensors" in facts["VGG16"]
    assert "weights fetch vgg19" in facts["VGG19"]
    assert "3 MiB of programs" in facts["compiled"]
    assert "10 steps of 32x32 pixels" in facts["test"]


def test_a_loss_that_does_not_fall_is_an_error(monkeypatch):
    monkeypatch.setattr(doctor, "smoke_test", lambda: (1.0, 2.0, float("nan")))
    result = call("doctor")
    assert result.exit_code == 2
    assert result.stderr == "error: the loss did not fall; please report this output\n"


def test_an_accelerator_that_jax_does_not_use_gets_advice(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert 'pip install "jax[cuda12]"' in doctor.accelerator_advice("cpu")
    assert doctor.accelerator_advice("gpu") is None
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/accel0")
    assert 'pip install "jax[tpu]"' in doctor.accelerator_advice("cpu")
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert doctor.accelerator_advice("cpu") is None


@pytest.mark.parametrize(("dtype", "word"), [("bfloat16", "faster"), ("float32", "does not")])
def test_the_reason_of_the_precision(dtype, word):
    text = doctor.describe_dtype(SimpleNamespace(platform="gpu"), dtype)
    assert text.startswith(f"{dtype}, because this GPU")
    assert word in text
