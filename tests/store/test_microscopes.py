"""ND2 and LIF: the pixels that were written into them, by the channels' names, one tile for each field, or a reason."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from microscope_files import Recording, Series, write_lif, write_nd2

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, MissingPackageError, TileReadError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.ingest.last_planes import LastPlanes
from fintune_xr.store.raw.layouts import LAYOUTS
from fintune_xr.store.raw.readers import read_field_stacks, read_fields
from fintune_xr.store.raw.scan import Scan, scan

pytest.importorskip("nd2", reason="ND2 is read by the extra `microscopes`, which is not installed")
pytest.importorskip("liffile", reason="LIF is read by the extra `microscopes`, which is not installed")

SHAPE = (40, 47)


def counts(*lengths: int, seed: int = 0) -> Any:
    return stream(seed, str(lengths)).integers(0, 4000, lengths).astype(np.uint16)


def images_of(store: Path) -> xr.Dataset:
    return open_cohort(store).images().load()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One ND2 of three positions whose marker is its first channel, and a LIF of one series and one of two."""
    raw = tmp_path / "raw"
    write_nd2(raw / "d1/GFAP/plate.nd2", Recording(counts(3, *SHAPE, 2), {"P": 3}, ("GFAP", "DAPI")))
    write_lif(raw / "d2/GFAP/one.lif", [Series("a", counts(2, *SHAPE), dyes=("DAPI", "ALEXA 488"))])
    write_lif(
        raw / "d3/GFAP/two.lif", [Series(f"s/{k}", counts(2, *SHAPE, seed=k), step_um=(0.5, 0.5)) for k in (1, 2)]
    )
    return raw


def test_each_field_is_a_tile_with_its_pixels_channels_size_and_digest(source: Path, tmp_path: Path) -> None:
    report = ingest(source, tmp_path / "c.zarr", layout="planes")
    assert (report.n_added, report.left_out) == (6, ())
    images = images_of(tmp_path / "c.zarr")
    assert list(images[n.TILE].values) == [
        "d1/GFAP/plate_p0", "d1/GFAP/plate_p1", "d1/GFAP/plate_p2", "d2/GFAP/one", "d3/GFAP/two_p0", "d3/GFAP/two_p1",
    ]  # fmt: skip
    frames = counts(3, *SHAPE, 2)
    for at in range(3):
        one = images.sel(tile=f"d1/GFAP/plate_p{at}")
        np.testing.assert_array_equal(one.image.sel(channel="DAPI"), frames[at, ..., 1])
        np.testing.assert_array_equal(one.image.sel(channel="marker"), frames[at, ..., 0])
        assert list(one[n.SOURCE].values) == [f"d1/GFAP/plate.nd2#{2 * at + 1}", f"d1/GFAP/plate.nd2#{2 * at}"]
    np.testing.assert_array_equal(images.image.sel(tile="d2/GFAP/one"), counts(2, *SHAPE))
    for k in (1, 2):
        np.testing.assert_array_equal(images.image.sel(tile=f"d3/GFAP/two_p{k - 1}"), counts(2, *SHAPE, seed=k))
    np.testing.assert_allclose(images[n.MPP], [0.325] * 3 + [0.25] + [0.5] * 2, rtol=1e-6)
    whole = hashlib.sha256((source / "d1/GFAP/plate.nd2").read_bytes()).hexdigest()
    assert set(images[n.SHA256].sel(tile="d1/GFAP/plate_p1").values) == {whole}


@pytest.mark.parametrize(("side_um", "told"), [(1.0, "1 um is what programs write"), (325.0, r"Is it 325 nm\?")])
def test_sizes_that_can_hardly_be_meant_are_asked_about(tmp_path: Path, side_um: float, told: str) -> None:
    raw = tmp_path / "raw"
    write_nd2(raw / "d1/GFAP/a.nd2", Recording(counts(1, *SHAPE, 2), {}, ("GFAP", "DAPI"), side_um))
    write_lif(raw / "d2/GFAP/b.lif", [Series("a", counts(2, *SHAPE), step_um=(side_um, side_um))])
    for tile in scan(raw, LAYOUTS["planes"]).tiles:
        assert tile.mpp == 0
        assert re.search(told, tile.doubt)


