"""Self-training on published micrographs: from pictures and coordinates to held-out scores of every stage.

`python examples/cryoem.py DATA OUT` ingests the eight micrographs below DATA/cryosegnet-empiar10017 into OUT/em.zarr,
trains from two labelled ones, self-trains on the others of the train part, repeats that with one thing changed at a
time, and prints the tables of docs/how-to/cryoem.md. Everything is seeded; run again, it continues.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.metrics.detection import match_points
from fintune_xr.models.particle_unet.adapter import standardise
from fintune_xr.pipelines.detection.selftrain.plan import SUPERVISED
from fintune_xr.pipelines.detection.training import annotated_micrographs
from fintune_xr.pipelines.steps.evaluate import score_table
from fintune_xr.pipelines.studies.selftrain import METRICS_FILE
from fintune_xr.pixels.peaks import disc_mean
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import split_table

DATA: Final = "cryosegnet-empiar10017"
BINNING: Final = 8
FRACTIONS: Final = (0.625, 0.125, 0.25)
SEED: Final = 0

# What two shared CPU cores do in minutes; the defaults are for a GPU and whole micrographs.
TRAINING: Final[Mapping[str, Any]] = {
    "patch_px": 128, "batch_size": 8, "patches_per_epoch": 200, "epochs": 12, "filters": [8, 16, 32, 64],
    "learning_rate": 5e-3, "validate_every": 2, "patience": 100, "threads": 1, "seed": SEED,
}  # fmt: skip
ROUNDS: Final[Mapping[str, Any]] = {"epochs": 5, "learning_rate": 2e-3, "validate_every": 1, "warmup_epochs": 0.5}
STILL: Final = {"rotation": "none", "flip": False, "scale": [1, 1], "gain": 0, "offset": 0, "noise": 0}

MAIN: Final = "adaptive"
STATIC: Final = {"positive": [0.95, 0.95, 0.95], "negative": [0.05, 0.05, 0.05]}
NO_ROUNDS: Final[dict[str, Any]] = {"positive": [], "negative": []}

# Settings that differ from those of the main one, and whose supervised stage is the same as that of another.
VARIANTS: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any], str]]] = {
    MAIN: ({}, {}, ""),
    "static": (STATIC, {}, MAIN),
    "bce-static": (STATIC, {"loss": "cross_entropy"}, ""),
    "no-augmentation": ({}, {"augmentation": STILL}, ""),
    "longer": (NO_ROUNDS, {"epochs": 27}, ""),
    "anew": ({"anew": True, "rounds": {"epochs": 12}}, {}, MAIN),
    "all-labelled": ({**NO_ROUNDS, "labelled": 0}, {"epochs": 27}, ""),
}
ABOUT: Final = {
    MAIN: "combined loss, relaxing thresholds (the study's recipe)",
    "static": "combined loss, thresholds 0.95 / 0.05 in every round",
    "bce-static": "cross entropy, thresholds 0.95 / 0.05 in every round",
    "no-augmentation": "as the first, patches as they are",
    "longer": "2 labelled, no rounds, as many steps as stage and rounds together",
    "anew": "as the first, rounds from random weights and as long as the supervised stage",
    "all-labelled": "all train micrographs labelled, as many steps",
}


def main(data: Path, out: Path) -> None:
    """Makes or continues everything below `out` and prints the tables."""
    store = out / "em.zarr"
    if not store.exists():
        prepare(data / DATA, store)
    show("split", split_table(fx.open_cohort(store)))
    for name in VARIANTS:
        began = time.monotonic()
        train_variant(store, out / "models", name)
        print(f"-- {name}: {time.monotonic() - began:.0f} s", flush=True)
    cohort = fx.open_cohort(store)
    found = {name: cohort.read(f"{n.SELFTRAIN}/{name}") for name in VARIANTS}
    show("stages", stage_table(found[MAIN]))
    show("pseudo-labels", pseudo_table(found[MAIN]))
    show("ablation", ablation_table(found))
    scores = pick_and_score(store, out / "models" / MAIN)
    show("held-out micrographs", score_table(scores))
    show("each of them", tile_table(scores))
    show("darkness", contrast_table(cohort))


def show(title: str, table: pd.DataFrame) -> None:
    """Prints a table as Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    print(f"\n{title}\n", *("| " + " | ".join(map(str, row)) + " |" for row in rows), sep="\n", flush=True)


def prepare(source: Path, store: Path) -> None:
    """The store: micrographs, particles, split by micrograph."""
    fx.ingest(source / "images", store, layout="micrographs", binning=BINNING, title="EMPIAR-10017, 8 micrographs")
    for folder in ("coordinates", "coordinates_from_masks"):
        fx.annotate(source / folder, store)
    fx.split(store, fractions=FRACTIONS, seed=SEED, by="tile")


def train_variant(store: Path, models: Path, name: str) -> None:
    """One self-training, beginning with the supervised stage of another where that is the same."""
    further, training, same_as = VARIANTS[name]
    config = {"labelled": 2, "train": {**TRAINING, **training}, "rounds": dict(ROUNDS), **further}
    stage = models / name / SUPERVISED
    if same_as and not stage.exists():
        shutil.copytree(models / same_as / SUPERVISED, stage, ignore=shutil.ignore_patterns(METRICS_FILE))
    fx.selftrain(store, run_name=name, out=models, config=config)


