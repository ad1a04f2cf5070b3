"""Places in which the commands of the pages work: small simulated cohorts that lie where the pages say."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
import torch
from budgets import QUICK as FEW_STEPS
from measuring import set_sides
from micrographs import make_micrographs
from volume_weights import learned_state

from fintune_xr import names as n
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.simulation.he_cohort import HeCohortSettings, simulate_he_cohort
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.simulation.oct_cohort import StudySettings, simulate_study
from fintune_xr.store.cohort import open_cohort

CELLS = CohortSettings(
    n_donors=8, markers=("GFAP",), tiles_per_donor=(1, 2), tile_px=96, n_annotated=16, n_clinical_only=0, damaged=False
)
TISSUE = HeCohortSettings(n_donors=8, tiles_per_donor=(1, 2), tile_px=96, damaged=False, seed=3)
VOLUMES = StudySettings(n_train=12, n_val=8, n_test=8, damaged=False, absent_from_val=False)
LAST = "23673922"
"""A donor of them that nobody has annotated."""
CHANNELS = ("DAPI", "marker")
_CLASSES = ("epochs=1", "patches_per_epoch=4", "batch_size=2", "patch_px=64", "filters=[4,8,8]", "learning_rate=0.01")
_PARTICLES = ("epochs=1", "patches_per_epoch=4", "batch_size=4", "patch_px=64", "filters=[4,8,8]")


@dataclass(frozen=True)
class Stage:
    """What lies in the folder before the first command, and the pages whose commands are run there, in this order.

    `words` are what stands on the pages for something of the reader's own, and what it is here, by page or for all
    pages (``""``); `further` are words that a verb is given beyond those of the page, so that it takes a second.
    """

    prepare: Callable[[], None]
    pages: tuple[str, ...]
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    further: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def typed(self, page: str, tokens: list[str]) -> list[str]:
        """The words of a command as they are typed here."""
        own = {**self.words.get("", {}), **self.words.get(page, {})}
        return [*(own.get(token, token) for token in tokens), *self.further.get(tokens[0], ())]


def _cells() -> None:
    made = simulate_cohort(Path("made"), settings=CELLS)
    shutil.copy(made.clinical, "clinical.csv")
    ingest(made.source, "cohort.zarr")
    set_sides(open_cohort("cohort.zarr"), 0.5)
    _regions(sorted(made.annotations.rglob("*_masks.tif")))
    _samples(made.source)
    # Half of the donors are annotated; masks of the others are those of another program.
    for donor in sorted(made.annotations.iterdir())[:4]:
        shutil.copytree(donor, Path("drawn") / donor.name)
    annotate("drawn", "cohort.zarr")
    for run, area in (("baseline", 20), ("tuned", 10)):
        infer(
            "cohort.zarr", run=run, model="threshold",
            config={"model": {"background_px": 0, "min_area_px": area}, "device": "cpu"},
        )  # fmt: skip


def _regions(masks: Sequence[Path]) -> None:
    """White matter above cortex in every tile, and what the codes mean."""
    Path("regions.tsv").write_text("label\tcode\nwhite_matter\t1\ncortex\t2\n")
    codes = np.repeat(np.array([1, 2], np.uint8), CELLS.tile_px // 2)[:, np.newaxis].repeat(CELLS.tile_px, 1)
    for mask in masks:
        place = Path("regions", *mask.parts[-3:-1], mask.name.replace("_masks", "_regions"))
        place.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(place, codes)


def _samples(source: Path) -> None:
    """A table of the two channels of one tile."""
    files = sorted(source.rglob(f"{LAST}_GFAP_00_*.tif"))
    rows = [f"{file.relative_to(source)},{LAST},GFAP,one,{name}" for file, name in zip(files, CHANNELS, strict=True)]
    (source / "samples.csv").write_text("\n".join(["path,donor,marker,tile,channel", *rows]) + "\n")


def _micrographs() -> None:
    parts = (*[n.TRAIN] * 5, n.VAL, n.TEST, n.TEST, "")
    make_micrographs(Path("em.zarr"), parts=parts, donors=("one", "two"))


def _tissue() -> None:
    simulate_he_cohort("BCSS", settings=TISSUE)


def _volumes() -> None:
    simulate_study(Path("study"), settings=VOLUMES)
    torch.save({"context_encoder": learned_state(0, width=64)}, "best_checkpoint_multi_domain.pt")


STAGES: dict[str, Stage] = {
    "cells": Stage(
        _cells,
        pages=(
            "docs/how-to/measure.md", "docs/how-to/training.md", "README.md", "docs/how-to/gating.md",
            "docs/how-to/label-budget.md", "docs/how-to/compare-trainings.md", "docs/how-to/exchange.md",
            "docs/reference/layouts.md",
        ),
        words={
            "": {
                "TILES": "made/source", "STORE": "cohort.zarr", "00304419": LAST,
                "00304419/GFAP/scan3": f"{LAST}/GFAP/{LAST}_GFAP_00",
                "stardist/": "made/annotations",
            },
            "docs/how-to/measure.md": {
                "base": "baseline", "microglia": "tuned", "distance:plaques": "distance:baseline",
            },
            "docs/reference/layouts.md": {
                "FOLDER": "cellpose-folder", "cohort.zarr": "again.zarr", "raw": "made/source",
                "raw/samples.csv": "made/source/samples.csv",
            },
        },
        further={"train": FEW_STEPS, "gate": ("--resamples", "5"), "infer": ("device=cpu",)},
    ),
    "micrographs": Stage(
        _micrographs,
        pages=("docs/how-to/cryoem.md",),
        further={
            # The micrographs lie in parts already.
            "split": ("--restart",),
            "train": (*_PARTICLES, "threads=1"),
            "selftrain": (*(f"train.{one}" for one in _PARTICLES), "rounds={epochs:1}"),
            "evaluate": ("--resamples", "5"),
        },
    ),
    "tissue": Stage(
        _tissue,
        pages=("docs/how-to/tissue.md",),
        further={"train": _CLASSES, "evaluate": ("--resamples", "5")},
    ),
    "volumes": Stage(
        _volumes,
        pages=("docs/how-to/oct.md",),
        words={
            "": {
                "s3://eye-dataset/retinal_oct": "study", "s3://…": "study",
                "participants.tsv": "study/participants.tsv",
            }
        },
        further={
            "ingest": ("--grid", "8", "16", "16"),
            "train": (
                "epochs=2", "unfreeze_at_epoch=1", "batch_size=8", "warmup_epochs=0",
            ),
            "probe": ("c=0.01,1", "inner_folds=2", "head=logistic"),
            "evaluate": ("--resamples", "20"),
        },
    ),
}  # fmt: skip
