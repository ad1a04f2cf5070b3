"""What other tools are given is read back by their own readers: the very masks, and who is positive."""

from __future__ import annotations

import json
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
from exchange import IMAGES, LOST, MASKS, RUN, TILES, TRUTH, exchange_store, store_run
from numpy.typing import NDArray
from stores import CHANNELS, add_tiles

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, MissingPackageError, StoreWriteError, TileReadError, UnknownNameError
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.pixels.outlines import fill_rings
from fintune_xr.store.cohort import Cohort, create_cohort
from fintune_xr.store.export import annotated_data
from fintune_xr.store.export.coco import runs
from fintune_xr.store.export.geojson import object_id
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.store.raw.readers.drawings import read_drawn
from fintune_xr.store.raw.readers.drawings.coco import unpack_runs

THRESHOLD = 400.0


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    cohort = exchange_store(tmp_path_factory.mktemp("exports") / "c.zarr")
    positivity(cohort.url, run=RUN, rule="fixed", threshold=THRESHOLD)
    return cohort


def expected() -> dict[str, NDArray[Any]]:
    """Masks by folder and tile."""
    found = {f"{RUN}/{safe_name(tile)}": MASKS[at] for at, tile in enumerate(TILES) if at != LOST}
    return found | {f"annotated/{safe_name(tile)}": mask for tile, mask in TRUTH.items()}


def by_name(paths: list[Path], suffix: str) -> dict[str, Path]:
    return {
        f"{path.parent.name}/{path.name.removesuffix(suffix)}": path for path in paths if path.name.endswith(suffix)
    }


def is_positive(at: int, label: int) -> bool:
    inside, outside = MASKS[at] == label, MASKS[at] == 0
    marker = IMAGES[at][1].astype(float)
    return bool(marker[inside].mean() - np.median(marker[outside]) > THRESHOLD)


def test_geojson_as_qupath_wants_it(cohort: Cohort, tmp_path: Path) -> None:
    paths = by_name(export(cohort.url, to="geojson", out=tmp_path), ".geojson")
    assert paths.keys() == expected().keys()
    ids = []
    for name, mask in expected().items():
        document = json.loads(paths[name].read_text())
        assert document["type"] == "FeatureCollection"
        labels = np.zeros(mask.shape, np.uint32)
        for feature in document["features"]:
            ids.append(feature["id"])
            told = feature["properties"]
            label = int(told["name"])
            assert told["objectType"] == "detection"
            assert all(isinstance(value, str) for value in told["metadata"].values())
            pieces = feature["geometry"]["coordinates"]
            pieces = [pieces] if feature["geometry"]["type"] == "Polygon" else pieces
            assert all(ring[0] == ring[-1] and len(ring) >= 5 for piece in pieces for ring in piece)
            rings = [np.array(ring[:-1], float) for piece in pieces for ring in piece]
            labels[fill_rings(rings, mask.shape)] = label
            if name.startswith(RUN):
                at = [safe_name(tile) for tile in TILES].index(name.partition("/")[2])
                assert told["measurements"]["area_px"] == np.count_nonzero(mask == label)
                assert told["measurements"]["mean_intensity_marker"] == pytest.approx(
                    IMAGES[at][1][mask == label].mean(), rel=1e-6
                )
                assert told["classification"]["name"] == ("Positive" if is_positive(at, label) else "Negative")
        np.testing.assert_array_equal(labels, mask)
    # QuPath drops objects whose id is no UUID, and of two with one id it keeps one.
    assert len({uuid.UUID(one) for one in ids}) == len(ids)
    assert {"Positive", "Negative"} <= {
        feature["properties"]["classification"]["name"]
        for name, path in paths.items() if name.startswith(RUN)
        for feature in json.loads(path.read_text())["features"]
    }  # fmt: skip


def test_geojson_is_geojson(cohort: Cohort, tmp_path: Path) -> None:
    models = pytest.importorskip("geojson_pydantic", reason="geojson-pydantic is not installed")
    paths = by_name(export(cohort.url, to="geojson", out=tmp_path), ".geojson")
    read = {name: models.FeatureCollection.model_validate_json(path.read_text()) for name, path in paths.items()}
    drawn = {name: len(np.unique(mask[mask > 0])) for name, mask in expected().items()}
    assert {name: len(one.features) for name, one in read.items()} == drawn


def test_ids_are_those_of_the_object(cohort: Cohort, tmp_path: Path) -> None:
    first, again = (
        [path.read_bytes() for path in export(cohort.url, to="geojson", out=tmp_path / name)] for name in "ab"
    )
    assert first == again
    assert object_id("a", "b/c") != object_id("a/b", "c")
    assert uuid.UUID(object_id("r", "t", 1)).version == 5


