"""The folders that Cellpose trains from: what Cellpose itself reads in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError, StoreNotFoundError, UnknownNameError
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.split import split
from fintune_xr.store.annotations.instance import Taken, annotate_tiles
from fintune_xr.store.annotations.instance_layouts import choose_mask_layout
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.export.cellpose import write_training_folders
from fintune_xr.store.ingest.tiles import ingest_tiles, open_or_create
from fintune_xr.store.raw.layouts import choose_layout, safe_name
from fintune_xr.store.raw.scan import scan

DONORS = ("d1", "d2", "d3", "d4", "d5")
TILES = [f"{donor}/GFAP/t{number}" for donor in DONORS for number in (1, 2)]
NOT_ANNOTATED = TILES[3]


def shape(tile: str) -> tuple[int, int]:
    return (20, 24) if tile.endswith("1") else (33, 17)


def planes(tile: str) -> Any:
    return np.random.default_rng(TILES.index(tile)).integers(1, 4000, (2, *shape(tile))).astype(np.uint16)


def mask(tile: str) -> Any:
    labels = np.random.default_rng(100 + TILES.index(tile)).integers(0, 7, shape(tile))
    return (labels * (20000 if tile == TILES[0] else 1)).astype(np.uint32)


def make(folder: Path, channels: dict[str, str] | None = None) -> Cohort:
    for tile in TILES:
        path = folder / "source" / tile
        path.parent.mkdir(parents=True, exist_ok=True)
        for channel, plane in enumerate(planes(tile)):
            tifffile.imwrite(f"{path}_b0c{channel}.tif", plane)
        if tile != NOT_ANNOTATED:
            (folder / "masks" / tile).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(f"{folder / 'masks' / tile}_masks.tif", mask(tile))
    found = scan(folder / "source", choose_layout("rosmap", channels=channels))
    cohort = open_or_create(folder / "c.zarr", found)
    ingest_tiles(cohort, found, workers=1)
    annotate_tiles(cohort, folder / "masks", choose_mask_layout(), taken=Taken("keep"), workers=1)
    return cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    cohort = make(tmp_path_factory.mktemp("cohort"))
    split(cohort.url, seed=1)
    return open_cohort(cohort.url)


def test_cellpose_reads_what_the_store_holds(cohort: Cohort, tmp_path: Path) -> None:
    io = pytest.importorskip("cellpose.io")
    paths = export(cohort.url, to="cellpose", out=tmp_path)
    assert len(paths) == 2 * (len(TILES) - 1) + 1
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    images = cohort.images()
    part_of = dict(zip(images[n.TILE].values, images[n.SPLIT].values, strict=True))
    by_file = {safe_name(tile): tile for tile in TILES}
    seen = []
    for part in n.SPLITS:
        read, labels, names, *_ = io.load_train_test_data(str(tmp_path / f"{part}_cells"))
        for image, label, name in zip(read, labels, names, strict=True):
            tile = by_file[Path(name).stem]
            assert part_of[tile] == part
            np.testing.assert_array_equal(image, np.concatenate([planes(tile), np.zeros((1, *shape(tile)))]))
            np.testing.assert_array_equal(label, mask(tile))
            assert image.dtype == np.uint16
            assert label.dtype == (np.uint32 if tile == TILES[0] else np.uint16)
            seen.append(tile)
    assert sorted(seen) == sorted(set(TILES) - {NOT_ANNOTATED})


def test_cellpose_would_train_on_these_planes(cohort: Cohort, tmp_path: Path) -> None:
    train = pytest.importorskip("cellpose.train")
    paths = [path for path in write_training_folders(cohort, tmp_path, workers=1) if path.name.endswith("t2.tif")]
    for path in paths:
        (given,) = train._reshape_norm([tifffile.imread(path)])
        assert given.shape[0] == 3
        assert not given[2].any()


def test_the_index_tells_where_every_image_is_from(cohort: Cohort, tmp_path: Path) -> None:
    *_, last = write_training_folders(cohort, tmp_path)
    assert last == tmp_path / "split.tsv"
    index = pd.read_csv(last, sep="\t")
    assert index.columns.tolist() == ["image", "tile", "donor", "marker", "split"]
    assert sorted(index["tile"]) == sorted(set(TILES) - {NOT_ANNOTATED})
    assert (index["donor"] == index["tile"].str.split("/").str[0]).all()
    assert all((tmp_path / image).is_file() for image in index["image"])
    assert index.groupby("donor")["split"].nunique().eq(1).all()


def test_a_second_export_replaces_the_first_but_mixes_with_no_other(cohort: Cohort, tmp_path: Path) -> None:
    first = list(write_training_folders(cohort, tmp_path))
    (tmp_path / "train_cells" / f".left_by_a_kill{PARTIAL_SUFFIX}").write_bytes(b"II")
    assert list(write_training_folders(cohort, tmp_path)) == first
    (tmp_path / "train_cells" / "of_another_split.tif").write_bytes(b"II")
    with pytest.raises(FintuneValueError, match=r"1 file\(s\) that do not belong .*of_another_split.*empty folder"):
        next(write_training_folders(cohort, tmp_path))


def test_dapi_comes_first_wherever_it_is_stored(tmp_path: Path) -> None:
    cohort = make(tmp_path, channels={"0": "marker", "1": "DAPI"})
    assert list(cohort.images()[n.CHANNEL].values) == ["marker", "DAPI"]
    with pytest.raises(SplitError, match="no annotated tile has a split"):
        next(write_training_folders(cohort, tmp_path / "out"))
    with pytest.raises(SplitError, match="has no split yet"):
        export(cohort.url, to="cellpose", out=tmp_path / "out")
    split(cohort.url)
    image, *_ = write_training_folders(cohort, tmp_path / "out")
    tile = next(tile for tile in TILES if safe_name(tile) == image.stem)
    np.testing.assert_array_equal(tifffile.imread(image)[:2], planes(tile)[::-1])


def test_exports_that_cannot_be(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(FintuneValueError, match="belong to no run; leave out --run tuned"):
        export(cohort.url, to="cellpose", out=tmp_path, runs=["tuned"])
    with pytest.raises(
        UnknownNameError, match=r"'cellpos'; known: .*box, cellpose, coco, csv, .*masks, .*relion, .*star, tables"
    ):
        export(cohort.url, to="cellpos", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_annotations(tmp_path: Path) -> None:
    (tmp_path / "source" / "d1" / "GFAP").mkdir(parents=True)
    for channel in (0, 1):
        tifffile.imwrite(tmp_path / f"source/d1/GFAP/t_b0c{channel}.tif", np.ones((8, 8), np.uint16))
    found = scan(tmp_path / "source", choose_layout("rosmap"))
    cohort = open_or_create(tmp_path / "c.zarr", found)
    ingest_tiles(cohort, found, workers=1)
    with pytest.raises(StoreNotFoundError, match="annotations yet"):
        next(write_training_folders(cohort, tmp_path / "out"))
