"""What drawn objects are taken for: their classes, the unit of their coordinates; and tiles with nothing drawn."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, TileReadError, UnknownNameError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.readers.drawings import read_drawn
from fintune_xr.store.raw.readers.drawings.painting import DrawnReading, base_class

PX, SIDE_UM = 64, 0.5
TILES = ("a", "b", "c")
# Upper left corners of squares of 6 px that reach from one end of a tile to the other.
PLACES = [(x, y) for x in (2, 22, 40, 56) for y in (1, 30, 57)]
SHAPE = (PX, PX)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three tiles whose pixels are 0.5 um wide."""
    folder = tmp_path_factory.mktemp("drawn")
    for at, tile in enumerate(TILES):
        path = folder / f"raw/D/GFAP/{tile}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(at).integers(0, 999, SHAPE).astype(np.uint16)
        tifffile.imwrite(path, pixels, resolution=(1e4 / SIDE_UM,) * 2, resolutionunit="CENTIMETER")
    ingest(folder / "raw", folder / "c.zarr", layout="custom")
    return folder / "c.zarr"


@pytest.fixture
def cohort(tmp_path: Path, made: Path) -> Cohort:
    shutil.copytree(made, tmp_path / "c.zarr")
    return open_cohort(tmp_path / "c.zarr")


def square(x: float, y: float, px: float = 6) -> list[list[float]]:
    return [[x, y], [x + px, y], [x + px, y + px], [x, y + px]]


