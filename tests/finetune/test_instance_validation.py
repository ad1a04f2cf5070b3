"""Validation holds one tile at a time, and gives what all tiles in memory together would give, to the bit."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from micrographs import micrograph, particles
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.dense_losses import combined_loss
from fintune_xr.finetune.detection.objective import ParticleObjective
from fintune_xr.finetune.detection.settings import UnetTrainSettings
from fintune_xr.finetune.detection.tiles import ParticleTiles
from fintune_xr.finetune.instance.loss import flow_loss
from fintune_xr.finetune.instance.tiles import AnnotatedTiles, flow_target
from fintune_xr.finetune.instance.validation import average_precision, require_cells, validate
from fintune_xr.metrics.detection import match_points, threshold_curve
from fintune_xr.models.flows.dynamics import masks_from_flows
from fintune_xr.models.flows.field import FLOW_SCALE
from fintune_xr.models.flows.settings import DynamicsSettings
from fintune_xr.models.particle_unet.adapter import probability
from fintune_xr.pixels.peaks import pick_peaks
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile
from fintune_xr.tasks.detection import PROBABILITY_STEPS

PX = 64
# How wrong the flows of each tile are; the last one has no cells.
NOISE = (0.1, 0.5, 2.5, 0.2, 0.1)


class Network:
    """Stands for a network, and counts what of earlier tiles is still in memory when it is shown the next."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref] = []
        self.n_shown = 0
        self.most_alive = 0

    def normalise(self, tile: NDArray[Any]) -> NDArray[np.float32]:
        return tile.astype(np.float32)

    def predict(self, batch: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        self.most_alive = max(self.most_alive, sum(one() is not None for one in self.seen))
        (image,) = batch
        maps = self.maps(image)
        self.seen += [weakref.ref(image), weakref.ref(maps)]
        self.n_shown += 1
        return [maps]

    def maps(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError


class Flows(Network):
    """Predicts the true flows of a tile, more or less; the tile is told by its first pixel."""

    def maps(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        number = int(image[0, 0, 0])
        true = flow_target(MASKS[number])
        noise = stream(8, number).normal(0, NOISE[number], (2, PX, PX))
        maps = np.concatenate([FLOW_SCALE * true[:2] + noise, 8 * true[2:] - 4])
        return maps.astype(np.float32)

    def reconstruct(self, maps: NDArray[np.float32]) -> NDArray[np.uint32]:
        return masks_from_flows(maps, DynamicsSettings())


MASKS = [phantom_tile(stream(1, i), marker="GFAP", ratio=0.3, tile_px=PX).mask for i in range(len(NOISE))]
MASKS[-1] = np.zeros_like(MASKS[-1])


def _tiles() -> AnnotatedTiles:
    numbers = np.arange(len(NOISE))
    images = np.broadcast_to(numbers[:, None, None, None], (len(NOISE), 1, PX, PX)).astype(np.uint16)
    return AnnotatedTiles([str(i) for i in numbers], ("a",), images, np.stack(MASKS), [PX] * 5, [PX] * 5)


def _all_at_once(tiles: AnnotatedTiles, reconstruct_below: float) -> tuple[float, float, float]:
    network, read = Flows(), [tiles.read(i) for i in range(len(tiles))]
    predicted = [network.maps(network.normalise(image)) for image, _ in read]
    losses = [
        flow_loss(torch.from_numpy(maps)[None], torch.from_numpy(flow_target(mask))[None])
        for maps, (_, mask) in zip(predicted, read, strict=True)
    ]
    unexplained = [float(one.unexplained) for one, (_, mask) in zip(losses, read, strict=True) if mask.any()]
    precisions = [
        average_precision(mask, network.reconstruct(maps)) for maps, (_, mask) in zip(predicted, read, strict=True)
    ]
    score = float(np.nanmean(precisions)) if np.mean(unexplained) < reconstruct_below else float("nan")
    return float(np.mean([float(one.total) for one in losses])), float(np.mean(unexplained)), score


@pytest.mark.parametrize(("reconstruct_below", "n_shown"), [(0.01, 5), (2.0, 7), (float("inf"), 5)])
def test_flows_are_judged_tile_by_tile(reconstruct_below: float, n_shown: int) -> None:
    tiles, network = _tiles(), Flows()
    found: Any = validate(network, tiles, reconstruct_below=reconstruct_below)  # type: ignore[arg-type]
    expected = _all_at_once(tiles, reconstruct_below)
    np.testing.assert_array_equal((found.loss, found.unexplained, found.ap50), expected)
    assert np.isnan(expected[2]) == (reconstruct_below < 1)
    assert network.n_shown == n_shown, "the tile of wrong flows and the empty one are looked at twice, no other"
    assert network.most_alive == 0


def test_tiles_without_cells_cannot_judge() -> None:
    tiles = _tiles()
    require_cells(tiles)
    with pytest.raises(FintuneValueError, match=r"the 5 validation tile\(s\) hold no annotated cell"):
        require_cells(replace(tiles, mask=np.zeros_like(tiles.mask)))


class Detector(Network):
    """Finds dark discs, more or less."""

    diameter_px = 12.0

    def maps(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((120 - image) / 20).astype(np.float32)

    def picked(self, seen: NDArray[np.float32]) -> Any:
        return pick_peaks(seen, diameter_px=self.diameter_px, floor=0.1)


def test_particles_are_judged_micrograph_by_micrograph() -> None:
    names, settings = ["m0", "m1", "m2"], UnetTrainSettings(diameter_px=12.0)
    images = np.stack([micrograph(name, PX) for name in names])
    truth = [particles(name, PX) for name in names]
    tiles = ParticleTiles(names, ("micrograph",), images, truth, [PX] * 3, [PX] * 3)
    network = Detector()
    found = ParticleObjective(settings, network).held_out(tiles)(False)  # type: ignore[arg-type]
    losses, matched, pixels = [], [], []
    for index in range(3):
        maps = network.maps(images[index])
        target = tiles.target(index, disc_fraction=settings.disc_fraction, rim_px=settings.rim_px)
        loss = combined_loss(
            torch.from_numpy(maps),
            torch.from_numpy(target)[None],
            focal_weight=settings.focal_weight,
            dice_weight=settings.dice_weight,
            alpha=settings.focal_alpha,
            gamma=settings.focal_gamma,
            pos_weight=settings.pos_weight,
        )
        losses.append(float(loss.total))
        peaks = network.picked(probability(maps))
        matched.append(match_points(truth[index].yx, peaks.yx, peaks.score, distance_px=6.0))
        stored = np.rint(probability(maps) * PROBABILITY_STEPS)
        pixels.append(np.stack([target[target >= 0], stored[target >= 0]]))
    assert found.loss == float(np.mean(losses))
    assert found.score == float(threshold_curve(matched).f1.max()) > 0.3
    # What a run stores of the same network is scored alike.
    assert found.measures["pixel_auc"] == pytest.approx(roc_auc_score(*np.concatenate(pixels, axis=1)), abs=1e-12)
    assert network.most_alive == 0
