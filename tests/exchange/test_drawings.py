"""Masks come back from the tools that people draw in: what was exported, what they save, and nothing that runs."""

from __future__ import annotations

import base64
import datetime
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import roifile
import tifffile
from exchange import MASKS, RUN, TILES, TRUTH, exchange_store
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from stores import make_store

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, TileReadError, UnknownNameError
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.export import export
from fintune_xr.store.annotations.instance_labels import drawn_instances
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.readers import drawings
from fintune_xr.store.raw.readers.drawings import coco_images, read_drawn
from fintune_xr.store.raw.readers.drawings.cellpose_seg import segmentation_mask
from fintune_xr.store.raw.readers.drawings.coco import unpack_text
from fintune_xr.store.raw.readers.drawings.painting import DrawnReading
from fintune_xr.text import texts


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run in every form."""
    folder = tmp_path_factory.mktemp("exported")
    cohort = exchange_store(folder / "c.zarr")
    for to in ("seg", "rois", "geojson", "coco", "masks"):
        export(cohort.url, to=to, out=folder / to)
    return folder


def annotated(cohort: Cohort) -> dict[str, NDArray[Any]]:
    stored = cohort.annotations(lazy=False)
    sides = cohort.images(lazy=False)
    shapes = dict(
        zip(texts(sides[n.TILE]), zip(sides[n.HEIGHT].values, sides[n.WIDTH].values, strict=True), strict=True)
    )
    return {
        tile: stored[n.MASK].values[at][: shapes[tile][0], : shapes[tile][1]]
        for at, tile in enumerate(texts(stored[n.TILE]))
    }


@pytest.mark.parametrize("to", ["seg", "rois", "geojson", "coco", "masks"])
def test_what_goes_out_comes_back_as_the_same_masks(exported: Path, tmp_path: Path, to: str) -> None:
    cohort = open_cohort(exchange_store(tmp_path / "c.zarr").url)
    layout = "coco" if to == "coco" else None
    report = annotate(exported / to / RUN, cohort.url, layout=layout, restart=True, pieces="keep")
    assert (report.n_added, report.left_out) == (3, ())
    found = annotated(cohort)
    assert found.keys() == set(TILES[:3])
    for tile, mask in zip(TILES, MASKS, strict=False):
        if tile in found:
            np.testing.assert_array_equal(found[tile], mask)
    facts = cohort.annotations(lazy=False).attrs[n.PROVENANCE]
    assert [(one["layout"], one["n_added"]) for one in facts] == [("rosmap" if to == "masks" else to, 3)]
    assert check(cohort.url) == []
    again = annotate(exported / to / RUN, cohort.url, layout=layout, pieces="keep")
    assert (again.n_added, again.n_present) == (0, 3)


def test_annotations_come_back_too(exported: Path, tmp_path: Path) -> None:
    cohort = exchange_store(tmp_path / "c.zarr")
    annotate(exported / "geojson" / "annotated", cohort.url, restart=True)
    for tile, mask in annotated(cohort).items():
        np.testing.assert_array_equal(mask, TRUTH[tile])


def test_label_images_are_taken_where_both_lie_there(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    folder = tmp_path / "drawn"
    folder.mkdir()
    mask = np.zeros((64, 64), np.uint16)
    mask[3:9, 4:20] = 1
    tifffile.imwrite(folder / "d0__GFAP__000_masks.tif", mask)
    np.save(folder / "d0__GFAP__000_seg.npy", np.array({"masks": mask * 0, "outlines": mask}, object))
    annotate(folder, cohort.url)
    (found,) = annotated(cohort).values()
    np.testing.assert_array_equal(found, mask)


def drawn(path: Path, content: bytes | dict[str, Any], shape: tuple[int, int] = (8, 9), **how: Any) -> NDArray[Any]:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_drawn(path, shape, **how)[0]


def square(first: int, last: int) -> list[list[float]]:
    return [[first, first], [last, first], [last, last], [first, last]]


def test_labelme(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.fromarray(np.full((2, 3), 255, np.uint8)).save(picture, format="PNG")
    shapes = [
        {"label": "cell", "points": square(0, 3), "shape_type": "polygon", "group_id": None},
        {"label": "cell", "points": [[4, 4], [6, 6]], "shape_type": "rectangle", "group_id": 1},
        {"label": "cell", "points": [[7, 0], [9, 1]], "shape_type": "rectangle", "group_id": 1},
        {"label": "cell", "points": [[2, 6], [4, 7]], "shape_type": "mask",
         "mask": base64.b64encode(picture.getvalue()).decode()},
    ]  # fmt: skip
    document = {"shapes": shapes, "imageHeight": 8, "imageWidth": 9}
    expected = np.zeros((8, 9), np.uint32)
    expected[:3, :3] = 1
    expected[4:6, 4:6] = expected[0, 7:9] = 2
    expected[6:8, 2:5] = 3
    np.testing.assert_array_equal(drawn(tmp_path / "a.json", document), expected)
    with pytest.raises(TileReadError, match="expected 8 x 9 as the tile, found 9 x 9"):
        drawn(tmp_path / "a.json", {**document, "imageHeight": 9})
    with pytest.raises(TileReadError, match="'line' encloses nothing"):
        drawn(tmp_path / "a.json", {"shapes": [{"points": square(0, 2), "shape_type": "line"}]})


def test_circles_and_ovals(tmp_path: Path) -> None:
    y, x = np.mgrid[:8, :9] + 0.5
    circle = {"shapes": [{"points": [[4, 4], [4, 7]], "shape_type": "circle"}]}
    np.testing.assert_array_equal(drawn(tmp_path / "a.json", circle), (y - 4) ** 2 + (x - 4) ** 2 <= 9)
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=1, top=2, right=8, bottom=6, name="o")
    expected = ((x - 4.5) / 3.5) ** 2 + ((y - 4) / 2) ** 2 <= 1
    np.testing.assert_array_equal(drawn(tmp_path / "a.roi", oval.tobytes()), expected)


def test_a_file_of_many_images_is_parsed_once_for_all_of_them(tmp_path: Path) -> None:
    square = [4, 4, 9, 4, 9, 9, 4, 9]
    document = {
        "images": [{"id": at, "file_name": f"t{at}.tif", "height": 20, "width": 20} for at in range(6)],
        "annotations": [{"image_id": at, "segmentation": [[x + at for x in square]]} for at in range(6)],
    }
    path = tmp_path / "all.json"
    path.write_text(json.dumps(document))
    with mock.patch.object(drawings, "parse_json", wraps=drawings.parse_json) as parsed:
        masks = [read_drawn(path, (20, 20), page=at)[0] for at in range(6)]
    assert parsed.call_count == 1
    assert [int(np.argwhere(mask)[0, 0]) for mask in masks] == [4 + at for at in range(6)]
    document["annotations"] = document["annotations"][:1] * 2
    path.write_text(json.dumps(document))
    assert not read_drawn(path, (20, 20), page=3, how=DrawnReading(overlap="last"))[0].any()


def test_coco_of_others(tmp_path: Path) -> None:
    document: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "x.png", "height": 8, "width": 9}],
        "annotations": [
            {"id": 1, "image_id": 7, "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3], [4, 0, 5, 0, 5, 1, 4, 1]]},
            {"id": 2, "image_id": 7, "segmentation": {"size": [8, 9], "counts": [71, 1]}},
            {"id": 3, "image_id": 8, "segmentation": []},
        ],
    }
    expected = np.zeros((8, 9), np.uint32)
    expected[:3, :3] = expected[0, 4] = 1
    expected[7, 8] = 2
    np.testing.assert_array_equal(drawn(tmp_path / "a.json", document, page=0), expected)
    for wrong, told in (
        ({"segmentation": [], "image_id": 7}, "empty segmentation"),
        ({"segmentation": {"size": [8, 9], "counts": [9]}, "image_id": 7}, "run lengths of 9 pixels, expected 8 x 9"),
        ({"segmentation": {"size": [8, 9], "counts": [72]}, "image_id": 7, "iscrowd": 1}, "a crowd of objects"),
    ):
        with pytest.raises(TileReadError, match=told):
            drawn(tmp_path / "a.json", {**document, "annotations": [wrong]}, page=0)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 1), min_size=12, max_size=400))
def test_the_text_of_run_lengths_is_that_of_pycocotools(bits: list[int]) -> None:
    theirs = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = np.array(bits[: len(bits) // 4 * 4], np.uint8).reshape(4, -1)
    text = theirs.encode(np.asfortranarray(mask))["counts"].decode()
    flat = np.repeat(np.arange(len(unpack_text(text))) % 2, unpack_text(text))
    np.testing.assert_array_equal(flat.reshape(mask.shape, order="F"), mask)


TWO = [
    {"id": 1, "file_name": "x.png", "height": 8, "width": 9},
    {"id": 2, "file_name": "y.png", "height": 8, "width": 9},
]
CELL = {"image_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]}


@pytest.mark.parametrize(
    ("images", "annotations", "told"),
    [
        (TWO, [], "not one annotation"),
        (TWO, [{**CELL, "image_id": "1"}], "annotations are of images that it does not list .image_id '1'; ids of"),
        (TWO, [CELL, {**CELL, "image_id": 5}], "does not list .image_id 5"),
        ([TWO[0], {**TWO[1], "id": 1}], [CELL], "2 images of the COCO file have the id 1"),
        (TWO, [{**CELL, "iscrowd": 1}], "a crowd of objects"),
        (TWO, [{"image_id": 1}], "the key 'segmentation' is missing"),
        (TWO, [{**CELL, "segmentation": [0, 0, 3, 0, 3, 3]}], "one list for each polygon"),
        (TWO, [{**CELL, "segmentation": [[0, 0, 3, 0, 3]]}], "one list for each polygon"),
    ],
)
def test_annotations_of_coco_that_are_lost_are_told(tmp_path: Path, images: Any, annotations: Any, told: str) -> None:
    with pytest.raises(TileReadError, match=told):
        drawn(tmp_path / "a.json", {"images": images, "annotations": annotations}, page=0)


@pytest.mark.parametrize("images", [[{"id": 1}], [{"file_name": "x.png"}], [{"id": [], "file_name": "x.png"}], [3], 3])
def test_images_of_coco_that_are_none_are_told(tmp_path: Path, images: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": [CELL]}))
    with pytest.raises(TileReadError, match="unreadable"):
        coco_images(path)


def test_pieces_of_an_object_that_overlap_are_joined(tmp_path: Path) -> None:
    pieces = [{"label": "cell", "points": square(*ends), "group_id": 3} for ends in ((0, 4), (2, 6))]
    expected = np.zeros((8, 9), np.uint32)
    expected[:4, :4] = expected[2:6, 2:6] = 1
    np.testing.assert_array_equal(drawn(tmp_path / "a.json", {"shapes": pieces}), expected)


@pytest.mark.parametrize("label", ["_background_", "Background", "ignore", "Unlabeled"])
def test_outlines_that_are_no_cells_are_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(TileReadError, match="no cells: an outline of the class"):
        drawn(tmp_path / "a.json", {"shapes": [{"label": label, "points": square(0, 3)}]})
    ignored = feature([[*square(0, 3), [0, 0]]], classification={"name": label})
    with pytest.raises(TileReadError, match="no cells: an outline of the class"):
        drawn(tmp_path / "a.json", {"type": "FeatureCollection", "features": [ignored]})


def test_objects_of_several_planes_do_not_share_a_tile(tmp_path: Path) -> None:
    features = [feature([[*square(*ends), [ends[0]] * 2]]) for ends in ((0, 3), (4, 7))]
    assert drawn(tmp_path / "a.json", {"features": features}).max() == 2
    features[1]["geometry"]["plane"] = {"c": -1, "z": 3, "t": 0}
    with pytest.raises(TileReadError, match=r"lie in 2 planes of a stack, a tile is one\. Export the objects"):
        drawn(tmp_path / "a.json", {"features": features})


@pytest.mark.parametrize("place", ["position", "z_position", "t_position"])
def test_regions_of_several_planes_do_not_share_a_tile(tmp_path: Path, place: str) -> None:
    def zipped(second: int) -> bytes:
        regions = [roifile.ImagejRoi.frompoints(np.array(square(*ends), np.float32)) for ends in ((0, 3), (4, 7))]
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            for at, region in enumerate(regions):
                setattr(region, place, second if at else 1)
                archive.writestr(f"{at}.roi", region.tobytes())
        return memory.getvalue()

    assert drawn(tmp_path / "a.zip", zipped(1)).max() == 2
    with pytest.raises(TileReadError, match="lie in 2 planes of a stack"):
        drawn(tmp_path / "a.zip", zipped(2))


def test_words_of_imagej_are_no_cells(tmp_path: Path) -> None:
    text = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=1, top=2, right=8, bottom=6, name="t")
    text.subtype = roifile.ROI_SUBTYPE.TEXT
    with pytest.raises(TileReadError, match="a box around words or a picture"):
        drawn(tmp_path / "a.roi", text.tobytes())


def test_cells_that_were_joined_into_one_object_are_asked_about() -> None:
    labels = np.zeros((12, 60), np.uint32)
    for at in range(6):
        labels[3:9, 10 * at + 2 : 10 * at + 8] = 1
    with pytest.raises(TileReadError, match="object 1 consists of 6 pieces"):
        drawn_instances(labels, None)
    assert np.unique(drawn_instances(labels, "split")).tolist() == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(drawn_instances(labels, "keep"), labels)
    labels[:, 40:] = 0
    np.testing.assert_array_equal(drawn_instances(labels, None), labels)


def feature(points: Any, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": points}, "properties": properties}


def test_geojson_of_others(tmp_path: Path) -> None:
    one, other = square(0, 3), square(2, 5)
    whole = [feature([one], objectType="detection", name="12"), feature([square(4, 7)], objectType="cell", name="3")]
    found = drawn(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": whole})
    assert (found[:3, :3] == 12).all()
    assert (found[4:7, 4:7] == 3).all()
    (tmp_path / "b.geojson").write_text(json.dumps([feature([one]), feature([square(4, 7)])]))
    assert set(np.unique(read_drawn(tmp_path / "b.geojson", (8, 9))[0])) == {0, 1, 2}
    overlapping = {"features": [feature([one]), feature([other])]}
    with pytest.raises(TileReadError, match="overlap: 1 px belong to two objects"):
        drawn(tmp_path / "a.geojson", overlapping)
    assert drawn(tmp_path / "a.geojson", overlapping, how=DrawnReading("first"))[2, 2] == 1
    assert drawn(tmp_path / "a.geojson", overlapping, how=DrawnReading("last"))[2, 2] == 2
    for wrong, told in (
        ([feature([1, 2], "Point")], "a Point encloses nothing"),
        ([feature([one], objectType="tile")], "of the kind 'tile'"),
        ([feature([one]), feature([other], objectType="cell")], "both cells and annotations"),
        ([feature([square(20, 30)])], "empty: .* encloses the middle of no pixel"),
        ([feature([one[:2]])], "three corners"),
    ):
        with pytest.raises(TileReadError, match=told):
            drawn(tmp_path / "a.geojson", {"features": wrong})


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"{", "expected JSON"),
        ("a.json", b"[" * 100_000, "expected JSON"),
        ("a.json", b"{}", "expected GeoJSON .* found an empty record"),
        ("a.geojson", b'{"features": [{"geometry": null}]}', "a feature has no geometry"),
        ("a.zip", b"PK\x03\x04rubbish", "unreadable"),
        ("a.roi", b"Iout", "no region of ImageJ"),
        ("a.roi", b"", "no region of ImageJ"),
        ("a.npy", b"\x93NUMPY\x01\x00", "unreadable"),
        ("a.npy", b"", "unreadable"),
    ],
)
def test_damage_is_said(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    with pytest.raises(TileReadError, match=told):
        drawn(tmp_path / name, content)


def test_regions_that_enclose_nothing(tmp_path: Path) -> None:
    line = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE, name="l", x1=0, y1=0, x2=3, y2=3)
    with pytest.raises(TileReadError, match="region 'l' is of the kind LINE"):
        drawn(tmp_path / "a.roi", line.tobytes())
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("notes.txt", "no region")
    with pytest.raises(TileReadError, match="expected regions"):
        read_drawn(tmp_path / "b.zip", (8, 9))


class Hostile:
    """Unpickled by anything that obeys, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def npy_bytes(value: Any, protocol: int = 4) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    pickle.dump(np.array(value, object), file, protocol=protocol)
    return file.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_asks_for_anything_but_arrays_is_refused(tmp_path: Path, protocol: int) -> None:
    mask = np.zeros((4, 5), np.uint16)
    mask[1, 2] = 3
    content = npy_bytes({"masks": mask, "outlines": Hostile(tmp_path / "made")}, protocol)
    with pytest.raises(TileReadError, match=r"refused: this pickle asks for posix\.mkdir"):
        segmentation_mask(content)
    assert not (tmp_path / "made").exists()
    for unwanted in (datetime.date(2026, 1, 1), np.load, print, type):
        with pytest.raises(TileReadError, match="refused"):
            segmentation_mask(npy_bytes({"masks": mask, "x": unwanted}, protocol))
    told = {"masks": mask, "diameter": np.nan, "est": np.float32(3), "filename": Path("a/b.tif"), "colors": [(1, 2)]}
    np.testing.assert_array_equal(segmentation_mask(npy_bytes(told, protocol)), mask)


