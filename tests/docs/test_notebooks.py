"""The notebooks run from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    (settings,) = (cell for cell in notebook.cells if "SIZE, STEPS = 128, 30" in cell.source)
    settings.source = settings.source.replace("128, 30", "96, 4")  # sooner done
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
    assert [cell for cell in notebook.cells if "image/png" in str(cell.get("outputs"))]
