"""Makes the archives of this folder: stores, and checkpoints trained on them, as version 0.1.0 at 989d077 wrote them.

    git worktree add OLD 989d077
    PYTHONPATH=OLD python make_old_stores.py WORK

`WORK` is a new folder; the archives `cells.tar.gz` and `particles.tar.gz` are put beside it. They are never made anew
with a later version: what they are for is that later versions go on reading them.
"""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import tifffile
from fintune_xr.simulate import CohortSettings, simulate_cohort

from fintune_xr.pipelines import cli
from fintune_xr.seeds import stream

STORE = "a.zarr"
SMALL = CohortSettings(
    n_donors=5, markers=("GFAP",), tiles_per_donor=(1, 2), tile_px=64, n_annotated=8, n_clinical_only=0, seed=5
)
CPU = ("device=cpu", "cluster.dashboard=false")
TRAINING = (
    "epochs=2", "patches_per_epoch=8", "patch_px=32", "filters=[4,8,8]", "validate_every=1", "threads=1",
    "learning_rate=0.02", "batch_size=4",
)  # fmt: skip
FLOWS = (
    "dynamics.cellprob_threshold=-6", "dynamics.flow_threshold=0", "dynamics.min_size_px=1",
)  # fmt: skip

# The run `half` has the tiles of the test part only; the others are left to be done.
CELLS = (
    ["ingest", "raw", STORE],
    ["annotate", "masks", STORE],
    ["split", STORE, "--seed", "1"],
    ["infer", STORE, "--run", "a", "--model", "threshold", "model.background_px=0", "model.min_area_px=20", *CPU],
    ["positivity", STORE, "--run", "a", "--rule", "fixed", "--threshold", "50"],
    ["evaluate", STORE, "--resamples", "20"],
    ["associate", STORE, "--clinical", "clinical.csv"],
    ["bootstrap", STORE, "--resamples", "20"],
    ["train", STORE, *FLOWS, *TRAINING, "--run-name", "t", "--out", "models"],
    ["infer", STORE, "--run", "half", "--model", "models/t", "--part", "test", *CPU],
)
PARTICLES = (
    ["ingest", "micrographs", STORE, "--layout", "micrographs"],
    ["annotate", "coordinates", STORE, "--diameter", "12"],
    ["split", STORE, "--seed", "1", "--fractions", "0.5", "0.25", "0.25"],
    ["train", STORE, "--model", "unet", *TRAINING, "patch_px=64", "--run-name", "t", "--out", "models"],
    ["infer", STORE, "--run", "p", "--model", "models/t", *CPU],
    ["pick", STORE, "--run", "p"],
    ["evaluate", STORE, "--resamples", "20"],
    ["infer", STORE, "--run", "half", "--model", "models/t", "--part", "test", *CPU],
)


def prepare_cells() -> None:
    """A simulated cohort in `raw`, `masks` and `clinical.csv` of the working folder."""
    made = simulate_cohort(Path("simulated"), settings=SMALL)
    made.source.rename("raw")
    made.annotations.rename("masks")
    made.clinical.rename("clinical.csv")


def prepare_particles() -> None:
    """Micrographs of dark discs on noise, with the centres of the discs beside them."""
    for folder in ("micrographs", "coordinates"):
        Path(folder).mkdir()
    y, x = np.mgrid[:80, :80]
    for number in range(7):
        rng = stream(3, f"m{number}")
        image = rng.normal(140, 15, (80, 80))
        centres = [(row, column) for row in (14, 40, 66) for column in (12, 38, 67) if rng.random() < 0.7]
        for row, column in centres:
            image[(y - row) ** 2 + (x - column) ** 2 <= 36] -= 40
        tifffile.imwrite(f"micrographs/m{number}.tif", image.clip(0, 255).astype(np.uint8))
        lines = "".join(f"{row},{column}\n" for row, column in centres)
        Path(f"coordinates/m{number}.csv").write_text(f"y,x\n{lines}")


def main(work: Path) -> None:
    """Runs every command in a folder of its own and packs store, models and clinical table."""
    for name, prepare, commands in (
        ("cells", prepare_cells, CELLS),
        ("particles", prepare_particles, PARTICLES),
    ):
        (work / name).mkdir(parents=True)
        os.chdir(work / name)
        prepare()
        for tokens in commands:
            status = cli.run(tokens)
            # 3: done, with something left out, here the damaged files of the simulated cohort.
            if status not in (0, 3):
                raise SystemExit(f"{' '.join(tokens)}: ended with {status}")
        with tarfile.open(work.parent / f"{name}.tar.gz", "w:gz", compresslevel=9) as archive:
            for part in (STORE, "models", *(["clinical.csv"] if name == "cells" else [])):
                archive.add(part)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
