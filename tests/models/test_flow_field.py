"""Flows and masks against cellpose.dynamics, number for number."""

from __future__ import annotations

from pathlib import Path

import fastremap
import numpy as np
import pytest
import tifffile
from cellpose import dynamics
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr.errors import FintuneValueError
from fintune_xr.models.flows import field
from fintune_xr.models.flows.dynamics import masks_from_flows
from fintune_xr.models.flows.field import FLOW_SCALE, flow_errors, instance_flows
from fintune_xr.models.flows.settings import DynamicsSettings
from fintune_xr.models.flows.trajectories import follow_flows
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile


def blobs(seed: int, size: int = 40) -> NDArray[np.uint32]:
    """Touching, broken, ragged instances: thresholded noise cut up by a coarse grid, labels without gaps."""
    rng = stream(seed, "blobs")
    foreground = ndimage.gaussian_filter(rng.normal(size=(size, size)), 1.5) > 0
    grid = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((size // 5, size // 5), np.uint32))
    return fastremap.renumber((grid * foreground).astype(np.uint32))[0].astype(np.uint32)


def maps_of(mask: NDArray[np.uint32], noise: float, seed: int = 0) -> NDArray[np.float32]:
    logit = np.where(mask > 0, 4.0, -4.0)
    maps = np.concatenate([FLOW_SCALE * instance_flows(mask), logit[None]])
    return (maps + stream(seed, "maps").normal(0, noise, maps.shape)).astype(np.float32)


def directions_of_rounding(mask: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Pixels (y, x) at which two sums of the same heat, added in different orders, may point anywhere.

    Where heat is even around a pixel, the middle of a square for one, its gradient is nothing but rounding. Torch adds
    up the last pixels of a mask, those that do not fill its vector registers, in another order than all before them,
    and from these the heat of their instance is rounded otherwise.
    """
    heat = field._heat(mask, field._boxes(mask))
    rise = np.abs(heat[2:, 1:-1] - heat[:-2, 1:-1]) + np.abs(heat[1:-1, 2:] - heat[1:-1, :-2])
    inside = mask[mask > 0]
    last = np.unique(inside[len(inside) - len(inside) % 64 :])
    return np.isin(mask, last) & (rise < 1e-12 * heat[1:-1, 1:-1])


@given(st.integers(0, 10_000))
@example(1667)
def test_flows_are_those_of_cellpose(seed: int) -> None:
    mask = blobs(seed)
    expected = dynamics.masks_to_flows_gpu(mask.astype(np.int64))[0]
    told = ~directions_of_rounding(mask)
    assert told.mean() > 0.99
    np.testing.assert_allclose(instance_flows(mask)[:, told], expected[:, told], atol=1e-9)


def test_training_targets_are_those_of_cellpose() -> None:
    mask = blobs(3)
    labelled = dynamics.labels_to_flows([mask.astype(np.int32)])[0]
    np.testing.assert_allclose(instance_flows(mask), labelled[2:], atol=1e-6)


@given(st.integers(0, 10_000))
def test_flow_errors_are_those_of_cellpose(seed: int) -> None:
    mask = blobs(seed)
    flows = maps_of(mask, 1.0, seed)[:2]
    expected = dynamics.flow_error(mask.astype(np.int64), flows)[0]
    told = ~np.isin(np.arange(1, mask.max() + 1), mask[directions_of_rounding(mask)])
    np.testing.assert_allclose(flow_errors(mask, flows)[told], expected[told], rtol=1e-6)


def test_a_missing_label_has_no_error() -> None:
    mask = np.zeros((8, 8), np.uint32)
    mask[1:4, 1:4], mask[5:8, 5:8] = 1, 3
    errors = flow_errors(mask, np.zeros((2, 8, 8), np.float32))
    assert np.isnan(errors).tolist() == [False, True, False]


def test_no_instances_no_flows() -> None:
    assert not instance_flows(np.zeros((5, 7), np.uint32)).any()
    assert flow_errors(np.zeros((5, 7), np.uint32), np.zeros((2, 5, 7), np.float32)).size == 0


@pytest.mark.parametrize("flow_threshold", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("min_size_px", [0, 15])
def test_masks_are_those_of_cellpose(flow_threshold: float, noise: float, min_size_px: int) -> None:
    truth = phantom_tile(stream(8), marker="GFAP", ratio=0.3, tile_px=160).mask.astype(np.uint32)
    maps = maps_of(truth, noise)
    expected = dynamics.resize_and_compute_masks(
        maps[:2], maps[2], niter=80, flow_threshold=flow_threshold, min_size=min_size_px
    )
    mask = masks_from_flows(maps, DynamicsSettings(flow_threshold=flow_threshold, min_size_px=min_size_px, niter=80))
    assert mask.dtype == np.uint32
    assert mask.max() > 5
    np.testing.assert_array_equal(mask, fastremap.renumber(expected)[0])


@given(st.integers(0, 10_000), st.sampled_from([1, 7, 200]), st.sampled_from([(2, 2), (2, 37), (41, 23), (64, 64)]))
@settings(max_examples=30)
def test_pixels_end_where_those_of_cellpose_do(seed: int, niter: int, shape: tuple[int, int]) -> None:
    rng = stream(seed, "flows")
    flows = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, 2, 2)) * 5 + rng.normal(0, 0.3, (2, *shape))
    flows = flows.astype(np.float32)
    pixels = np.nonzero(rng.random(shape) < 0.8)
    if pixels[0].size:
        expected = dynamics.follow_flows(flows.copy(), inds=pixels, niter=niter).int().numpy()
        np.testing.assert_array_equal(follow_flows(flows, pixels, niter=niter), expected)


def test_flows_that_drive_pixels_out_of_the_image_stop_at_its_border() -> None:
    flows = np.zeros((2, 30, 40), np.float32)
    flows[0], flows[1] = -3, 1000
    pixels = np.nonzero(np.ones((30, 40), bool))
    ends = follow_flows(flows, pixels, niter=50)
    np.testing.assert_array_equal(ends, dynamics.follow_flows(flows.copy(), inds=pixels, niter=50).int().numpy())
    assert ends[0].max() == 0
    assert ends[1].min() == 39


def test_masks_of_real_nuclei_are_those_of_cellpose(real_data: Path) -> None:
    """Unlike drawn cells, real ones touch and are ragged; blurred noise on their flows is as a network's error."""
    for seed, path in enumerate(sorted((real_data / "dsb2018-fluo" / "labels").glob("*.tif"))[:3]):
        maps = maps_of(fastremap.renumber(tifffile.imread(path).astype(np.uint32))[0], 0.0)
        noise = stream(seed, "noise").normal(size=maps.shape)
        maps += (ndimage.gaussian_filter(noise, (0, 2, 2)) * 10).astype(np.float32)
        expected = dynamics.resize_and_compute_masks(maps[:2].copy(), maps[2].copy())
        assert expected.max() > 3
        np.testing.assert_array_equal(masks_from_flows(maps, DynamicsSettings()), fastremap.renumber(expected)[0])


def test_perfect_flows_give_the_mask_back() -> None:
    truth = phantom_tile(stream(8), marker="GFAP", ratio=0.3, tile_px=160).mask.astype(np.uint32)
    mask = masks_from_flows(maps_of(truth, 0.0), DynamicsSettings(niter=80))
    assert abs(int(mask.max()) - int(truth.max())) <= 1
    assert np.mean((mask > 0) == (truth > 0)) > 0.99


@pytest.mark.parametrize("shape", [(64, 64), (1, 50), (2, 2)])
def test_nothing_in_nothing_out(shape: tuple[int, int]) -> None:
    maps = np.full((3, *shape), -1, np.float32)
    mask = masks_from_flows(maps, DynamicsSettings())
    assert mask.shape == shape
    assert mask.dtype == np.uint32
    assert not mask.any()


def test_maps_that_make_no_sense_are_refused() -> None:
    with pytest.raises(FintuneValueError, match=r"expected \(3, y, x\).*got \(2, 8, 8\)"):
        masks_from_flows(np.zeros((2, 8, 8), np.float32), DynamicsSettings())
    with pytest.raises(FintuneValueError, match="NaN or infinity"):
        masks_from_flows(np.full((3, 8, 8), np.nan, np.float32), DynamicsSettings())
