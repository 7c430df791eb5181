"""The studio's choices as settings, and settings as a command, as Python and from an image."""

import json
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nst_jax
from nst_jax.apps.cli.main import main
from nst_jax.apps.cli.options import pop_settings
from nst_jax.apps.studio import reproduce
from nst_jax.apps.studio.choices import (
    PRESETS,
    chosen_settings,
    continued,
    control_values,
    hidden_settings,
)
from nst_jax.errors import InputError
from nst_jax.pipeline.levels import plan_levels
from nst_jax.settings import PAPER, Settings, setting_files

CHANGES = {
    "size": st.none() | st.integers(16, 4000),
    "steps": st.none() | st.integers(0, 500) | st.tuples(st.integers(0, 99), st.integers(0, 99)),
    "min_size": st.none() | st.integers(16, 400),
    "content_weight": st.floats(1e-9, 1e9),
    "style_weight": st.floats(1e-9, 1e9),
    "style_weights": st.none() | st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    "style_scales": st.none() | st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
    "content_layers": st.just({"relu3_2": 0.1234567891, "relu4_2": 1.0}),
    "color_mode": st.sampled_from(["style", "luminance", "match", "histogram"]),
    "tv_weight": st.floats(0, 10),
    "init": st.sampled_from(["content", "network", "noise", "gray", "-a b.png"]),
    "seed": st.integers(0, 2**32 - 1),
    "style_loss": st.sampled_from(["gram", "nearest", {"gram": 1.0, "sliced": 0.25}]),
    "model": st.sampled_from(["auto", "vgg16", "vgg19"]),
}
settings_of_any_kind = st.builds(Settings, **CHANGES) | st.just(PAPER)


def parse(line):
    """Return the arguments and the settings of a command, as the command line reads them."""
    words = shlex.split(line)
    assert words[:2] == ["nst-jax", "stylize"]
    context = main.commands["stylize"].make_context("stylize", words[2:])
    with context:
        options = dict(context.params)
        files = [str(options.pop("content")), *map(str, options.pop("style"))]
        return [*files, str(options["out"])], pop_settings(options)


def same(settings):
    """Settings as a command holds them: names of masks as text, names without a leading dash."""
    masks = settings.masks and [str(mask) for mask in settings.masks]
    return replace(settings, masks=masks, init=str(settings.init).removeprefix("./"))


@given(settings_of_any_kind)
def test_a_command_has_all_settings(settings):
    files, parsed = parse(reproduce.command(settings, "-p.jpg", ["a b.jpg", "$(c).png"], "o.png"))
    assert files == ["-p.jpg", "a b.jpg", "$(c).png", "o.png"]
    assert same(parsed) == settings


@given(settings_of_any_kind)
def test_a_snippet_has_all_settings(settings):
    calls = []

    class Recorder:
        def stylize(self, *arguments, **overrides):
            calls.append((*arguments, overrides))
            return self

        def save(self, path):
            calls.append(path)

    code = reproduce.snippet(settings, "p'.jpg", ["a.jpg", "b.jpg"], "o.png")
    assert code.startswith("import nst_jax\n")
    exec(code.replace("import nst_jax", ""), {"nst_jax": Recorder()})
    (content, styles, overrides), out = calls
    assert (content, styles, out) == ("p'.jpg", ["a.jpg", "b.jpg"], "o.png")
    assert replace(Settings(), **overrides) == settings


def test_a_command_names_each_mask():
    settings = Settings(masks=["m 1.png"], mask_colors=("#e6194b", "#4363d8"))
    _, parsed = parse(reproduce.command(settings, "p.jpg", ["a.jpg", "b.jpg"], "o.png"))
    assert same(parsed) == settings


@pytest.mark.parametrize("name", PRESETS)
def test_the_controls_and_the_hidden_settings_are_all_of_a_preset(name):
    preset = PRESETS[name]
    assert chosen_settings(preset, control_values(preset, 1)) == preset
    assert bool(hidden_settings(preset)) == (preset is PAPER)


def test_hidden_settings_are_named():
    base = Settings(tv_weight=0.5, min_size=None, size=100, init="noise")
    assert hidden_settings(base) == "min_size none, init noise, tv_weight 0.5"
    assert hidden_settings(Settings()) == ""


