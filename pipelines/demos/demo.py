"""The whole route on a small cohort that is made on the spot: from raw tiles to the report, on the CPU."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from fintune_xr.cohort_kinds import HE, IF, OCT
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.associate import associate
from fintune_xr.pipelines.steps.bootstrap import bootstrap
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.steps.train import train
from fintune_xr.pipelines.studies.benchmark import benchmark
from fintune_xr.pipelines.studies.budget import budget
from fintune_xr.pipelines.studies.gate import gate
from fintune_xr.simulation.if_cohort import CohortSettings, SimulatedCohort, simulate_cohort
from fintune_xr.store.cohort import open_cohort, set_root_attrs

T = TypeVar("T")

RUNS = ("baseline", "fine-tuned")
REMARK = (
    "Simulated images, and small networks trained for a few epochs: this shows what each step does and how it reads, "
    "not how well a model does on tissue."
)
# Half of the annotated donors are held out: a verdict on fine-tuning wants six of them.
FRACTIONS = (0.4, 0.1, 0.5)
MARK = ".fintune-xr-demo"
# About 20 CPU-seconds; a larger network or more epochs gain little on cells of 20 px.
TRAINING: dict[str, Any] = {
    "filters": [8, 16, 32, 64], "learning_rate": 6e-3, "patch_px": 128, "threads": 1, "epochs": 10,
    "validate_every": 5, "patches_per_epoch": 96,
}  # fmt: skip
# A few seconds: enough to see what the studies compare, not what more training would give.
QUICK = {**TRAINING, "learning_rate": 4e-3, "batch_size": 1, "epochs": 4, "validate_every": 4, "patches_per_epoch": 48}
BUDGETS, SEEDS = (2, 8), 2


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a cohort of cells is made, and what is done with it."""

    cohort: Mapping[str, Any]
    training: Mapping[str, Any]
    resamples: int
    studies: bool


WHOLE = Extent({"n_annotated": 36}, TRAINING, resamples=1000, studies=True)
# One marker and one training; what is left out are the studies, which take two thirds of the time.
BRIEF = Extent(
    {"markers": ("GFAP",), "tiles_per_donor": (2, 3), "n_annotated": 16}, QUICK, resamples=200, studies=False
)


def demo(folder: str | Path = "demo", *, seed: int = 0, cohort: str = IF.name, quick: bool = False) -> Path:
    """Path of the report of a simulated cohort of the kind `cohort` in `folder`, beside its store, files and models.

    With `quick`, one marker and no studies: every step that a cohort of cells takes, in half a minute.

    Raises FintuneValueError where `folder` holds something else or `quick` is asked of another kind, UnknownNameError
    for a kind without a demo.
    """
    folder = Path(folder)
    if cohort not in DEMOS:
        raise unknown_name("cohort for a demo", cohort, DEMOS)
    if quick and cohort != IF.name:
        raise FintuneValueError(f"a quick demo is made of cells alone; run the whole one: demo --cohort {cohort}")
    kind = f"{cohort} " * (cohort != IF.name)
    _claim(folder, f"{kind}{seed}{' quick' * quick}")
    return _cells(folder, seed, extent=BRIEF) if quick else DEMOS[cohort](folder, seed)


def _cells(folder: Path, seed: int, *, extent: Extent | None = None) -> Path:
    """The demo of cells: report beside `cohort.zarr`, raw tiles and model.

    A threshold is the baseline; a small U-Net trained here on the annotated tiles is the fine-tuned run. The studies
    of ways to train, of the label budget and of post-processing are small ones of the same kind.
    """
    store, extent = folder / "cohort.zarr", extent or WHOLE
    made = _timed("simulate", lambda: _simulated(folder / "raw", CohortSettings(seed=seed, **extent.cohort)))
    _timed("ingest", lambda: ingest(made.source, store, title="Demo cohort (simulated)"))
    set_root_attrs(open_cohort(store), remark=REMARK)
    _timed("annotate", lambda: annotate(made.annotations, store, marks="all"))
    _timed("split", lambda: split(store, fractions=FRACTIONS, seed=seed, force=True))
    _timed("baseline", lambda: infer(store, run="baseline", model="threshold"))
    tuned = _timed(
        "train", lambda: train(store, run_name="unet", out=folder / "models", config={**extent.training, "seed": seed})
    )
    _timed("fine-tuned", lambda: infer(store, run="fine-tuned", model=str(tuned)))
    _timed("evaluate", lambda: evaluate(store, runs=RUNS, seed=seed))
    _timed("associate", lambda: associate(store, clinical=made.clinical, runs=RUNS))
    _timed("bootstrap", lambda: bootstrap(store, resamples=extent.resamples, seed=seed))
    if extent.studies:
        _studies(store, folder / "models", seed)
    return _timed("report", lambda: report(store, out=folder / "report.html"))


def _volumes(folder: Path, seed: int) -> Path:
    """The demo of volumes."""
    from fintune_xr.pipelines.demos.volumes import study_demo

    return study_demo(folder, seed=seed, timed=_timed)


def _tissue(folder: Path, seed: int) -> Path:
    """The demo of stained tissue."""
    from fintune_xr.pipelines.demos.tissue import tissue_demo

    return tissue_demo(folder, seed=seed, timed=_timed)


def _studies(store: Path, models: Path, seed: int) -> None:
    """Ways to train, label budget and post-processing; a sweep of SAM would need weights that nobody trained here."""
    # Here every cell is annotated, not the positive ones alone: without DAPI there is little to learn from.
    compared = {"train": {**QUICK, "seed": seed}, "markers": ["GFAP"], "marker_only": [], "seed": seed}
    _timed("benchmark", lambda: benchmark(store, out=models, config=compared))
    # Simulated cells are so much alike that two tiles teach nearly what eight do; fewer steps would part trainings by
    # their seeds, not by their tiles.
    each = {**QUICK, "seed": seed}
    _timed("budget", lambda: budget(store, budgets=BUDGETS, seeds=SEEDS, out=models, config=each))
    _timed("gate", lambda: gate(store, run=RUNS[1], seed=seed))


def _claim(folder: Path, what: str) -> None:
    """Makes `folder` this demo's, or finds that it is; an interrupted demo is run again from its beginning."""
    mark = folder / MARK
    if folder.exists() and any(folder.iterdir()) and not mark.is_file():
        raise FintuneValueError(f"{folder} holds something else than a demo. Choose a new folder.")
    if mark.is_file() and mark.read_text() != what:
        raise FintuneValueError(f"{folder} holds a demo with seed {mark.read_text()}, not {what}. Choose a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(what)


def _simulated(folder: Path, settings: CohortSettings) -> SimulatedCohort:
    shutil.rmtree(folder, ignore_errors=True)
    return simulate_cohort(folder, settings=settings)


def _timed(what: str, step: Callable[[], T]) -> T:
    began = time.monotonic()
    result = step()
    say(f"-- {what}: {time.monotonic() - began:.1f} s")
    return result


DEMOS: Final[Mapping[str, Callable[[Path, int], Path]]] = {IF.name: _cells, HE.name: _tissue, OCT.name: _volumes}
"""By kind of cohort."""
