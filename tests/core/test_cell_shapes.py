"""Shapes of single cells against scikit-image over the whole mask, SciPy's trees and plain NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import cKDTree
from skimage.measure import regionprops, regionprops_table
from skimage.morphology import skeletonize

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.pixels.cell_shapes import branch_points, measure_shapes, skeleton_length
from fintune_xr.tasks.cell_measures import MEASURES, cell_measure, column_in_um

ALL = list(MEASURES.values())
OF_SKIMAGE = {
    n.ECCENTRICITY: "eccentricity",
    n.SOLIDITY: "solidity",
    n.PERIMETER_PX: "perimeter",
    n.MAJOR_AXIS_PX: "axis_major_length",
    n.MINOR_AXIS_PX: "axis_minor_length",
}


def blobs(seed: int, side: int = 120) -> NDArray[np.uint32]:
    """A mask of branched blobs with gaps in its labels, some of them at the border or one pixel large."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(side, side)), 2.5)
    mask, _ = ndimage.label(smooth > np.quantile(smooth, 0.62))
    mask[0, 0] = mask.max() + 1
    return (mask * 3).astype(np.uint32)


@pytest.fixture(params=range(3))
def mask(request: pytest.FixtureRequest) -> NDArray[np.uint32]:
    return blobs(request.param)


@pytest.fixture
def image(mask: NDArray[np.uint32]) -> NDArray[np.uint16]:
    return np.random.default_rng(7).integers(0, 60_000, (2, *mask.shape), np.uint16)


def test_shapes_are_those_of_scikit_image(mask: NDArray[np.uint32], image: NDArray[np.uint16]) -> None:
    expected = regionprops_table(mask, properties=("label", *OF_SKIMAGE.values()))
    found = measure_shapes(mask, image, expected["label"].astype(np.uint32), ALL)
    for column, name in OF_SKIMAGE.items():
        np.testing.assert_allclose(found[column], expected[name], rtol=1e-6, err_msg=column)


def test_axes_and_eccentricity_are_those_of_the_second_moments(
    mask: NDArray[np.uint32], image: NDArray[np.uint16]
) -> None:
    """A pixel is a point at its centre."""
    labels = np.unique(mask)[1:]
    found = measure_shapes(mask, image, labels, ALL)
    for at, label in enumerate(labels):
        places = np.argwhere(mask == label).astype(float)
        minor, major = np.linalg.eigvalsh(np.cov(places.T, bias=True).reshape(2, 2)).clip(0)
        assert found[n.MAJOR_AXIS_PX][at] == pytest.approx(4 * math.sqrt(major), rel=1e-5, abs=1e-6)
        assert found[n.MINOR_AXIS_PX][at] == pytest.approx(4 * math.sqrt(minor), rel=1e-5, abs=1e-6)
        assert found[n.ECCENTRICITY][at] == pytest.approx(math.sqrt(1 - minor / major) if major else 0, abs=1e-3)


def test_texture_is_the_standard_deviation_of_the_counts(mask: NDArray[np.uint32], image: NDArray[np.uint16]) -> None:
    labels = np.unique(mask)[1:]
    found = measure_shapes(mask, image, labels, [cell_measure("texture")])[n.SD_INTENSITY]
    expected = [[plane[mask == label].std() for plane in image] for label in labels]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_distances_are_those_of_a_tree(mask: NDArray[np.uint32], image: NDArray[np.uint16]) -> None:
    other = np.zeros_like(mask)
    other[(np.array([5, 60, 60, 110]), np.array([70, 3, 4, 90]))] = (1, 2, 2, 9)
    labels = np.unique(mask)[1:]
    column = "distance_px_nuclei"
    found = measure_shapes(mask, image, labels, [cell_measure("distance:nuclei")], {"nuclei": other})[column]
    tree = cKDTree(np.argwhere(other))
    expected = [tree.query(np.argwhere(mask == label))[0].min() for label in labels]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.min() == 0
    none = measure_shapes(mask, image, labels, [cell_measure(column)], {"nuclei": np.zeros_like(mask)})
    assert np.isnan(none[column]).all()


