"""What judges stays apart from what is learnt from, and a run that is the truth itself is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.steps.evaluate import score_lines
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile
from fintune_xr.store.split import without_part_lines
from fintune_xr.text import texts

PX = 128
ANNOTATED = 4
COPIES = {"copy": lambda a: a, "mirror": lambda a: a[..., ::-1], "turn": lambda a: np.rot90(a, axes=(-2, -1))}
QUIET = ("device=cpu", "cluster.dashboard=false")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six donors with a tile each, four annotated and split; three more show a tile that judges."""
    root = tmp_path_factory.mktemp("guards")
    tiles = [phantom_tile(stream(at, "guards"), marker="GFAP", ratio=0.5, tile_px=PX) for at in range(6)]
    for at, tile in enumerate(tiles):
        _put(root / f"raw/d{at}/GFAP", tile.image)
        if at < ANNOTATED:
            (root / f"masks/d{at}/GFAP").mkdir(parents=True)
            tifffile.imwrite(root / f"masks/d{at}/GFAP/t_masks.tif", tile.mask)
    fx.ingest(root / "raw", root / "c.zarr")
    fx.annotate(root / "masks", root / "c.zarr")
    fx.split(root / "c.zarr", fractions=(0.5, 0.25, 0.25))
    images = fx.open_cohort(root / "c.zarr").images()
    judge = texts(images[n.SPLIT]).index(n.TEST)
    for name, turn in COPIES.items():
        _put(root / f"raw/{name}/GFAP", turn(tiles[judge].image))
    fx.ingest(root / "raw", root / "c.zarr")
    for run, area in (("loose", 1), ("strict", 60)):
        fx.infer(root / "c.zarr", run=run, model="threshold", overrides=[f"model.min_area_px={area}", *QUIET])
    return root / "c.zarr"


def _put(folder: Path, image: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for c, plane in enumerate(image):
        tifffile.imwrite(folder / f"t_b0c{c}.tif", plane)


def test_copies_of_tiles_that_judge_are_not_suggested(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert texts(fx.suggest(store, n_tiles=9)[n.DONOR]) in (["d4", "d5"], ["d5", "d4"])
    said = capsys.readouterr().err
    for name in COPIES:
        assert f"{name}/GFAP/t (without a part)" in said
    with pytest.raises(FintuneValueError, match="--among: expected 1 or more tiles, or 0 for all of them, got -1"):
        fx.suggest(store, among=-1)


def test_annotations_that_came_after_the_split_are_named(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = shutil.copytree(store, tmp_path / "c.zarr")
    assert without_part_lines(fx.open_cohort(later)) == []
    mask = phantom_tile(stream(4, "guards"), marker="GFAP", ratio=0.5, tile_px=PX).mask
    (tmp_path / "more/d4/GFAP").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "more/d4/GFAP/t_masks.tif", mask)
    fx.annotate(tmp_path / "more", later)
    said = "1 of 5 annotated tiles are in no part of the split, and neither learnt from nor scored (d4/GFAP/t)"
    assert f"annotate: {said}" in capsys.readouterr().err
    fx.evaluate(later, runs=["loose"])
    assert f"evaluate: {said}" in capsys.readouterr().err
    fx.evaluate(later, runs=["loose"], split="all")
    assert said not in capsys.readouterr().err
    small = ["epochs=1", "patches_per_epoch=2", "patch_px=64", "batch_size=2", "device=cpu"]
    fx.train(later, run_name="m", model="flow_unet", out=tmp_path / "models", overrides=small)
    assert f"train: {said}" in capsys.readouterr().err


def test_a_run_that_is_the_truth_is_named(store: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(store, tmp_path / "c.zarr")
    fx.import_run(store.parent / "masks", copied, run="expert", made_by="hand")
    scores = fx.evaluate(copied, runs=["expert", "loose"], resamples=10, split="all")
    assert float(scores["f1_pooled"].sel(run="expert", group="all", threshold=0.5)) == 1.0
    [line] = [line for line in score_lines(fx.open_cohort(copied).metrics("all")) if "pixel by pixel" in line]
    assert line.startswith(
        f"run expert: its masks are the annotations, pixel by pixel, on {ANNOTATED} tile(s): d0/GFAP/t"
    )
    assert list(scores.attrs[n.SAME_AS_TRUTH]) == ["expert"]