def test_it_is_the_same_whatever_the_workers_and_again(source: Path, tmp_path: Path) -> None:
    ingest(source, tmp_path / "one.zarr", layout="planes", workers=1)
    ingest(source, tmp_path / "many.zarr", layout="planes", workers=5)
    assert images_of(tmp_path / "one.zarr").identical(images_of(tmp_path / "many.zarr").assign_attrs(
        images_of(tmp_path / "one.zarr").attrs))  # fmt: skip
    assert ingest(source, tmp_path / "one.zarr", layout="planes", verify=True).n_present == 6


@pytest.mark.parametrize("loops", [{"P": 2, "Z": 3}, {"Z": 3, "P": 2}, {"T": 1, "P": 2, "Z": 3}])
def test_planes_along_z_are_those_of_the_library_in_either_order_of_loops(
    tmp_path: Path, loops: dict[str, int]
) -> None:
    import nd2

    path = write_nd2(tmp_path / "raw/d1/GFAP/z.nd2", Recording(counts(6, *SHAPE, 2), loops, ("DAPI", "GFAP")))
    with nd2.ND2File(path) as opened:
        expected = opened.to_xarray(delayed=False).max("Z").transpose("P", "C", "Y", "X")
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="planes", z="max")
    images = images_of(tmp_path / "c.zarr")
    np.testing.assert_array_equal(images.image, expected)
    assert list(images[n.Z_PLANES].values) == [3, 3]


def test_stacks_of_a_lif_are_projected_and_refused_without_a_rule(tmp_path: Path) -> None:
    write_lif(tmp_path / "raw/d1/GFAP/z.lif", [Series("z", counts(4, 2, *SHAPE), "ZCYX")])
    with pytest.raises(FintuneValueError, match=r"found 4 along z. --z max, mean, focus or N"):
        ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="planes")
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="planes", z="2")
    np.testing.assert_array_equal(images_of(tmp_path / "c.zarr").image[0], counts(4, 2, *SHAPE)[2])


def series_table(raw: Path, *rows: str, header: str = "path,series,donor,marker") -> Path:
    (raw / "samples.csv").write_text("\n".join([header, *rows]) + "\n")
    return raw / "samples.csv"


