"""Diagrams of losses, and the traces that they can be drawn from."""

import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nst_jax.apps.plots import check_output, plot_losses, read_trace
from nst_jax.errors import InputError

PARTS = ("content", "content/relu4_2", "style", "style/relu1_1", "style/relu5_1")


def entry(step, **more):
    """A step as a first-order optimizer leaves it, with all parts."""
    parts = {name: (i + 2) * 10.0 ** (-step / 20) for i, name in enumerate(PARTS)}
    return {"step": step, "total": 10.0 ** (-step / 20), **parts, "tv": 0.1, **more}


def sparse(step):
    """A step as a line search leaves it, with parts now and then."""
    return entry(step) if step % 10 == 1 else {"step": step, "total": 1 / step}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw a history; return the axes and the legend's names."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )

    def draw(history):
        plot_losses(history, tmp_path / "plot.png")
        (axes,) = figures[-1].axes
        return axes, [text.get_text() for text in axes.get_legend().get_texts()]

    return draw


def lines(axes, name):
    """The data of the lines of a name's look: of all scales."""
    (named,) = [line for line in axes.lines if line.get_label() == name]
    same = [line for line in axes.lines if line.get_color() == named.get_color()]
    return [line.get_xydata() for line in same]


# --- the diagram ---------------------------------------------------------------------------------


def test_lines_are_the_history(drawn):
    history = [entry(step) for step in range(1, 31)]
    axes, names = drawn(history)
    assert set(names) == {"total", *PARTS}
    assert axes.get_yscale() == "log"
    for name in names:
        (points,) = lines(axes, name)
        np.testing.assert_allclose(points, [(e["step"], e[name]) for e in history])


def test_layers_are_thin_and_shaded(drawn):
    axes, _ = drawn([entry(step) for step in range(1, 31)])
    by_name = {line.get_label(): line for line in axes.lines}
    widths = {name: line.get_linewidth() for name, line in by_name.items()}
    assert max(widths[f"style/relu{i}_1"] for i in (1, 5)) < min(widths["style"], widths["total"])
    shades = {tuple(np.ravel(line.get_color())) for line in by_name.values()}
    assert len(shades) == len(by_name)


def test_entries_without_parts_are_passed_over(drawn):
    axes, _ = drawn([sparse(step) for step in range(1, 35)])
    (total,) = lines(axes, "total")
    assert len(total) == 34
    (style,) = lines(axes, "style")
    np.testing.assert_array_equal(style[:, 0], [1, 11, 21, 31])
    markers = {line.get_label(): line.get_marker() for line in axes.lines}
    assert markers["style"] == "."
    assert markers["total"] == ""


@pytest.mark.parametrize("anew", [False, True])
def test_every_scale_begins_a_line(drawn, anew):
    """Whether or not its steps begin at 1 again."""
    history = [entry(step, size=64) for step in range(1, 11)]
    history += [entry(step if anew else step + 10, size=128.0) for step in range(1, 21)]
    axes, names = drawn(history)
    assert len(names) == len(set(names))
    first, second = lines(axes, "total")
    np.testing.assert_array_equal(first[:, 0], range(1, 11))
    np.testing.assert_array_equal(second[:, 0], range(11, 31))
    marks = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert marks == [0.5, 10.5]
    assert [text.get_text() for text in axes.texts] == ["64 px", "128 px"]


def test_what_a_logarithm_has_not_is_left_out(drawn):
    history = [entry(step) for step in range(1, 11)]
    history[0]["content"] = 0.0
    history[5]["content"] = float("inf")
    history[7]["content"] = float("nan")
    for e in history:
        e["style"] = 0.0
    axes, names = drawn(history)
    (content,) = lines(axes, "content")
    np.testing.assert_array_equal(content[:, 0], [2, 3, 4, 5, 7, 9, 10])
    assert "style" not in names


def test_a_single_step_is_seen(drawn):
    axes, _ = drawn([entry(1)])
    assert {line.get_marker() for line in axes.lines} == {"."}


def test_nothing_but_zeros_is_an_empty_diagram(tmp_path):
    plot_losses([{"step": 1, "total": 0.0}], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "magic"),
    [("a.png", b"\x89PNG"), ("a.JPG", b"\xff\xd8"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")],
)
def test_the_extension_names_the_format(tmp_path, name, magic):
    plot_losses([entry(step) for step in range(1, 5)], str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_the_file_shows_something(tmp_path):
    plot_losses([entry(step) for step in range(1, 31)], tmp_path / "plot.png")
    red, green, blue = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"), int).T
    assert 0.8 < ((red == 255) & (green == 255) & (blue == 255)).mean() < 0.99
    assert ((red > green + 80) & (red > blue + 80)).sum() > 1000  # the style
    assert ((blue > red + 80) & (blue > green + 30)).sum() > 1000  # the content
    assert ((red + green + blue) < 60).sum() > 1000  # the total


# --- what cannot be drawn ------------------------------------------------------------------------


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for refused in (check_output, lambda path: plot_losses([entry(1)], path)):
        with pytest.raises(InputError, match=r"nst-jax\[plot\]"):
            refused(tmp_path / "plot.png")


def test_neither_matplotlib_nor_jax_is_imported_before_they_are_needed():
    code = "import sys, nst_jax.plots; assert not {'jax', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["plot.gif", "plot", "none/plot.png", "folder.png"])
def test_a_file_that_cannot_be_written_is_refused_beforehand(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    for refused in (check_output, lambda path: plot_losses([entry(1)], path)):
        with pytest.raises(InputError, match="plot '") as excinfo:
            refused(tmp_path / name)
        assert "\n" not in str(excinfo.value)


def test_a_history_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no steps"):
        plot_losses([], tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


# --- traces --------------------------------------------------------------------------------------


def written(history):
    return "".join(json.dumps(e) + "\n" for e in history).encode()


def test_a_trace_is_read_as_the_history_was(tmp_path):
    path = tmp_path / "trace.jsonl"
    history = [sparse(step) for step in range(1, 25)]
    history[-1]["seconds"] = 3.25
    path.write_bytes(written(history))
    assert read_trace(path) == history
    assert read_trace(str(path)) == history


def test_a_trace_may_end_anywhere(tmp_path):
    path = tmp_path / "trace.jsonl"
    history = [sparse(step) for step in range(9, 12)]
    whole = written(history)
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        complete = whole[:end].count(b"}")
        if complete:
            assert read_trace(path) == history[:complete]
        else:
            with pytest.raises(InputError, match="holds no step"):
                read_trace(path)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"loss 0.5",
        b'{"step": 2, "tot',
        b"[1, 2]",
        b'{"step": 2}',
        b'{"total": 0.5}',
        b'{"step": "2", "total": 0.5}',
        b'{"step": 2, "total": null}',
        b'{"step": true, "total": 0.5}',
        b'{"step": 2, "total": 0.5, "style": "high"}',
        b"\x89PNG\r",
    ],
)
def test_a_line_that_is_no_entry_is_named(tmp_path, line):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(written([entry(1)]) + line + b"\n" + written([entry(3)]))
    with pytest.raises(InputError, match=r"trace\.jsonl': line 2 is no entry") as excinfo:
        read_trace(path)
    assert "\n" not in str(excinfo.value)


def test_a_picture_is_no_trace(tmp_path):
    path = tmp_path / "picture.png"
    Image.effect_noise((64, 64), 50).save(path)
    with pytest.raises(InputError, match="no entry of losses"):
        read_trace(path)


def test_a_trace_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InputError, match="cannot be read"):
            read_trace(path)
