"""Exports: masks as TIFF files and tables of cells and tiles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, StoreNotFoundError, StoreWriteError, UnknownNameError
from fintune_xr.pixels.cell_measurement import measure_cells
from fintune_xr.store.cohort import Cohort, create_cohort
from fintune_xr.store.export import tables
from fintune_xr.store.export.masks import write_masks
from fintune_xr.store.export.tables import write_cells, write_tiles
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.store.runs.run import run_creation, run_grid
from fintune_xr.store.runs.run_shard import write_run_shard
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.appendable import append
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.tasks.instance import POSITIVITY
from fintune_xr.tasks.records import ShardReceipt, TileResult

RUN = "generic"
TILES = ("d1/GFAP/t1", "d1/GFAP/t 2\tü", "d2/IBA1/t3", "d2/IBA1/../t4")
SIZES = ((20, 24), (12, 15), (20, 24), (20, 24))
RNG = np.random.default_rng(3)
IMAGES = [RNG.integers(1, 500, (2, *size)).astype(np.uint16) for size in SIZES]
MASKS: list[Any] = [RNG.integers(0, 6, size).astype(np.uint32) for size in SIZES]
MASKS[2] = MASKS[2] * 20000
FAILED = 3


def labelled(grid: shards.ShardGrid) -> Iterator[tuple[Any, shards.Encoded]]:
    for tile, image in zip(TILES, IMAGES, strict=True):
        donor, marker, _ = tile.split("/", 2)
        labels = {
            n.TILE: tile, n.DONOR: donor, n.MARKER: marker, n.SPLIT: "", n.HEIGHT: image.shape[1],
            n.WIDTH: image.shape[2], n.SOURCE: ["a", "b"], n.SHA256: ["0", "1"],
        }  # fmt: skip
        yield labels, shards.encode_tile(image, grid)


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    cohort = create_cohort(
        tmp_path / "c.zarr", kind="if", channels=["DAPI", "marker"], tile_shape=(20, 24), dtype="uint16"
    )
    for _ in append(cohort.images_group(), labelled(cohort.images_group().grid)):
        pass
    with writing_run(cohort, RUN, identity={"checkpoint": "0"}, facts={}) as writer:
        for plan in writer.plans():
            grid = run_grid(cohort.location, RUN)
            here = range(plan.first, plan.first + plan.n_slots)
            masks = (shards.encode_tile(MASKS[i], grid) for i in here)
            write_run_shard(cohort.location, RUN, plan, masks, creation=run_creation(cohort.location, RUN))
            cells = {i: measure_cells(MASKS[i], IMAGES[i]) for i in here}
            results = tuple(
                TileResult(n.QUARANTINED, 0.1, "out of memory")
                if i == FAILED
                else TileResult(n.DONE, 0.1, values=cells[i].of_tile, objects=cells[i])
                for i in here
            )
            writer.commit([ShardReceipt(plan, results)])
        writer.finish()
    return cohort


def expected_cells() -> pd.DataFrame:
    rows = []
    for index, (mask, image) in enumerate(zip(MASKS, IMAGES, strict=True)):
        if index == FAILED:
            continue
        for label in np.unique(mask[mask > 0]):
            ys, xs = np.nonzero(mask == label)
            donor, marker, _ = TILES[index].split("/", 2)
            means = image[:, ys, xs].mean(axis=1)
            rows.append((RUN, TILES[index], donor, marker, n.UNASSIGNED, label, ys.size, ys.mean(), xs.mean(), *means))
    columns = [
        "run", "tile", "donor", "marker", "split", "label", "area_px", "centroid_y", "centroid_x",
        "mean_intensity_DAPI", "mean_intensity_marker",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, sep="\t", keep_default_na=False, na_values={"n_cells": [""], "n_positive": [""]})


def test_masks_of_finished_tiles_in_their_own_size(cohort: Cohort, tmp_path: Path) -> None:
    paths = list(write_masks(cohort, RUN, tmp_path / "out"))
    assert [path.name for path in paths] == [f"{safe_name(tile)}_pred.tif" for tile in TILES[:3]]
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)
    for path, mask, tile in zip(paths, MASKS, TILES, strict=False):
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0]
            np.testing.assert_array_equal(page.asarray(), mask)
            assert page.compression.name == "ADOBE_DEFLATE"
            assert json.loads(page.description) == {"tile": tile, "run": RUN}
    assert [tifffile.imread(path).dtype for path in paths] == ["uint16", "uint16", "uint32"]


def test_no_half_written_mask_is_left(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(place: Path, *_: Any, **__: Any) -> None:
        place.write_bytes(b"II")
        raise KeyboardInterrupt

    monkeypatch.setattr(tifffile, "imwrite", failing)
    with pytest.raises(KeyboardInterrupt):
        list(write_masks(cohort, RUN, tmp_path / "out", workers=1))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("suffix", [".parquet", ".tsv"])
@pytest.mark.parametrize("rows", [1, 4, 65536])
def test_cells_whatever_the_size_of_the_parts(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, rows: int
) -> None:
    monkeypatch.setattr(tables, "CELLS_PER_CHUNK", rows)
    path = write_cells(cohort, RUN, tmp_path / f"cells{suffix}")
    pd.testing.assert_frame_equal(read(path), expected_cells(), check_dtype=False, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".parquet", ".tsv"])
def test_tiles(cohort: Cohort, tmp_path: Path, suffix: str) -> None:
    table = read(write_tiles(cohort, RUN, tmp_path / f"tiles{suffix}"))
    assert table["tile"].tolist() == list(TILES)
    assert table["state"].tolist() == ["done", "done", "done", "quarantined"]
    assert table["reason"].tolist() == ["", "", "", "out of memory"]
    assert table[["height", "width"]].to_numpy().tolist() == [list(size) for size in SIZES]
    assert table["n_cells"].isna().tolist() == [False, False, False, True]
    assert table["n_cells"].tolist()[:3] == [5, 5, 5]
    assert table["n_positive"].isna().all()
    for index, channel in enumerate(("DAPI", "marker")):
        outside = np.median(IMAGES[0][index][MASKS[0] == 0])
        assert float(table[f"background_{channel}"][0]) == pytest.approx(outside)


def test_tiles_with_the_counts_of_each_rule(cohort: Cohort, tmp_path: Path) -> None:
    xr = pytest.importorskip("xarray")
    counts = np.array([[5, 5, 5, -1], [4, 4, 4, -1]], np.int32)
    text = np.dtypes.StringDType()
    rules = xr.Dataset(
        {
            n.N_ALL: ((n.RULE, n.TILE), counts),
            n.N_POSITIVE: ((n.RULE, n.TILE), counts // 2),
            n.N_WITHOUT_NUCLEUS: ((n.RULE, n.TILE), counts * 0),
            n.THRESHOLD: ((n.RULE, n.TILE), counts.astype(np.float32)),
        },
        coords={n.TILE: np.array(TILES, text), n.RULE: np.array(["otsu", "fixed"], text)},
    )
    cohort.write(f"{n.POSITIVITY}/{RUN}", rules, POSITIVITY)
    table = read(write_tiles(cohort, RUN, tmp_path / "tiles.parquet"))
    assert table["n_all_otsu"].tolist()[:3] == [5, 5, 5]
    assert table["n_positive_fixed"].tolist()[:3] == [2, 2, 2]
    assert table["n_positive_fixed"].isna().tolist()[3]


def test_exports_that_cannot_be(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no run 'other'; known: generic"):
        next(write_masks(cohort, "other", tmp_path))
    with pytest.raises(FintuneValueError, match=r"expected a name ending in \.parquet or \.tsv"):
        write_tiles(cohort, RUN, tmp_path / "tiles.xlsx")
    with writing_run(cohort, "begun", identity={}, facts={}):
        pass
    with pytest.raises(StoreNotFoundError, match="cells/begun"):
        write_cells(cohort, "begun", tmp_path / "cells.tsv")
    assert list(tmp_path.glob("*.tsv")) == []


def test_a_refusal_to_write_says_what_to_do(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(StoreWriteError, match=r"cannot write .*_pred\.tif: No space left"):
        next(write_masks(cohort, RUN, tmp_path / "out"))


def test_a_schema_beside_the_table_says_that_ids_are_no_numbers(cohort: Cohort, tmp_path: Path) -> None:
    for column in (f"{n.IMAGES}/{n.TILE}", f"{n.IMAGES}/{n.DONOR}", f"{n.RUNS}/{RUN}/{n.TILE}"):
        open_column(cohort.location, column)[:] = np.array(["007", "010", "0", "1e3"], object)
    path = write_tiles(cohort, RUN, tmp_path / "tiles.tsv")
    schema = json.loads((tmp_path / "tiles.tsv.schema.json").read_text())
    types = {field["name"]: field["type"] for field in schema["fields"]}
    assert {types[name] for name in ("run", "tile", "donor", "marker", "split", "state", "reason")} == {"string"}
    assert (types["height"], types["n_cells"], types["seconds"]) == ("integer", "integer", "number")
    texts = {name: str for name, kind in types.items() if kind == "string"}
    table = pd.read_csv(path, sep="\t", dtype=texts, keep_default_na=False, na_values=schema["missingValues"])
    assert list(table.columns) == list(types)
    assert table["tile"].tolist() == ["007", "010", "0", "1e3"]
    first = path.read_text().splitlines()[1].split("\t")
    assert (first[0], first[1]) == (f'"{RUN}"', '"007"')
    assert first[list(types).index("height")].isdigit()


def test_lengths_in_um_where_the_size_of_a_pixel_is_known(cohort: Cohort, tmp_path: Path) -> None:
    zarr.open_array(f"{cohort.location.path}/{n.IMAGES}/{n.MPP}", mode="r+")[:] = [0.5, 0, 0.25, 0.5]
    expected = expected_cells()
    side = expected["tile"].map({TILES[0]: 0.5, TILES[2]: 0.25})
    table = pd.read_parquet(write_cells(cohort, RUN, tmp_path / "cells.parquet"))
    np.testing.assert_allclose(table["area_um2"], expected["area_px"] * side**2)
    np.testing.assert_allclose(table["centroid_x_um"], (expected["centroid_x"] + 0.5) * side, rtol=1e-6)
    tiles = pd.read_csv(write_tiles(cohort, RUN, tmp_path / "tiles.tsv"), sep="\t")
    np.testing.assert_array_equal(tiles["mpp"], [0.5, np.nan, 0.25, 0.5])
    paths = list(write_masks(cohort, RUN, tmp_path))
    with tifffile.TiffFile(paths[0]) as file:
        across, per = file.pages[0].tags["XResolution"].value
        assert across / per == pytest.approx(1e4 / 0.5)
    with tifffile.TiffFile(paths[1]) as file:
        assert file.pages[0].tags["ResolutionUnit"].value == 1
