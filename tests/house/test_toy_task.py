"""A kind of cohort and a task of its own, added by rows of the tables alone, go from ingest to report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr
from stores import annotate as store_masks

import fintune_xr as fx
from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Section, Table
from fintune_xr.cohort_kinds import KINDS, CohortKind
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.report.report import SECTIONS
from fintune_xr.pipelines.steps.evaluate import score_table
from fintune_xr.pipelines.task_parts.requests import AnnotateRequest, EvaluateRequest, Export, ExportRequest
from fintune_xr.pipelines.tasks import STEPS
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.instance import MASKS
from fintune_xr.tasks.registry import TASKS
from fintune_xr.tasks.task import Task

TOY = CohortKind("toy", "weighing", datasets.IMAGES, about="to be weighed", annotated="weights", offers="Weigh it.")


def _annotate(cohort: Cohort, source: Path, request: AnnotateRequest) -> SimpleNamespace:
    """Every tile that `source` lists has a mask of one pixel for each unit of its weight."""
    assert not request.restart
    weights = pd.read_csv(source).set_index("tile")["weight"]
    masks = {
        tile: np.pad(np.ones((1, weight), np.uint32), ((0, 15), (0, 16 - weight))) for tile, weight in weights.items()
    }
    store_masks(cohort, masks)
    return SimpleNamespace(n_added=len(masks), n_present=0, left_out=())


def _evaluate(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    mask = cohort.annotations(lazy=False)[n.MASK].load()
    return xr.Dataset({"weight": mask.sum((n.Y, n.X)).reset_coords(drop=True)}, attrs={"part": request.split})


def _write(cohort: Cohort, request: ExportRequest) -> list[Path]:
    path = request.out / "weights.txt"
    path.parent.mkdir()
    path.write_text(" ".join(cohort.annotated_tiles()))
    return [path]


def _exports() -> Mapping[str, Export]:
    return {"weights": Export("tiles that were weighed", _write)}


def _sections(cohort: Cohort, baseline: str) -> tuple[Section, ...]:
    frame = cohort.metrics("all").load()["weight"].to_dataframe().reset_index()
    found = Note(f"They weigh {frame['weight'].sum()} in all.")
    return (Section("weights", "What they weigh", (Table("weights", "Weights", frame),), findings=(found,)),)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = SimpleNamespace(
        annotate=_annotate, evaluate=_evaluate, exports=_exports, score_lines=lambda _: [],
        score_table=lambda scores: scores["weight"].to_dataframe(),
    )  # fmt: skip
    monkeypatch.setitem(KINDS, "toy", TOY)
    monkeypatch.setitem(TASKS, "weighing", Task("weighing", MASKS, source="WEIGHTS", array=n.MASK))
    monkeypatch.setitem(STEPS, "weighing", steps)
    monkeypatch.setitem(SECTIONS, "weighing", _sections)


@pytest.mark.usefixtures("toy")
def test_a_task_is_rows_of_tables(tmp_path: Path) -> None:
    for tile in ("a", "b"):
        for channel in (0, 1):
            path = tmp_path / "raw" / "d1" / "GFAP" / f"{tile}_b0c{channel}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, np.full((16, 16), ord(tile) + channel, np.uint16))
    store = tmp_path / "c.zarr"
    assert fx.ingest(tmp_path / "raw", store, kind="toy").n_added == 2
    tiles = [str(tile) for tile in fx.open_cohort(store).images(lazy=False)[n.TILE].values]
    listed = tmp_path / "weights.csv"
    pd.DataFrame({"tile": tiles, "weight": [3, 5]}).to_csv(listed, index=False)
    assert fx.annotate(listed, store).n_added == 2
    scores = fx.evaluate(store, split="all")
    assert scores.attrs[n.TASK] == "weighing"
    assert score_table(scores)["weight"].tolist() == [3, 5]
    assert fx.export(store, to="weights", out=tmp_path / "out")[0].read_text() == " ".join(tiles)
    with pytest.raises(FintuneValueError, match=r"expected a cohort .* of kind 'toy', whose annotations are weights"):
        fx.export(store, to="star", out=tmp_path / "out")
    with pytest.raises(FintuneValueError, match=r"pick: expected .* Weigh it"):
        fx.pick(store, run="r")
    page = fx.report(store, out=tmp_path / "r.html").read_text()
    assert "They weigh 8 in all." in page
    assert pd.read_csv(tmp_path / "r_tables" / "weights.tsv", sep="\t")["weight"].sum() == 8
    assert fx.check(store) == []
