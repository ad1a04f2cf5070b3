"""Per-cell measurement against scikit-image and plain loops; dropping, renumbering, and nuclei in cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from skimage.measure import regionprops_table

from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels.cell_measurement import measure_cells, renumber

small_masks = hnp.arrays(
    np.uint32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.sampled_from([0, 0, 1, 2, 5, 9]),
)


def with_image(mask: np.ndarray, dtype: type, n_channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(mask.size)
    return rng.integers(0, np.iinfo(dtype).max + 1, (n_channels, *mask.shape)).astype(dtype)


@given(small_masks, st.sampled_from([np.uint8, np.uint16]), st.integers(1, 3))
def test_cells_as_measured_one_by_one(mask: np.ndarray, dtype: type, n_channels: int) -> None:
    image = with_image(mask, dtype, n_channels)
    table = measure_cells(mask, image)
    assert table.label.tolist() == np.unique(mask[mask > 0]).tolist()
    for i, label in enumerate(table.label):
        rows, columns = np.nonzero(mask == label)
        assert table.area_px[i] == rows.size
        assert table.centroid_y[i] == np.float32(rows.mean())
        assert table.centroid_x[i] == np.float32(columns.mean())
        assert_allclose(table.mean_intensity[i], image[:, rows, columns].mean(axis=1), rtol=1e-6)
    outside = image[:, mask == 0]
    expected = np.median(outside, axis=1) if outside.size else np.full(n_channels, np.nan)
    assert_array_equal(table.background, expected.astype(np.float32))


def test_dtypes_are_those_of_the_cell_table() -> None:
    table = measure_cells(np.eye(4, dtype=np.int64), with_image(np.eye(4), np.uint8))
    assert (table.label.dtype, table.area_px.dtype) == (np.uint32, np.int32)
    floats = (table.centroid_y, table.centroid_x, table.mean_intensity, table.background)
    assert {array.dtype for array in floats} == {np.dtype(np.float32)}
    assert table.mean_intensity.shape == (1, 2)


def test_real_nuclei_as_measured_by_scikit_image(real_data: Path) -> None:
    folder = real_data / "dsb2018-fluo"
    for path in sorted((folder / "labels").glob("*.tif"))[:3]:
        mask = tifffile.imread(path).astype(np.int32)
        plane = tifffile.imread(folder / "images" / path.name)
        image = np.stack([plane, plane[::-1]]).astype(np.uint16)
        table = measure_cells(mask, image)
        properties = ("label", "area", "centroid", "intensity_mean")
        expected = regionprops_table(mask, np.moveaxis(image, 0, -1), properties=properties)
        assert_array_equal(table.label, expected["label"])
        assert_array_equal(table.area_px, expected["area"])
        assert_allclose(table.centroid_y, expected["centroid-0"], rtol=1e-6)
        assert_allclose(table.centroid_x, expected["centroid-1"], rtol=1e-6)
        assert_allclose(table.mean_intensity[:, 0], expected["intensity_mean-0"], rtol=1e-6)
        assert_allclose(table.mean_intensity[:, 1], expected["intensity_mean-1"], rtol=1e-6)
        assert_array_equal(table.background, np.median(image[:, mask == 0], axis=1))


def test_median_of_an_even_number_of_pixels_lies_between_the_middle_two() -> None:
    image = np.array([[[0, 10, 65535, 13]], [[7, 7, 7, 8]]], np.uint16)
    assert measure_cells(np.zeros((1, 4), int), image).background.tolist() == [11.5, 7.0]


def test_a_tile_without_cells_and_one_without_background() -> None:
    image = np.full((2, 3, 3), 9, np.uint8)
    empty = measure_cells(np.zeros((3, 3), np.uint32), image)
    assert empty.n_cells == 0
    assert empty.mean_intensity.shape == (0, 2)
    full = measure_cells(np.ones((3, 3), np.uint32), image)
    assert np.isnan(full.background).all()
    assert full.mean_intensity.tolist() == [[9.0, 9.0]]


def test_labels_far_apart_keep_their_names_and_need_no_huge_table() -> None:
    mask = np.array([[0, 7, 7], [4_000_000_000, 0, 30_000_000]], np.uint32)
    table = measure_cells(mask, with_image(mask, np.uint16))
    assert table.label.tolist() == [7, 30_000_000, 4_000_000_000]
    assert table.area_px.tolist() == [2, 1, 1]


def test_views_and_other_byte_orders_are_measured_alike() -> None:
    rng = np.random.default_rng(0)
    mask, image = rng.integers(0, 5, (20, 30)), rng.integers(0, 60000, (2, 20, 30)).astype(np.uint16)
    plain = measure_cells(mask[2:15, 3:21].copy(), image[:, 2:15, 3:21].copy())
    viewed = measure_cells(mask[2:15, 3:21].astype(">i4"), image.astype(">u2")[:, 2:15, 3:21])
    assert_array_equal(plain.mean_intensity, viewed.mean_intensity)
    assert_array_equal(plain.background, viewed.background)


@pytest.mark.parametrize(
    ("mask", "image", "message"),
    [
        (np.zeros((3, 4), int), np.zeros((3, 4), np.uint8), r"image: expected dims \(channel, y, x\)"),
        (np.zeros((3, 4), int), np.zeros((2, 4, 3), np.uint8), r"\(3, 4\) of the mask, got \(2, 4, 3\)"),
        (np.zeros((3, 4), int), np.zeros((2, 3, 4)), "raw counts as uint8 or uint16, got float64"),
        (np.zeros((3, 4), int), np.zeros((2, 3, 4), np.int16), "raw counts as uint8 or uint16, got int16"),
        (np.zeros((3, 4)), np.zeros((2, 3, 4), np.uint8), "mask: expected integer labels, got float64"),
        (np.zeros((3, 4), bool), np.zeros((2, 3, 4), np.uint8), "mask: expected integer labels, got bool"),
        (np.full((3, 4), -2), np.zeros((2, 3, 4), np.uint8), "labels run from -2 to 0"),
        (np.full((3, 4), 2**32), np.zeros((2, 3, 4), np.uint8), "labels run from 0 to 4294967296"),
    ],
)
def test_what_cannot_be_measured(mask: np.ndarray, image: np.ndarray, message: str) -> None:
    with pytest.raises(FintuneValueError, match=message):
        measure_cells(mask, image)


@given(small_masks)
def test_renumbering_keeps_all_in_order_and_happens_once(mask: np.ndarray) -> None:
    once = renumber(mask)
    assert once.mask.dtype == np.uint32
    assert once.label.tolist() == np.unique(mask[mask > 0]).tolist()
    assert_array_equal(np.r_[np.uint32(0), once.label][once.mask], mask)
    assert_array_equal(renumber(once.mask).mask, once.mask)


def test_renumbered_labels_far_apart() -> None:
    mask = np.array([[0, 4_000_000_000, 20_000_000]], np.uint32)
    assert renumber(mask).mask.tolist() == [[0, 2, 1]]