def test_numpy_itself_would_have_obeyed(tmp_path: Path) -> None:
    (tmp_path / "a_seg.npy").write_bytes(npy_bytes({"masks": Hostile(tmp_path / "made")}))
    np.load(tmp_path / "a_seg.npy", allow_pickle=True)
    assert (tmp_path / "made").exists()


@settings(max_examples=60)
@given(st.binary(max_size=80), st.integers(0, 400))
def test_no_bytes_bring_another_error(noise: bytes, at: int) -> None:
    content = bytearray(npy_bytes({"masks": np.eye(3, dtype=np.uint8)}))
    content[at : at + len(noise)] = noise
    try:
        found = segmentation_mask(bytes(content))
    except TileReadError:
        return
    assert found.dtype == np.uint32


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ({"outlines": np.zeros((2, 2))}, "expected 'masks'"),
        ({"masks": np.zeros((2, 2))}, "wrong dtype"),
        ({"masks": np.zeros((2, 2, 2), int)}, "expected one plane"),
        ({"masks": np.full((2, 2), -4)}, "wrong values"),
    ],
)
def test_segmentations_that_are_none(held: dict[str, Any], told: str) -> None:
    with pytest.raises(TileReadError, match=told):
        segmentation_mask(npy_bytes(held))


def test_early_segmentations_count_from_minus_one() -> None:
    np.testing.assert_array_equal(
        segmentation_mask(npy_bytes({"masks": np.array([[-1, 0], [0, 1]])})), [[0, 1], [1, 2]]
    )


