"""Cellpose-SAM through stock weights files: the same masks as cellpose, and none of its silences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from cellpose import models as stock
from cellpose.vit import CPSAM
from numpy.typing import NDArray

from fintune_xr.errors import CheckpointError, SettingsError, UnknownNameError
from fintune_xr.models.cellpose.adapter import (
    FULL_SIZE,
    EncoderSize,
    _encoder_size,
    build_network,
    empty_network,
    load_cpsam,
    save_cpsam,
)
from fintune_xr.models.cellpose.settings import CpsamSettings
from fintune_xr.models.flows.settings import DynamicsSettings
from fintune_xr.models.protocol import Segmenter, segment
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile

CHANNELS = ("DAPI", "marker")
TINY = EncoderSize(width=32, depth=2, heads=2, global_blocks=(1,))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reduced network with random weights, as Cellpose would save it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = empty_network(TINY)
        # Random weights alone give no instances: every 8 x 8 block gets flows towards its middle, and is
        # foreground or not as the random encoder says.
        offset = 3.6 - torch.arange(8.0)
        toward = torch.stack(torch.meshgrid(offset, offset, indexing="ij"))
        with torch.no_grad():
            network.out.bias[:128] = (5 * toward / toward.norm(dim=0)).reshape(-1)
            network.out.bias[128:] = -0.5
            network.out.weight[128:] = 3 * network.out.weight[128:129]
    path = tmp_path_factory.mktemp("cpsam") / "tiny_cpsam"
    save_cpsam(network, path)
    return path


def stock_masks(weights: Path, image: NDArray[np.uint16], **options: object) -> NDArray[np.integer]:
    """What `CellposeModel.eval` makes of `image` (3, y, x) with the network in `weights`."""
    model = stock.CellposeModel.__new__(stock.CellposeModel)
    state = torch.load(weights, weights_only=True)
    model.net = empty_network(TINY)
    model.net.load_state_dict(state)
    model.device, model.gpu, model.backbone, model.pretrained_model = torch.device("cpu"), False, "sam_vitl", ""
    return model.eval(image, channel_axis=0, **options)[0]


@pytest.mark.parametrize("shape", [(256, 256), (300, 180)])
@pytest.mark.parametrize(("diameter", "niter"), [(None, 120), (24.0, 60), (24.0, None), (20.0, None)])
def test_masks_are_those_of_cellpose(
    weights: Path, shape: tuple[int, int], diameter: float | None, niter: int | None
) -> None:
    tile = phantom_tile(stream(5), marker="GFAP", ratio=0.4, tile_px=320).image[:, : shape[0], : shape[1]]
    image = np.concatenate([tile, np.zeros_like(tile[:1])])
    asked = {} if niter is None else {"niter": niter}
    settings = CpsamSettings(diameter_px=diameter, dynamics=DynamicsSettings(flow_threshold=0.3, **asked))
    ours = load_cpsam(resolve_checkpoint(weights), settings, channels=CHANNELS, device="cpu")
    theirs = stock_masks(weights, image, diameter=diameter, flow_threshold=0.3, niter=niter, batch_size=8)
    (mask,) = segment(ours, [tile])
    assert mask.max() > 3
    np.testing.assert_array_equal(mask, theirs)


def test_nothing_of_cellpose_is_changed(weights: Path) -> None:
    from segment_anything import sam_model_registry

    before = dict(sam_model_registry), dict(stock.normalize_default)
    tile = np.arange(2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64)
    kept = tile.copy()
    segmenter = load_cpsam(resolve_checkpoint(weights), CpsamSettings(), channels=CHANNELS, device="cpu")
    segmenter.predict([segmenter.normalise(tile)])
    assert (dict(sam_model_registry), dict(stock.normalize_default)) == before
    np.testing.assert_array_equal(tile, kept)
    assert isinstance(segmenter, Segmenter)


def test_blanked_dapi_is_never_seen(weights: Path) -> None:
    rng = stream(2)
    tile = rng.integers(0, 4000, (2, 64, 64)).astype(np.uint16)
    other = tile.copy()
    other[0] = rng.integers(0, 4000, (64, 64))
    settings = CpsamSettings(zero_channels=("DAPI",))
    segmenter = load_cpsam(resolve_checkpoint(weights), settings, channels=CHANNELS, device="cpu")
    first, second = segmenter.normalise(tile), segmenter.normalise(other)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (3, 64, 64)
    assert not first[[0, 2]].any()
    assert first[1].any()


def test_too_many_planes_must_be_chosen_from(weights: Path) -> None:
    checkpoint = resolve_checkpoint(weights)
    with pytest.raises(SettingsError, match=r"3 input\(s\).*4 planes.*channels="):
        load_cpsam(checkpoint, CpsamSettings(), channels=("a", "b", "c", "d"), device="cpu")
    with pytest.raises(UnknownNameError, match=r"no channel 'markr'; known: DAPI, marker\. Did you mean 'marker'"):
        load_cpsam(checkpoint, CpsamSettings(channels=("markr",)), channels=CHANNELS, device="cpu")


def test_a_missing_block_is_an_error(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    without = {key: value for key, value in state.items() if not key.startswith("encoder.blocks.0.mlp")}
    with pytest.raises(CheckpointError, match=r"missing: encoder\.blocks\.0\.mlp\.lin1\.weight"):
        build_network(without, source="x")
    with pytest.raises(CheckpointError, match="unknown: decoder"):
        build_network({**state, "decoder": torch.zeros(1)}, source="x")
    with pytest.raises(CheckpointError, match=r"shape of out\.weight: expected \(192, 256, 1, 1\), got \(1,\)"):
        build_network({**state, "out.weight": torch.zeros(1)}, source="x")
    with pytest.raises(CheckpointError, match="no entry W2"):
        build_network({key: value for key, value in state.items() if key != "W2"}, source="x")


def test_weights_of_parallel_training_load_too(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    network = build_network({f"module.{key}": value for key, value in state.items()}, source="x")
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_full_size_is_that_of_stock_cellpose() -> None:
    with torch.device("meta"):
        stock_shapes = {key: value.shape for key, value in CPSAM().state_dict().items()}
        state = empty_network(FULL_SIZE).state_dict()
    assert {key: value.shape for key, value in state.items()} == stock_shapes
    assert _encoder_size(state, "x") == FULL_SIZE


@pytest.mark.slow
def test_full_size_weights_of_cellpose_run(tmp_path: Path) -> None:
    gib = psutil.virtual_memory().available / 2**30
    if gib < 8:
        pytest.skip(f"the network at full size wants 8 GiB of free memory, there are {gib:.1f}")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = CPSAM()
    path = tmp_path / "cpsam"
    torch.save(network.state_dict(), path)
    assert path.stat().st_size > 1.2e9
    segmenter = load_cpsam(resolve_checkpoint(path), CpsamSettings(), channels=CHANNELS, device="cpu")
    loaded = segmenter.network.state_dict()
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())
    del network, loaded
    # With Cellpose's margin of 8 px this is a single patch; 256 px would be four.
    tile = phantom_tile(stream(6), marker="GFAP", ratio=0.4, tile_px=240).image
    (maps,) = segmenter.predict([segmenter.normalise(tile)])
    assert maps.shape == (3, 240, 240)
    assert np.isfinite(maps).all()
    assert maps.std() > 0