def test_rows_of_a_table_point_to_series_by_name_or_number(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    series = [Series(k, counts(2, *SHAPE, seed=at)) for at, k in enumerate(("cortex", "s/2", "9"))]
    write_lif(raw / "slide.lif", series)
    write_nd2(raw / "plate.nd2", Recording(counts(3, *SHAPE, 2), {"P": 3}, positions="abc"))
    listed = series_table(
        raw, "slide.lif,9,d2,IBA1", "slide.lif,cortex,d1,GFAP", "plate.nd2,2,d3,GFAP", "plate.nd2,a,d1,GFAP"
    )
    report = ingest(raw, tmp_path / "c.zarr", layout="planes", samples=listed)
    assert (report.n_added, report.left_out) == (4, ())
    images = images_of(tmp_path / "c.zarr")
    expected = {
        "d2/IBA1/slide_p9": series[2].pixels, "d1/GFAP/slide_cortex": series[0].pixels,
        "d3/GFAP/plate_p2": counts(3, *SHAPE, 2)[2].transpose(2, 0, 1),
        "d1/GFAP/plate_a": counts(3, *SHAPE, 2)[0].transpose(2, 0, 1),
    }  # fmt: skip
    assert sorted(expected) == list(images[n.TILE].values)
    for tile, pixels in expected.items():
        np.testing.assert_array_equal(images.image.sel(tile=tile), pixels)
    assert list(images[n.SOURCE].sel(tile="d1/GFAP/plate_a").values) == ["plate.nd2#0", "plate.nd2#1"]
    again = ingest(raw, tmp_path / "c.zarr", layout="planes", samples=listed, verify=True)
    assert (again.n_added, again.n_present) == (0, 4)


def test_channels_of_a_tile_may_be_series_of_their_own(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_lif(raw / "a.lif", [Series(k, counts(*SHAPE, seed=at), "YX") for at, k in enumerate(("405", "488"))])
    rows = ("a.lif,488,d1,GFAP,a,marker", "a.lif,405,d1,GFAP,a,DAPI")
    ingest(raw, tmp_path / "c.zarr", samples=series_table(raw, *rows, header="path,series,donor,marker,tile,channel"))
    images = images_of(tmp_path / "c.zarr")
    np.testing.assert_array_equal(images.image.sel(channel="DAPI", tile="d1/GFAP/a"), counts(*SHAPE))
    np.testing.assert_array_equal(images.image.sel(channel="marker", tile="d1/GFAP/a"), counts(*SHAPE, seed=1))


THERE = "there are 0 cortex, 1 x, 2 y"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["a.lif,cortx,d,M"], rf"samples.csv: no series 'cortx' in a.lif; {THERE}. Give a name .* mean 'cortex'\?"),
        (["a.lif,3,d,M"], f"no series '3' in a.lif; {THERE}"),
        (["a.lif,-1,d,M"], "no series '-1' in a.lif"),
        (["p.nd2,well,d,M"], "2 series are called 'well' in p.nd2; there are 0 well, 1 well. Give their numbers"),
        (["p.nd2,2,d,M"], "no series '2' in p.nd2; there are 0 well, 1 well"),
        (["q.nd2,2,d,M"], r"no series '2' in q.nd2; there are 0 \(no name\), 1 \(no name\)"),
        (["a.lif,cortex,d,M", "a.lif,0,d,M"], "series '0' is that of 'd/M/a_cortex' too, by its name and by its"),
        (["a.lif,0,d,M", "a.lif,,e,M"], "row 2: a series of a file that another row lists without one"),
        (["a.lif,0,d,M", "a.lif,0,e,M"], r"row 2, 3: the same file in each of these rows \(a.lif, series 0\)"),
        (["b.tif,0,d,M"], r"row 2: a series of a file that is no ND2 or LIF. Leave it empty; .*bfconvert -series N"),
    ],
)
def test_series_that_are_not_there_or_told_twice_are_refused(tmp_path: Path, rows: list[str], told: str) -> None:
    raw = tmp_path / "raw"
    write_lif(raw / "a.lif", [Series(k, counts(*SHAPE, seed=at), "YX") for at, k in enumerate(("cortex", "x", "y"))])
    write_nd2(raw / "p.nd2", Recording(counts(2, *SHAPE, 1), {"P": 2}, positions=("well", "well")))
    write_nd2(raw / "q.nd2", Recording(counts(2, *SHAPE, 1), {"P": 2}))
    (raw / "b.tif").write_bytes(b"")
    with pytest.raises(FintuneValueError, match=told):
        ingest(raw, tmp_path / "c.zarr", samples=series_table(raw, *rows))
    assert not (tmp_path / "c.zarr").exists()


def test_an_nd2_that_its_library_has_no_answer_to_is_left_out(tmp_path: Path) -> None:
    content = write_nd2(tmp_path / "a.nd2", Recording(counts(1, *SHAPE, 1), {})).read_bytes()
    there, other = ("pFluorescentProbe".encode("utf-16-le"), "pFluorescentProb_".encode("utf-16-le"))
    assert there in content
    (tmp_path / "a.nd2").write_bytes(content.replace(there, other))
    with pytest.raises(TileReadError, match=r"truncated or damaged ND2 \(UnboundLocalError: "):
        read_fields(tmp_path / "a.nd2")


