"""The whole route on a small cohort that is made on the spot: from raw tiles to the report, on the CPU."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.annotate import annotate
from fintune_xr.pipelines.associate import associate
from fintune_xr.pipelines.bootstrap import bootstrap
from fintune_xr.pipelines.evaluate import evaluate
from fintune_xr.pipelines.infer import infer
from fintune_xr.pipelines.ingest import ingest
from fintune_xr.pipelines.progress import say
from fintune_xr.pipelines.report import report
from fintune_xr.pipelines.split import split
from fintune_xr.pipelines.train import train
from fintune_xr.simulate import CohortSettings, SimulatedCohort, simulate_cohort

T = TypeVar("T")

RESAMPLES = 1000
# Half of the annotated donors are held out: a verdict on fine-tuning wants six of them.
FRACTIONS = (0.4, 0.1, 0.5)
MARK = ".fintune-xr-demo"
# About 45 CPU-seconds; larger patches or more epochs gain little on cells of 20 px.
TRAINING = ("epochs=10", "validate_every=5", "patch_px=128", "patches_per_epoch=96", "threads=1")


def demo(folder: str | Path = "demo", *, seed: int = 0) -> Path:
    """Path of the report of a simulated cohort in `folder`, beside `cohort.zarr`, raw tiles and model.

    A threshold is the baseline; a small U-Net trained here on the annotated tiles is the fine-tuned run.

    Raises FintuneValueError where `folder` holds something else.
    """
    folder = Path(folder)
    _claim(folder, seed)
    store = folder / "cohort.zarr"
    made = _timed("simulate", lambda: _simulated(folder / "raw", seed))
    _timed("ingest", lambda: ingest(made.source, store, title="Demo cohort (simulated)"))
    _timed("annotate", lambda: annotate(made.annotations, store))
    _timed("split", lambda: split(store, fractions=FRACTIONS, seed=seed, force=True))
    _timed("baseline", lambda: infer(store, run="baseline", model="threshold"))
    tuned = _timed(
        "train", lambda: train(store, run_name="unet", out=folder / "models", overrides=(*TRAINING, f"seed={seed}"))
    )
    _timed("fine-tuned", lambda: infer(store, run="fine-tuned", model=str(tuned)))
    _timed("evaluate", lambda: evaluate(store, runs=("baseline", "fine-tuned"), seed=seed))
    _timed("associate", lambda: associate(store, clinical=made.clinical))
    _timed("bootstrap", lambda: bootstrap(store, resamples=RESAMPLES, seed=seed))
    return _timed("report", lambda: report(store, out=folder / "report.html"))


def _claim(folder: Path, seed: int) -> None:
    """Makes `folder` this demo's, or finds that it is; an interrupted demo is run again from its beginning."""
    mark = folder / MARK
    if folder.exists() and any(folder.iterdir()) and not mark.is_file():
        raise FintuneValueError(f"{folder} holds something else than a demo. Choose a new folder.")
    if mark.is_file() and mark.read_text() != str(seed):
        raise FintuneValueError(f"{folder} holds a demo with seed {mark.read_text()}, not {seed}. Choose a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(str(seed))


def _simulated(folder: Path, seed: int) -> SimulatedCohort:
    shutil.rmtree(folder, ignore_errors=True)
    return simulate_cohort(folder, settings=CohortSettings(seed=seed, n_annotated=36))


def _timed(what: str, step: Callable[[], T]) -> T:
    began = time.monotonic()
    result = step()
    say(f"-- {what}: {time.monotonic() - began:.1f} s")
    return result
