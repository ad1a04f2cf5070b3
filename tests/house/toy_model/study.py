"""One small study with the toy model: its masks, and their scores against the same rule done by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage
from stores import annotate, make_store, tile_names, tile_pixels

from fintune_xr import names as n
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.store.cohort import open_cohort


def study(folder: Path) -> None:
    """Raises AssertionError where the stored masks or scores are not those of the rule."""
    cohort = make_store(folder / "toy.zarr")
    names = tile_names(3, 2)
    masks = {name: ndimage.label(tile_pixels(name, 64)[0] > 300)[0].astype(np.uint32) for name in names}
    annotate(cohort, masks)
    infer(cohort.url, run="toy", model="toy", overrides=["model.level=300"])
    stored = open_cohort(cohort.url).run("toy")[n.MASK].values
    np.testing.assert_array_equal(stored, np.stack([masks[name] for name in names]))
    infer(cohort.url, run="blind", model="toy", overrides=["model.level=60000"])
    scores = evaluate(cohort.url, split="all", resamples=10).sel(group="all", threshold=0.5)
    assert scores["f1_pooled"].sel(run="toy").item() == 1.0
    assert scores["recall_pooled"].sel(run="blind").item() == 0.0


if __name__ == "__main__":
    study(Path(sys.argv[1]))
