"""Volumes: many pages of a file as one tile (z, y, x), from the folder to a run, and back out bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import toy_products as toys
from numpy.typing import NDArray
from PIL import Image

from fintune_xr import cohort_kinds
from fintune_xr import names as n
from fintune_xr.cohort_kinds import CohortKind
from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.pipelines.inference import block
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import Cohort, create_cohort, open_cohort
from fintune_xr.store.ingest.tiles import IngestReport, ingest_tiles, open_or_create
from fintune_xr.store.raw import readers
from fintune_xr.store.raw.layouts import Layout, choose_layout
from fintune_xr.store.raw.readers import read_plane_with_digest, read_planes_with_digest
from fintune_xr.store.raw.scan import scan
from fintune_xr.store.runs.run import run_creation
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.store.zarr_io import shards
from fintune_xr.tasks.classification import VOLUMES
from fintune_xr.tasks.product import SCORES
from fintune_xr.tasks.task import INSTANCE

KIND = "toy"
SHAPES = {"d1/a": (5, 20, 24), "d1/b": (4, 18, 24), "d2/a": (6, 20, 17)}


@pytest.fixture(autouse=True)
def a_kind_of_volumes_and_small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kind = CohortKind(KIND, INSTANCE, VOLUMES, SCORES, about="of volumes", annotated="nothing", offers="Nothing.")
    monkeypatch.setattr(cohort_kinds, "KINDS", {**cohort_kinds.KINDS, KIND: kind})
    monkeypatch.setattr("fintune_xr.store.cohort.KINDS", cohort_kinds.KINDS)
    monkeypatch.setattr(shards, "MAX_TILES_PER_SHARD", 2)
    return iter([None])


def layout() -> Layout:
    return replace(choose_layout("custom"), kind=KIND, pages_are_depth=True)


def volume(name: str, dtype: str = "uint8") -> NDArray[Any]:
    return stream(3, name).integers(1, 250, SHAPES[name]).astype(dtype)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in SHAPES:
        path = tmp_path / "raw" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, volume(name), photometric="minisblack")
    return tmp_path / "raw"


def ingested(source: Path, where: Path) -> tuple[Cohort, IngestReport]:
    found = scan(source, layout(), workers=2)
    cohort = open_or_create(where, found)
    return cohort, ingest_tiles(cohort, found, workers=2)


def test_every_voxel_is_stored_with_its_depth_and_digest(source: Path, tmp_path: Path) -> None:
    cohort, report = ingested(source, tmp_path / "a.zarr")
    assert (report.n_added, report.left_out) == (3, ())
    images = cohort.images(lazy=False)
    assert images[n.IMAGE].dims == (n.TILE, n.CHANNEL, n.Z, n.Y, n.X)
    assert images[n.IMAGE].shape == (3, 1, 6, 20, 24)
    for at, name in enumerate(SHAPES):
        assert str(images[n.TILE].values[at]).startswith(name.split("/")[0])
        np.testing.assert_array_equal(tile_pixels(images, at), volume(name)[None])
        depth, height, width = SHAPES[name]
        whole = images[n.IMAGE].values[at, 0]
        assert whole.sum() == volume(name).sum(dtype="u8"), "nothing beyond the volume"
        assert [int(images[side].values[at]) for side in (n.DEPTH, n.HEIGHT, n.WIDTH)] == [depth, height, width]
        expected = hashlib.sha256((source / f"{name}.tif").read_bytes()).hexdigest()
        assert images[n.SHA256].values[at].tolist() == [expected]
    assert check(cohort.url) == []
    assert ingested(source, tmp_path / "a.zarr")[1].n_present == 3


def test_what_is_no_volume_of_one_kind_is_left_out(source: Path, tmp_path: Path) -> None:
    tifffile.imwrite(source / "d1" / "flat.tif", np.ones((20, 24), np.uint8))
    with tifffile.TiffWriter(source / "d1" / "mixed.tif") as file:
        file.write(np.ones((20, 24), np.uint8))
        for _ in range(4):
            file.write(np.ones((20, 23), np.uint8))
    with tifffile.TiffWriter(source / "d1" / "cut.tif") as file:
        for plane in volume("d1/a"):
            file.write(plane)
    with tifffile.TiffFile(source / "d1" / "cut.tif") as file:
        fourth = file.pages[3].offset
    whole = (source / "d1" / "cut.tif").read_bytes()
    (source / "d1" / "cut.tif").write_bytes(whole[:fourth])
    _, report = ingested(source, tmp_path / "a.zarr")
    reasons = {Path(one.path).name: one.reason for one in report.left_out}
    assert report.n_added == 3
    assert "two planes or more" in reasons["flat.tif"]
    assert "planes of one size" in reasons["mixed.tif"]
    assert reasons["cut.tif"].startswith("truncated"), "three whole planes are left of five"


def test_volumes_of_quite_another_depth_do_not_fit_the_store(source: Path, tmp_path: Path) -> None:
    ingested(source, tmp_path / "a.zarr")
    tifffile.imwrite(source / "d2" / "deep.tif", np.ones((7, 20, 24), np.uint8), photometric="minisblack")
    _, report = ingested(source, tmp_path / "a.zarr")
    assert [one.reason for one in report.left_out] == [
        "wrong shape: expected at most 6 x 20 x 24, which the store was made for, and at least half of that, found "
        "7 x 20 x 24; ingest tiles of this size into a store of their own"
    ]


def test_tiles_of_other_dims_make_no_store(tmp_path: Path) -> None:
    with pytest.raises(FintuneValueError, match=r"has tiles \(z, y, x\)"):
        create_cohort(tmp_path / "a.zarr", kind=KIND, channels=["oct"], tile_shape=(8, 8), dtype="uint8")
    with pytest.raises(FintuneValueError, match=r"has tiles \(y, x\)"):
        create_cohort(tmp_path / "a.zarr", kind="if", channels=["DAPI"], tile_shape=(4, 8, 8), dtype="uint16")
    assert not (tmp_path / "a.zarr").exists()


class _Sums:
    """A model of volumes whose logits are sums of what it was given."""

    def normalise(self, tile: NDArray[Any]) -> Any:
        return tile.astype(np.float32)

    def predict(self, batch: Any) -> Any:
        return [np.array([one.size, one.sum(), one.shape[1]], np.float32) for one in batch]

    def reconstruct(self, maps: Any) -> Any:
        return maps


def test_a_worker_gives_its_model_the_volume_without_its_padding(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.add_products()
    cohort, _ = ingested(source, tmp_path / "a.zarr")
    monkeypatch.setattr(block, "load_model", lambda *_, **__: _Sums())
    context: Any = block.BlockContext(
        cohort.location,
        "r",
        Checkpoint("sums", "threshold", "", ""),
        None,
        ("oct",),
        "cpu",
        batch_tiles=2,
        attempts=1,  # type: ignore[arg-type]
    )
    with writing_run(
        cohort, "r", identity={}, facts={}, product=toys.LOGITS, sizes=toys.SIZES[toys.LOGITS.name]
    ) as writer:
        context = replace(context, creation=run_creation(cohort.location, "r"))
        for plan in list(writer.plans()):
            writer.commit([block.infer_block(plan, context)])
        assert writer.finish()
    run = open_cohort(cohort.url).run("r", lazy=False)
    assert run[n.STATE].values.tolist() == [n.DONE] * 3
    expected = [(volume(name).size, volume(name).sum(dtype="f8"), SHAPES[name][0]) for name in SHAPES]
    np.testing.assert_array_equal(run["logits"].values, np.array(expected, "f4"))
    assert run[n.DEPTH].values.tolist() == [5, 4, 6]
    assert check(cohort.url) == []


# ---- planes of one file


@pytest.mark.parametrize("name", ["rgb.png", "last.tif", "first.tif", "pages.tif"])
def test_planes_of_one_file_are_those_read_one_by_one(tmp_path: Path, name: str) -> None:
    pixels = stream(4, name).integers(0, 255, (3, 9, 11)).astype(np.uint8)
    path = tmp_path / name
    if name == "rgb.png":
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    elif name == "last.tif":
        tifffile.imwrite(path, pixels.transpose(1, 2, 0), photometric="rgb")
    elif name == "first.tif":
        tifffile.imwrite(path, pixels, photometric="rgb", planarconfig="separate")
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack")
    planes, digest = read_planes_with_digest(path, pages=[2, 0, 1])
    np.testing.assert_array_equal(planes, pixels[[2, 0, 1]])
    for page in range(3):
        plane, same = read_plane_with_digest(path, page=page, channels=True)
        np.testing.assert_array_equal(plane, pixels[page])
        assert digest == same == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(TileReadError, match="expected a page 3"):
        read_planes_with_digest(path, pages=[0, 3])


def test_a_file_of_several_planes_is_read_once_and_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d1" / "GFAP" / "t.tif"
    path.parent.mkdir(parents=True)
    # What is not compressed is not decoded at all.
    tifffile.imwrite(path, np.ones((9, 11, 3), np.uint8), photometric="rgb", compression="zlib")
    decoded, opened = [], []
    original, opens = tifffile.TiffPage.asarray, readers.open_place

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        decoded.append(self)
        return original(self, *arguments, **options)

    def counted_open(place: Any) -> Any:
        opened.append(place)
        return opens(place)

    chosen = choose_layout("planes", channels={"0": "R", "1": "G", "2": "B"})
    found = scan(tmp_path, chosen, workers=1)
    cohort = open_or_create(tmp_path / "a.zarr", found)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", counted)
    monkeypatch.setattr(readers, "open_place", counted_open)
    assert ingest_tiles(cohort, found, workers=1).n_added == 1
    assert (len(decoded), len(opened)) == (1, 1)
    assert cohort.images(lazy=False)[n.IMAGE].values.min() == 1
