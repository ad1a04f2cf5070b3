"""Volumes on a grid: torch's trilinear interpolation is the oracle, bit for bit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.resampling import STEPS, linear_weights, moments, resized_planes, to_grid

Shape = tuple[int, int, int]


def interpolated(volume: Any, grid: Shape) -> Any:
    import torch

    given_volume = torch.from_numpy(np.asarray(volume, np.float32))[None, None]
    return torch.nn.functional.interpolate(given_volume, size=grid, mode="trilinear", align_corners=False)[0, 0].numpy()


def by_planes(volume: Any, grid: Shape) -> Any:
    return np.stack([plane.copy() for plane in resized_planes(iter(volume), volume.shape, grid)])


def needs_fused_multiply_add() -> None:
    import torch

    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("torch rounds differently on a processor without fused multiply-add")


@pytest.mark.parametrize(
    ("source", "grid"),
    [
        ((61, 49, 77), (64, 38, 38)),
        ((27, 62, 96), (16, 64, 64)),
        ((128, 44, 51), (64, 38, 38)),
        ((5, 40, 33), (64, 7, 90)),
        ((16, 64, 64), (16, 64, 64)),
        ((2, 32, 32), (1, 32, 1)),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_planes_are_torchs_to_the_last_bit(source: Shape, grid: Shape, dtype: str) -> None:
    needs_fused_multiply_add()
    rng = np.random.default_rng(3)
    volume = rng.integers(0, 256, source).astype(dtype) if dtype == "uint8" else rng.normal(size=source).astype(dtype)
    assert np.array_equal(by_planes(volume, grid), interpolated(volume, grid))


@given(
    source=st.tuples(st.integers(2, 9), st.integers(2, 12), st.integers(2, 12)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 99),
)
def test_any_sizes(source: Shape, grid: Shape, seed: int) -> None:
    volume = np.random.default_rng(seed).integers(0, 256, source).astype(np.uint8)
    np.testing.assert_allclose(by_planes(volume, grid), interpolated(volume, grid), rtol=0, atol=6.2e-5)


@given(n_source=st.integers(1, 300), n_grid=st.integers(1, 300))
def test_weights_sum_to_one_and_ascend(n_source: int, n_grid: int) -> None:
    made = linear_weights(n_source, n_grid)
    assert np.allclose(made.of_first + made.of_second, 1)
    assert (np.diff(made.first) >= 0).all()
    assert made.first.min() >= 0
    assert made.second.max() <= n_source - 1


def test_bytes_are_rounded_to_the_nearest() -> None:
    volume = np.random.default_rng(0).integers(0, 256, (9, 40, 50)).astype(np.uint8)
    made = to_grid(iter(volume), volume.shape, (16, 32, 48), is_byte=True)
    assert np.array_equal(made.pixels, np.rint(by_planes(volume, (16, 32, 48))).astype(np.uint8))
    assert np.abs(made.pixels - interpolated(volume, (16, 32, 48))).max() <= 0.5001
    assert (made.offset, made.step) == (0.0, 1.0)


def test_a_volume_on_its_own_grid_stays() -> None:
    volume = np.random.default_rng(0).integers(0, 256, (4, 33, 35)).astype(np.uint8)
    assert np.array_equal(to_grid(iter(volume), volume.shape, volume.shape, is_byte=True).pixels, volume)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_values_are_mapped_between_their_extremes(dtype: str) -> None:
    volume = (np.random.default_rng(0).random((5, 40, 50)) * 4000 + 300).astype(dtype)
    made = to_grid(iter(volume), volume.shape, (8, 32, 48), is_byte=False)
    back = made.pixels * made.step + made.offset
    truth = interpolated(volume, (8, 32, 48))
    assert (made.pixels.min(), made.pixels.max()) == (0, STEPS)
    assert np.abs(back - truth).max() <= made.step * 0.501
    score = (made.pixels - made.pixels.mean()) / made.pixels.std()
    half_a_step = made.step / 2 / truth.std()
    assert np.abs(score - (truth - truth.mean()) / truth.std()).max() < 1.1 * half_a_step


def test_a_constant_volume_has_no_step() -> None:
    made = to_grid(iter(np.full((3, 32, 32), 7.5, np.float32)), (3, 32, 32), (2, 32, 32), is_byte=False)
    assert (made.offset, made.step) == (7.5, 0.0)
    assert not made.pixels.any()


@pytest.mark.parametrize(("n_frames", "said"), [(2, "truncated: expected 3 B-scans, found 2"), (4, "expected 3")])
def test_another_number_of_frames_is_an_error(n_frames: int, said: str) -> None:
    with pytest.raises(TileReadError, match=said):
        to_grid(iter(np.zeros((n_frames, 32, 32), np.uint8)), (3, 32, 32), (2, 32, 32), is_byte=True)


@pytest.mark.parametrize("high", [1, 200, 256])
def test_moments_are_numpys(high: int) -> None:
    pixels = np.random.default_rng(1).integers(0, high, (3, 7, 11)).astype(np.uint8)
    assert moments(pixels) == pytest.approx((pixels.mean(), pixels.std()), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int16", "float64"])
def test_values_count_the_same_in_any_type(dtype: str) -> None:
    volume = np.random.default_rng(2).integers(0, 256, (3, 40, 33))
    expected, found = (
        to_grid(iter(volume.astype(one)), (3, 40, 33), (5, 32, 32), is_byte=True).pixels for one in ("float32", dtype)
    )
    assert np.array_equal(found, expected)


def test_nan_is_an_error() -> None:
    volume = np.zeros((3, 32, 32), np.float32)
    volume[1, 4, 4] = np.nan
    with pytest.raises(TileReadError, match="NaN"):
        to_grid(iter(volume), volume.shape, (3, 32, 32), is_byte=False)


def test_memory_is_the_grid_and_a_few_frames() -> None:
    grid = (8, 64, 64)
    frame = np.ones((300, 300), np.uint8)
    to_grid((frame for _ in range(9)), (9, 300, 300), grid, is_byte=True)
    tracemalloc.start()
    to_grid((frame.copy() for _ in range(200)), (200, 300, 300), grid, is_byte=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 64 * 64 + 2 * 5 * 300 * 300 + 3 * 4 * 64 * 64 + 50_000
