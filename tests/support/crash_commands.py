"""The commands that are killed at their changes of files: of each kind of cohort, each after those before it.

They are run in a folder `work`; what they read lies beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from em_files import centres, picture, write_mrc
from labelled_volumes import make_volumes, participants
from micrographs import make_micrographs
from oct_files import write_study
from volume_weights import learned_state

from fintune_xr import names as n
from fintune_xr.models.sam.adapter import SamSize, empty_sam
from fintune_xr.simulation.he_cohort import HeCohortSettings, simulate_he_cohort
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort

STORE = "a.zarr"

SMALL = CohortSettings(
    n_donors=5, markers=("GFAP", "IBA1"), tiles_per_donor=(1, 1), tile_px=64, n_annotated=12, n_clinical_only=0, seed=5
)
TRAINING = (
    "dynamics.cellprob_threshold=-6", "dynamics.flow_threshold=0", "dynamics.min_size_px=1",
    "epochs=2", "patches_per_epoch=8", "patch_px=32", "filters=[4,8,8]", "validate_every=1", "threads=1",
    "learning_rate=0.02", "batch_size=4",
)  # fmt: skip
SELFTRAINING = (
    "labelled=1", "positive=[0.9]", "negative=[0.1]", "train.patch_px=64", "train.batch_size=4",
    "train.patches_per_epoch=8", "train.filters=[4,8,8]", "train.threads=1", "train.epochs=1",
    "train.validate_every=1", "rounds.epochs=1",
)  # fmt: skip
SWEEP = (
    "points_per_side=[4]",
    "pred_iou_thresh=[0.0]",
    "stability_score_thresh=[0.0]",
    "max_area_fraction=1.0",
    "n_tiles=2",
)
EXPORTS = ("masks", "tables", "cellpose", "ome-zarr", "geojson", "rois", "seg", "coco", "anndata")
INFER = ("device=cpu", "cluster.dashboard=false")
THRESHOLD = ("--model", "threshold", "model.background_px=0", "model.min_area_px=20", *INFER)


def of_run(to: str) -> tuple[str, ...]:
    """What names the run that an export is of; annotated tiles belong to none."""
    return () if to == "cellpose" else ("--run", "a")


# What is run, each after those before it. Of the verbs that are tried by default, some need others to be run before.
CELLS = {
    "ingest": ["ingest", "../raw", STORE, "--workers", "1"],
    "ingest-more": ["ingest", "../more", STORE, "--workers", "1"],
    "annotate": ["annotate", "../masks", STORE],
    "annotate-restart": ["annotate", "../masks", STORE, "--restart"],
    "split": ["split", STORE, "--seed", "1"],
    "split-force": ["split", STORE, "--seed", "2", "--force"],
    "infer": ["infer", STORE, *THRESHOLD, "--run", "a"],
    "infer-other": ["infer", STORE, "model.sigma_px=4", *THRESHOLD, "--run", "b"],
    "positivity": ["positivity", STORE, "--run", "a", "--rule", "fixed", "--threshold", "50"],
    "measure": ["measure", STORE, "cluster.dashboard=false", "--run", "a", "--columns", "solidity", "distance:b"],
    "positivity-other": ["positivity", STORE, "--run", "a", "--rule", "mixture"],
    "evaluate": ["evaluate", STORE, "--resamples", "20"],
    "hybrid": ["hybrid", STORE, "--run-name", "h", "--run", "a", "--run", "b"],
    "gate": ["gate", STORE, "--run", "a", "--resamples", "20", "min_areas=[0,60]"],
    "associate": ["associate", STORE, "--clinical", "../clinical.csv"],
    "bootstrap": ["bootstrap", STORE, "--resamples", "20"],
    "bootstrap-more": ["bootstrap", STORE, "--resamples", "30"],
    "readout": ["associate", STORE, "--clinical", "../clinical.csv", "--readout", "count"],
    "groups": ["associate", STORE, "--clinical", "../clinical.csv", "--group", "ceradsc"],
    "qc": ["qc", STORE, "--run", "a", "--exclude", "focus"],
    "import-run": ["import-run", "../masks", STORE, "--run", "m", "--made-by", "somebody 1.0"],
    **{f"export-{to}": ["export", STORE, "--to", to, *of_run(to), "--out", f"out-{to}"] for to in EXPORTS},
    "sweep": ["sweep", STORE, *SWEEP, "--model", "../sam.pth", "--device", "cpu"],
    "train": ["train", STORE, *TRAINING, "--run-name", "t", "--out", "models"],
    "infer-trained": ["infer", STORE, *INFER, "--run", "t", "--model", "models/t", "--part", "test"],
    "budget": ["budget", STORE, *TRAINING, "epochs=1", "--budgets", "1", "2", "--seeds", "1", "--out", "models"],
    "benchmark": [
        "benchmark", STORE, *(f"train.{one}" for one in TRAINING), "train.epochs=1", "markers=[GFAP]",
        "marker_only=[]", "resamples=20", "infer.device=cpu", "--out", "models",
    ],
    "report": ["report", STORE, "--out", "report.html"],
    "infer-restart": ["infer", STORE, *THRESHOLD, "--run", "a", "--restart"],
    "repair": ["check", STORE, "--repair"],
}  # fmt: skip
PARTICLES = {
    "points": ["annotate", "../more.csv", STORE, "--diameter", "12"],
    "pick": ["pick", STORE, "--run", "log", "--model", "log"],
    "selftrain": ["selftrain", STORE, *SELFTRAINING, "--run-name", "s", "--out", "models"],
    "infer": ["infer", STORE, *INFER, "--run", "p", "--model", "models/s/final_model.pt"],
    "pick-run": ["pick", STORE, "--run", "p"],
    "evaluate": ["evaluate", STORE],
    **{f"export-{to}": ["export", STORE, "--to", to, "--out", f"out-{to}"] for to in ("star", "relion", "box", "csv")},
    "report": ["report", STORE, "--out", "report.html"],
}
MICROGRAPHS = {
    "ingest": ["ingest", "../raw", STORE, "--layout", "micrographs", "--binning", "2", "--workers", "1"],
    "annotate": ["annotate", "../raw", STORE, "--diameter", "12"],
    "annotate-restart": ["annotate", "../raw", STORE, "--diameter", "12", "--restart"],
    "split": ["split", STORE, "--by", "tile", "--fractions", "0.25", "0.25", "0.5"],
}
TISSUE = {
    "ingest": ["ingest", "../raw", STORE, "--layout", "bcss", "--workers", "1"],
    "annotate": ["annotate", "../raw", STORE, "--layout", "bcss"],
    "annotate-restart": ["annotate", "../raw", STORE, "--layout", "bcss", "--restart"],
    "split": ["split", STORE, "--seed", "1"],
    "train": [
        "train",
        STORE,
        "--model",
        "semantic_unet",
        "--run-name",
        "t",
        "--out",
        "models",
        "epochs=2",
        "patch_px=32",
        "patches_per_epoch=4",
        "batch_size=2",
        "filters=[4,8,8]",
        "threads=1",
        "validate_every=1",
    ],
    "infer": ["infer", STORE, *INFER, "--run", "r", "--model", "models/t"],
    "evaluate": ["evaluate", STORE],
    "export": ["export", STORE, "--to", "masks", "--run", "r", "--out", "maps"],
    "report": ["report", STORE, "--out", "report.html"],
}
STUDY = {
    "ingest": ["ingest", "../study", STORE, "--layout", "ai-readi", "--grid", "4", "16", "16", "--workers", "1"],
    "annotate": ["annotate", "../study/participants.tsv", STORE],
    "split": ["split", STORE, "--keep"],
}
VOLUMES = {
    "infer": ["infer", STORE, *INFER, "--run", "enc", "--model", "../w.pt", "model.heads=3"],
    "probe": ["probe", STORE, "--run", "enc", "head=logistic,mlp", "c=0.01,1", "inner_folds=2", "epochs=3"],
    "train": [
        "train", STORE, "--model", "../w.pt", "--run-name", "tuned", "--out", "models", "encoder.heads=3", "epochs=2",
        "unfreeze_at_epoch=1", "batch_size=8", "warmup_epochs=0", "threads=1",
    ],
    "evaluate": ["evaluate", STORE],
    "leaderboard": ["export", STORE, "--to", "leaderboard", "--out", "board"],
    "artefacts": ["export", STORE, "--to", "artefacts", "--out", "artefacts"],
    "report": ["report", STORE, "--out", "report.html"],
}  # fmt: skip


def prepare_cells(_: Path, beside: Path) -> None:
    made = simulate_cohort(beside / "simulated", settings=SMALL)
    made.source.rename(beside / "raw")
    made.annotations.rename(beside / "masks")
    made.clinical.rename(beside / "clinical.csv")
    donor = sorted((beside / "raw").iterdir())[-1]
    (beside / "more").mkdir()
    donor.rename(beside / "more" / donor.name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = empty_sam(SamSize(width=64, depth=2, heads=4, global_blocks=(1,), image_px=256))
    torch.save(network.state_dict(), beside / "sam.pth")


def prepare_particles(work: Path, beside: Path) -> None:
    make_micrographs(work / STORE, contrast=20)
    (beside / "more.csv").write_text("micrograph,y,x\ngrid/m5,20,30\ngrid/m5,60,50\n")


def prepare_from_micrographs(_: Path, beside: Path) -> None:
    shape = (128, 144)
    for name in "abcd":
        write_mrc(beside / f"raw/{name}.mrc", picture(name, shape)[::-1])
        star = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
        star += "".join(f"{x} {shape[0] - 1 - y}\n" for y, x in centres(name, shape))
        (beside / f"raw/{name}.star").write_text(star)


def prepare_tissue(_: Path, beside: Path) -> None:
    settings = HeCohortSettings(n_donors=8, tiles_per_donor=(1, 1), tile_px=64, damaged=True, seed=3)
    simulate_he_cohort(beside / "raw", settings=settings)


def prepare_study(_: Path, beside: Path) -> None:
    write_study(beside / "study")


def prepare_volumes(work: Path, beside: Path) -> None:
    make_volumes(work / STORE, participants({n.TRAIN: 4, n.VAL: 2, n.TEST: 2}), scans=1)
    weights = {f"context_encoder.{key}": value for key, value in learned_state().items()}
    torch.save({"model_state_dict": weights}, beside / "w.pt")


Prepare = Callable[[Path, Path], None]

CHAINS: dict[str, tuple[dict[str, list[str]], Prepare]] = {
    "cells": (CELLS, prepare_cells),
    "particles": (PARTICLES, prepare_particles),
    "micrographs": (MICROGRAPHS, prepare_from_micrographs),
    "tissue": (TISSUE, prepare_tissue),
    "study": (STUDY, prepare_study),
    "volumes": (VOLUMES, prepare_volumes),
}
