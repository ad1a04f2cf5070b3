"""OME-Zarr, judged by the models of its own community: the store as it lies, and images of single tiles."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from exchange import IMAGES, LOST, MASKS, RUN, SIZES, TILES, TRUTH, exchange_store
from ome_zarr_models.v05 import Image, ImageLabel, Labels

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.export import export
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import Cohort, create_cohort, open_cohort
from fintune_xr.store.export.ome_zarr import levels
from fintune_xr.store.ingest.viewer_metadata import describe_images
from fintune_xr.store.labels.ome_zarr import pixel_sides, shown_ranges, stored_sides
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.store.zarr_io import appendable, shards
from fintune_xr.tasks.product import CLASSES, PROBABILITIES


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return exchange_store(tmp_path_factory.mktemp("ome") / "c.zarr")


def opened(path: Path) -> zarr.Group:
    return zarr.open_group(path, mode="r")


def test_the_store_itself_is_ome_zarr(cohort: Cohort) -> None:
    image = Image.from_zarr(opened(cohort.location.path / n.IMAGES)).attributes.ome
    (scales,) = image.multiscales
    assert [(axis.name, axis.type) for axis in scales.axes] == [
        ("tile", "time"), ("channel", "channel"), ("y", "space"), ("x", "space"),
    ]  # fmt: skip
    shown = image.omero["channels"]
    assert [(one["label"], one["color"]) for one in shown] == [("DAPI", "0000FF"), ("marker", "00FF00")]
    for at, one in enumerate(shown):
        pixels = np.concatenate([tile[at].ravel() for tile in IMAGES])
        assert one["window"]["start"] == pytest.approx(np.quantile(pixels, 0.001))
        assert one["window"]["end"] == pytest.approx(np.quantile(pixels, 0.999))
    labels = ImageLabel.from_zarr(opened(cohort.location.path / n.RUNS / RUN)).attributes.ome
    assert labels.image_label.source.image == "../../images"
    assert [axis.name for axis in labels.multiscales[0].axes] == ["tile", "y", "x"]
    assert check(cohort.url) == []


SIDES = {
    "he": ({n.MPP: 0.25}, {n.Y: 0.25, n.X: 0.25}),
    "em": ({n.PIXEL_SIZE_A: 1.5}, {n.Y: 1.5e-4, n.X: 1.5e-4}),
    "oct": ({n.SPACING_Z: 0.1, n.SPACING_Y: 0.004, n.SPACING_X: 0.012}, {n.Z: 100.0, n.Y: 4.0, n.X: 12.0}),
}


def with_tiles(where: Path, kind: str, told: list[dict[str, float]]) -> Cohort:
    """A store with a tile for each of `told`, columns that say how large its pixels are."""
    channels = {"he": ["R", "G", "B"], "em": ["micrograph"], "oct": ["oct"]}[kind]
    shape = (4, 6, 8) if kind == "oct" else (6, 8)
    dtype = "float32" if kind == "em" else "uint8"
    cohort = create_cohort(where, kind=kind, channels=channels, tile_shape=shape, dtype=dtype)
    target = cohort.images_group()
    sides = dict(zip((n.DEPTH, n.HEIGHT, n.WIDTH), (*[1] * (3 - len(shape)), *shape), strict=True))
    rows = [
        {n.TILE: f"d/m/{at}", n.DONOR: "d", n.MARKER: "m", n.SPLIT: "", **sides, **one,
         n.SOURCE: ["f"] * len(channels), n.SHA256: ["0"] * len(channels)}
        for at, one in enumerate(told)
    ]  # fmt: skip
    pixels = np.arange(np.prod([len(channels), *shape])).reshape(len(channels), *shape).astype(dtype)
    full = {name: "" if spec.dtype == "str" else 0 for name, spec in target.labels.items()}
    for _ in appendable.append(target, (({**full, **row}, shards.encode_tile(pixels, target.grid)) for row in rows)):
        pass
    describe_images(cohort)
    return cohort


@pytest.mark.parametrize("kind", SIDES)
def test_pixels_are_as_large_as_every_tile_tells(tmp_path: Path, kind: str) -> None:
    told, expected = SIDES[kind]
    cohort = with_tiles(tmp_path / "a.zarr", kind, [told, told])
    found = Image.from_zarr(opened(cohort.location.path / n.IMAGES)).attributes.ome.multiscales[0]
    units = {axis.name: axis.unit for axis in found.axes}
    scale = dict(zip(units, found.datasets[0].coordinateTransformations[0].scale, strict=True))
    assert {dim: scale[dim] for dim in expected} == pytest.approx(expected)
    assert {dim for dim, unit in units.items() if unit == "micrometer"} == set(expected)
    assert stored_sides(cohort.location) == pytest.approx(expected)
    mixed = with_tiles(tmp_path / "b.zarr", kind, [told, {name: 2 * value for name, value in told.items()}])
    assert stored_sides(mixed.location) == pixel_sides(mixed.images(lazy=False)) == {}


@pytest.mark.parametrize(("kind", "product"), [("he", CLASSES), ("em", PROBABILITIES)])
def test_runs_of_other_kinds(tmp_path: Path, kind: str, product: object) -> None:
    cohort = with_tiles(tmp_path / "a.zarr", kind, [SIDES[kind][0]])
    sizes = {n.CLASS: ["a", "b"]} if product is CLASSES else None
    with writing_run(cohort, "r", identity={}, facts={}, product=product, sizes=sizes):  # type: ignore[arg-type]
        pass
    model = ImageLabel if product is CLASSES else Image
    found = model.from_zarr(opened(cohort.location.path / n.RUNS / "r")).attributes.ome
    side = SIDES[kind][1][n.Y]
    assert found.multiscales[0].datasets[0].coordinateTransformations[0].scale == pytest.approx([1, side, side])


def test_what_the_images_say_follows_the_tiles(tmp_path: Path) -> None:
    cohort = with_tiles(tmp_path / "a.zarr", "em", [{n.PIXEL_SIZE_A: 2.0}])
    before = opened(cohort.location.path / n.IMAGES).attrs[n.OME]
    describe_images(cohort)
    assert opened(cohort.location.path / n.IMAGES).attrs[n.OME] == before
    target = cohort.images_group()
    full = {name: "" if spec.dtype == "str" else 0 for name, spec in target.labels.items()}
    row = {**full, n.TILE: "e/m/1", n.PIXEL_SIZE_A: 3.0, n.HEIGHT: 6, n.WIDTH: 8, n.SOURCE: ["f"], n.SHA256: ["1"]}
    pixels = np.full((1, 6, 8), 500, np.float32)
    for _ in appendable.append(target, [(row, shards.encode_tile(pixels, target.grid))]):
        pass
    describe_images(cohort)
    assert stored_sides(cohort.location) == {}
    assert opened(cohort.location.path / n.IMAGES).attrs[n.OME]["omero"]["channels"][0]["window"]["end"] == 500


def test_an_old_store_says_it_once_its_run_is_continued(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[1] / "data" / "cells.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (store,) = tmp_path.rglob("a.zarr")
    assert n.OME not in opened(store / n.RUNS / "half").attrs
    cohort = open_cohort(store)
    with writing_run(cohort, "half", identity=cohort.run_attrs("half")[n.IDENTITY], facts={}):
        pass
    ImageLabel.from_zarr(opened(store / n.RUNS / "half"))
    assert check(store) == []


def test_tiles_of_their_own(cohort: Cohort, tmp_path: Path) -> None:
    paths = export(cohort.url, to="ome-zarr", out=tmp_path)
    assert len(paths) == len(list(tmp_path.iterdir())) == len(TILES)
    for at, path in enumerate(paths):
        group = opened(path)
        assert Image.from_zarr(group).attributes.ome.multiscales[0].name == TILES[at]
        np.testing.assert_array_equal(group["0"][...], IMAGES[at])
        expected = {RUN: MASKS[at]} if at != LOST else {}
        expected |= {"annotated": TRUTH[TILES[at]]} if TILES[at] in TRUTH else {}
        if not expected:
            assert "labels" not in group
            continue
        assert Labels.from_zarr(group["labels"]).attributes.ome.labels == list(expected)
        for name, mask in expected.items():
            ImageLabel.from_zarr(group[f"labels/{name}"])
            np.testing.assert_array_equal(group[f"labels/{name}/0"][...], mask)


def test_chosen_tiles_and_what_cannot_be_chosen(cohort: Cohort, tmp_path: Path) -> None:
    (path,) = export(cohort.url, to="ome-zarr", out=tmp_path, tiles=[TILES[1]], runs=[RUN])
    assert opened(path)["0"].shape == (2, *SIZES[1])
    assert len(export(cohort.url, to="ome-zarr", out=tmp_path, donors=["d2"])) == 2
    with pytest.raises(UnknownNameError, match="no donor 'd3'; known: d1, d2"):
        export(cohort.url, to="ome-zarr", out=tmp_path, donors=["d3"])
    with pytest.raises(FintuneValueError, match="--to masks is written of all tiles"):
        export(cohort.url, to="masks", out=tmp_path, donors=["d1"])


def test_a_writing_that_fails_leaves_what_was_there(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = export(cohort.url, to="ome-zarr", out=tmp_path, tiles=[TILES[0]])

    def fails(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fintune_xr.store.export.ome_zarr._write_labels", fails)
    with pytest.raises(KeyboardInterrupt):
        export(cohort.url, to="ome-zarr", out=tmp_path, tiles=[TILES[0]])
    assert list(tmp_path.iterdir()) == [path]
    Labels.from_zarr(opened(path)["labels"])
    shutil.rmtree(path)


def test_levels_against_a_slow_version() -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (2, 259, 300)).astype(np.uint16)
    whole, half = levels(pixels, are_labels=False)
    assert whole is pixels
    assert half.shape == (2, 130, 150)
    for y, x in ((0, 0), (17, 149), (129, 3)):
        block = [pixels[1, min(2 * y + dy, 258), min(2 * x + dx, 299)] for dy in (0, 1) for dx in (0, 1)]
        assert abs(half[1, y, x] - np.mean(block)) <= 0.5
    labels = levels(pixels[0], are_labels=True)[1]
    assert labels.shape == (130, 150)
    assert set(np.unique(labels)) <= set(np.unique(pixels[0]))


def test_levels_say_where_their_pixels_lie(tmp_path: Path) -> None:
    from fintune_xr.store.labels.ome_zarr import image_ome

    (scales,) = image_ome("t", ("channel", "y", "x"), {"y": 0.5, "x": 0.5}, levels=["0", "1", "2"])["multiscales"]
    placed = [one["coordinateTransformations"] for one in scales["datasets"]]
    assert placed[0] == [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    # The middle of four by four pixels of half a um lies one and a half pixels beyond the middle of the first.
    assert placed[2] == [
        {"type": "scale", "scale": [1.0, 2.0, 2.0]},
        {"type": "translation", "translation": [0.0, 0.75, 0.75]},
    ]


def test_shown_ranges_of_large_tiles_are_near_those_of_all_pixels() -> None:
    rng = stream(1, "ranges")
    tiles = [rng.gamma(2.0, 300.0, (2, 900, 1100)).astype(np.uint16) for _ in range(3)]
    for channel, (low, high) in enumerate(shown_ranges(iter(tiles))):
        pixels = np.concatenate([tile[channel].ravel() for tile in tiles])
        for found, at in ((low, 0.001), (high, 0.999)):
            assert abs(np.mean(pixels < found) - at) < 0.0005
    small = tiles[0][:, :64, :64]
    expected = [np.quantile(plane, [0.001, 0.999]).tolist() for plane in small]
    assert shown_ranges([small]) == [tuple(one) for one in expected]