def test_equal_shares_and_strokes_of_one_are_the_default():
    values = control_values(Settings(), 3)
    assert (values["style_weights"], values["style_scales"]) == ((1, 1, 1), (1, 1, 1))
    assert chosen_settings(Settings(), values) == Settings()
    values |= {"style_weights": [1, 0.5, 0], "style_scales": [1, 2, 1]}
    settings = chosen_settings(Settings(), values)
    assert (settings.style_weights, settings.style_scales) == ((1, 0.5, 0), (1, 2, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "1,x"}, r"^steps is '1,x'; give .*$"),
        ({"steps": "1,-2"}, "^steps is"),
        ({"style_loss": "gram:x"}, r"^style_loss is 'gram:x'; give .*$"),
        ({"style_loss": "oil"}, "^style_loss is 'oil'"),
        ({"size": 3}, "^size is 3; give a whole number of pixels from 16"),
        ({"content_weight": -1.0}, "^content_weight is"),
        ({"style_weights": (0.0, 0.0)}, "^style_weights is"),
        ({"style_scales": (11.0, 1.0)}, "^style_scales is"),
        ({"style_scales": (None, 1.0)}, "^style_scales is"),
        ({"color_mode": "sepia"}, "^color_mode is"),
        ({"size": None}, "^size is empty; give it a value"),
        ({"seed": None}, "^seed is empty; give it a value"),
    ],
)
def test_a_control_out_of_range_is_named(change, message):
    values = control_values(Settings(), 2) | change
    with pytest.raises(InputError, match=message):
        chosen_settings(Settings(), values)


def test_continuing_takes_the_steps_of_the_levels_from_the_image_up():
    settings, shape = Settings(size=512), (341, 512)
    for init_size, expected in ((512, [(512, 40)]), (256, [(256, 80), (362, 60), (512, 40)])):
        planned = plan_levels(continued(settings, shape, "image.png", init_size), shape)
        assert [(max(level.shape), level.steps) for level in planned] == expected
    smaller = continued(replace(settings, size=128, steps=7), shape, "image.png", 512)
    assert (smaller.min_size, smaller.steps, smaller.init) == (128, (7,), "image.png")


SMALL = dict(size=40, steps=(3, 2), min_size=24, model="vgg16", dtype="float32", seed=7)
LAYERS = dict(style_layers={"relu1_1": 1.0}, content_layers={"relu1_2": 1.0})


@pytest.mark.usefixtures("small_photos")
def test_an_image_gives_its_settings_back():
    settings = Settings(**SMALL, **LAYERS, style_scales=(1.5,), color_mode="match")
    nst_jax.stylize("content.png", "style.png", settings).save("out.png")
    metadata = reproduce.read_settings("out.png")
    found = reproduce.parse_metadata(metadata)
    assert found == replace(settings, optimizer="lbfgs")  # what auto was
    elsewhere = metadata | {"devices": 64, "memory_limit": "1TB"}  # not of this machine
    assert reproduce.parse_metadata(elsewhere) == found


@pytest.mark.usefixtures("small_photos")
def test_a_stopped_image_is_made_again_by_what_it_says():
    settings = Settings(**{**SMALL, "steps": (6, 4)}, **LAYERS)
    stop_at = lambda progress: progress.step >= 4  # noqa: E731
    stopped = nst_jax.stylize(
        "content.png", "style.png", settings, on_progress=stop_at, callback_every=1
    )
    taken = reproduce.settings_as_stopped(stopped.metadata)
    assert taken.steps == (4, 0)
    again = nst_jax.stylize("content.png", "style.png", taken)
    assert again.image.shape == (30, 40, 3)
    smaller = nst_jax.images.resize(again.image, stopped.image.shape[:2])
    assert abs(smaller - stopped.image).mean() < 0.02
    content = nst_jax.images.resize(nst_jax.images.read("content.png").pixels, (21, 28))
    assert abs(content - stopped.image).mean() > 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "custom"}, "of its own"),
        ({"terms": ["Mine()"]}, "of its own"),
        ({"network": "HalvingCNN()"}, "of its own"),
        ({"size": "big"}, "^size is 'big'"),
        ({"style_loss": ["gram"]}, "style_loss is"),
        ({"content_layers": 3}, "^content_layers is 3"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        reproduce.parse_metadata(change)


@pytest.mark.parametrize("text", [None, "{", "[1]"])
def test_an_image_without_settings_is_refused(tmp_path, photos, text):
    path = tmp_path / "a.png"
    metadata = {} if text is None else {"nst_jax": text}
    nst_jax.images.write(path, photos["chelsea"] / 255.0, metadata=metadata)
    with pytest.raises(InputError, match=r"^image 'a\.png': .*; give .*$"):
        reproduce.read_settings(path)


def test_files_that_settings_name_are_reported():
    metadata = {"init": "image-3.png", "masks": ["mask-1.png"], "mask_colors": ["red"]}
    settings = reproduce.parse_metadata(json.loads(json.dumps(metadata)))
    assert setting_files(settings) == ["mask-1.png", "image-3.png"]
    assert setting_files(Settings()) == []
