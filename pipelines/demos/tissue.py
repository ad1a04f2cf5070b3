"""The whole route on simulated patches of stained tissue: from PNG files to the report, on the CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.classify import classify
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
    "not how well a model does on tissue. The network that gives classes to regions by sentences has random weights: "
    "its answers are luck, and what a logistic regression finds in its numbers is no knowledge of CLIP's."
)
# Half of the donors are held out, by site: two comparisons want seven of them.
TEST: Final = r"TCGA-(A1|D8|AO|OL|LL)-.*"
# Names of the studies say what the network is.
ZERO_SHOT, PROBE = "random-clip", "random-clip-probe"
PROMPTS: Final[dict[str, list[str]]] = {
    "tumor": ["dense tumour cells with large nuclei", "invasive carcinoma"],
    "stroma": ["pink fibrous stroma with spindle cells", "connective tissue"],
    "lymphocyte": ["a dense infiltrate of small round lymphocytes", "inflammatory cells"],
    "necrosis": ["pale necrosis with debris", "dead tissue without nuclei"],
    "blood_vessel": ["a blood vessel with a wall and a lumen", "a small artery"],
}
UNWEIGHTED, WEIGHTED, SAM2 = "unet-unweighted", "unet-sqrt-weights", "sam2-small"
UNET: Final[dict[str, Any]] = {
    "filters": [16, 32, 64, 128], "learning_rate": 3e-3, "patch_px": 128, "patches_per_epoch": 64, "batch_size": 4,
    "epochs": 18, "validate_every": 3, "threads": 1,
    # These stains differ less than those of real slides: stronger jitter would only make the training longer.
    "augmentation": {"stain_alpha": 0.1, "stain_beta": 0.05, "colour": 0.05, "elastic": 0.0},
}  # fmt: skip
SMALL_SAM2: Final[dict[str, Any]] = {
    "learning_rate": 2e-3, "patch_px": 128, "patches_per_epoch": 32, "batch_size": 4, "epochs": 20, "validate_every": 5,
    "warmup_steps": 20, "threads": 1,
}  # fmt: skip


def tissue_demo(folder: Path, *, seed: int, timed: Timed) -> Path:
    """Path of the report of simulated patches in `folder`, beside `cohort.zarr`, raw files, models and exported maps.

    A U-Net trained without weights of classes is the baseline, the same with weights by the square root of inverse
    frequency is held against it, and a SAM 2 of under a million random parameters shows that the whole path runs, as
    does a CLIP of ten thousand.
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
    timed("classify", lambda: _classified(store, models, seed))
    timed("export", lambda: export(store, to="masks", out=folder / "maps", runs=[WEIGHTED]))
    return Path(timed("report", lambda: report(store, out=folder / "report.html", baseline=UNWEIGHTED)))


def _classified(store: Path, models: Path, seed: int) -> None:
    """Annotated regions by sentences, and by a logistic regression on the same numbers, which learns from train."""
    from fintune_xr.models.clip.random_folder import write_random_clip

    sentences = models / "prompts.json"
    sentences.write_text(json.dumps(PROMPTS, indent=1))
    texts = [sentence for several in PROMPTS.values() for sentence in several]
    network = write_random_clip(models / "random-clip", texts, seed=seed)
    for name, probe in ((ZERO_SHOT, "none"), (PROBE, "logistic")):
        asked = {"probe": probe, "seed": seed}
        classify(store, regions="truth", model=network, prompts=sentences, name=name, config=asked)


def _simulated(folder: Path, seed: int) -> SimulatedPatches:
    shutil.rmtree(folder, ignore_errors=True)
    return simulate_he_cohort(folder, settings=HeCohortSettings(n_donors=14, tiles_per_donor=(2, 2), seed=seed))