def geojson(classes: list[str], *, times: float = 1.0, **more: Any) -> dict[str, Any]:
    """Squares of these classes at `PLACES`, coordinates being px times a factor."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [(np.array(square(x, y)) * times).tolist()]},
            "properties": {"objectType": "annotation"} | ({"classification": {"name": of_class}} if of_class else {}),
        }
        for of_class, (x, y) in zip(classes, PLACES, strict=False)
    ]
    return {"type": "FeatureCollection", "features": features, **more}


def labelme(classes: list[str], **more: Any) -> dict[str, Any]:
    shapes = [{"label": one, "points": square(x, y)} for one, (x, y) in zip(classes, PLACES, strict=False)]
    return {"shapes": shapes, "imageHeight": PX, "imageWidth": PX, **more}


def coco(classes: list[str], **more: Any) -> dict[str, Any]:
    names = sorted(set(classes))
    rows = [
        {"image_id": 1, "category_id": names.index(one), "segmentation": [np.ravel(square(x, y)).tolist()]}
        for one, (x, y) in zip(classes, PLACES, strict=False)
    ]
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": PX, "width": PX, **more}], "annotations": rows,
        "categories": [{"id": at, "name": name} for at, name in enumerate(names)],
    }  # fmt: skip


def write(folder: Path, **documents: Any) -> Path:
    """Files of JSON of these tiles."""
    folder.mkdir(exist_ok=True)
    for tile, document in documents.items():
        (folder / f"{tile}.json").write_text(json.dumps(document))
    return folder


def stored(cohort: Cohort, tile: str = "a") -> Any:
    found = open_cohort(cohort.url).annotations(lazy=False)
    return found[n.MASK].values[[str(one).rpartition("/")[2] for one in found[n.TILE].values].index(tile)]


FORMS: list[Any] = [geojson, labelme, coco]


@pytest.mark.parametrize("form", FORMS)
def test_of_several_classes_the_user_says_which_are_cells(
    cohort: Cohort, tmp_path: Path, form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "m", a=form(["Cell"] * 7 + ["Debris"] * 5))
    with pytest.raises(
        FintuneValueError, match=r"2 classes: 'Cell' \(7, e.g. in a.json\), 'Debris' \(5.*--classes Cell"
    ):
        annotate(folder, cohort.url)
    with pytest.raises(UnknownNameError, match=r"no class of drawn objects 'cels'; known: Cell, Debris.* Did you mean"):
        annotate(folder, cohort.url, classes=["cels"])
    assert annotate(folder, cohort.url, classes=["cell"]).n_added == 1
    assert np.unique(stored(cohort)).size == 8
    told = capsys.readouterr().err
    assert "taken for cells are of the class 'Cell' (7" in told
    assert "left away are of the class 'Debris' (5, e.g. in a.json)" in told
    unused = cohort.images(lazy=False).attrs[n.UNUSED_ANNOTATIONS]
    assert any("'Debris' (5" in line for lines in unused.values() for line in lines)
    assert annotate(folder, cohort.url, classes=["Debris", "Cell"], restart=True).n_added == 1
    assert np.unique(stored(cohort)).size == 13


def test_classes_are_those_of_all_files(cohort: Cohort, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", a=labelme(["cell"] * 12), b=labelme(["debris"] * 12))
    for dry_run in (True, False):
        with pytest.raises(FintuneValueError, match=r"2 classes: 'cell' .12, e.g. in a.json.*'debris' .12, e.g. in b"):
            annotate(folder, cohort.url, dry_run=dry_run)
    assert not open_cohort(cohort.url).has(n.ANNOTATIONS)
    assert command(["import-run", str(folder), cohort.url, "--run", "r", "--made-by", "x"]) != 0
    assert command(["import-run", str(folder), cohort.url, "--run", "r", "--made-by", "x", "--classes", "cell"]) == 0


@pytest.mark.parametrize(
    "classes",
    [
        [""] * 12,
        ["Cell"] * 12,
        ["Positive"] * 6 + ["Negative"] * 6,
        ["Positive"] * 3 + [""] * 9,
        ["Tumor: Positive"] * 6 + ["Tumor: Negative"] * 5 + ["Tumor"],
        ["Cell"] * 6 + ["cell "] * 6,
    ],
)
def test_one_class_needs_no_word(cohort: Cohort, tmp_path: Path, classes: list[str]) -> None:
    assert annotate(write(tmp_path / "m", a=geojson(classes)), cohort.url).n_added == 1
    assert np.unique(stored(cohort)).size == 13


def test_labels_that_number_objects_are_one_class(cohort: Cohort, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", a=labelme([f"cell {at}" for at in range(12)]), b=labelme(["cell"] * 12))
    assert annotate(folder, cohort.url).n_added == 2


def test_classes_that_qupath_ignores_are_left_away(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "m", a=geojson(["Cell"] * 10 + ["Ignore*", "Artefact*"]))
    assert annotate(folder, cohort.url).n_added == 1
    assert np.unique(stored(cohort)).size == 11
    assert "left away are of the class 'Ignore*' (1, e.g. in a.json), 'Artefact*' (1" in capsys.readouterr().err
    assert annotate(folder, cohort.url, classes=["cell", "Ignore*"], restart=True).n_added == 1
    assert np.unique(stored(cohort)).size == 12


def test_classes_out_of_qupaths_names() -> None:
    """As `PathClassTools` of QuPath takes them: intensities are classes of their own only where nothing is before."""
    assert [base_class([one]) for one in ("", "Tumor", "Tumor: Positive", "Negative", "Tumor: Immune: 2+")] == [
        "", "Tumor", "Tumor", "", "Tumor: Immune",
    ]  # fmt: skip
    assert base_class(["Tumor", "Positive"]) == "Tumor"


def test_groups_of_imagej_are_classes(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with zipfile.ZipFile(tmp_path / "m/a.zip", "w") as archive:
        for at, place in enumerate(PLACES):
            region = roifile.ImagejRoi.frompoints(np.array(square(*place), np.float32))
            region.group = at % 2
            archive.writestr(f"{at}.roi", region.tobytes())
    with pytest.raises(FintuneValueError, match=r"2 classes: 'unclassified' .6.*'group 1' .6"):
        annotate(tmp_path / "m", cohort.url)
    assert annotate(tmp_path / "m", cohort.url, classes=["unclassified"]).n_added == 1
    assert np.unique(stored(cohort)).size == 7


@pytest.mark.parametrize("more", [{"unit": "um"}, {"metadata": {"units": "µm"}}, {"properties": {"unit": "microns"}}])
def test_a_unit_that_a_file_states_is_obeyed(cohort: Cohort, tmp_path: Path, more: dict[str, Any]) -> None:
    right = read_drawn(write(tmp_path / "r", a=geojson([""] * 12)) / "a.json", SHAPE)[0]
    folder = write(tmp_path / "m", a=geojson([""] * 12, times=SIDE_UM, **more))
    assert annotate(folder, cohort.url).n_added == 1
    np.testing.assert_array_equal(stored(cohort), right)
    assert "--unit says px" in annotate(folder, cohort.url, unit="px", restart=True).left_out[0].reason


def test_units_that_nobody_knows_and_several_are_refused(tmp_path: Path) -> None:
    for more, told in (
        ({"unit": "furlong"}, "coordinates are in 'furlong'"),
        ({"unit": "um", "info": {"units": "px"}}, "states several"),
        ({"unit": "um"}, "the tile does not tell the size of its pixels"),
    ):
        with pytest.raises(TileReadError, match=told):
            read_drawn(write(tmp_path / "m", a=geojson([""] * 12, **more)) / "a.json", SHAPE)
    px = write(tmp_path / "m", a=geojson([""] * 12, unit="pixels")) / "a.json"
    assert read_drawn(px, SHAPE, how=DrawnReading(side_um=0.3))[0].max() == 12


def test_um_that_are_taken_for_px_are_asked_about(cohort: Cohort, tmp_path: Path) -> None:
    in_um = geojson([""] * 12, times=SIDE_UM)
    alone = write(tmp_path / "m", a=in_um)
    with pytest.raises(FintuneValueError, match=r"all 12 drawn objects lie in the first 49% of the rows .*--unit um"):
        annotate(alone, cohort.url)
    # Beside a file in px it is the only one that is left out.
    both = annotate(write(tmp_path / "m", b=geojson([""] * 12)), cohort.url)
    assert (both.n_added, [one.path for one in both.left_out]) == (1, ["a.json"])
    assert "as they do in um, of which a pixel is 0.5. Say what" in both.left_out[0].reason
    right = read_drawn(write(tmp_path / "r", a=geojson([""] * 12)) / "a.json", SHAPE)[0]
    for how in ({"unit": "um"}, {"scale": 2.0}, {"unit": "angstrom", "scale": 1e4}):
        assert annotate(write(tmp_path / "u", a=in_um), cohort.url, restart=True, **how).n_added == 1  # type: ignore[arg-type]
        np.testing.assert_array_equal(stored(cohort), right)
    assert annotate(alone, cohort.url, unit="px", restart=True).n_added == 2


@given(
    st.lists(st.tuples(*[st.integers(0, 8).map(lambda at: 7 * at)] * 2), min_size=1, max_size=8, unique=True),
    st.sampled_from([0.0, 0.1, 0.3]),
)
def test_a_few_cells_anywhere_are_taken(places: list[tuple[int, int]], side_um: float) -> None:
    """Of cells that lie anywhere nobody is asked, unless chance hardly puts them where um would be."""
    document = geojson([""] * 0)
    document["features"] = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square(x, y)]}, "properties": {}}
        for x, y in places
    ]
    y, x = (max(one[axis] for one in places) + 6 for axis in (1, 0))
    in_um = [share / (PX * side_um) if side_um else 0 for share in (y, x)]
    is_doubtful = all(0.6 <= one <= 1.02 for one in in_um) and (y * x / PX**2) ** len(places) < 1e-4
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "m", a=document) / "a.json"
        how = DrawnReading("last", side_um=side_um)
        if is_doubtful:
            with pytest.raises(TileReadError, match="unit"):
                read_drawn(path, SHAPE, how=how)
        else:
            assert read_drawn(path, SHAPE, how=how)[0].any()


@pytest.mark.parametrize("form", [labelme, coco])
def test_the_size_of_the_picture_that_was_drawn_in(tmp_path: Path, form: Any) -> None:
    sizes = ("imageHeight", "imageWidth") if form is labelme else ("height", "width")
    page = None if form is labelme else 0
    for wrong in sizes:
        path = write(tmp_path / "m", a=form(["cell"] * 12, **{wrong: 32})) / "a.json"
        with pytest.raises(TileReadError, match=r"wrong shape: expected 64 x 64 as the tile.*--scale"):
            read_drawn(path, SHAPE, page=page)
    path = write(tmp_path / "m", a=form(["cell"] * 12)) / "a.json"
    twice = read_drawn(path, (2 * PX, 2 * PX), page=page, how=DrawnReading(scale=2.0))[0]
    np.testing.assert_array_equal(twice[::2, ::2], read_drawn(path, SHAPE, page=page)[0])


def test_one_length_of_a_picture_is_enough_to_refuse_it(tmp_path: Path) -> None:
    path = write(tmp_path / "m", a=labelme(["cell"] * 12, imageHeight=None, imageWidth=32)) / "a.json"
    with pytest.raises(TileReadError, match="found None x 32"):
        read_drawn(path, SHAPE)


@pytest.mark.parametrize("form", [*FORMS, "masks", "seg"])
def test_tiles_in_which_nothing_is_drawn_are_named(
    cohort: Cohort, tmp_path: Path, form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "masks" or form == "seg":
        (tmp_path / "m").mkdir()
        for tile, value in (("a", 1), ("b", 0)):
            mask = np.zeros(SHAPE, np.uint16)
            mask[3:9, 3:9] = value
            if form == "masks":
                tifffile.imwrite(tmp_path / f"m/{tile}_masks.tif", mask)
            else:
                np.save(tmp_path / f"m/{tile}_seg.npy", mask)
    else:
        full, empty = form(["cell"] * 12), form([])
        if form is coco:
            full["images"].append({"id": 2, "file_name": "b.png", "height": PX, "width": PX})
            write(tmp_path / "m", a=full)
        else:
            write(tmp_path / "m", a=full, b=empty)
    for dry_run in (True, False, False):
        report = annotate(tmp_path / "m", cohort.url, dry_run=dry_run)
        assert report.n_added + report.n_present == 2
        told = "1 of 2 annotated tiles have annotations without an object, e.g. D/unknown/GFAP/b: they count as tiles"
        assert told in capsys.readouterr().err.replace("\n", " ")
    unused = cohort.images(lazy=False).attrs[n.UNUSED_ANNOTATIONS]
    assert any("without an object" in line for lines in unused.values() for line in lines)


def test_what_is_about_drawn_objects_is_refused_for_label_images(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    tifffile.imwrite(tmp_path / "m/a_masks.tif", np.eye(PX, dtype=np.uint16))
    for how in ({"classes": ["cell"]}, {"unit": "um"}, {"scale": 2.0}):
        with pytest.raises(FintuneValueError, match="--classes, --unit and --scale are about drawn objects"):
            annotate(tmp_path / "m", cohort.url, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", ["first", "last"])
def test_an_object_of_which_nothing_is_left_is_no_loss_without_a_word(tmp_path: Path, overlap: Any) -> None:
    document = geojson([""] * 12)
    inner = geojson([""])["features"][0] | {"geometry": {"type": "Polygon", "coordinates": [square(24, 32, 2)]}}
    for more in (document["features"][3:5], [inner], [inner, *document["features"][:1]]):
        features = [*document["features"], *more]
        path = write(tmp_path / "m", a={**document, "features": features if overlap == "first" else features[::-1]})
        with pytest.raises(TileReadError, match=f"hidden: nothing is left of {len(more)} of {len(features)} objects"):
            read_drawn(path / "a.json", SHAPE, how=DrawnReading(overlap))


def test_fractions_of_a_tile_are_no_px(tmp_path: Path) -> None:
    for times, count in ((1 / PX, 12), (1 / 64, 1)):
        path = write(tmp_path / "m", a=geojson([""] * count, times=times)) / "a.json"
        with pytest.raises(TileReadError, match="fractions: all coordinates lie between 0 and 1"):
            read_drawn(path, SHAPE)


@pytest.mark.parametrize("key", ["class", "class_name", "category", "label", "type"])
def test_classes_of_other_programs(cohort: Cohort, tmp_path: Path, key: str) -> None:
    document = geojson([""] * 12)
    for at, feature in enumerate(document["features"]):
        feature["properties"][key] = ("cell", "debris")[at % 2]
    with pytest.raises(FintuneValueError, match=r"2 classes: 'cell' .6.*'debris' .6"):
        annotate(write(tmp_path / "m", a=document), cohort.url)


def test_an_annotation_that_coco_ignores_is_no_cell(tmp_path: Path) -> None:
    document = coco(["cell"] * 12)
    document["annotations"][3]["ignore"] = 1
    with pytest.raises(TileReadError, match="to be ignored"):
        read_drawn(write(tmp_path / "m", a=document) / "a.json", SHAPE, page=0)


def test_a_file_that_names_another_picture_is_told(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(
        tmp_path / "m",
        a=labelme(["cell"] * 12, imagePath="..\\raw\\b.tif"),
        b=labelme(["cell"] * 12, imagePath="x/b.png"),
    )
    assert annotate(folder, cohort.url).n_added == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "1 file(s) say that they were drawn in an image of another name, e.g. a.json of ..\\raw\\b.tif" in told