OF_COCO = {
    "images": [{"id": 1, "file_name": "d0/GFAP/000.tif", "height": 64, "width": 64}],
    "annotations": [{"image_id": 1, "segmentation": [[2, 2, 9, 2, 9, 9, 2, 9]]}],
}
IN_JSON: dict[str, Any] = {
    "labelme": {"version": "5.4", "shapes": [{"label": "cell", "points": square(2, 9), "shape_type": "polygon"}]},
    "geojson": [feature([square(2, 9)])],
    "coco": OF_COCO,
}


@pytest.mark.parametrize("suffix", [".json", ".geojson"])
@pytest.mark.parametrize("kind", IN_JSON)
def test_json_is_told_apart_by_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, suffix: str
) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    folder = tmp_path / "drawn"
    folder.mkdir()
    (folder / "a-note.json").write_text('{"made by": "somebody"}')
    name = "instances" if kind == "coco" else "d0__GFAP__000"
    (folder / f"{name}{suffix}").write_text(json.dumps(IN_JSON[kind]))
    report = annotate(folder, cohort.url)
    assert f"read with layout {kind}:" in capsys.readouterr().err
    assert (report.n_added, [item.path for item in report.left_out]) == (1, ["a-note.json"])
    assert "made by" in report.left_out[0].reason or "COCO" in report.left_out[0].reason
    (found,) = annotated(cohort).values()
    assert (found > 0).sum() == 49
    assert cohort.annotations(lazy=False).attrs[n.PROVENANCE][0]["layout"] == kind


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"made by": 1, "when": 2}, "found the keys 'made by', 'when'"),
        ({"_via_img_metadata": {}}, "a project of VIA. Export it as COCO"),
        ([{"image_id": 1, "segmentation": []}], "a list of COCO's annotations alone"),
        ([1, 2], "a list of 2 values that are no features"),
        (3, "found '3' alone"),
    ],
)
def test_json_of_no_known_program_is_refused(tmp_path: Path, document: Any, told: str) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "d0__GFAP__000.json").write_text(json.dumps(document))
    with pytest.raises(FintuneValueError, match=r"1 JSON file.*d0__GFAP__000\.json: .*expected GeoJSON") as error:
        annotate(tmp_path / "m", cohort.url)
    assert told in str(error.value)
    assert not cohort.has(n.ANNOTATIONS)


