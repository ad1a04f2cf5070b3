"""Files that hold all channels of a tile: Cellpose's folders there and back, and plain TIFF of several planes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fintune_xr import names as n
from fintune_xr.errors import SettingsError, SplitError, TileReadError
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.ingest import ingest, plan_ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.seeds import stream
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.readers import read_header, read_plane
from fintune_xr.store.split import annotated_tiles, require_split
from fintune_xr.text import text_array, texts

SMALL = CohortSettings(
    n_donors=5, markers=("GFAP", "IBA1"), tiles_per_donor=(1, 2), tile_px=64, n_annotated=9, damaged=False, seed=2
)


def pixels(seed: int = 0, planes: int = 3, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    image = stream(seed, "planes").integers(1, 60_000, (planes, *shape)).astype(np.uint16)
    image[2:3] = 0
    return image


def write(path: Path, image: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, **options)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Path]:
    """A cohort with a split, and its export to Cellpose's folders."""
    folder = tmp_path_factory.mktemp("exported")
    made = simulate_cohort(folder / "raw", settings=SMALL)
    ingest(made.source, folder / "a.zarr")
    annotate(made.annotations, folder / "a.zarr")
    split(folder / "a.zarr", fractions=(0.4, 0.3, 0.3))
    export(folder / "a.zarr", to="cellpose", out=folder / "cellpose")
    return open_cohort(folder / "a.zarr"), folder / "cellpose"


def test_there_and_back(exported: tuple[Cohort, Path], tmp_path: Path) -> None:
    before, folder = exported
    report = ingest(folder, tmp_path / "b.zarr", layout="cellpose")
    assert report.left_out == ()
    masks = annotate(folder, tmp_path / "b.zarr", layout="cellpose")
    assert (masks.n_added, masks.left_out) == (report.n_added, ())
    after = open_cohort(tmp_path / "b.zarr")
    with pytest.raises(SplitError, match="not the one whose leaks were checked"):
        require_split(after)
    split(tmp_path / "b.zarr", keep=True)
    assert require_split(after) == require_split(before)
    expected = annotated_tiles(before).sortby(n.TILE)
    found = annotated_tiles(after).sortby(n.TILE)
    for name in (n.TILE, n.DONOR, n.MARKER, n.SPLIT, n.HEIGHT, n.WIDTH):
        np.testing.assert_array_equal(text_array(found[name]), text_array(expected[name]), err_msg=name)
    np.testing.assert_array_equal(found[n.IMAGE], expected[n.IMAGE])
    order = {n.TILE: texts(expected[n.TILE])}
    truths = [cohort.annotations()[n.MASK].sel(order).values for cohort in (after, before)]
    np.testing.assert_array_equal(*truths)


def test_a_donor_on_two_sides_is_an_error(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint16)
    mask[3:9, 3:9] = 1
    for part, tile in (("train", "a"), ("test", "b")):
        stem = tmp_path / "in" / f"{part}_cells" / f"d1_GFAP_{tile}"
        write(stem.with_suffix(".tif"), pixels(len(part)), photometric="minisblack")
        write(stem.with_name(f"{stem.name}_masks.tif"), mask, photometric="minisblack")
    ingest(tmp_path / "in", tmp_path / "c.zarr", layout="cellpose")
    annotate(tmp_path / "in", tmp_path / "c.zarr", layout="cellpose")
    with pytest.raises(SplitError, match=r"d1/GFAP/d1_GFAP_a \(train\).*same donor d1"):
        split(tmp_path / "c.zarr", keep=True)
    with pytest.raises(SplitError, match=r"came with the tiles is taken with --keep"):
        split(tmp_path / "c.zarr")


def test_there_must_be_a_split_to_keep(exported: tuple[Cohort, Path], tmp_path: Path) -> None:
    folder = exported[1] / "val_cells"
    ingest(folder, tmp_path / "c.zarr", layout="cellpose")
    annotate(folder, tmp_path / "c.zarr", layout="cellpose")
    with pytest.raises(SplitError, match=r"no annotated tile came with a part.*--layout cellpose"):
        split(tmp_path / "c.zarr", keep=True)


@pytest.mark.parametrize(
    ("moved", "options"),
    [
        (lambda image: image, {"photometric": "minisblack"}),
        (lambda image: image, {"photometric": "rgb", "planarconfig": "separate"}),
        (lambda image: np.moveaxis(image, 0, -1), {"photometric": "rgb"}),
        (lambda image: np.moveaxis(image, 0, -1), {"photometric": "rgb", "compression": "zlib", "tile": (16, 16)}),
        (lambda image: np.moveaxis(image, 0, -1), {"photometric": "minisblack", "planarconfig": "contig"}),
        (lambda image: image, {"photometric": "minisblack", "planarconfig": "separate", "rowsperstrip": 7}),
    ],
)
def test_channels_first_and_last_are_the_same(tmp_path: Path, moved: object, options: dict[str, object]) -> None:
    image = pixels()
    path = write(tmp_path / "a.tif", moved(image), **options)  # type: ignore[operator]
    assert read_header(path, channels=True).pages == 3
    for plane in range(3):
        header = read_header(path, page=plane, channels=True)
        assert (header.height, header.width, header.dtype) == (20, 30, "uint16")
        found = read_plane(path, page=plane) if len(tifffile.TiffFile(path).pages) == 3 else None
        if found is not None:
            np.testing.assert_array_equal(found, image[plane])
    ingest(tmp_path, tmp_path / "c.zarr", layout=choose_layout("planes", pattern=r"(?P<tile>(?P<donor>a))\.tif",
           channels={"0": "DAPI", "1": "marker", "2": "nothing"}))  # fmt: skip
    np.testing.assert_array_equal(open_cohort(tmp_path / "c.zarr").images()[n.IMAGE][0], image)


