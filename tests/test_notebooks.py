"""The notebooks run from top to bottom, as they are stored: without output."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "examples" / "notebooks").glob("*.ipynb"))
LARGEST = 200_000  # bytes


def read(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install nbformat")
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_output(path: Path) -> None:
    assert path.stat().st_size < LARGEST
    for cell in read(path).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, to import torch once; each begins with no names and in a folder of its own."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS[0].parents[2]))
    every = nbformat.v4.new_notebook()
    for path in NOTEBOOKS:
        folder = tmp_path / path.stem
        folder.mkdir()
        every.cells += [nbformat.v4.new_code_cell("%reset -f"), nbformat.v4.new_code_cell(f"%cd -q {folder}")]
        every.cells += read(path).cells
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that start the kernel
        nbclient.NotebookClient(every, timeout=300, kernel_name="python3").execute()
    outputs = [output.get("data", {}) for cell in every.cells for output in cell.get("outputs", [])]
    shown = [data["text/html"] for data in outputs if "text/html" in data]
    assert len(shown) == 8
    assert all(page.startswith("<iframe") for page in shown)