def test_a_file_of_coco_under_another_layout_is_named_as_such(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "d0__GFAP__000.json").write_text(json.dumps(OF_COCO))
    (tmp_path / "m" / "instances.json").write_text(json.dumps(OF_COCO))
    report = annotate(tmp_path / "m", cohort.url, layout="geojson")
    assert [item.path for item in report.left_out] == ["instances.json", "d0__GFAP__000.json"]
    assert all("--layout coco" in item.reason for item in report.left_out)


def whole_in_form(folder: Path, form: str) -> None:
    """A file in which one object covers the tile of 64 px, but for two rows."""
    name, full = folder / "d0__GFAP__000", np.zeros((64, 64), np.uint8)
    full[2:] = 7
    points = [[0, 2], [64, 2], [64, 64], [0, 64]]
    if form in ("tif", "png"):
        path = name.with_name(f"{name.name}_masks.{form}")
        tifffile.imwrite(path, full) if form == "tif" else Image.fromarray(full).save(path)
    elif form == "seg":
        (folder / f"{name.name}_seg.npy").write_bytes(npy_bytes({"masks": full}))
    elif form == "rois":
        roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=0, top=2, right=64, bottom=64, name="o")
        name.with_suffix(".roi").write_bytes(roi.tobytes())
    else:
        flat = [float(value) for point in points for value in point]
        documents: dict[str, Any] = {
            "labelme": {"shapes": [{"label": "cell", "points": points, "shape_type": "polygon"}]},
            "geojson": {"features": [feature([points])]},
            "coco": {**OF_COCO, "annotations": [{"image_id": 1, "segmentation": [flat]}]},
        }
        name.with_suffix(".json").write_text(json.dumps(documents[form]))


