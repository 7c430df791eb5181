"""The notebooks run from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SIZE = "SIZE, STEPS = 80, 10"


@pytest.mark.extended
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    (settings,) = (cell for cell in notebook.cells if SIZE in cell.source)
    settings.source = settings.source.replace(SIZE, "SIZE, STEPS = 48, 3")  # to be faster
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
    assert sum("image/png" in str(cell.get("outputs")) for cell in notebook.cells) == 5


def test_there_is_a_notebook():
    assert NOTEBOOKS
