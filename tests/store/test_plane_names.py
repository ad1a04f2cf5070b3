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
