import dataclasses
import math

import optax
import pytest

import nst_jax
from nst_jax import PAPER, InputError, Settings
from nst_jax.pipeline.api import stylize

NAN, INF = math.nan, math.inf

INVALID = [  # what is given, and what its message must name
    ({"content_weight": -1.0}, "content_weight is -1.0"),
    ({"content_weight": NAN}, "content_weight is nan"),
    ({"content_weight": INF}, "content_weight is inf"),
    ({"style_weight": -0.5}, "style_weight is -0.5"),
    ({"style_weight": NAN}, "style_weight is nan"),
    ({"style_weight": 1e31}, "style_weight is 1e+31"),
    ({"tv": -1e-9}, "tv is -1e-09"),
    ({"tv": NAN}, "tv is nan"),
    ({"content_weight": 0, "style_weight": 0}, "both 0"),
    ({"size": 15}, "size is 15"),
    ({"size": 0}, "size is 0"),
    ({"size": -512}, "size is -512"),
    ({"steps": -1}, "steps is -1"),
    ({"optimizer": "adam", "lr": 0.0}, "lr is 0.0"),
    ({"optimizer": "adam", "lr": -0.02}, "lr is -0.02"),
    ({"optimizer": "adam", "lr": NAN}, "lr is nan"),
    ({"optimizer": "adam", "lr": INF}, "lr is inf"),
    ({"lr": 0.02}, "lr is Adam's"),
    ({"lr": 0.02, "optimizer": optax.sgd(0.1)}, "lr is Adam's"),
    ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
    ({"color": "content"}, "color is 'content'; choose one of style, luminance, match, histogram"),
    ({"form": "raw"}, "form is 'raw'"),
    ({"pooling": "avg"}, "pooling is 'avg'"),
    ({"padding": "zero"}, "padding is 'zero'"),
    ({"dtype": "float16"}, "dtype is 'float16'"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**32}, f"seed is {2**32}"),
    ({"content_layers": {"relu4_2": -1.0}}, "content_layers: relu4_2 has weight -1.0"),
    ({"style_layers": {"relu1_1": 1.0, "relu2_1": NAN}}, "style_layers: relu2_1 has weight nan"),
    ({"style_layers": {"relu1_1": INF}}, "style_layers: relu1_1 has weight inf"),
]

EDGES = [
    {"size": 16},
    {"size": None},
    {"steps": 0},
    {"content_weight": 0},
    {"style_weight": 0},
    {"tv": 1.0},
    {"color": "histogram"},
    {"seed": 0},
    {"seed": 2**32 - 1},
    {"optimizer": "adam", "lr": 1e-6},
    {"optimizer": "adam"},
    {"optimizer": optax.sgd(0.1)},
    {"style_layers": {"relu1_1": 0.0, "conv2_1": 1.0}},
    {"pooling": "l2", "padding": "same", "form": "paper", "dtype": "bfloat16"},
]


@pytest.mark.parametrize(("changes", "message"), INVALID, ids=lambda x: str(x)[:40])
def test_an_invalid_setting_is_one_clear_line(changes, message):
    with pytest.raises(InputError) as caught:
        Settings(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", EDGES)
def test_the_ends_of_the_ranges_are_valid(changes):
    made = Settings(**changes)
    assert {name: getattr(made, name) for name in changes} == changes


def test_a_change_to_settings_is_checked_too():
    with pytest.raises(InputError, match="steps is -1"):
        dataclasses.replace(PAPER, steps=-1)


def test_defaults_are_the_documented_ones():
    made = Settings()
    assert (made.size, made.steps, made.optimizer, made.init) == (512, None, "lbfgs", "content")
    assert (made.form, made.pooling, made.padding) == ("relative", "max", "replicate")
    assert made.color == "style"
    assert (made.model, made.dtype, made.weights, made.lr) == ("auto", "auto", None, None)
    assert list(made.content_layers) == ["relu4_2"]
    assert list(made.style_layers) == [f"relu{block}_1" for block in range(1, 6)]
    assert math.isclose(sum(made.style_layers.values()), 1)


def test_settings_are_not_shared_and_cannot_be_changed():
    assert Settings().style_layers is not Settings().style_layers
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().steps = 3
    with pytest.raises(TypeError):
        Settings(256)


def test_paper_holds_the_papers_values():
    """Section Methods: content at conv4_2, style at conv1_1 … conv5_1 with w = 1/5 each, average
    pooling, α/β = 1e-3, from white noise."""
    assert PAPER.content_weight / PAPER.style_weight == 1e-6  # see its docstring
    assert PAPER.content_layers == {"relu4_2": 1.0}
    assert PAPER.style_layers == {f"relu{block}_1": 1 / 5 for block in range(1, 6)}
    assert (PAPER.form, PAPER.pooling, PAPER.padding) == ("paper", "average", "same")
    assert (PAPER.init, PAPER.optimizer, PAPER.tv) == ("noise", "lbfgs", 0)


@pytest.mark.parametrize("settings", [Settings(), PAPER], ids=["default", "paper"])
def test_both_presets_make_a_picture(face, cat, settings):
    result = stylize(face, cat, settings, size=32, steps=2, model="vgg16")
    assert result.image.shape == (26, 32, 3)
    assert result.history[-1]["total"] < result.history[0]["total"]
    assert result.settings["steps_done"] == 2


def test_an_unknown_setting_is_named():
    with pytest.raises(InputError, match="no setting 'step'"):
        nst_jax.stylize("a.png", "b.png", step=3)
