"""The scripts that take a step apart and compare choices."""

import sys

import jax
import pytest
from lazy import Lazy

pytestmark = pytest.mark.extended
ablations, profile_step = Lazy("ablations"), Lazy("profile_step")


def test_a_profile_has_parts_stages_and_convolutions(monkeypatch, capsys):
    def milliseconds(profile, function, *args):
        jax.eval_shape(function, *args)
        return 2.0

    monkeypatch.setattr(profile_step.Profile, "time", milliseconds)
    monkeypatch.setattr(sys, "argv", ["", "--size", "32", "--batch", "2", "--repeats", "1"])
    profile_step.main()
    text = capsys.readouterr().out
    assert "| network, forward | 2 |" in text
    assert "| optimizer and loop | " in text
    assert "| relu5_1 | 2 | 0 | 2 | 0 |" in text
    assert "| conv3_2 (and 2 more) | 2 |" in text


def test_ablations_print_a_table_each(monkeypatch, capsys, pair):
    monkeypatch.setattr(ablations, "milliseconds", lambda *args: jax.eval_shape(*args).ndim)
    monkeypatch.setattr(ablations, "minimize", lambda *args: 0.5)
    monkeypatch.setattr(ablations, "STYLES", ("ink",))
    monkeypatch.setattr(ablations, "read_photos", lambda: [255 * pair[0]])
    words = ["--size", "32", "--only", "convolution_gradient", "ranges", "pooling"]
    monkeypatch.setattr(sys, "argv", ["ablations.py", *words])
    ablations.main()
    text = capsys.readouterr().out
    assert "| nst_jax | 3 | 3 |" in text
    assert "| ink on the cat | 0.50000 | 0.50000 | 0.50000 |" in text
    assert "| l2 | 1." in text
