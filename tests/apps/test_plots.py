"""Plots of losses, and the logs that they can be drawn from."""

import json
import os
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from nst_jax.apps.plots import check_output_path, plot_losses, read_log
from nst_jax.errors import InputError

TERMS = ("total", "content", "content/relu4_2", "style", "style/relu1_1", "style/relu5_1")


def history(num_steps=30, **columns):
    """Losses that fall, with all terms at each step."""
    steps = np.arange(1, num_steps + 1)
    losses = {name: (i + 1) * 10.0 ** (-steps / 20) for i, name in enumerate(TERMS)}
    return {"step": steps, **losses, "tv": np.full(num_steps, 0.1), **columns}


@pytest.fixture
def plotted(monkeypatch, tmp_path):
    """Return a function that plots a history and returns the axes."""
    figures, save = [], Figure.savefig
    spy = lambda self, *args, **options: figures.append(self) or save(self, *args, **options)  # noqa: E731
    monkeypatch.setattr(Figure, "savefig", spy)

    def plot(history):
        plot_losses(history, tmp_path / "plot.png")
        return figures[-1].axes[0]

    return plot


def test_lines_are_the_losses_and_layers_are_thinner(plotted):
    losses = history()
    axes = plotted(losses)
    lines = dict(zip(TERMS, axes.lines, strict=True))
    assert axes.get_yscale() == "log"
    for name, line in lines.items():
        np.testing.assert_array_equal(line.get_xdata(), losses["step"])
        np.testing.assert_array_equal(line.get_ydata(), losses[name])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["total", "content", "style"]
    for layer in ("style/relu1_1", "style/relu5_1"):
        assert lines[layer].get_color() == lines["style"].get_color()
        assert lines[layer].get_linewidth() < lines["style"].get_linewidth()


def test_own_terms_are_lines_of_colors_of_their_own(plotted):
    axes = plotted(history(10, temporal=np.ones(10), mean_color=np.ones(10)))
    colors = {line.get_label(): line.get_color() for line in axes.lines if line.get_linewidth() > 1}
    assert list(colors) == ["total", "content", "style", "temporal", "mean_color"]
    assert len(set(colors.values())) == 5


def test_values_that_a_logarithm_lacks_are_bridged(plotted):
    values = np.ones(10)
    values[[0, 4, 5, 7]] = 0, np.inf, np.nan, -1
    axes = plotted(history(10, content=values, style=np.zeros(10)))
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["content"].get_xdata(), [2, 3, 4, 7, 9, 10])
    assert "style" not in lines


def test_a_dotted_line_marks_each_level(plotted):
    axes = plotted(history(30, size=np.repeat([64, 128], [10, 20])))
    dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == [0.5, 10.5]
    assert [text.get_text() for text in axes.texts] == ["64 px", "128 px"]
    assert not plotted(history(30, size=np.full(30, 64))).texts


def test_a_single_step_is_a_point_and_zeros_are_nothing(plotted, recwarn):
    assert {line.get_marker() for line in plotted(history(1)).lines} == {"."}
    assert not plotted({"step": np.ones(1), "total": np.zeros(1)}).lines
    assert not [warning for warning in recwarn if warning.category is UserWarning]


def test_the_extension_decides_the_format(tmp_path):
    signatures = {"a.png": b"\x89PNG", "a.JPG": b"\xff\xd8", "a.svg": b"<?xml", "a.pdf": b"%PDF"}
    for name, signature in signatures.items():
        plot_losses(history(4), str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(signature)


@pytest.mark.parametrize("name", ["plot.gif", "plot", "none/plot.png", "folder.png"])
def test_a_path_that_cannot_be_written_is_refused_before_the_plot(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    for refuse in (check_output_path, lambda path: plot_losses({}, path)):
        with pytest.raises(InputError, match=r"^plot '.*$"):
            refuse(tmp_path / name)


def test_an_empty_history_and_a_missing_matplotlib_are_refused(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="no steps to plot"):
        plot_losses({}, tmp_path / "plot.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install \"nst-jax\[plot\]\""):
        check_output_path(tmp_path / "plot.png")


ROWS = [
    {"step": 1, "total": 3.0, "style": 2.5, "size": 64},
    {"step": 2, "total": 2.0, "size": 64},
    {"step": 3, "total": 1.0, "style": 0.5, "size": 64, "seconds": 3.25},
]
LOG = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def test_a_log_is_read_as_columns_with_nan_for_missing_terms(tmp_path):
    (tmp_path / "log").write_bytes(LOG)
    read = read_log(tmp_path / "log")
    assert list(read) == list(ROWS[-1])
    for name, values in read.items():
        np.testing.assert_array_equal(values, [row.get(name, np.nan) for row in ROWS])


def test_a_log_may_end_anywhere(tmp_path):
    path = tmp_path / "log"
    for end in range(len(LOG) + 1):
        path.write_bytes(LOG[:end])
        if num_rows := LOG[:end].count(b"}"):
            assert len(read_log(str(path))["total"]) == num_rows
        else:
            with pytest.raises(InputError, match="has no steps"):
                read_log(path)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"loss 0.5", b'{"step": 2, "tot', b"[1, 2]", b"\x89PNG\r"),
        *(b'{"step": 2}', b'{"total": 0.5}', b'{"step": "2", "total": 0.5}'),
        *(b'{"step": 2, "total": null}', b'{"step": true, "total": 0.5}'),
        b'{"step": 2, "total": 1' + b"0" * 400 + b"}",
    ],
)
def test_a_line_without_losses_is_named(tmp_path, line):
    (tmp_path / "log").write_bytes(LOG.replace(b"\n", b"\n" + line + b"\n", 1))
    with pytest.raises(InputError, match=r"^log '.*log': line 2 has no losses; .*$"):
        read_log(tmp_path / "log")


def test_a_log_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):  # reading the pipe would never end
        with pytest.raises(InputError, match="is a folder, pipe or device"):
            read_log(path)
