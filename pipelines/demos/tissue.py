"""The whole route on simulated patches of stained tissue: from PNG files to the report, on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.steps.train import train
from fintune_xr.simulation.he_cohort import HeCohortSettings, SimulatedPatches, simulate_he_cohort
from fintune_xr.store.cohort import open_cohort, set_root_attrs

Timed: TypeAlias = Callable[[str, Callable[[], Any]], Any]
"""Runs a step and says how long it took."""

REMARK: Final = (
    "Simulated patches, and small networks trained for about a minute: this shows what each step does and reads like, "
    "not how well a model does on tissue."
)
# Half of the donors are held out, by site: two comparisons want seven of them.
TEST: Final = r"TCGA-(A1|D8|AO|OL|LL)-.*"
UNWEIGHTED, WEIGHTED, SAM2 = "unet-unweighted", "unet-sqrt-weights", "sam2-small"
UNET: Final[dict[str, Any]] = {
    "filters": [16, 32, 64, 128], "learning_rate": 3e-3, "patch_px": 128, "patches_per_epoch": 64, "batch_size": 4,
    "epochs": 18, "validate_every": 3, "threads": 1,
    # These stains differ less than those of real slides: stronger jitter would only make the training longer.
    "augmentation": {"stain_alpha": 0.1, "stain_beta": 0.05, "colour": 0.05, "elastic": 0.0},
}  # fmt: skip
SMALL_SAM2: Final[dict[str, Any]] = {
    "learning_rate": 2e-3, "patch_px": 128, "patches_per_epoch": 32, "batch_size": 4, "epochs": 20, "validate_every": 5,
    "threads": 1,
}  # fmt: skip


def tissue_demo(folder: Path, *, seed: int, timed: Timed) -> Path:
    """Path of the report of simulated patches in `folder`, beside `cohort.zarr`, raw files, models and exported maps.

    A U-Net trained without weights of classes is the baseline, the same with weights by the square root of inverse
    frequency is held against it, and a SAM 2 of under a million random parameters shows that the whole path runs.
    """
    store, models = folder / "cohort.zarr", folder / "models"
    made = timed("simulate", lambda: _simulated(folder / "raw", seed))
    timed("ingest", lambda: ingest(made.source, store, layout="bcss", title="Demo cohort of tissue (simulated)"))
    set_root_attrs(open_cohort(store), remark=REMARK)
    timed("annotate", lambda: annotate(made.source, store, layout="bcss"))
    timed("split", lambda: split(store, fractions=(0.8, 0.2, 0.0), seed=seed, test=TEST, force=True))
    for run, kind, settings in (
        (UNWEIGHTED, "semantic_unet", {**UNET, "class_weights": "none"}),
        (WEIGHTED, "semantic_unet", {**UNET, "class_weights": "sqrt"}),
        (SAM2, "sam2_semantic", SMALL_SAM2),
    ):
        chosen = {**settings, "seed": seed}
        trained = timed(f"train {run}", partial(train, store, model=kind, run_name=run, out=models, config=chosen))
        timed(f"infer {run}", partial(infer, store, run=run, model=str(trained)))
    timed("evaluate", lambda: evaluate(store, seed=seed))
    timed("export", lambda: export(store, to="masks", out=folder / "maps", runs=[WEIGHTED]))
    return Path(timed("report", lambda: report(store, out=folder / "report.html", baseline=UNWEIGHTED)))


def _simulated(folder: Path, seed: int) -> SimulatedPatches:
    shutil.rmtree(folder, ignore_errors=True)
    return simulate_he_cohort(folder, settings=HeCohortSettings(n_donors=14, tiles_per_donor=(2, 2), seed=seed))
