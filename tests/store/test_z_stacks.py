"""Stacks along z: one plane by a stated projection, equal to NumPy's; refused where nobody said how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fintune_xr import names as n
from fintune_xr.analysis.report.sections.cohort import cohort_sentence
from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.ingest import ingest, plan_ingest
from fintune_xr.pixels.z_projection import focus_plane, projection, sharpness
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.raw.layouts import LAYOUTS

DEPTHS = (4, 6)


def stack(depth: int, channel: int) -> NDArray[np.uint16]:
    """Planes (z, y, x) of noise, blurred the more the farther they lie from the sharp one: 1, or 2 in deeper stacks."""
    noise = stream(depth, f"channel {channel}").integers(0, 4000 * (channel + 1), (depth, 40, 48)).astype(float)
    return np.stack(
        [gaussian_filter(plane, 0.1 + abs(at - (depth - 2) // 2)) for at, plane in enumerate(noise)]
    ).astype(np.uint16)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for depth in DEPTHS:
        for channel in (0, 1):
            file = tmp_path / f"raw/d{depth}/GFAP/t_b0c{channel}.tif"
            file.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(file, stack(depth, channel), photometric="minisblack", metadata=None)
    return tmp_path / "raw"


def images_of(store: Path) -> xr.Dataset:
    return open_cohort(store).images().load()


EXPECTED = {
    "max": lambda planes: planes.max(axis=0),
    "mean": lambda planes: np.rint(planes.sum(axis=0, dtype=np.int64) / len(planes)),
    "2": lambda planes: planes[2],
    "focus": lambda planes: planes[(len(planes) - 2) // 2],
}


@pytest.mark.parametrize("how", EXPECTED)
def test_each_projection_is_that_of_numpy_and_is_stored(source: Path, tmp_path: Path, how: str, capsys: Any) -> None:
    assert command(["ingest", str(source), str(tmp_path / "c.zarr"), "--z", how]) == 0
    assert "of z-stacks of 4 to 6 planes" in capsys.readouterr().err
    images = images_of(tmp_path / "c.zarr")
    assert images.attrs[n.Z_PROJECTION] == how
    assert images[n.Z_PLANES].values.tolist() == list(DEPTHS)
    taken = {"focus": [1, 2], "2": [2, 2]}.get(how, [-1, -1])
    assert images[n.Z_PLANE].values.tolist() == taken
    for at, depth in enumerate(DEPTHS):
        for channel in (0, 1):
            expected = EXPECTED[how](stack(depth, channel))
            np.testing.assert_array_equal(images[n.IMAGE].values[at, channel], expected)
    assert "z-stacks of 4 to 6 planes" in cohort_sentence(images, ())
    assert "z-stacks of 4 to 6 planes" in open_cohort(tmp_path / "c.zarr")._repr_html_()
    again = ingest(source, tmp_path / "c.zarr", z=how)
    assert (again.n_added, again.n_present, again.left_out) == (0, 2, ())


def test_without_a_projection_stacks_are_refused_and_others_say_nothing_of_z(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FintuneValueError, match="--z max, mean, focus or N makes one plane"):
        ingest(source, tmp_path / "a.zarr")
    for channel in (0, 1):
        tifffile.imwrite(source / f"d4/GFAP/flat_b0c{channel}.tif", stack(1, channel)[0])
    report = ingest(source, tmp_path / "c.zarr")
    assert (report.n_added, len(report.left_out)) == (1, 2)
    images = images_of(tmp_path / "c.zarr")
    assert n.Z_PLANE not in images.coords
    assert n.Z_PROJECTION not in images.attrs
    assert "z-stack" not in cohort_sentence(images, ())
    with pytest.raises(FintuneValueError, match=r"made without --z, asked for is an ingest with --z max"):
        ingest(source, tmp_path / "c.zarr", z="max")


def test_a_store_has_one_projection_and_a_flat_file_is_a_stack_of_one(source: Path, tmp_path: Path) -> None:
    ingest(source, tmp_path / "c.zarr", z="mean")
    for channel in (0, 1):
        tifffile.imwrite(source / f"d4/GFAP/flat_b0c{channel}.tif", stack(1, channel)[0])
    for how in ("max", ""):
        with pytest.raises(FintuneValueError, match="was made with --z mean"):
            ingest(source, tmp_path / "c.zarr", z=how)
    assert ingest(source, tmp_path / "c.zarr", z="mean").n_added == 1
    images = images_of(tmp_path / "c.zarr")
    assert images[n.Z_PLANES].values.tolist() == [4, 6, 1]
    np.testing.assert_array_equal(images.isel(tile=2)[n.IMAGE][0], stack(1, 0)[0])


def test_channels_of_unequal_depth_and_planes_that_are_not_there_are_left_out(source: Path) -> None:
    tifffile.imwrite(source / "d4/GFAP/t_b0c1.tif", stack(3, 1), photometric="minisblack", metadata=None)
    planned = plan_ingest(source, z="max")
    assert planned.left_out["reason"].tolist() == [
        "wrong shape: expected 4 x 40 x 48 as in d4/GFAP/t_b0c0.tif, found 3 x 40 x 48"
    ]
    assert "expected a plane 5, from 0 on, found 4" in plan_ingest(source, z="5").left_out["reason"][0]


@pytest.mark.parametrize("how", [{"imagej": True, "axes": "ZCYX"}, {"ome": True, "axes": "ZCYX"},
                                 {"ome": True, "axes": "CZYX"}])  # fmt: skip
def test_files_of_all_channels_tell_depth_from_channels(tmp_path: Path, how: dict[str, Any]) -> None:
    both = np.stack([stack(4, 0), stack(4, 1)])
    axes = how.pop("axes")
    (tmp_path / "raw/d/GFAP").mkdir(parents=True)
    told = {"axes": axes, **({"Channel": {"Name": ["GFAP", "DAPI"]}} if "ome" in how else {})}
    pixels = both if axes == "CZYX" else both.transpose(1, 0, 2, 3)
    tifffile.imwrite(tmp_path / "raw/d/GFAP/t.tif", pixels, photometric="minisblack", metadata=told, **how)
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="planes", z="max")
    expected = both.max(axis=1)
    # Names that the file gives its channels are obeyed.
    expected = expected[::-1] if "ome" in how else expected
    np.testing.assert_array_equal(images_of(tmp_path / "c.zarr")[n.IMAGE].values[0], expected)


@pytest.mark.parametrize(
    ("layout", "options", "said"),
    [
        ("planes", {"metadata": None}, "does not tell which of its 8 pages are channels"),
        ("planes", {"ome": True, "metadata": {"axes": "ZYX"}}, r"expected 2 channel\(s\), found 1"),
        ("custom", {"imagej": True, "metadata": {"axes": "TYX"}}, r"they are times \(T = 8\), not depth"),
        ("custom", {"ome": True, "metadata": {"axes": "CYX"}}, r"expected 1 channel\(s\), found 8"),
    ],
)
def test_pages_that_are_no_depth_are_refused(tmp_path: Path, layout: str, options: Any, said: str) -> None:
    (tmp_path / "d/GFAP").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "d/GFAP/t.tif", stack(8, 0), photometric="minisblack", **options)
    with pytest.raises(FintuneValueError, match=said):
        ingest(tmp_path, tmp_path / "c.zarr", layout=layout, z="max")


@pytest.mark.parametrize("how", ["min", "-1", "1.5", "²"])
def test_unknown_projections_are_refused(source: Path, how: str) -> None:
    with pytest.raises(UnknownNameError, match=f"'{how}'; known: focus, max, mean.* number of a plane, from 0 on"):
        plan_ingest(source, z=how)


@pytest.mark.parametrize("layout", sorted(name for name, one in LAYOUTS.items() if one.kind != "if"))
def test_only_fluorescence_tiles_have_stacks(source: Path, layout: str) -> None:
    with pytest.raises(FintuneValueError, match="no stacks of fluorescence tiles"):
        plan_ingest(source, layout=layout, z="max")


def test_sharpness_is_variance_over_mean() -> None:
    planes = np.array([[[0, 0], [0, 0]], [[1, 3], [1, 3]], [[2, 2], [2, 2]]], np.uint16)
    np.testing.assert_array_equal(sharpness(planes), [0.0, 0.5, 0.0])


def test_a_bright_channel_counts_no_more_than_a_faint_one_and_the_first_of_equals_wins() -> None:
    faint, bright = np.ones((2, 3, 2, 2)), np.ones((3, 2, 2))
    # The faint channels agree on plane 2; the bright one is far sharper, in numbers, in plane 0.
    faint[:, 2, 0] = 3
    bright[0, 0], bright[2, 0] = 1001, 800
    assert focus_plane([*faint, bright]) == 2
    assert focus_plane([bright]) == 0
    assert focus_plane([np.zeros((3, 2, 2), np.uint16)]) == 0


def test_halves_are_rounded_to_even_and_no_sum_overflows() -> None:
    planes = np.array([[[65535, 0, 1]], [[65535, 1, 2]]], np.uint16)
    (mean,), at = projection([planes], "mean")
    assert (mean.tolist(), mean.dtype, at) == ([[65535, 0, 2]], np.uint16, -1)
