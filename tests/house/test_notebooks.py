"""The notebooks of `examples/notebooks`: every cell, by Jupyter's own client and kernel, in an empty folder."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from pages import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call,no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    book = read(path)
    NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()  # fmt: skip
    shown = {cell.id: outputs for cell in book.cells if (outputs := cell.get("outputs"))}
    assert shown, "a notebook that shows nothing"
    assert ANSWERS[path.stem](book), shown


def last_text(book: nbformat.NotebookNode) -> str:
    """What the last cell with code shows."""
    (*_, cell) = (cell for cell in book.cells if cell.cell_type == "code")
    return "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


# What a reader shall see in the end: tables for other tools, a store without problems, a refusal with its setting.
ANSWERS = {
    "analysis-session": lambda book: "cells.parquet" in last_text(book),
    "own-tiles": lambda book: last_text(book).rstrip().endswith("[]"),
    "own-model": lambda book: "sigma_px: stored 4.0, now 9.0" in last_text(book),
}


def test_each_is_checked() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(ANSWERS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_holds_no_output(path: Path) -> None:
    """Outputs name folders and times of the machine that made them, and turn every run into a change."""
    for cell in read(path).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
