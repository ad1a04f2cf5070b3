"""Planes are channels only where their file does not say otherwise, and are those that the file calls them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from fintune_xr import names as n
from fintune_xr.errors import TileReadError
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.raw.readers import MICROGRAPH_DTYPES, read_plane
from fintune_xr.store.raw.readers.plane_names import order_of_channels
from tests.support.em_files import write_mrc

PLANES = np.stack([np.full((32, 32), 10, np.uint16), np.full((32, 32), 20, np.uint16)])


def ingested(tmp_path: Path, marker: str = "GFAP", **how: Any) -> Any:
    """What `ingest` makes of one file beside a plain one: its tile (channel, y, x), or the reason why not."""
    for name, options in (("plain", {"metadata": None}), ("told", how)):
        path = tmp_path / f"raw/D1/{marker}/{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, PLANES, photometric="minisblack", **options)
    report = ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="planes")
    if report.left_out:
        return report.left_out[0].reason
    return open_cohort(tmp_path / "c.zarr").images()[n.IMAGE].sel(tile=f"D1/{marker}/told").values[:, 0, 0].tolist()


@pytest.mark.parametrize("how", ["imagej", "ome"])
@pytest.mark.parametrize(("axes", "said"), [("ZYX", "depth (Z = 2)"), ("TYX", "time (T = 2)")])
def test_depth_and_time_are_no_channels(tmp_path: Path, how: str, axes: str, said: str) -> None:
    assert said in ingested(tmp_path, **{how: True}, metadata={"axes": axes})


@pytest.mark.parametrize(
    ("names", "stored"),
    [(["GFAP", "DAPI"], [20, 10]), (["DAPI", "GFAP"], [10, 20]), (["anti-GFAP 488", "Hoechst 33342"], [20, 10]),
     (["Cy5", "DAPI"], [20, 10]), (["Channel 1", "Channel 2"], [10, 20]), (["FITC", "Cy5"], [10, 20])],
)  # fmt: skip
def test_planes_are_what_the_file_calls_them(tmp_path: Path, names: list[str], stored: list[int]) -> None:
    assert ingested(tmp_path, ome=True, metadata={"axes": "CYX", "Channel": {"Name": names}}) == stored


@pytest.mark.parametrize(
    ("names", "is_refused"),
    [(("GFAP", "DAPI"), True), (("gfap", ""), True), (("", "Hoechst 33342"), True), (("DAPI", "GFAP"), False),
     (("DAPI", "anti-GFAP 488"), False), (("Alexa 405", "Cy5"), False), (("D1_GFAP_x_b0c0.tif", "2"), False)],
)  # fmt: skip
def test_a_plane_that_its_file_calls_after_the_other_channel_is_left_out(
    tmp_path: Path, names: tuple[str, str], is_refused: bool
) -> None:
    for channel, name in enumerate(names):
        for tile, told in (
            ("plain", {"metadata": None}),
            ("told", {"ome": True, "metadata": {"Channel": {"Name": name}}}),
        ):
            path = tmp_path / f"raw/D1/GFAP/{tile}_b0c{channel}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, PLANES[channel], photometric="minisblack", **told)
    report = ingest(tmp_path / "raw", tmp_path / "c.zarr")
    assert [one.reason.startswith("channel names: the file calls its plane") for one in report.left_out] == (
        [True] if is_refused else []
    )


@pytest.mark.parametrize("z", ["", "max"])
def test_planes_that_are_turned_in_different_ways_are_left_out(tmp_path: Path, z: str) -> None:
    """tifffile writes a tag of one's own on the first page alone: DAPI would be turned, and the marker would not."""
    pixels = np.arange(2 * 40 * 30, dtype=np.uint16).reshape(2, 40, 30)
    folder = tmp_path / "raw/D1/GFAP"
    folder.mkdir(parents=True)
    turned = {"photometric": "minisblack", "metadata": None, "extratags": [(274, "H", 1, 6, True)]}
    for at, end in enumerate(("_b0c0", "_b0c1") if z else ("",)):
        with tifffile.TiffWriter(folder / f"all{end}.tif") as file:
            for plane in pixels:
                file.write(plane + np.uint16(at), **turned)
        tifffile.imwrite(folder / f"first{end}.tif", pixels + np.uint16(at), **turned)
    report = ingest(tmp_path / "raw", tmp_path / "c.zarr", z=z, layout="rosmap" if z else "planes")
    assert [one.reason.partition(":")[0] for one in report.left_out] == ["orientation"]
    stored = open_cohort(tmp_path / "c.zarr").images()[n.IMAGE].values[0]
    expected = np.rot90(pixels, -1, (1, 2))
    np.testing.assert_array_equal(stored, [expected.max(axis=0), expected.max(axis=0) + 1] if z else expected)


