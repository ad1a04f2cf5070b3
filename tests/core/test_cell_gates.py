"""Gates: which instances stay, against plain loops, and matching of gated masks, against masks that were gated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.metrics.instance import match_masks, match_subsets
from fintune_xr.pixels.cell_gates import UNGATED, Gate, GateSettings, intensity_bounds, is_kept
from fintune_xr.pixels.cell_measurement import measure_cells, renumber
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings
from fintune_xr.simulation.phantoms import phantom_tile

# Intensities of a 32-bit float with many ties, on tiles with few and many instances.
TILES = st.lists(st.lists(st.integers(0, 12).map(lambda value: value / 3), max_size=30), min_size=1, max_size=6)
RANGES = st.tuples(st.integers(0, 49), st.integers(51, 100))


def starts(tiles: list[list[float]]) -> np.ndarray:
    return np.cumsum([0, *map(len, tiles)])


def sorted_percentile(values: list[float], q: float) -> float:
    """The textbook definition: linear between the ranks on both sides of (n - 1) q / 100."""
    ordered = sorted(float(np.float32(value)) for value in values)
    place = (len(ordered) - 1) * q / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@given(TILES, RANGES)
def test_bounds_are_percentiles_of_each_tiles_own_instances(tiles: list[list[float]], q_range: tuple[int, int]) -> None:
    flat = np.array([value for tile in tiles for value in tile], np.float32)
    (bounds,) = intensity_bounds(flat, starts(tiles), [q_range])
    assert bounds.shape == (len(tiles), 2)
    for tile, found in zip(tiles, bounds, strict=True):
        expected = [sorted_percentile(tile, q) if tile else np.nan for q in q_range]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(TILES, st.integers(0, 60))
def test_the_whole_range_drops_nothing_by_intensity(tiles: list[list[float]], min_area: int) -> None:
    flat = np.array([value for tile in tiles for value in tile], np.float32)
    area = np.arange(flat.size)
    (bounds,) = intensity_bounds(flat, starts(tiles), [(0.0, 100.0)])
    of_tile = np.repeat(np.arange(len(tiles)), [len(tile) for tile in tiles])
    assert np.array_equal(is_kept(flat, area, bounds[of_tile], min_area), area >= min_area)


def test_both_ends_of_the_range_and_the_area_are_inclusive() -> None:
    intensity = np.array([10, 20, 30, 40, 50], np.float32)
    bounds = np.array([[20.0, 40.0]] * 5)
    area = np.array([50, 50, 49, 50, 50])
    assert is_kept(intensity, area, bounds, 50).tolist() == [False, True, False, True, False]


@given(TILES)
def test_a_narrower_gate_keeps_a_subset(tiles: list[list[float]]) -> None:
    flat = np.array([value for tile in tiles for value in tile], np.float32)
    of_tile = np.repeat(np.arange(len(tiles)), [len(tile) for tile in tiles])
    wide, narrow = intensity_bounds(flat, starts(tiles), [(2.0, 98.0), (5.0, 95.0)])
    area = (flat * 30).astype(int)
    assert np.all(is_kept(flat, area, wide[of_tile], 0) | ~is_kept(flat, area, narrow[of_tile], 50))


def test_positions_that_do_not_span_the_instances_are_refused() -> None:
    with pytest.raises(FintuneValueError, match="ascending positions from 0 to 3"):
        intensity_bounds(np.ones(3, np.float32), np.array([0, 2]), [(0.0, 100.0)])


def test_the_grid_has_every_pair_once_and_begins_with_no_gate() -> None:
    assert len(GateSettings().gates) == 12
    assert GateSettings().gates[0] == UNGATED
    narrow = GateSettings(q_ranges=((5.0, 95.0),), min_areas=(50, 50))
    assert narrow.gates == (UNGATED, Gate(5.0, 95.0, 50))
    assert [gate.name for gate in narrow.gates] == ["q0-100_a0", "q5-95_a50"]


def test_settings_come_from_overrides_and_are_checked() -> None:
    found = load_settings(GateSettings, None, ["q_ranges=[[1,99]]", "min_areas=[10]"])
    assert found.gates == (UNGATED, Gate(1.0, 99.0, 10))
    with pytest.raises(SettingsError, match="expected 0 <= q_lo < q_hi <= 100, got 98 and 2"):
        load_settings(GateSettings, None, ["q_ranges=[[98,2]]"])
    with pytest.raises(SettingsError, match="expected 0 or more px, got -1"):
        load_settings(GateSettings, None, ["min_areas=[-1]"])


@pytest.mark.parametrize("seed", range(4))
def test_matching_subsets_equals_matching_masks_that_were_gated(seed: int) -> None:
    rng = stream(seed, "gating test")
    true = phantom_tile(rng, marker="GFAP", ratio=0.4, tile_px=128)
    shifted = np.roll(true.mask, rng.integers(-3, 4, 2), axis=(0, 1)) * np.uint32(7)
    cells = measure_cells(shifted, true.image)
    kept = np.array([cells.area_px >= area for area in (0, 20, 60, 10_000)])
    kept = np.concatenate([kept, rng.random((4, cells.n_cells)) < 0.5])
    order = rng.permutation(cells.n_cells)
    found = match_subsets(true.mask, shifted, labels=cells.label[order], kept=kept[:, order])
    for one, subset in zip(found, kept, strict=True):
        slow = match_masks(true.mask, renumber(np.where(np.isin(shifted, cells.label[subset]), shifted, 0)).mask)
        assert (one.n_true, one.n_predicted) == (slow.n_true, slow.n_predicted)
        for name in ("tp", "fp", "fn"):
            assert np.array_equal(getattr(one, name), getattr(slow, name))


def test_labels_of_another_mask_are_refused() -> None:
    mask = np.array([[0, 1], [2, 2]])
    with pytest.raises(FintuneValueError, match="expected the 2 labels of the predicted mask, got 2 that differ"):
        match_subsets(mask, mask, labels=np.array([1, 3]), kept=np.ones((1, 2), bool))
