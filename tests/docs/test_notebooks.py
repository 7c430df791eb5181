"""The notebooks run from top to bottom."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SIZE = re.compile(r"^SIZE, STEPS = \d+, \d+$", re.MULTILINE)
SHOW = re.compile(r"^(plt\.)?show\(", re.MULTILINE)


@pytest.mark.extended
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    expected = cells_that_show(notebook)
    (settings,) = (cell for cell in notebook.cells if SIZE.search(cell.source))
    settings.source = SIZE.sub("SIZE, STEPS = 48, 3", settings.source)  # to be faster
    clear_outputs(notebook)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
    assert cells_with_images(notebook) == expected


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_stores_all_of_its_images_or_none(path):
    notebook = nbformat.read(path, as_version=4)
    assert cells_that_show(notebook)
    assert cells_with_images(notebook) in ([], cells_that_show(notebook))


def test_there_is_a_notebook():
    assert NOTEBOOKS


def cells_that_show(notebook):
    return [i for i, cell in enumerate(notebook.cells) if SHOW.search(cell.source)]


def cells_with_images(notebook):
    return [i for i, cell in enumerate(notebook.cells) if "'image/" in str(cell.get("outputs"))]


def clear_outputs(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