def test_a_skeleton_is_as_long_as_the_shortest_tree_over_its_pixels() -> None:
    """Where it has no holes and no pixel that four lines meet in a square; then no pair of pixels can be left out."""
    tried = 0
    for seed in range(12):
        for one in regionprops(blobs(seed)):
            skeleton = skeletonize(one.image)
            square = skeleton[1:, 1:] & skeleton[1:, :-1] & skeleton[:-1, 1:] & skeleton[:-1, :-1]
            if one.euler_number != 1 or square.any():
                continue
            places = np.argwhere(skeleton)
            step = np.linalg.norm(places[:, None] - places[None], axis=2)
            tree = minimum_spanning_tree(csr_array(np.where(step < 1.5, step, 0)))
            assert skeleton_length(skeleton) == pytest.approx(tree.sum(), abs=1e-9)
            tried += 1
    assert tried > 100


@pytest.mark.parametrize(
    ("drawn", "length", "branches"),
    [
        ("#", 0, 0),
        ("#####", 4, 0),
        ("#..\n.#.\n..#", 2 * math.sqrt(2), 0),
        ("#..\n#..\n###", 4, 0),
        ("#####\n..#..\n..#..", 6, 1),
        ("..#..\n..#..\n#####\n..#..", 7, 1),
        ("#...#\n.#.#.\n..#..\n..#..", 4 * math.sqrt(2) + 1, 1),
        ("#.....#\n.#...#.\n..###..\n.#...#.\n#.....#", 8 * math.sqrt(2) + 2, 2),
        ("###\n#.#\n###", 8, 0),
    ],
)  # fmt: skip
def test_drawn_skeletons(drawn: str, length: float, branches: int) -> None:
    skeleton = np.array([[one == "#" for one in row] for row in drawn.split("\n")])
    for turned in (skeleton, skeleton.T, skeleton[::-1], np.rot90(skeleton)):
        assert skeleton_length(turned) == pytest.approx(length)
        assert branch_points(turned) == branches


def test_a_cell_gives_the_same_wherever_it_lies_and_with_whom() -> None:
    mask, image = blobs(3), np.random.default_rng(1).integers(0, 4000, (2, 120, 120), np.uint16)
    labels = np.unique(mask)[1:]
    whole = measure_shapes(mask, image, labels, ALL)
    for part in (labels[:1], labels[5:9], labels[::-1]):
        rows = np.searchsorted(labels, part)
        for column, values in measure_shapes(mask, image, part, ALL).items():
            np.testing.assert_array_equal(values, whole[column][rows])
    moved = tuple(np.pad(one, [*((0, 0),) * (one.ndim - 2), (11, 2), (4, 9)]) for one in (mask, image))
    for column, values in measure_shapes(*moved, labels, ALL).items():
        np.testing.assert_array_equal(values, whole[column])


def test_a_label_without_pixels_is_an_error() -> None:
    mask = blobs(0)
    for label in (1, int(mask.max()) + 3):
        with pytest.raises(FintuneValueError, match=f"no pixel of the mask has the label {label}"):
            measure_shapes(mask, np.zeros((1, *mask.shape), np.uint8), np.array([label], np.uint32), ALL)
    assert measure_shapes(mask, np.zeros((2, *mask.shape), np.uint8), np.array([], np.uint32), ALL)[
        n.SD_INTENSITY
    ].shape == (0, 2)


def test_names_of_measures() -> None:
    assert [cell_measure(one.column) for one in ALL] == ALL
    far = cell_measure("distance:a.b-1")
    assert (far.column, far.to) == ("distance_px_a.b-1", "a.b-1")
    assert cell_measure(far.column) == far
    assert column_in_um(far.column) == "distance_um_a.b-1"
    assert column_in_um(n.PERIMETER_PX) == "perimeter_um"
    assert column_in_um(n.SOLIDITY) == column_in_um(n.AREA_PX) == ""
    for wrong in ("eccentrcity", "distance:", "distance", ""):
        with pytest.raises(UnknownNameError, match="known: eccentricity"):
            cell_measure(wrong)
