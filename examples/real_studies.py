"""Split, ways to train, label budget and gating on published microscope images, with a small U-Net on the CPU.

`python examples/real_studies.py DATA OUT` makes two stores below OUT from the images below DATA, runs every study on
them and prints the tables of docs/results/real-studies.md. Everything is seeded; run again, it continues. What stands
for a donor, and what that leaves open, is written in that page.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.analysis.report.studies.benchmark import benchmark_table
from fintune_xr.analysis.report.studies.budget import budget_table, curve_page
from fintune_xr.analysis.report.studies.gate import gate_page, gate_table
from fintune_xr.pipelines.steps.evaluate import score_table
from fintune_xr.pipelines.studies.benchmark import hybrid_line
from fintune_xr.store.raw.layouts import choose_layout

SEED = 0
TRAINING = {
    "epochs": 10, "patches_per_epoch": 96, "patch_px": 128, "batch_size": 4, "validate_every": 5, "threads": 1,
    "seed": SEED,
}  # fmt: skip
STUDY = {"train": TRAINING, "infer": {"device": "cpu"}, "baseline_infer": {"device": "cpu"}, "seed": SEED}
BUDGETS = (2, 4, 8)
SETS = ("deepflash-hippocampus", "dsb2018-fluo", "microglia-morphometry")

# Fields 00, 01 and 02 of cFOS and Parv are the same places in the tissue, so they are one donor; other fields are one
# each.
FIELD = (
    r"(?=(?:(?:cFOS|Parv)/(?=0[0-2]))?(?P<donor>0[0-2]|(?:cFOS|Parv|new)/\d+))"
    r"(?P<marker>cFOS|Parv|new)/(?P<tile>\d+)_{what}\.tif"
)
# Of the nuclei only images whose size lies within a factor of two of the others'.
NUCLEI = r"{folder}/(?P<tile>(?P<donor>175dbb364bfefc95|5d21acedb3015c12|df5cdd0ebe1bdf8d))\.tif"


def main(data: Path, out: Path) -> None:
    """Both stores with all their studies."""
    began = time.perf_counter()
    mixed, pairs = mixed_store(data, out), pair_store(data, out)
    ways_to_train(mixed, out / "models-mixed")
    ways_to_train(pairs, out / "models-pairs")
    label_budget(mixed, out / "models-mixed")
    gating(mixed, "e1-generic")
    gating(pairs, "e1-baseline")
    for store in (mixed, pairs):
        problems = fx.check(store)
        if problems:
            raise SystemExit("\n".join(map(str, problems)))
        show(f"{store.stem}: report", pd.DataFrame({"file": [str(fx.report(store, out=out / f"{store.stem}.html"))]}))
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


def mixed_store(data: Path, out: Path) -> Path:
    """18 images of one plane: cFOS of two laboratories, Parvalbumin, nuclei and microglia."""
    store = out / "mixed.zarr"
    fields, nuclei, microglia = (data / name for name in SETS)
    image, mask = FIELD.replace("{what}", "(?:cFOS|Parv|new)"), FIELD.replace("{what}", "expert")
    fx.ingest(fields, store, layout=choose_layout("custom", pattern=image), title="Five kinds of images, one plane")
    stems = choose_layout("custom", pattern=NUCLEI.replace("{folder}", "images"), marker="nuclei")
    fx.ingest(nuclei, store, layout=stems)
    fx.ingest(microglia, store, layout="microglia")
    fx.annotate(fields, store, pattern=mask)
    fx.annotate(nuclei, store, layout="dsb2018", pattern=NUCLEI.replace("{folder}", "labels"))
    fx.annotate(microglia, store, layout="microglia")
    return divided(store, (0.5, 0.2, 0.3))


def pair_store(data: Path, out: Path) -> Path:
    """Three fields of two planes, cFOS in the place of DAPI and Parvalbumin as the marker; cFOS is annotated."""
    store, source = out / "pairs.zarr", data / "deepflash-hippocampus"
    layout = choose_layout("deepflash", channels={"cFOS": n.DAPI, "Parv": n.MARKER_CHANNEL})
    fx.ingest(source, store, layout=layout, title="cFOS nuclei and Parvalbumin, two planes")
    fx.annotate(source, store, layout="deepflash-cfos")
    return divided(store, (0.34, 0.33, 0.33))


def divided(store: Path, fractions: tuple[float, float, float]) -> Path:
    """The store with its split: made once, as a new one would make trained models useless."""
    made = fx.split(store, fractions=fractions, seed=SEED, force=True)
    show(f"{store.stem}: annotated tiles and donors in each part", made)
    return store


def ways_to_train(store: Path, models: Path) -> None:
    """Baseline, generic, one model per marker, marker-only where there are two planes, hybrid."""
    found = fx.benchmark(store, out=models, config=STUDY)
    show(f"{store.stem}: ways to train, test tiles", score_table(found))
    counts = benchmark_table(found)[["group", "model", n.TP, n.FP, n.FN]]
    show(f"{store.stem}: cells found, false and missed at IoU 0.5", counts)
    print(hybrid_line(found), *(f"no {name}: {why}" for name, why in found.attrs["left_out"].items()), sep="\n")


def label_budget(store: Path, models: Path) -> None:
    """Trainings on 2, 4 and 8 tiles, each with two subsets."""
    overrides = [f"{key}={value}" for key, value in TRAINING.items()]
    found = fx.budget(store, budgets=BUDGETS, seeds=2, out=models, overrides=overrides)
    columns = ["budget", "seed", "average_precision_image_mean", "f1_pooled"]
    show(f"{store.stem}: label budget", budget_table(found)[columns])
    show(f"{store.stem}: learning curves", curve_page(found))


def gating(store: Path, run: str) -> None:
    """The grid of gates on a run, which covers the whole store first."""
    fx.infer(store, run=run)
    found = fx.gate(store, run=run, seed=SEED)
    show(f"{store.stem}: gates of {run}", gate_page(gate_table(found)))
    ratio = found["ratio"].sel({n.SETTING: found[n.SETTING].values[[0, -1]]}).to_series().dropna().unstack(n.SETTING)
    show(f"{store.stem}: share of positive cells of each donor, first and last gate", ratio.reset_index())


def show(title: str, table: pd.DataFrame) -> None:
    """A table under its title."""
    print(f"\n## {title}\n\n{table.to_string(index=False)}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} DATA OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