def test_imagej_names_its_planes_too(tmp_path: Path) -> None:
    assert ingested(tmp_path, imagej=True, metadata={"axes": "CYX", "Labels": ["GFAP", "DAPI"]}) == [20, 10]


@pytest.mark.parametrize("names", [["IBA1", "DAPI"], ["DAPI", "Hoechst"], ["IBA1", "NeuN"]])
def test_names_that_speak_against_the_path_are_refused(tmp_path: Path, names: list[str]) -> None:
    assert ingested(tmp_path, ome=True, metadata={"axes": "CYX", "Channel": {"Name": names}}).startswith(
        "channel names:"
    )


def test_channels_of_own_names_are_found_by_them() -> None:
    assert order_of_channels(["Parv", "cFOS"], ["cFOS", "Parv"], marker="Parv") == [1, 0]
    with pytest.raises(TileReadError, match="2 planes are called DAPI"):
        order_of_channels(["DAPI", "dapi"], ["DAPI", "marker"], marker="GFAP")


@pytest.mark.parametrize(("flags", "dtype"), [(0, "uint8"), (1, "int8")])
def test_imod_says_whether_bytes_have_a_sign(tmp_path: Path, flags: int, dtype: str) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_mrc(tmp_path / "a.mrc", pixels.view(np.int8))
    content = bytearray((tmp_path / "a.mrc").read_bytes())
    struct.pack_into("<ii", content, 152, 1146047817, flags)
    (tmp_path / "a.mrc").write_bytes(bytes(content))
    found = read_plane(tmp_path / "a.mrc", dtypes=MICROGRAPH_DTYPES)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels.view(dtype)[::-1])


def test_a_range_beyond_signed_bytes_has_no_sign(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_mrc(tmp_path / "a.mrc", pixels.view(np.int8))
    content = bytearray((tmp_path / "a.mrc").read_bytes())
    struct.pack_into("<ff", content, 76, 0.0, 255.0)
    (tmp_path / "a.mrc").write_bytes(bytes(content))
    np.testing.assert_array_equal(read_plane(tmp_path / "a.mrc", dtypes=MICROGRAPH_DTYPES), pixels[::-1])


def ome_of(order: tuple[int, int]) -> str:
    """OME-XML of two channels, of which page k is the one at place `order[k]`."""
    data = "".join(f'<TiffData IFD="{page}" FirstC="{at}" PlaneCount="1"/>' for page, at in enumerate(order))
    names = "".join(f'<Channel ID="Channel:0:{at}" Name="{name}"/>' for at, name in enumerate(("DAPI", "GFAP")))
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYCZT" Type="uint16" SizeX="32" SizeY="32" SizeC="2" SizeZ="1" SizeT="1">'
        f"{names}{data}</Pixels></Image></OME>"
    )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_pages_in_another_order_than_ome_xml_has_channels_are_refused(tmp_path: Path, order: tuple[int, int]) -> None:
    found = ingested(tmp_path, metadata=None, description=ome_of(order))
    assert found == [10, 20] if order == (0, 1) else "planes in another order: OME-XML (TiffData)" in found


@pytest.mark.parametrize("kind", [1, 4])
def test_copies_and_masks_of_a_page_are_no_channels(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANES, photometric="minisblack", metadata=None, subfiletype=2)
    assert read_plane(path, page=1).tolist() == PLANES[1].tolist()
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[1].tags["NewSubfileType"].valueoffset
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<I", kind))
    with pytest.raises(TileReadError, match="page 1 says that it is a reduced copy or a mask"):
        read_plane(path, page=1)