def test_colour_is_no_grey_plane_unless_channels_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.moveaxis(pixels(), 0, -1), photometric="rgb")
    with pytest.raises(TileReadError, match=r"expected one grey plane \(y, x\), found \(20, 30, 3\)"):
        read_header(path)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(TileReadError, match="expected one grey plane"):
        read_header(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png", channels=True).pages == 3


def test_faulty_files_are_quarantined_with_a_plain_reason(tmp_path: Path) -> None:
    good, source = pixels(1), tmp_path / "in"
    write(source / "d1_GFAP_good.tif", good, photometric="minisblack")
    write(source / "d1_GFAP_two.tif", good[:2], photometric="minisblack")
    write(source / "d1_GFAP_filled.tif", pixels(2, planes=4)[[0, 1, 3]], photometric="minisblack")
    write(source / "d1_GFAP_cut.tif", np.moveaxis(good, 0, -1), photometric="rgb")
    cut = source / "d1_GFAP_cut.tif"
    cut.write_bytes(cut.read_bytes()[:-900])
    report = ingest(source, tmp_path / "c.zarr", layout="cellpose")
    assert report.n_added == 1
    reasons = {item.tile.rpartition("_")[2]: item.reason for item in report.left_out}
    assert reasons["two"] == "wrong number of planes: expected 3 (DAPI, marker, empty), found 2"
    assert reasons["filled"].startswith("wrong values: expected plane 2 to be empty, found counts up to ")
    assert "truncated" in reasons["cut"]
    assert set(reasons) == {"two", "filled", "cut"}
    again = ingest(source, tmp_path / "c.zarr", layout="cellpose")
    assert (again.n_added, again.n_present, len(again.left_out)) == (0, 1, 3)
    assert open_cohort(tmp_path / "c.zarr").quarantine().sizes[n.ITEM] == 3


@pytest.mark.parametrize(("axis", "place"), [(-1, "last"), (1, "middle")])
@pytest.mark.parametrize("layout", ["planes", "custom"])
def test_channels_that_lie_last_are_told_from_planes(tmp_path: Path, layout: str, axis: int, place: str) -> None:
    """What tifffile writes of such an array says that each row is a page."""
    image = pixels(planes=2)
    write(tmp_path / "in" / "d1" / "GFAP" / "b0c0.tif", np.moveaxis(image, 0, axis))
    ways: dict[str, object] = {} if layout == "planes" else {"pattern": r"(?P<donor>d1)/GFAP/(?P<tile>.*)\.tif"}
    planned = plan_ingest(tmp_path / "in", layout=choose_layout(layout, **ways))  # type: ignore[arg-type]
    (reason,) = set(planned.left_out["reason"]) - {""}
    for words in ("found 20", f"Is the {place} one, of length 2", f"numpy.moveaxis(pixels, {axis}, 0)"):
        assert words in reason
    # What it says to type does it.
    stored = tifffile.imread(tmp_path / "in" / "d1" / "GFAP" / "b0c0.tif")
    write(tmp_path / "in" / "d1" / "GFAP" / "b0c0.tif", np.moveaxis(stored, axis, 0), photometric="minisblack")
    assert layout == "custom" or plan_ingest(tmp_path / "in", layout="planes").tiles["tiles"].sum() == 1


def test_plain_files_of_several_channels(tmp_path: Path) -> None:
    images = {f"d{i}/GFAP/t{i}": pixels(i, planes=2) for i in range(2)}
    for tile, image in images.items():
        write(tmp_path / "in" / f"{tile}.tif", image, photometric="minisblack")
    assert plan_ingest(tmp_path / "in", layout="planes").tiles["tiles"].sum() == 2
    ingest(tmp_path / "in", tmp_path / "c.zarr", layout="planes")
    stored = open_cohort(tmp_path / "c.zarr").images()
    assert texts(stored[n.CHANNEL]) == ["DAPI", "marker"]
    for tile, image in images.items():
        np.testing.assert_array_equal(stored[n.IMAGE].sel({n.TILE: tile}), image)
    assert texts(stored[n.SPLIT]) == [n.UNASSIGNED] * 2


def test_channels_of_a_file_are_named_by_position() -> None:
    with pytest.raises(SettingsError, match=r"positions 0, 1, 2 in a file, got DAPI, marker"):
        choose_layout("cellpose", channels={"DAPI": "DAPI", "marker": "marker"})
    four = choose_layout("cellpose", channels={"0": "DAPI", "1": "a", "2": "b", "3": "c"})
    assert (four.planes, four.empty_planes) == (4, ())
    assert choose_layout("cellpose").empty_planes == (2,)
