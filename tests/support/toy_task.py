"""A task that no cohort has, as rows of the tables: tiles are weighed, by their bright pixels."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from stores import annotate as store_masks

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Section, Table
from fintune_xr.cohort_kinds import KINDS, CohortKind
from fintune_xr.models import registry
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.protocol import Maps, Plane
from fintune_xr.pipelines.report.report import SECTIONS
from fintune_xr.pipelines.task_parts.requests import AnnotateRequest, EvaluateRequest, Export, ExportRequest
from fintune_xr.pipelines.tasks import STEPS
from fintune_xr.pixels.tile_results import TILE_RESULTS
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.settings import Settings
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.instance import MASKS
from fintune_xr.tasks.product import PRODUCTS, Product
from fintune_xr.tasks.registry import TASKS
from fintune_xr.tasks.task import Task

WEIGHT = "weight"
SIDE_PX = 16
LEVEL = 100

TASK = Task("weighing", MASKS, source="WEIGHTS", array=n.MASK)
WEIGHTS = Product(
    DatasetSchema(
        "weight_run",
        1,
        variables={
            WEIGHT: VariableSpec((n.TILE,), "float64", "Bright pixels.", "px", initial=math.nan),
            **datasets.PROGRESS,
        },
        coords={n.TILE: VariableSpec((n.TILE,), "str", "Tile.")},
    ),
    objects=None,
    array=None,
)

KIND = CohortKind(
    "toy", "weighing", datasets.IMAGES, WEIGHTS, about="to be weighed", annotated="weights", offers="Weigh it."
)


class Scales:
    """The model: pixels of the first plane above a level."""

    def normalise(self, tile: Plane) -> Maps:
        return tile[:1].astype(np.float32)

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        return [image > LEVEL for image in batch]

    def reconstruct(self, maps: Maps) -> float:
        return float(np.count_nonzero(maps))


def _load(_checkpoint: Any, _settings: Any, *, channels: Sequence[str], device: str) -> Any:
    assert channels
    assert device == "cpu"
    return Scales()


SCALES = ModelKind("scales", WEIGHTS, Settings, load=_load, has_weights=False)


def _annotate(cohort: Cohort, source: Path, request: AnnotateRequest) -> SimpleNamespace:
    """Every tile that `source` lists has a mask of one pixel for each unit of its weight."""
    assert not request.restart
    weights = pd.read_csv(source).set_index("tile")[WEIGHT]
    masks = {
        tile: np.pad(np.ones((1, weight), np.uint32), ((0, SIDE_PX - 1), (0, SIDE_PX - weight)))
        for tile, weight in weights.items()
    }
    store_masks(cohort, masks)
    return SimpleNamespace(n_added=len(masks), n_present=0, left_out=())


def _evaluate(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    """The annotated weight (tile), and how far each run is from it (run, tile)."""
    true = cohort.annotations(lazy=False)[n.MASK].load().sum((n.Y, n.X)).reset_coords(drop=True)
    runs = list(request.runs) or cohort.run_names()
    weighed = [cohort.run(run)[WEIGHT].load().reset_coords(drop=True).values for run in runs]
    off = xr.DataArray(np.array(weighed).reshape(len(runs), -1), {n.RUN: runs}, (n.RUN, n.TILE)) - true.values
    return xr.Dataset({WEIGHT: true.drop_indexes(n.TILE, errors="ignore"), "off": off}, attrs={"part": request.split})


def _write(cohort: Cohort, request: ExportRequest) -> list[Path]:
    path = request.out / "weights.txt"
    path.parent.mkdir()
    path.write_text(" ".join(cohort.annotated_tiles()))
    return [path]


def _exports() -> Mapping[str, Export]:
    return {"weights": Export("tiles that were weighed", _write)}


def sections(cohort: Cohort, baseline: str) -> tuple[Section, ...]:
    """What the report says of a cohort that was weighed."""
    assert isinstance(baseline, str)
    scores = cohort.metrics("all").load()
    frame = scores[WEIGHT].to_dataframe().reset_index()
    wrong = int((scores["off"] != 0).sum())
    found = Note(f"They weigh {frame[WEIGHT].sum()} in all; scales are wrong of {wrong}.")
    return (Section("weights", "What they weigh", (Table("weights", "Weights", frame),), findings=(found,)),)


def _result(made: float, _image: NDArray[Any]) -> Any:
    return None, None, {WEIGHT: made}


_STEPS = SimpleNamespace(
    annotate=_annotate, evaluate=_evaluate, exports=_exports, score_lines=lambda _: [],
    score_table=lambda scores: scores[WEIGHT].to_dataframe(),
)  # fmt: skip

ROWS: tuple[tuple[Any, str, Any], ...] = (
    (KINDS, KIND.name, KIND),
    (TASKS, TASK.name, TASK),
    (STEPS, TASK.name, _STEPS),
    (SECTIONS, TASK.name, sections),
    (PRODUCTS, WEIGHTS.name, WEIGHTS),
    (TILE_RESULTS, WEIGHTS.name, _result),
)
"""A table, the name of the row, the row: all that there is to be added, beside the model."""

MODELS = (*registry.KINDS, SCALES)


def infer_and_die(store: str, n_commits: int) -> None:
    """`infer` of a run `r` in a process that is killed by signal 9 once so many shards of one tile are committed."""
    from fintune_xr.pipelines.cli import app as cli
    from fintune_xr.store.runs import create
    from fintune_xr.store.runs.writer import RunWriter

    for table, name, row in ROWS:
        table[name] = row
    registry.KINDS = MODELS
    registry.kinds.cache_clear()
    create.tiles_per_shard = lambda _: 1
    commit, left = RunWriter.commit, [n_commits]

    def deadly(self: RunWriter, receipts: Any) -> None:
        for receipt in receipts:
            commit(self, [receipt])
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    RunWriter.commit = deadly  # type: ignore[method-assign]
    os._exit(cli.run(["infer", store, "--run", "r", "--model", "scales", "--cluster", "threads", "device=cpu"]))
