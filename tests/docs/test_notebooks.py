"""The notebooks run from top to bottom, with small images, few steps and shallow networks."""

import re
from pathlib import Path

import nbformat
import pytest
import shallow
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICKSTART = FOLDER / "quickstart.ipynb"
SHALLOW = f"""
{shallow.PATCH}
from nst_jax.networks import prepare
prepare.WINOGRAD_MIN_CHANNELS = 512
"""
SIZE = re.compile(r"^SIZE, STEPS = \d+, \d+$", re.MULTILINE)
GRID = re.compile(r"^ratios = \[.*\]", re.MULTILINE)
SHOW = re.compile(r"^(plt\.)?show\(", re.MULTILINE)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(QUICKSTART, marks=pytest.mark.extended),
        *(
            pytest.param(path, marks=pytest.mark.campaign)
            for path in NOTEBOOKS
            if path != QUICKSTART
        ),
    ],
    ids=lambda path: path.name,
)
def test_a_notebook_runs(path, monkeypatch):
    if path.stem == "research":  # It computes enough for the compiler's optimizations.
        monkeypatch.delenv("XLA_FLAGS")
    notebook = nbformat.read(path, as_version=4)
    expected = cells_that_show(notebook)
    (settings,) = (cell for cell in notebook.cells if SIZE.search(cell.source))
    settings.source = SIZE.sub("SIZE, STEPS = 48, 3", settings.source)
    for cell in notebook.cells:
        cell.source = GRID.sub("ratios = [1e-8, 1e-5]", cell.source)
    clear_outputs(notebook)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHALLOW))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
    del notebook.cells[0]
    assert cells_with_images(notebook) == expected


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_stores_all_of_its_images_or_none(path):
    notebook = nbformat.read(path, as_version=4)
    assert cells_that_show(notebook)
    assert cells_with_images(notebook) in ([], cells_that_show(notebook))


def test_the_quickstart_exists():
    assert QUICKSTART in NOTEBOOKS


def cells_that_show(notebook):
    return [i for i, cell in enumerate(notebook.cells) if SHOW.search(cell.source)]


def cells_with_images(notebook):
    return [i for i, cell in enumerate(notebook.cells) if "'image/" in str(cell.get("outputs"))]


def clear_outputs(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