def test_series_of_one_name_are_refused_of_which_the_library_gives_the_last(tmp_path: Path) -> None:
    path = write_lif(tmp_path / "a.lif", [Series("x", counts(*SHAPE, seed=at), "YX") for at in range(2)])
    with pytest.raises(TileReadError, match="series: 2 are called 'project/x', of which one alone could be read"):
        read_fields(path)


def test_of_a_damaged_file_each_row_is_left_out_with_the_reason(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_lif(raw / "good.lif", [Series("a", counts(*SHAPE), "YX")])
    (raw / "bad.lif").write_bytes(b"p" * 100)
    ingest(raw, tmp_path / "c.zarr", samples=series_table(raw, "bad.lif,0,d,M", "bad.lif,k,e,M", "good.lif,a,d,M"))
    left = open_cohort(tmp_path / "c.zarr").quarantine()
    assert sorted(left.donor.values.tolist()) == ["d", "e"]
    assert all("unreadable" in reason for reason in left.reason.values.tolist())


def test_a_table_says_donor_and_marker_and_one_channel_is_enough(tmp_path: Path) -> None:
    write_lif(tmp_path / "raw/slide.lif", [Series(k, counts(*SHAPE, seed=at), "YX") for at, k in enumerate("ab")])
    (tmp_path / "raw/samples.csv").write_text("path,donor,marker\nslide.lif,d7,IBA1\n")
    ingest(tmp_path / "raw", tmp_path / "c.zarr", samples=tmp_path / "raw/samples.csv")
    images = images_of(tmp_path / "c.zarr")
    assert list(images[n.TILE].values) == ["d7/IBA1/slide_p0", "d7/IBA1/slide_p1"]
    np.testing.assert_array_equal(images.image[1, 0], counts(*SHAPE, seed=1))


REFUSED = {
    "times": (Recording(counts(3, *SHAPE, 2), {"T": 3}), "they are times .T = 3."),
    "colours": (Recording(counts(1, *SHAPE, 3), {}, is_colour=True), "red, green and blue of one picture"),
    "three channels": (Recording(counts(1, *SHAPE, 3), {}, ("DAPI", "GFAP", "TD")), "found 3 .DAPI, GFAP, TD."),
    "another stain": (Recording(counts(1, *SHAPE, 2), {}, ("NeuN", "Iba1")), "the path names the marker GFAP"),
    "two of nuclei": (Recording(counts(1, *SHAPE, 2), {}, ("DAPI", "Hoechst")), "2 planes are called DAPI"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_tile_is_left_out_with_its_reason(tmp_path: Path, what: str) -> None:
    made, reason = REFUSED[what]
    write_nd2(tmp_path / "raw/d1/GFAP/a.nd2", made)
    with pytest.raises(FintuneValueError, match=reason):
        ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="planes")


REFUSED_SERIES = {
    "mosaic": (Series("m", counts(3, 2, *SHAPE), "MCYX"), "tiles of a mosaic .M."),
    "wavelengths": (Series("w", counts(3, 2, *SHAPE), "λCYX"), "found also λ"),
    "scan along z": (Series("xz", counts(2, *SHAPE), "CZX"), "a scan along z"),
    "times": (Series("t", counts(3, 2, *SHAPE), "TCYX"), "they are times .T = 3."),
    "colours": (Series("rgb", counts(*SHAPE, 3).astype(np.uint8), "YXC", is_colour=True), "red, green and blue"),
}


@pytest.mark.parametrize("what", REFUSED_SERIES)
def test_a_series_that_is_no_tile_is_left_out_and_its_neighbour_taken(tmp_path: Path, what: str) -> None:
    made, reason = REFUSED_SERIES[what]
    write_lif(tmp_path / "raw/d1/GFAP/a.lif", [made, Series("good", counts(2, *SHAPE))])
    report = ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="planes")
    assert report.n_added == 1
    [left_out] = report.left_out
    assert (left_out.path, left_out.tile) == ("d1/GFAP/a.lif#0", "d1/GFAP/a_p0")
    with pytest.raises(TileReadError, match=reason):
        raise TileReadError(left_out.reason)
    np.testing.assert_array_equal(images_of(tmp_path / "c.zarr").image[0], counts(2, *SHAPE))


def test_a_frame_that_was_not_recorded_is_no_empty_tile(tmp_path: Path) -> None:
    import nd2

    made = Recording(counts(3, *SHAPE, 2), {"P": 3}, ("DAPI", "GFAP"), missing=(2,))
    path = write_nd2(tmp_path / "raw/d1/GFAP/a.nd2", made)
    with nd2.ND2File(path) as opened:
        assert not opened.read_frame(2).any(), "the library gives zeros, which nobody measured"
    report = ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="planes")
    assert report.n_added == 2
    assert [(item.tile, item.reason[:33]) for item in report.left_out] == [
        ("d1/GFAP/a_p2", "truncated: frame 2 of the file is")
    ]
    with pytest.raises(TileReadError, match="frame 2"):
        read_field_stacks(path, pages=[4])