def test_rois_are_read_by_roifile(cohort: Cohort, tmp_path: Path) -> None:
    paths = by_name(export(cohort.url, to="rois", out=tmp_path), "_rois.zip")
    assert paths.keys() == expected().keys()
    for name, mask in expected().items():
        labels = np.zeros(mask.shape, np.uint32)
        for roi in roifile.roiread(paths[name]):
            rings = roi.coordinates(multi=True)
            labels[fill_rings([np.asarray(ring, float) for ring in rings], mask.shape)] = int(roi.name)
            rows, columns = np.nonzero(mask == int(roi.name))
            assert (roi.left, roi.top, roi.right, roi.bottom) == (
                columns.min(), rows.min(), columns.max() + 1, rows.max() + 1,
            )  # fmt: skip
        np.testing.assert_array_equal(labels, mask)
    with zipfile.ZipFile(next(iter(paths.values()))) as archive:
        assert archive.testzip() is None


def test_segmentations_are_what_cellpose_writes(cohort: Cohort, tmp_path: Path) -> None:
    from cellpose import io, utils

    written = export(cohort.url, to="seg", out=tmp_path)
    paths = by_name(written, "_seg.npy")
    assert paths.keys() == by_name(written, ".tif").keys() == expected().keys()
    mask = expected()[f"{RUN}/{safe_name(TILES[0])}"]
    flows = [np.zeros((*mask.shape, 3), np.uint8), np.zeros((2, *mask.shape)), np.zeros(mask.shape)]
    io.masks_flows_to_seg(IMAGES[0], mask, flows, str(tmp_path / "theirs.tif"))
    theirs = np.load(tmp_path / "theirs_seg.npy", allow_pickle=True).item()
    np.testing.assert_array_equal(read_drawn(tmp_path / "theirs_seg.npy", mask.shape)[0], mask)
    for name, labels in expected().items():
        ours = np.load(paths[name], allow_pickle=True).item()
        assert ours.keys() == theirs.keys()
        assert len(ours["flows"]) == 5
        np.testing.assert_array_equal(ours["masks"], labels)
        image = io.imread(str(paths[name].with_name(ours["filename"])))
        assert image.shape == (3, *labels.shape)
    ours = np.load(paths[f"{RUN}/{safe_name(TILES[0])}"], allow_pickle=True).item()
    assert ours["masks"].dtype == theirs["masks"].dtype
    # Each outlines an instance by its own pixels; of what lies at the border of the image only ours speaks.
    theirs_too = utils.masks_to_outlines(mask)[1:-1, 1:-1]
    assert ((ours["outlines"][1:-1, 1:-1] > 0) >= theirs_too).mean() > 0.95


