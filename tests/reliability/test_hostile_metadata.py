"""Settings that an image of somebody else holds, and logs that nobody's job wrote."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from reliability.hostile import assert_clear, assert_each, attempt, refusal

from nst_jax import Settings, images
from nst_jax.apps.studio import reproduce
from nst_jax.apps.studio.choices import control_values, hidden_settings
from nst_jax.settings import setting_files

pytestmark = pytest.mark.usefixtures("photo_folder")

NESTED = "[" * 100_000 + "]" * 100_000
TEXTS = {
    "empty": "",
    "no JSON": "{size: 512}",
    "cut": '{"size": 51',
    "a list": "[1, 2]",
    "a number": "5",
    "null": "null",
    "NaN": "NaN",
    "nested": NESTED,
    "nested objects": '{"a":' * 50_000,
    "a nested setting": f'{{"size": {NESTED}}}',
    "a number of 5000 digits": f'{{"size": {"9" * 5000}}}',
    "a number beyond floats": '{"content_weight": 1e999}',
    "no text": "\udcff".encode("utf-8", "backslashreplace").decode(),
    "control characters": '{"color_mode": "\\u001b[31m\\n"}',
    "a key twice": '{"size": 16, "size": -1}',
    "1 MB": json.dumps({"content": "x" * 1_000_000}),
    "1 MB of a setting": json.dumps({"color_mode": "x" * 1_000_000}),
    "100 000 unknown keys": json.dumps({f"key{i}": i for i in range(100_000)}),
    "100 000 steps": json.dumps({"steps": [1] * 100_000}),
    "unknown keys": '{"__class__": 1, "self": 2, "terms": null, "weights": "/etc/passwd"}',
    "a path": '{"init": "/etc/passwd", "masks": ["../../secret.png"]}',
    "code": '{"terms": ["os.system()"]}',
    "an optimizer of its own": '{"optimizer": "custom"}',
    "stopped without levels": '{"stopped": true}',
    "stopped with false levels": '{"stopped": true, "levels": [1], "width": 2, "height": 3}',
}
NAMES = [*Settings.__dataclass_fields__, "stopped", "levels", "width", "steps_done", "unknown"]
JUNK = (
    *(None, True, 0, -1, 0.5, 10**20, 10**400, 1e308, "", "abc", "1", "\x1b[31m\n", "x" * 10_000),
    *([], {}, [None], [[]], [{}], {"a": None}, {"": ""}, {"relu1_1": "x"}, {"gram": "1"}),
    *({"gram": 10**400}, [10**400], ["a", 1], {"relu1_1": None}, {"relu1_1": [1]}, float("nan")),
)


def write_settings(text, path="bad.png"):
    info = PngInfo()
    info.add_itxt("nst_jax", text, zip=True)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)


def use(metadata):
    """Do what the studio does with the settings of an image."""
    settings = reproduce.parse_metadata(metadata)
    assert all(isinstance(name, str) for name in setting_files(settings))
    assert isinstance(hidden_settings(settings), str)
    control_values(settings, 2)
    reproduce.command(settings, "a.png", ["b.png"], "out.png")
    reproduce.snippet(settings, "a.png", ["b.png"], "out.png")
    reproduce.settings_as_stopped(metadata)


@pytest.mark.parametrize("name", TEXTS)
def test_settings_inside_an_image_are_used_or_refused_in_one_line(name):
    write_settings(TEXTS[name])
    refusal(lambda: use(reproduce.read_settings("bad.png")))


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_inside_an_image_is_used_or_refused_in_one_line(name):
    assert_each(lambda value: refusal(use, {name: value}), JUNK)


@pytest.mark.parametrize("name", TEXTS)
def test_an_exif_description_is_read_or_ignored(name):
    text = TEXTS[name][:60_000]
    exif = Image.Exif()
    exif[0x010E] = text
    Image.new("RGB", (4, 4)).save("bad.jpg", exif=exif)
    assert isinstance(images.read_metadata("bad.jpg"), dict)


ROWS = {
    "empty": b"",
    "a line end": b"\n",
    "no JSON": b"{step: 1}\n",
    "bytes": b"\xff\xfe\x00\n{}\n",
    "nested": NESTED.encode() + b"\n{}\n",
    "nested in the last line": b'{"step": 1, "total": 1}\n' + NESTED.encode(),
    "no losses": b'{"step": 1}\n\n',
    "null": b'{"step": 1, "total": null}\n\n',
    "text": b'{"step": "1", "total": "2"}\n\n',
    "lists": b'{"step": 1, "total": [1]}\n\n',
    "a huge integer": b'{"step": 1, "total": ' + b"9" * 400 + b"}\n\n",
    "5000 digits": b'{"step": 1, "total": ' + b"9" * 5000 + b"}\n\n",
    "infinite": b'{"step": 1, "total": 1e999}\n',
    "NaN": b'{"step": 1, "total": NaN}\n',
    "negative": b'{"step": -1, "total": -5}\n',
    "extreme": b'{"step": 1, "total": 1e308}\n{"step": 2, "total": 1e-308}\n',
    "a subnormal number": b'{"step": 1, "total": 5e-324}\n',
    "an infinite size": b'{"step": 1, "total": 1, "size": 1e999}\n' * 2,
    "other columns in each row": b'{"step": 1, "total": 1, "a": 1}\n{"step": 2, "total": 1}\n',
    "a column of control characters": b'{"step": 1, "total": 1, "style/\\u001b\\n$\\\\x": 1}\n',
    "TeX": b'{"step": 1, "total": 1, "content/$\\\\frac{": 1}\n',
    "5000 columns": json.dumps(
        {"step": 1, "total": 1} | {f"c{i}": i for i in range(5000)}
    ).encode(),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_log_is_plotted_or_refused_in_one_line(name, photo_folder):
    (photo_folder / "log").write_bytes(ROWS[name])
    assert_clear(attempt("plot", "log", "-o", "plot.png"))