def stage_table(found: xr.Dataset) -> pd.DataFrame:
    """Particle-level and pixel-wise scores of every stage on the held-out micrographs, and F1 on val."""
    at = found.sel({n.PART: n.TEST})
    return pd.DataFrame(
        {
            "stage": found[n.STAGE].values,
            "particle F1 (val)": found["particle_f1"].sel({n.PART: n.VAL}).values.round(3),
            "threshold": found["particle_threshold"].values.round(3),
            **{f"particle {s} (test)": at[f"particle_{s}"].values.round(3) for s in (n.F1, n.PRECISION, n.RECALL)},
            **{f"pixel {s} (test)": at[f"pixel_{s}"].values.round(3) for s in (n.F1, n.IOU, n.AUC)},
        }
    )


def pseudo_table(found: xr.Dataset) -> pd.DataFrame:
    """What the rounds were taught, held against the annotation that they did not see."""
    some = found.isel({n.STAGE: slice(1, None)})
    count = {name: some[f"pseudo_n_{name}"].values for name in ("positive", "negative", "unknown", "missed", "true")}
    whole = count["positive"] + count["negative"] + count["unknown"]
    thresholds = zip(some["pseudo_positive"].values, some["pseudo_negative"].values, strict=True)
    return pd.DataFrame(
        {
            "stage": some[n.STAGE].values,
            "thresholds": [f"{positive:g} / {negative:g}" for positive, negative in thresholds],
            "labelled particle": (count["positive"] / whole).round(3),
            "labelled background": (count["negative"] / whole).round(3),
            "truly particle": (count["true"] / whole).round(3),
            "precision of particle": (some["pseudo_n_right_positive"].values / count["positive"]).round(3),
            "particle pixels called particle": (some["pseudo_n_right_positive"].values / count["true"]).round(3),
            "particle pixels called background": (count["missed"] / count["true"]).round(3),
        }
    )


def ablation_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """F1 of particles on the held-out micrographs: of the supervised stage, of every round, of the best on val."""
    rows = []
    for name, one in found.items():
        scores = one["particle_f1"]
        best = int(np.argmax(scores.sel({n.PART: n.VAL}).values))
        test = scores.sel({n.PART: n.TEST}).values
        rounds = {f"round {i}": f"{test[i]:.3f}" if i < len(test) else "" for i in range(1, 4)}
        chosen = f"{test[best]:.3f} ({'supervised' if best == 0 else f'round {best}'})"
        rows.append({"variant": ABOUT[name], "supervised": f"{test[0]:.3f}", **rounds, "best on val": chosen})
    return pd.DataFrame(rows)


def pick_and_score(store: Path, folder: Path) -> xr.Dataset:
    """The blob picker, with and without the striped margins of these pictures, and the final network."""
    fx.infer(store, run=MAIN, model=str(folder / "final_model.pt"), overrides=["device=cpu"])
    fx.pick(store, run="log", model="log")
    fx.pick(store, run="log-inner", model="log", border=16)
    fx.pick(store, run=MAIN)
    return fx.evaluate(store, runs=("log", "log-inner", MAIN))


def tile_table(scores: xr.Dataset) -> pd.DataFrame:
    """Annotated particles of every held-out micrograph, and what both pickers make of them."""
    rows = []
    for tile in scores[n.TILE].values:
        at = scores.sel({n.TILE: tile})
        row: dict[str, Any] = {"micrograph": str(tile).rpartition("/")[2]}
        for run in scores[n.RUN].values:
            tp, fp, fn = (int(at[f"particle_{name}"].sel({n.RUN: run})) for name in (n.TP, n.FP, n.FN))
            row |= {"annotated": tp + fn}
            row |= {f"{run} precision": f"{tp / (tp + fp):.3f}", f"{run} recall": f"{tp / (tp + fn):.3f}"}
        rows.append(row)
    return pd.DataFrame(rows)


def contrast_table(cohort: Cohort) -> pd.DataFrame:
    """How dark the held-out micrographs are where the network picks: at annotated particles, elsewhere, and anywhere.

    Mean over discs of the learnt size, in standard deviations of the micrograph; particles are dark.
    """
    tiles = annotated_micrographs(cohort, n.TEST)
    picks = cohort.read(f"{n.PICKS}/{MAIN}")
    place = {tile: i for i, tile in enumerate(map(str, cohort.images()[n.TILE].values))}
    rows = []
    for index, tile in enumerate(map(str, tiles.names)):
        points = tiles.particles(index)
        diameter = float(points.diameter_px[0])
        one = picks.isel({n.PICK: np.flatnonzero(picks[n.TILE_INDEX].values == place[tile])})
        centres = np.column_stack([one[n.Y].values, one[n.X].values])
        order = np.argsort(-one[n.SCORE].values, kind="stable")
        hit = match_points(points.yx, centres, one[n.SCORE].values, distance_px=diameter / 2).is_hit
        dark = disc_mean(standardise(tiles.read(index)[0]), 0.6 * diameter)
        seen = dark[tuple(np.rint(centres[order]).astype(int).T)]
        rows.append(
            {
                "micrograph": tile.rpartition("/")[2],
                "at hits": f"{seen[hit].mean():.2f}",
                "at other picks": f"{seen[~hit].mean():.2f}",
                "anywhere": f"{dark.mean():.2f}",
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
