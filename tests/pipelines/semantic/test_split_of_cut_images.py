"""Tiles that were cut from one image lie on one side of every split, by tile too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.pipelines.leak_check.pairs import refuse_leaks
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import open_cohort


def test_parts_of_an_image_stay_together_and_are_refused_apart(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    for letter in "abcd":
        pixels = stream(1, letter).integers(0, 256, (128, 192, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"raw/images/d1_{letter}.png")
        Image.fromarray(pixels[..., 0] % 2).save(tmp_path / f"raw/masks/d1_{letter}.png")
    store = tmp_path / "he.zarr"
    ingest(tmp_path / "raw", store, layout="classes", cut=64)
    annotate(tmp_path / "raw", store, layout="classes")
    for seed in range(3):
        split(store, fractions=(0.5, 0.25, 0.25), by="tile", seed=seed, force=True)
        images = open_cohort(store).images(lazy=False)
        parts: dict[str, set[str]] = {}
        for tile, part in zip(images[n.TILE].values.tolist(), images[n.SPLIT].values.tolist(), strict=True):
            parts.setdefault(tile.rpartition("@")[0], set()).add(part)
        assert len(parts) == 4
        assert all(len(found) == 1 for found in parts.values())
        assert set().union(*parts.values()) == {"train", "val", "test"}
    apart = open_cohort(store).images(lazy=False)[n.SPLIT].values.tolist()
    apart[0] = "test" if apart[0] != "test" else "val"
    with pytest.raises(SplitError, match=r"5 pair\(s\) of tiles would leak [^|]*y0x0 .*same file content"):
        refuse_leaks(open_cohort(store), apart, by="tile")
