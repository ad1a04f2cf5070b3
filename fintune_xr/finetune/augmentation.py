"""Random geometry and intensity of training patches, drawn from a stream that the caller owns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fintune_xr.finetune.settings import AugmentationSettings
from fintune_xr.pixels.discs import UNKNOWN

Planes = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A patch of a tile: `centre` (y, x) in the tile's pixels, `turn` and `scale` of what is seen there.

    `turn` (2, 2) is orthogonal and takes directions (y, x) of the tile to directions of the patch. `bend` (y, x, 2)
    says for each pixel of the patch how much further, in y and x of the patch, it is taken from.
    """

    centre: tuple[float, float]
    turn: NDArray[np.float64]
    scale: float
    bend: NDArray[np.float64] | None = None


Cut: TypeAlias = Callable[[Planes, Planes, Geometry, int], tuple[Planes, Planes]]
"""From planes and target of a tile to those of a patch of so many pixels."""


def draw_geometry(
    rng: np.random.Generator, shape: tuple[int, int], patch_px: int, settings: AugmentationSettings
) -> Geometry:
    """A random patch of a tile of this `shape`; the patch lies inside the tile where that is possible."""
    scale = float(rng.uniform(*settings.scale))
    if settings.rotation == "any":
        angle = float(rng.uniform(0, 2 * math.pi))
    else:
        quarters = int(rng.integers(4)) if settings.rotation == "right_angles" else 0
        angle = quarters * math.pi / 2
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if settings.flip and rng.random() < 0.5:
        turn = turn @ np.diag([1.0, -1.0])
    centre = tuple(_placed(rng, length, patch_px / scale) for length in shape)
    return Geometry((centre[0], centre[1]), turn, scale)


def cut_patch(planes: Planes, target: Planes, geometry: Geometry, patch_px: int) -> tuple[Planes, Planes]:
    """What `geometry` shows of `planes` (channel, y, x) and `target` (flow y, flow x, cell), patch_px wide.

    Bilinear; zero outside the tile. Flows are turned with the pixels that they belong to.
    """
    stacked, offset = _window((planes, target), geometry, patch_px)
    sampled = _sampled(stacked, _sampling_grid(geometry, patch_px, offset, stacked.shape[1:]), "bilinear")
    image, moved = sampled[: len(planes)], sampled[len(planes) :]
    moved[:2] = np.einsum("ij,jyx->iyx", geometry.turn.astype(np.float32), moved[:2])
    return image, moved


def cut_labels(
    planes: Planes, labels: Planes, geometry: Geometry, patch_px: int, *, outside: float = 0
) -> tuple[Planes, Planes]:
    """What `geometry` shows of `planes` (channel, y, x) and `labels` (label, y, x), patch_px wide, in float32.

    Planes are bilinear, and `outside` beyond the tile. Labels are those of the nearest pixel, since nothing lies
    between two labels, and unknown (-1) beyond.
    """
    stacked, offset = _window((planes, labels), geometry, patch_px)
    # Counted from unknown and from `outside` on, so that what pads with zeros pads with them.
    stacked[len(planes) :] -= UNKNOWN
    stacked[: len(planes)] -= outside
    grid = _sampling_grid(geometry, patch_px, offset, stacked.shape[1:])
    image = _sampled(stacked[: len(planes)], grid, "bilinear") + np.float32(outside)
    return image, _sampled(stacked[len(planes) :], grid, "nearest") + UNKNOWN


def vary_intensity(rng: np.random.Generator, image: Planes, settings: AugmentationSettings) -> Planes:
    """`image` (channel, y, x) with every plane brighter or darker at random; planes of zeros stay zero."""
    gains = rng.uniform(1 - settings.gain, 1 + settings.gain, len(image))
    offsets = rng.uniform(-settings.offset, settings.offset, len(image))
    noise = rng.uniform(0, settings.noise) if settings.noise else 0.0
    varied = image * gains[:, None, None] + offsets[:, None, None]
    if noise:
        varied += rng.normal(0, noise, image.shape)
    varied[~image.any(axis=(1, 2))] = 0
    return varied.astype(np.float32)


def _placed(rng: np.random.Generator, length: int, seen: float) -> float:
    """Centre along an axis of `length` pixels of which `seen` are shown; on a pixel border or centre."""
    room = length - seen
    if room <= 0:
        return (length - 1) / 2
    # Whole steps, so that a patch that is neither turned nor scaled is a copy of pixels.
    return (seen - 1) / 2 + float(rng.integers(0, math.floor(room) + 1))


def _sampled(stacked: Planes, grid: torch.Tensor, mode: str) -> Planes:
    return np.asarray(
        torch.nn.functional.grid_sample(
            torch.from_numpy(stacked)[None], grid[None], mode=mode, padding_mode="zeros", align_corners=True
        )[0].numpy()
    )


def _window(arrays: tuple[Planes, Planes], geometry: Geometry, patch_px: int) -> tuple[Planes, tuple[int, int]]:
    """The part of the tile that the patch can touch, and where it begins: tiles may be large and on disk."""
    further = 0.0 if geometry.bend is None else float(np.hypot(*np.moveaxis(geometry.bend, -1, 0)).max())
    reach = math.ceil(patch_px / geometry.scale / math.sqrt(2)) + math.ceil(further / geometry.scale) + 2
    height, width = arrays[0].shape[1:]
    y0, x0 = (max(0, math.floor(centre) - reach) for centre in geometry.centre)
    y1, x1 = min(height, y0 + 2 * reach + 2), min(width, x0 + 2 * reach + 2)
    window = np.concatenate([array[:, y0:y1, x0:x1] for array in arrays]).astype(np.float32, copy=False)
    return window, (y0, x0)


def _sampling_grid(geometry: Geometry, patch_px: int, offset: tuple[int, int], shape: tuple[int, ...]) -> torch.Tensor:
    """Places (y, x, 2) in a window of `shape`, as x and y from -1 to 1, that patch pixels are taken from."""
    steps = torch.arange(patch_px, dtype=torch.float64) - (patch_px - 1) / 2
    away = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)
    if geometry.bend is not None:
        away = away + torch.from_numpy(geometry.bend)
    away = away / geometry.scale
    start = torch.tensor(geometry.centre, dtype=torch.float64) - torch.tensor(offset, dtype=torch.float64)
    # Row vectors times the turn are column vectors times its inverse: from the patch back to the tile.
    places = away @ torch.from_numpy(geometry.turn) + start
    spans = torch.tensor([max(1, length - 1) for length in shape], dtype=torch.float64)
    return (2 * places / spans - 1).flip(-1).float()