def test_coco_is_read_by_pycocotools(cohort: Cohort, tmp_path: Path) -> None:
    paths = {path.parent.name: path for path in export(cohort.url, to="coco", out=tmp_path)}
    assert paths.keys() == {RUN, "annotated"}
    for layer, path in paths.items():
        document = json.loads(path.read_text())
        assert [one["id"] for one in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
        names = [f"{layer}/{image['file_name'].removesuffix('.tif')}" for image in document["images"]]
        assert names == [name for name in expected() if name.startswith(layer)]
        found = {image["id"]: np.zeros((image["height"], image["width"]), np.uint32) for image in document["images"]}
        for one in document["annotations"]:
            mask = _mask_of(one)
            found[one["image_id"]][mask] = one["label"]
            rows, columns = np.nonzero(mask)
            assert one["area"] == rows.size
            assert one["bbox"] == [
                columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1,
            ]  # fmt: skip
        for name, labels in zip(names, found.values(), strict=True):
            np.testing.assert_array_equal(labels, expected()[name])


def _mask_of(annotation: dict[str, Any]) -> NDArray[np.bool_]:
    """By pycocotools where it is installed, else by the definition: run lengths down the columns, outside first."""
    segmentation = annotation["segmentation"]
    try:
        from pycocotools import mask as theirs
    except ImportError:
        flat: list[bool] = []
        for at, length in enumerate(segmentation["counts"]):
            flat += [at % 2 == 1] * length
        return np.array(flat).reshape(segmentation["size"], order="F")
    return theirs.decode(theirs.frPyObjects(segmentation, *segmentation["size"])).astype(bool)


@pytest.mark.parametrize("mask", [np.zeros((2, 3), bool), np.ones((2, 3), bool), np.eye(3, dtype=bool)])
def test_run_lengths(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(unpack_runs(runs(mask), mask.shape), mask)
    with pytest.raises(TileReadError, match="run lengths of"):
        unpack_runs([*runs(mask), 1], mask.shape)


def test_anndata_of_cells(cohort: Cohort, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata", reason="anndata is not installed (extra anndata)")
    (path,) = export(cohort.url, to="anndata", out=tmp_path)
    table = anndata.read_h5ad(path)
    rows = [(at, label) for at, mask in enumerate(MASKS) if at != LOST for label in np.unique(mask) if label]
    assert list(table.obs_names) == [f"{TILES[at]}#{label}" for at, label in rows]
    assert list(table.var_names) == ["DAPI", "marker"]
    for column, part in ((n.TILE, None), (n.DONOR, 0), (n.MARKER, 1)):
        told = [TILES[at] if part is None else TILES[at].split("/")[part] for at, _ in rows]
        assert list(table.obs[column]) == told
    assert list(table.obs[f"positive_fixed_{THRESHOLD:g}"]) == [is_positive(at, label) for at, label in rows]
    means = [[IMAGES[at][c][MASKS[at] == label].mean() for c in range(2)] for at, label in rows]
    np.testing.assert_allclose(table.X, means, rtol=1e-6)
    centres = [np.argwhere(MASKS[at] == label).mean(axis=0)[::-1] for at, label in rows]
    np.testing.assert_allclose(table.obsm["spatial"], centres, rtol=1e-6)
    (path,) = export(cohort.url, to="anndata", out=tmp_path, donors=["d2"])
    assert set(anndata.read_h5ad(path).obs[n.DONOR]) == {"d2"}


def test_without_anndata_it_is_said_what_to_install(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    with pytest.raises(MissingPackageError, match=r"fintune-xr\[anndata\]"):
        annotated_data.required_anndata()


@pytest.mark.parametrize("to", ["geojson", "rois", "seg", "coco"])
def test_doors(cohort: Cohort, tmp_path: Path, to: str) -> None:
    with pytest.raises(UnknownNameError, match="no run 'bas'"):
        export(cohort.url, to=to, out=tmp_path, runs=["bas"])
    with pytest.raises(UnknownNameError, match=r"no tile 'd1/GFAP/t3'.*Did you mean"):
        export(cohort.url, to=to, out=tmp_path, tiles=["d1/GFAP/t3"])
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_labels_says_so(tmp_path: Path) -> None:
    from stores import make_store

    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    with pytest.raises(FintuneValueError, match="no label images to export"):
        export(cohort.url, to="rois", out=tmp_path / "out")


def test_spatialdata_of_chosen_tiles(cohort: Cohort, tmp_path: Path) -> None:
    """Read by spatialdata itself, which also joins the rows of the table to the labels of the images."""
    spatialdata = pytest.importorskip("spatialdata", reason="spatialdata is not installed (extra spatialdata)")
    (path,) = export(cohort.url, to="spatialdata", out=tmp_path, donors=["d1"])
    data = spatialdata.read_zarr(path)
    names = ["d1__GFAP__t1", "d1__GFAP__t-202"]
    assert set(data.images) == set(names)
    assert set(data.labels) == {f"{layer}.{name}" for layer in (RUN, "annotated") for name in names}
    for at, name in enumerate(names):
        np.testing.assert_array_equal(data.images[name].values, IMAGES[at])
        assert data.images[name].coords["c"].values.tolist() == ["DAPI", "marker"]
        np.testing.assert_array_equal(data.labels[f"{RUN}.{name}"].values, MASKS[at])
        np.testing.assert_array_equal(data.labels[f"annotated.{name}"].values, TRUTH[TILES[at]])
        _, rows = spatialdata.join_spatialelement_table(
            sdata=data, spatial_element_names=f"{RUN}.{name}", table_name=RUN, how="left"
        )
        expected = np.unique(MASKS[at][MASKS[at] > 0])
        assert rows.obs[n.LABEL].tolist() == expected.tolist()
        means = [IMAGES[at][1][MASKS[at] == label].mean() for label in expected]
        np.testing.assert_allclose(rows[:, "marker"].X.ravel(), means, rtol=1e-6)


def test_spatialdata_is_of_some_tiles_and_says_what_it_needs(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FintuneValueError, match="name --donor or --tile"):
        export(cohort.url, to="spatialdata", out=tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "spatialdata", None)
    with pytest.raises(MissingPackageError, match=r"fintune-xr\[spatialdata\]"):
        export(cohort.url, to="spatialdata", out=tmp_path, donors=["d1"])
    assert not list(tmp_path.glob("*.sdata.zarr"))


def test_names_that_differ_in_case_alone_are_told_and_refused_where_they_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = create_cohort(tmp_path / "c.zarr", kind="if", channels=CHANNELS, tile_shape=(64, 80), dtype="uint16")
    add_tiles(cohort, ["d0/GFAP/a", "d0/GFAP/A", "d0/GFAP/b"])
    store_run(cohort, RUN, MASKS[:3])
    assert len(export(cohort.url, to="masks", out=tmp_path / "masks")) == 3
    said = capsys.readouterr().err
    assert "1 name(s) are there in several spellings" in said
    assert "d0__GFAP__a_pred.tif and d0__GFAP__A_pred.tif" in said
    export(cohort.url, to="tables", out=tmp_path / "tables")
    assert "spellings" not in capsys.readouterr().err
    monkeypatch.setattr(Path, "samefile", lambda one, other: str(one).lower() == str(other).lower())
    with pytest.raises(StoreWriteError, match="are one file to this system"):
        export(cohort.url, to="masks", out=tmp_path / "masks")


@pytest.mark.parametrize("inside", ["", "runs", "a/b"])
def test_nothing_is_exported_into_the_store(cohort: Cohort, inside: str) -> None:
    before = sorted(cohort.location.path.rglob("*"))
    with pytest.raises(FintuneValueError, match=r"lies in the store .*\. Name a folder beside it"):
        export(cohort.url, to="masks", out=cohort.location.path / inside)
    assert sorted(cohort.location.path.rglob("*")) == before