@pytest.mark.parametrize("form", ["tif", "png", "seg", "rois", "labelme", "geojson", "coco"])
def test_one_object_on_the_whole_tile_is_refused_in_every_form(tmp_path: Path, form: str) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    (tmp_path / "m").mkdir()
    whole_in_form(tmp_path / "m", form)
    for how in ({}, {"pieces": "split"}, {"join": True}):
        report = annotate(tmp_path / "m", cohort.url, **how)
        assert (report.n_added, len(report.left_out)) == (0, 1)
        assert report.left_out[0].reason.startswith("whole tile: expected cells beside each other, found object ")
        assert "97% of the tile" in report.left_out[0].reason
    assert annotate(tmp_path / "m", cohort.url, pieces="keep").n_added == 1


def test_a_page_for_each_cell(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    pages = np.zeros((3, 64, 64), np.uint8)
    for at in range(3):
        pages[at, 10 * at : 10 * at + 8, 5:30] = 255
    (tmp_path / "m").mkdir()
    tifffile.imwrite(tmp_path / "m" / "d0__GFAP__000_masks.tif", pages, photometric="minisblack")
    assert annotate(tmp_path / "m", cohort.url, join=True).n_added == 1
    (found,) = annotated(cohort).values()
    np.testing.assert_array_equal(found, (pages > 0).T.dot([1, 2, 3]).T)


def test_floats_and_opacity(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=2)
    (tmp_path / "m").mkdir()
    mask = np.zeros((64, 64), np.uint8)
    mask[3:9, 4:20], mask[30:40, 4:20] = 1, 2
    tifffile.imwrite(tmp_path / "m" / "d0__GFAP__000_masks.tif", mask.astype(np.float32))
    grey = np.dstack([mask, mask, mask, np.full_like(mask, 255)])
    Image.fromarray(grey).save(tmp_path / "m" / "d0__IBA1__001_masks.png")
    assert annotate(tmp_path / "m", cohort.url).n_added == 2
    for found in annotated(cohort).values():
        np.testing.assert_array_equal(found, mask)


def test_doors(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1)
    with pytest.raises(UnknownNameError, match="no word for --overlap 'both'; known: first, last"):
        annotate(tmp_path, cohort.url, overlap="both")  # type: ignore[arg-type]
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "d0__GFAP__000.geojson").write_text('{"features": []}')
    (tmp_path / "m" / "other.geojson").write_text('{"features": []}')
    report = annotate(tmp_path / "m", cohort.url)
    assert report.n_added == 1
    assert [item.path for item in report.left_out] == ["other.geojson"]
    (found,) = annotated(cohort).values()
    assert found.max() == 0
