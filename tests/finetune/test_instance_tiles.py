"""Patches: cropped to what is real, addressed, and turned together with their flows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.augmentation import Geometry, cut_patch, draw_geometry, vary_intensity
from fintune_xr.finetune.instance.loss import flow_loss
from fintune_xr.finetune.instance.settings import TrainSettings
from fintune_xr.finetune.instance.tiles import AnnotatedTiles, flow_target, prepare
from fintune_xr.finetune.patches import AddressSampler, PatchDataset, patches_per_epoch
from fintune_xr.finetune.schedules import parameter_groups, warmup_cosine
from fintune_xr.finetune.settings import AugmentationSettings
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile

CHANNELS = ("DAPI", "marker")
BOTH = ChannelChoice(CHANNELS, (0, 1), (False, False))
PLAIN = AugmentationSettings(rotation="none", flip=False, scale=(1, 1), gain=0, offset=0)


def annotated(n_tiles: int = 3, *, tile_px: int = 96) -> AnnotatedTiles:
    """Tiles of different real sizes in the corner of arrays whose rest holds rubbish."""
    image = np.full((n_tiles, 2, tile_px, tile_px), 60_000, np.uint16)
    mask = np.full((n_tiles, tile_px, tile_px), 77, np.uint32)
    heights, widths = [], []
    for index in range(n_tiles):
        tile = phantom_tile(stream(1, index), marker="GFAP", ratio=0.3, tile_px=tile_px)
        height, width = tile_px - 8 * index, tile_px - 16 * index
        image[index, :, :height, :width] = tile.image[:, :height, :width]
        mask[index, :height, :width] = tile.mask[:height, :width]
        heights.append(height)
        widths.append(width)
    return AnnotatedTiles([f"tile-{index}" for index in range(n_tiles)], CHANNELS, image, mask, heights, widths)


def test_only_real_pixels_are_read() -> None:
    tiles = annotated()
    image, mask = tiles.read(2)
    assert image.shape == (2, 80, 64)
    assert mask.shape == (80, 64)
    assert image.max() < 60_000
    assert sorted(np.unique(mask)) == list(range(int(mask.max()) + 1))


def test_lazy_xarray_and_zarr_are_read_like_numpy(tmp_path: Path) -> None:
    plain = annotated()
    dataset = xr.Dataset(
        {n.IMAGE: ((n.TILE, n.CHANNEL, n.Y, n.X), plain.image), n.MASK: ((n.TILE, n.Y, n.X), plain.mask)}
    )
    dataset.to_zarr(tmp_path / "tiles.zarr", consolidated=False)
    opened = xr.open_zarr(tmp_path / "tiles.zarr", chunks=None, consolidated=False)
    lazy = AnnotatedTiles(
        plain.names, CHANNELS, opened[n.IMAGE].variable, opened[n.MASK].variable, plain.height, plain.width
    )
    for index in range(3):
        for expected, got in zip(plain.read(index), lazy.read(index), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    tiles = annotated()
    with pytest.raises(FintuneValueError, match=r"do not fit together: 3 names and 2 channels.*mask \(2, 96, 96\)"):
        AnnotatedTiles(tiles.names, CHANNELS, tiles.image, tiles.mask[:2], tiles.height, tiles.width)


def test_tiles_with_too_few_cells_are_left_out(tmp_path: Path) -> None:
    tiles = annotated()
    tiles.mask[1] = 0
    prepared = prepare(tiles, tmp_path, choice=BOTH, n_inputs=3, min_cells=1)
    assert [tile.name for tile in prepared] == ["tile-0", "tile-2"]
    image, target = prepared[1].open()
    assert image.shape == target.shape == (3, 80, 64)
    assert not image[2].any()
    with pytest.raises(FintuneValueError, match="none of 3 tiles has 500 or more annotated cells"):
        prepare(tiles, tmp_path, choice=BOTH, n_inputs=3, min_cells=500)


def test_a_patch_has_an_address(tmp_path: Path) -> None:
    settings = TrainSettings(patch_px=64, patches_per_epoch=8, batch_size=4, seed=3)
    prepared = prepare(annotated(), tmp_path, choice=BOTH, n_inputs=2)
    patches = PatchDataset(prepared, settings)
    first = patches[(2, 5)]
    _ = patches[(0, 0)]
    again = PatchDataset(prepared, settings)[(2, 5)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], patches[(3, 5)][0])
    other_seed = PatchDataset(prepared, settings.model_copy(update={"seed": 4}))[(2, 5)]
    assert not torch.equal(first[0], other_seed[0])


@given(st.integers(1, 9), st.integers(0, 20), st.integers(1, 5))
def test_an_epoch_is_whole_batches_in_a_drawn_order(n_tiles: int, wanted: int, batch_size: int) -> None:
    settings = TrainSettings(patches_per_epoch=wanted, batch_size=batch_size)
    sampler = AddressSampler(patches_per_epoch(n_tiles, settings), settings.seed)
    first = list(sampler)
    assert len(first) == len(sampler)
    assert len(first) % batch_size == 0
    assert 0 <= len(first) - (wanted or n_tiles) < batch_size
    assert sorted(first) == [(0, index) for index in range(len(first))]
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert {epoch for epoch, _ in sampler} == {1}


def test_a_patch_neither_turned_nor_scaled_is_a_copy() -> None:
    planes = stream(0).normal(size=(2, 70, 90)).astype(np.float32)
    target = stream(1).normal(size=(3, 70, 90)).astype(np.float32)
    geometry = draw_geometry(stream(2), (70, 90), 32, PLAIN)
    image, moved = cut_patch(planes, target, geometry, 32)
    y, x = (round(centre - 15.5) for centre in geometry.centre)
    np.testing.assert_allclose(image, planes[:, y : y + 32, x : x + 32], atol=1e-4)
    np.testing.assert_allclose(moved, target[:, y : y + 32, x : x + 32], atol=1e-4)


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_flows_turn_with_their_instances(quarters: int, flip: bool) -> None:
    mask = phantom_tile(stream(6), marker="GFAP", ratio=0.3, tile_px=64).mask.astype(np.uint32)
    angle = quarters * np.pi / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected_mask = mask
    if flip:
        turn = turn @ np.diag([1.0, -1.0])
        expected_mask = expected_mask[:, ::-1]
    # Coordinates are (y, x): a positive angle takes the first axis towards the second.
    expected_mask = np.ascontiguousarray(np.rot90(expected_mask, quarters, axes=(0, 1)))
    _, moved = cut_patch(mask[None].astype(np.float32), flow_target(mask), Geometry((31.5, 31.5), turn, 1.0), 64)
    expected = flow_target(expected_mask)
    np.testing.assert_array_equal(moved[2] > 0.5, expected[2] > 0.5)
    # At an instance's very centre the direction is arbitrary.
    wrong = np.abs(moved[:2] - expected[:2]).max(axis=0) > 0.02
    assert wrong.sum() <= 2 * mask.max()


@given(st.floats(0, 6.28), st.floats(0.7, 1.5), st.booleans())
def test_flows_lead_to_the_centre_at_any_angle(angle: float, scale: float, flip: bool) -> None:
    y, x = np.mgrid[:65, :65]
    disc = ((y - 32) ** 2 + (x - 32) ** 2 <= 20**2).astype(np.uint32)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([1.0, -1.0 if flip else 1.0])
    _, moved = cut_patch(disc[None].astype(np.float32), flow_target(disc), Geometry((32, 32), turn, scale), 96)
    offset = np.mgrid[:96, :96] - 47.5
    distance = np.linalg.norm(offset, axis=0)
    ring = (distance > 5) & (distance < 20 * scale - 3)
    along = -(moved[:2] * offset).sum(axis=0)[ring] / distance[ring]
    assert along.min() > 0.9
    assert moved[2].sum() == pytest.approx(np.pi * (20 * scale) ** 2, rel=0.06)


@given(st.integers(0, 500), st.integers(20, 200), st.integers(20, 200))
def test_a_patch_lies_inside_the_tile_where_it_can(seed: int, height: int, width: int) -> None:
    geometry = draw_geometry(stream(seed), (height, width), 64, AugmentationSettings(scale=(1, 1)))
    for centre, length in zip(geometry.centre, (height, width), strict=True):
        if length <= 64:
            assert centre == (length - 1) / 2
        else:
            assert 31.5 <= centre <= length - 32.5


def test_intensity_varies_but_blank_planes_stay_blank() -> None:
    image = np.stack([np.ones((8, 8)), np.zeros((8, 8))]).astype(np.float32)
    varied = vary_intensity(stream(1), image, AugmentationSettings(gain=0.3, offset=0.1, noise=0.1))
    assert varied.dtype == np.float32
    assert not np.allclose(varied[0], 1)
    assert not varied[1].any()
    np.testing.assert_array_equal(vary_intensity(stream(1), image, PLAIN), image)


def test_the_loss_is_that_of_cellpose() -> None:
    from cellpose.train import _loss_fn_seg

    maps = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    target = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    # Cellpose orders its targets cell, flow y, flow x.
    expected = _loss_fn_seg(target[:, [2, 0, 1]], maps, torch.device("cpu"))
    assert float(flow_loss(maps, target).total) == pytest.approx(float(expected))


def test_unexplained_flow_is_one_for_no_prediction_and_zero_for_a_perfect_one() -> None:
    target = torch.from_numpy(flow_target(np.pad(np.ones((6, 6), np.uint32), 5)))[None]
    assert float(flow_loss(torch.zeros_like(target), target).unexplained) == pytest.approx(1)
    assert float(flow_loss(5 * target, target).unexplained) == 0


def rates(n_steps: int, n_warmup: int, final: float) -> NDArray[np.float64]:
    factor = warmup_cosine(n_steps, n_warmup=n_warmup, final=final)
    return np.array([factor(step) for step in range(n_steps + 1)])


@given(st.integers(1, 60), st.integers(0, 20), st.floats(0, 1))
def test_the_rate_rises_then_falls_to_its_end(n_steps: int, n_warmup: int, final: float) -> None:
    values = rates(n_steps + n_warmup, n_warmup, final)
    assert values.min() > 0 or final == 0
    assert values.max() == pytest.approx(1)
    assert np.all(np.diff(values[:n_warmup]) > 0)
    assert np.all(np.diff(values[n_warmup:]) <= 1e-12)
    assert values[-1] == pytest.approx(final)


def test_norm_layers_and_biases_do_not_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    network[0].bias.requires_grad = False
    groups = parameter_groups(
        network, network[1].parameters(), learning_rate=3.0, encoder_learning_rate=2.0, weight_decay=0.1
    )
    found = [(group["name"], group["lr"], group["weight_decay"]) for group in groups]
    assert found == [("encoder", 2.0, 0.1), ("encoder", 2.0, 0.0), ("rest", 3.0, 0.1), ("rest", 3.0, 0.0)]
    shapes = [[tuple(value.shape) for value in group["params"]] for group in groups]
    assert shapes == [[], [(2,), (2,)], [(2, 1, 3, 3)], []]