@pytest.mark.parametrize("suffix", [".nd2", ".lif"])
def test_damaged_files_are_one_clear_error_or_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".nd2":
        write_nd2(path, Recording(counts(2, *SHAPE, 2), {"P": 2}, ("DAPI", "GFAP")))
    else:
        write_lif(path, [Series("a", counts(2, *SHAPE)), Series("b", counts(2, *SHAPE, seed=1))])
    whole, random = path.read_bytes(), stream(0, suffix)
    expected = read_field_stacks(path, pages=range(4))
    cuts = [int(at) for at in random.integers(0, len(whole) - 1, 25)]
    for at in cuts:
        path.write_bytes(whole[:at])
        with pytest.raises(TileReadError, match=r"truncated|unreadable|zero bytes|shape"):
            read_field_stacks(path, pages=range(4))
    for at in cuts:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            found = read_field_stacks(path, pages=range(4))
        except TileReadError:
            continue
        assert sum(int((one != other).sum()) for one, other in zip(found, expected, strict=True)) <= 1


def test_a_side_that_nobody_calibrated_is_not_stored(tmp_path: Path) -> None:
    write_nd2(tmp_path / "a.nd2", Recording(counts(1, *SHAPE, 2), {}, side_um=1.0, is_calibrated=False))
    assert read_fields(tmp_path / "a.nd2")[0].side_um == (0.0, 0.0)
    write_lif(tmp_path / "raw/d1/GFAP/b.lif", [Series("b", counts(2, *SHAPE), step_um=(0.25, 0.5))])
    [tile] = scan(tmp_path / "raw", LAYOUTS["planes"]).tiles
    assert (tile.mpp, tile.doubt[:22]) == (0.0, "pixels are no squares:")


def test_a_file_that_is_written_to_meanwhile_is_not_stored(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Scan = scan(source, LAYOUTS["planes"])
    from fintune_xr.store.ingest import last_planes

    times = iter([1.0, 2.0])
    monkeypatch.setattr(last_planes, "changed_at", lambda place: next(times))
    with pytest.raises(TileReadError, match="changed while it was read"):
        LastPlanes(found, 1).read(found.tiles[0], 0)


@pytest.mark.parametrize(("package", "file"), [("nd2", "plate.nd2"), ("liffile", "two.lif")])
def test_without_the_package_the_file_the_extra_and_the_command_are_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, package: str, file: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for other in source.rglob("*"):
        if other.is_file() and other.name != file:
            other.unlink()
    assert command(["ingest", str(source), str(tmp_path / "c.zarr"), "--layout", "planes"]) == 1
    said = capsys.readouterr().err
    assert file in said
    assert f"needs the package '{package}'" in said
    assert "pip install 'fintune-xr[microscopes]'" in said
    assert not (tmp_path / "c.zarr").exists()
    with pytest.raises(MissingPackageError):
        read_fields(next(source.rglob(file)))


def test_layouts_that_take_none_say_which_do(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FintuneValueError, match=r"\.nd2: read by layout 'planes'"):
        ingest(source, tmp_path / "c.zarr")
