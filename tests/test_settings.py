"""Settings: their defaults, their ranges and their messages."""

import dataclasses
import math
import re

import numpy as np
import optax
import pytest

from nst_jax import PAPER, InputError, Settings
from nst_jax.apps.cli.options import describe_settings
from nst_jax.kinds import parse_bytes
from nst_jax.settings import (
    DEFAULT_EMA_DECAY,
    DEFAULT_LEARNING_RATE,
    DEFAULT_STEPS,
    ENGINE_SETTINGS,
    MACHINE_SETTINGS,
    SETTINGS,
    override,
    parse_setting,
    setting_text,
)

NAN, INF = math.nan, math.inf

INVALID = [  # settings, and what their message must contain
    ({"content_weight": -1.0}, "content_weight is -1.0; give a number from 0 to 1e+30"),
    ({"style_weight": NAN}, "style_weight is nan"),
    ({"style_weight": "much"}, "style_weight is 'much'"),
    ({"tv_weight": 1e31}, "tv_weight is 1e+31"),
    ({"content_weight": 0, "style_weight": 0}, "both 0; raise one of them"),
    ({"size": 15}, "size is 15; give a whole number of pixels from 16 to 131072"),
    ({"size": 48.5}, "size is 48.5"),
    ({"min_size": 8}, "min_size is 8"),
    ({"steps": -1}, "steps is -1; give a whole number from 0 to 1000000, or several"),
    ({"steps": ()}, "steps is ()"),
    ({"steps": (5, -3)}, "steps is (5, -3)"),
    ({"steps": "5"}, "steps is '5'"),
    ({"optimizer": "adam", "learning_rate": 0.0}, "learning_rate is 0.0; give a finite number"),
    ({"optimizer": "adam", "learning_rate": INF}, "learning_rate is inf"),
    ({"learning_rate": 0.02, "optimizer": "lbfgs"}, "learning_rate is for adam"),
    ({"learning_rate": 0.02, "optimizer": optax.sgd(0.1)}, "learning_rate is for adam"),
    ({"optimizer": "sgd"}, "optimizer is 'sgd'; give auto, lbfgs, lbfgs-pixels, adam"),
    ({"ema_decay": 1.0}, "ema_decay is 1.0; give a number from 0 to below 1"),
    ({"color_mode": "content"}, "give one of style, luminance, match, histogram"),
    ({"normalization": "raw"}, "normalization is 'raw'; give one of target_energy, none"),
    ({"pooling": "avg"}, "pooling is 'avg'; give one of max, average, scaled_average, l2"),
    ({"padding": "zero"}, "padding is 'zero'; give one of replicate, same"),
    ({"dtype": "float16"}, "dtype is 'float16'; give one of auto, float32, bfloat16"),
    ({"model": "vgg11"}, "model is 'vgg11'; give one of auto, vgg19, vgg16"),
    ({"seed": 2**32}, f"seed is {2**32}"),
    ({"content_layers": {"relu4_2": -1.0}}, "content_layers is {'relu4_2': -1.0}"),
    ({"style_layers": {"relu1_1": 1.0, "relu2_1": NAN}}, "style_layers is"),
    ({"style_layers": ["relu1_1"]}, "style_layers is ['relu1_1']; give layers with their weights"),
    ({"style_layers": {"relu1_1": 0}}, "style_layers has no layer with a weight above 0"),
    ({"content_layers": {}}, "content_layers has no layer with a weight above 0"),
    ({"style_weights": (-1.0, 2.0)}, "style_weights is (-1.0, 2.0)"),
    ({"style_weights": (0.0, 0.0)}, "at least one of them above 0"),
    ({"style_scales": (0.0,)}, "style_scales is (0.0,); give numbers above 0 and up to 10"),
    ({"mask_colors": "red", "masks": "m.png"}, "mask_colors is 'red'; give names of colors"),
    ({"mask_colors": ("red",)}, "mask_colors name the colors of a mask; give masks too"),
]

VALID = [
    {"size": 16, "min_size": 2**17, "steps": 0, "seed": 0},
    {"size": None, "min_size": None, "steps": None, "seed": 2**32 - 1},
    {"content_weight": 0, "content_layers": {}, "tv_weight": 1e30},
    {"style_weight": 0, "style_layers": {}, "memory_limit": "8GB"},
    {"optimizer": "adam", "learning_rate": 1e-6, "ema_decay": 0},
    {"learning_rate": 0.02, "ema_decay": 0.5},
    {"optimizer": "lbfgs", "ema_decay": 0.5},
    {"optimizer": optax.sgd(0.1)},
    {"style_layers": {"relu1_1": 0.0, "conv2_1": 1.0}},
    {"color_mode": "histogram", "pooling": "l2", "padding": "same", "normalization": "none"},
    {"style_weights": (0.0, 3.0), "style_scales": (10.0, 0.1)},
    {"masks": "mask.png", "mask_colors": ("red", "#00f")},
]


