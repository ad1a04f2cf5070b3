"""Annotated patches read one at a time: colours, codes, and labels under any class map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError
from fintune_xr.tasks.class_map import ClassMap


@dataclass(frozen=True, eq=False)
class AnnotatedPatches:
    """Patches with the codes of their annotations, read one at a time.

    `image` (tile, channel, y, x) uint8 and `codes` (tile, y, x) uint8 are anything that can be sliced: NumPy, Zarr or
    a lazily opened xarray variable. Of each patch `height` x `width` pixels are real. `ignored` are the codes of pixels
    of which nothing is known.
    """

    names: Sequence[str]
    channels: tuple[str, ...]
    image: Any
    codes: Any
    height: Sequence[int]
    width: Sequence[int]
    ignored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n_tiles, (n_image, n_channels, *image_yx) = len(self.names), self.image.shape
        n_codes, *codes_yx = self.codes.shape
        lengths = {"image": n_image, "codes": n_codes, "height": len(self.height), "width": len(self.width)}
        wrong = {what: length for what, length in lengths.items() if length != n_tiles}
        if wrong or n_channels != len(self.channels) or image_yx != codes_yx:
            raise FintuneValueError(
                f"annotated patches do not fit together: {n_tiles} names and {len(self.channels)} channels, but image "
                f"{tuple(self.image.shape)}, codes {tuple(self.codes.shape)}, {len(self.height)} heights and "
                f"{len(self.width)} widths"
            )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Colours (channel, y, x) and codes (y, x) of one patch, cropped to its real size."""
        rows, columns = slice(0, int(self.height[index])), slice(0, int(self.width[index]))
        return np.asarray(self.image[index, :, rows, columns]), self.read_codes(index)

    def read_codes(self, index: int) -> NDArray[np.uint8]:
        """Codes (y, x) of one patch alone."""
        rows, columns = slice(0, int(self.height[index])), slice(0, int(self.width[index]))
        return np.asarray(self.codes[index, rows, columns], np.uint8)

    def chosen(self, positions: Sequence[int]) -> AnnotatedPatches:
        """The patches at these positions, in this order, opened and not read."""
        at = list(positions)
        return replace(
            self,
            names=[self.names[i] for i in at],
            image=self.image[at],
            codes=self.codes[at],
            height=[self.height[i] for i in at],
            width=[self.width[i] for i in at],
        )

    def labels(self, index: int, class_map: ClassMap) -> NDArray[np.uint8]:
        """Labels (y, x) of one patch: 0, 1, 2, … as in `class_map`, 255 where it is ignored."""
        return class_map.labels(self.read_codes(index), self.ignored)

    def pixels_of_classes(self, class_map: ClassMap) -> NDArray[np.int64]:
        """Valid pixels (tile, rest and classes) of each label."""
        rows = [np.bincount(self.labels(i, class_map).ravel(), minlength=256) for i in range(len(self))]
        return np.array(rows, np.int64).reshape(len(self), 256)[:, : class_map.n_classes + 1]
