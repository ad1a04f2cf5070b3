"""Windows in which a U-Net of convolutions sees a large image, and which leave no seams.

Norm layers use the statistics of the training, so the value of a pixel depends on the input within `reach_px` of it
and on nothing else: windows that overlap by that much give what the whole image at once would give. MONAI's sliding
windows blend instead, and their borders differ from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fintune_xr.models.dynunet import reach_px, stride_px
from fintune_xr.models.patch_batches import Cut
from fintune_xr.models.protocol import Maps


def seamless_cut(image: Maps, window_px: int, *, n_levels: int) -> Cut:
    """`image` (channel, y, x) in windows that keep about `window_px` each, for a U-Net of `n_levels` levels.

    All windows see equally much, so that they fit into one batch.
    """
    height, width = image.shape[1:]
    stride = stride_px(n_levels)
    halo = -(-reach_px(n_levels) // stride) * stride
    padded = np.pad(image, ((0, 0), (0, -height % stride), (0, -width % stride)))
    spans = [list(windows(length, window_px, stride, halo)) for length in padded.shape[1:]]
    places = [(y, x) for y in spans[0] for x in spans[1]]

    def join(found: Sequence[Maps]) -> Maps:
        maps = np.empty((len(found[0]), *padded.shape[1:]), np.float32)
        for (y, x), one in zip(places, found, strict=True):
            maps[:, y.kept, x.kept] = one[:, y.inside, x.inside]
        return maps[:, :height, :width]

    return Cut(len(places), (padded[:, y.seen, x.seen] for y, x in places), join)


class Window:
    """A stretch of an axis: `seen` by the network, `kept` of the result, which lies at `inside` of what it saw."""

    __slots__ = ("inside", "kept", "seen")

    def __init__(self, seen: tuple[int, int], kept: tuple[int, int]) -> None:
        self.seen, self.kept = slice(*seen), slice(*kept)
        self.inside = slice(kept[0] - seen[0], kept[1] - seen[0])


def windows(length: int, window_px: int, stride: int, halo: int) -> Iterator[Window]:
    """Windows that keep every pixel of an axis once and see `halo` more on both sides, or up to the image's edge.

    `length` and `halo` are multiples of `stride`, and so are all places: the network halves resolution on the same
    grid everywhere. All windows see equally much, so that they fit into one batch.
    """
    core = max(stride, window_px // stride * stride)
    whole = min(length, core + 2 * halo)
    for first in range(0, length, core):
        last = min(length, first + core)
        start = min(max(0, first - halo), length - whole)
        yield Window((start, start + whole), (first, last))