@pytest.mark.parametrize(("changes", "message"), INVALID, ids=lambda x: str(x)[:40])
def test_an_invalid_setting_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError) as caught:
        Settings(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", VALID, ids=lambda x: str(x)[:40])
def test_the_ends_of_the_ranges_are_valid(changes):
    settings = Settings(**changes)
    assert {name: getattr(settings, name) for name in changes} == changes


def test_values_are_converted_to_plain_types():
    settings = Settings(
        size=np.int64(48),
        steps=[np.int32(4), 2],
        style_weights=[1, 2],
        content_weight=np.float32(0.5),
        style_layers={"relu1_1": 1},
    )
    assert (settings.size, settings.steps, settings.style_weights) == (48, (4, 2), (1.0, 2.0))
    assert type(settings.size) is type(settings.steps[0]) is int
    assert type(settings.content_weight) is type(settings.style_layers["relu1_1"]) is float


def test_an_override_replaces_one_setting_and_is_checked():
    assert override(PAPER, {"steps": 3}) == dataclasses.replace(PAPER, steps=3)
    assert override(None, {}) == Settings()
    with pytest.raises(InputError, match="steps is -1"):
        override(PAPER, {"steps": -1})
    with pytest.raises(InputError, match=r"no setting 'step'; see help\(nst_jax.Settings\)"):
        override(None, {"step": 3})


def test_paper_has_the_values_of_the_paper():
    """Section Methods: content at conv4_2, style at conv1_1 … conv5_1 with w = 1/5 each, average
    pooling, from white noise, at one size."""
    assert PAPER.content_weight / PAPER.style_weight == 1e-6  # see its docstring
    assert PAPER.content_layers == {"relu4_2": 1.0}
    assert PAPER.style_layers == {f"relu{block}_1": 1 / 5 for block in range(1, 6)}
    assert (PAPER.normalization, PAPER.pooling, PAPER.padding) == ("none", "average", "same")
    assert (PAPER.init, PAPER.optimizer, PAPER.tv_weight) == ("noise", "lbfgs-pixels", 0)
    assert (PAPER.min_size, PAPER.ema_decay) == (None, 0)


@pytest.mark.parametrize(
    ("limit", "num_bytes"),
    [
        ("8GB", 8 * 10**9),
        (" 2 tib ", 2 * 2**40),
        (".5Ki", 512),
        ("1.kB", 1000),
        (123_456_789, 123_456_789),
        (999, 999),
    ],
)
def test_amounts_of_memory_are_parsed(limit, num_bytes):
    assert parse_bytes(limit) == num_bytes


@pytest.mark.parametrize(
    "limit",
    ["", "8", "GB", "-1GB", "0GB", "1e3MB", "8 GBs", "8PB", "nanGB", "9" * 400 + "GB", 0, -5],
)
def test_other_amounts_of_memory_are_refused(limit):
    with pytest.raises(InputError, match=r"memory_limit is .*; give an amount such as 8GB"):
        parse_bytes(limit)


def test_each_setting_is_described_in_its_order():
    attributes = Settings.__doc__.partition("Attributes:")[2].partition("Raises:")[0]
    assert re.findall(r"^ {8}(\w+): ", attributes, re.MULTILINE) == list(SETTINGS)
    descriptions = describe_settings()
    for name in SETTINGS:
        sentence, default = descriptions[name]
        assert (20 < len(sentence) < 200, sentence[-1]) == (True, "."), name
        assert default or name in ("terms", "term_weights"), name


def test_only_these_settings_may_differ_between_images_of_a_stylizer():
    assert set(SETTINGS) - ENGINE_SETTINGS == {
        *("size", "steps", "min_size", "content_weight", "style_weight", "tv_weight", "init"),
        *("style_weights", "style_scales", "masks", "mask_colors", "color_mode", "seed"),
        "term_weights",
    }
    assert {"devices", "memory_limit"} == MACHINE_SETTINGS < ENGINE_SETTINGS


def test_the_descriptions_have_the_defaults_that_none_stands_for():
    defaults = {name: default for name, (_, default) in describe_settings().items()}
    assert defaults["steps"] == setting_text("steps", DEFAULT_STEPS)
    assert defaults["learning_rate"] == str(DEFAULT_LEARNING_RATE)
    assert DEFAULT_EMA_DECAY == {"adam": 0.9}
    assert defaults["ema_decay"] == "0.9 with adam, 0 (no average) with any other optimizer"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "original", None),
        ("min_size", "none", None),
        ("steps", "7", 7),
        ("steps", "200, 100", (200, 100)),
        ("style_weights", "2", (2.0,)),
        ("mask_colors", "red, #00f", ("red", "#00f")),
        ("style_layers", "relu1_1:0.4, relu2_1", {"relu1_1": 0.4, "relu2_1": 1.0}),
        ("style_loss", "sliced", "sliced"),
        ("style_loss", "gram:1", {"gram": 1.0}),
        ("devices", "all", "all"),
    ],
)
def test_a_text_of_the_command_line_is_a_value(name, text, value):
    assert parse_setting(name, text) == value
    assert parse_setting(name, setting_text(name, value)) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("size", "none", "size is 'none'; give a whole number of pixels from 16 to 131072"),
        ("steps", "1,x", "steps is '1,x'; give a whole number from 0 to 1000000, or several, as"),
        ("content_weight", "", "content_weight is ''; give a number from 0 to 1e+30"),
        ("style_layers", "a:1,a", "'a:1,a' names 'a' twice; name it once"),
        ("style_layers", "a:", "style_layers is 'a:'; give layers with their weights, each from"),
    ],
)
def test_a_text_of_another_form_is_refused(name, text, message):
    with pytest.raises(InputError) as caught:
        parse_setting(name, text)
    assert message in str(caught.value)
