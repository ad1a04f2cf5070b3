"""Networks of classes applied to colour tiles of any size: whole, in windows, in all orientations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fintune_xr.errors import DeviceError
from fintune_xr.models.channels import ChannelChoice, choose_channels
from fintune_xr.models.classes.logits import Competition, at_size, probabilities
from fintune_xr.models.classes.settings import ClassArchitecture, ClassSettings
from fintune_xr.models.colours import WHITE, standardised_colours
from fintune_xr.models.patch_batches import Cut, PatchLimit, map_patches
from fintune_xr.models.protocol import Maps, Plane
from fintune_xr.tasks.records import ClassTile

# Tiles of up to so many windows' edges are seen whole.
WHOLE: Final = 1.5

Place: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""First and last + 1 row, and column, of a window."""

CutImage: TypeAlias = Callable[[Maps], Cut]
"""How an image (channel, y, x) becomes patches, and their maps the image's."""


@dataclass(frozen=True, eq=False)
class ClassMapper:
    """A network whose output has `logits` (n, class, y, x), applied to tiles in stages as a `Segmenter` is."""

    network: torch.nn.Module
    settings: ClassSettings
    choice: ChannelChoice
    competition: Competition
    cut: CutImage

    def __post_init__(self) -> None:
        # Fewer patches at once from the moment on when memory was full.
        object.__setattr__(self, "_limit", PatchLimit(self.settings.patch_batch))

    def normalise(self, tile: Plane) -> Maps:
        """Network input (channel, y, x) of red, green and blue from 0 to 255."""
        return standardised_colours(self.choice.take(tile))

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Probabilities (none and class, y, x) of each input; patches of all of them share batches.

        Raises DeviceError where memory is too small for a single patch.
        """
        if not self.settings.tta:
            return self._probable(batch)
        sums = [np.zeros(1, np.float32)] * len(batch)
        for turns, mirrored in ORIENTATIONS:
            found = self._probable([orient(image, turns, mirrored) for image in batch])
            sums = [total + restore(one, turns, mirrored) for total, one in zip(sums, found, strict=True)]
        return [total / np.float32(len(ORIENTATIONS)) for total in sums]

    def reconstruct(self, maps: Maps) -> ClassTile:
        """The most probable class of each pixel."""
        return ClassTile(np.asarray(maps.argmax(0), np.uint8), len(maps) - 1)

    def _probable(self, batch: Sequence[Maps]) -> list[Maps]:
        limit: PatchLimit = self._limit  # type: ignore[attr-defined]
        try:
            return map_patches(batch, cut=self.cut, network=self._run, limit=limit)
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceError(
                "out of memory with a single patch. Make window_px smaller, free the GPU's memory, or use one that "
                "has more."
            ) from error

    def _run(self, patches: Maps) -> Maps:
        device = next(self.network.parameters()).device
        is_training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode(), _autocast(device, self.settings.precision):
                seen: Any = self.network(torch.from_numpy(patches).to(device))
                logits = at_size(seen.logits, (patches.shape[-2], patches.shape[-1]))
            return np.asarray(probabilities(logits, self.competition).cpu().numpy())
        finally:
            self.network.train(is_training)


# Quarter turns, and whether the image is mirrored before them.
ORIENTATIONS: Final = tuple(itertools.product(range(4), (False, True)))


def class_mapper(network: Any, settings: ClassSettings, channels: Sequence[str], cut: CutImage) -> ClassMapper:
    """What applies `network`, which holds its architecture, to tiles of a store with these `channels`.

    Raises UnknownNameError for a colour that the store lacks.
    """
    built: ClassArchitecture = network.architecture
    choice = choose_channels(channels, settings, trained=built.channels, n_inputs=len(built.channels))
    return ClassMapper(network, settings, choice, built.competition, cut)


def orient(image: Maps, turns: int, mirrored: bool) -> Maps:
    """`image` (channel, y, x) mirrored, or not, and then turned."""
    return np.ascontiguousarray(np.rot90(image[..., ::-1] if mirrored else image, turns, axes=(1, 2)))


def restore(image: Maps, turns: int, mirrored: bool) -> Maps:
    """What `orient` was given."""
    back = np.rot90(image, -turns, axes=(1, 2))
    return np.ascontiguousarray(back[..., ::-1] if mirrored else back)


def whole_or_blended(settings: ClassSettings, *, stride: int) -> CutImage:
    """Tiles of up to 1.5 windows seen whole, larger ones in windows that overlap and are blended.

    For networks that look at all of what they are shown: such windows have seams, however much they overlap.
    """

    def cut(image: Maps) -> Cut:
        height, width = image.shape[1:]
        rows, columns = (list(_spans(length, settings, stride)) for length in (height, width))
        places = [(row, column) for row in rows for column in columns]

        def join(found: Sequence[Maps]) -> Maps:
            if len(places) == 1:
                return found[0][:, :height, :width]
            return _blended(found, places, (height, width), settings.overlap_px)

        return Cut(len(places), (_seen(image, place) for place in places), join)

    return cut


def _spans(length: int, settings: ClassSettings, stride: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 pixel of each window along an axis; the only one may go beyond the image, for the stride."""
    if length <= WHOLE * settings.window_px:
        yield 0, -(-length // stride) * stride
        return
    step = max(1, settings.window_px - settings.overlap_px)
    n_windows = math.ceil((length - settings.window_px) / step) + 1
    for start in np.rint(np.linspace(0, length - settings.window_px, n_windows)).astype(int).tolist():
        yield start, start + settings.window_px


def _seen(image: Maps, place: Place) -> Maps:
    """A window of `image`, with glass where it goes beyond."""
    (top, bottom), (left, right) = place
    part = image[:, top:bottom, left:right]
    white = standardised_colours(np.full((len(image), 1, 1), WHITE, np.uint8))
    padded = np.broadcast_to(white, (len(image), bottom - top, right - left)).copy()
    padded[:, : part.shape[1], : part.shape[2]] = part
    return padded


def _blended(found: Sequence[Maps], places: Sequence[Place], shape: tuple[int, int], overlap: int) -> Maps:
    """Mean of the maps of windows, each counted less towards its edges."""
    total = np.zeros((len(found[0]), *shape), np.float32)
    counted = np.zeros(shape, np.float32)
    for one, ((top, bottom), (left, right)) in zip(found, places, strict=True):
        height, width = min(bottom, shape[0]) - top, min(right, shape[1]) - left
        weight = np.outer(_ramp(height, overlap), _ramp(width, overlap)).astype(np.float32)
        total[:, top : top + height, left : left + width] += weight * one[:, :height, :width]
        counted[top : top + height, left : left + width] += weight
    return total / counted


def _ramp(length: int, overlap: int) -> NDArray[np.float64]:
    """From near 0 at both ends to 1 within `overlap` pixels."""
    from_edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return np.minimum(1.0, from_edge / max(1, overlap))


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
