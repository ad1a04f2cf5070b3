"""Instance masks as plain arrays: the door that checks them, and the overlaps of two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.compilation import compile_kernel
from fintune_xr.errors import FintuneValueError

MAX_LABEL: Final = np.iinfo(np.uint32).max
_TABLE_LIMIT: Final = 1 << 24
_HASH_START: Final = 1 << 12


@dataclass(frozen=True, slots=True, eq=False)
class LabelTable:
    """An instance mask whose values index tables.

    `mask` (y, x) uint32, C-contiguous and read-only; `names` (index,) uint32: the label that each index
    stands for, ascending, `names[0]` = 0 = background. Not every index needs to occur in `mask`.
    """

    mask: NDArray[np.uint32]
    names: NDArray[np.uint32]

    @property
    def size(self) -> int:
        """Length that a table over this mask must have."""
        return int(self.names.size)


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Areas of the instances of two masks, and the pairs of them that share pixels.

    `first_area`, `second_area` (index,) int64 in px, index 0 = background, 0 where a label does not occur;
    `first`, `second` (pair,) int64: indices into those tables, ascending; `pixels` (pair,) int64: shared.
    """

    first_area: NDArray[np.int64]
    second_area: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    pixels: NDArray[np.int64]


def label_table(mask: NDArray[Any], what: str = "mask") -> LabelTable:
    """`mask` (y, x) of any integer dtype, checked and ready to index tables; copied only where it must be.

    `what` names the mask in messages. Labels may have gaps of any size.

    Raises FintuneValueError for another number of dims, another kind of dtype, or labels outside uint32.
    """
    if mask.ndim != 2:
        raise FintuneValueError(f"{what}: expected dims (y, x), got shape {mask.shape}. Pass one tile.")
    if mask.dtype.kind not in "ui":
        raise FintuneValueError(f"{what}: expected integer labels, got {mask.dtype}. Label the instances 1..N first.")
    lowest, highest = int(mask.min(initial=0)), int(mask.max(initial=0))
    if lowest < 0 or highest > MAX_LABEL:
        expected = f"labels run from {lowest} to {highest}, expected 0 (background) to {MAX_LABEL}"
        raise FintuneValueError(f"{what}: {expected}. Set ignored pixels to 0 and renumber the instances.")
    if highest >= _TABLE_LIMIT:
        # Tables are as long as the highest label: one stray label must not cost gigabytes.
        names = np.union1d(np.zeros(1, np.uint32), mask.astype(np.uint32))
        return LabelTable(_frozen(np.searchsorted(names, mask)), names)
    return LabelTable(_frozen(mask), np.arange(highest + 1, dtype=np.uint32))


def overlaps(first: LabelTable, second: LabelTable) -> Overlaps:
    """Every pair of instances of `first` and `second` that shares pixels.

    Time and memory grow with pixels and overlapping pairs, never with the product of instance counts.

    Raises FintuneValueError where the masks differ in shape.
    """
    if first.mask.shape != second.mask.shape:
        raise FintuneValueError(
            f"expected two masks of the same shape (y, x), got {first.mask.shape} and {second.mask.shape}. "
            "Crop both to the height and width of the tile."
        )
    first_area, second_area, keys, pixels = _overlaps(first.mask, second.mask, first.size, second.size)
    used = np.flatnonzero(keys)
    used = used[np.argsort(keys[used])]
    low = np.uint64(MAX_LABEL)
    return Overlaps(
        first_area,
        second_area,
        (keys[used] >> np.uint64(32)).astype(np.int64),
        (keys[used] & low).astype(np.int64),
        pixels[used],
    )


def _frozen(mask: NDArray[Any]) -> NDArray[np.uint32]:
    # Kernels are compiled per dtype, layout and writability: one form of mask means one compilation.
    view = np.ascontiguousarray(mask, dtype=np.uint32).view()
    view.flags.writeable = False
    return view


@compile_kernel
def run_ends(first: Any, second: Any, ends: Any) -> Any:
    """How many runs of one pair of labels two rows (x,) hold; their ends are written to `ends` (x + 1,)."""
    n = 0
    for x in range(1, first.size):
        # Written always, kept sometimes: a branch would be guessed wrong at the outline of every cell.
        ends[n] = x
        n += (first[x] != first[x - 1]) | (second[x] != second[x - 1])
    ends[n] = first.size
    return n + 1 if first.size else 0


@compile_kernel
def _overlaps(first: Any, second: Any, n_first: int, n_second: int) -> Any:
    # Pairs lie in a hash table, where key 0 is a free slot.
    first_area = np.zeros(n_first, np.int64)
    second_area = np.zeros(n_second, np.int64)
    keys = np.zeros(_HASH_START, np.uint64)
    pixels = np.zeros(_HASH_START, np.int64)
    n_pairs = 0
    ends = np.empty(first.shape[1] + 1, np.int64)
    for y in range(first.shape[0]):
        start = 0
        for stop in ends[: run_ends(first[y], second[y], ends)]:
            a, b = first[y, start], second[y, start]
            first_area[a] += stop - start
            second_area[b] += stop - start
            if a != 0 and b != 0:
                key = (np.uint64(a) << np.uint64(32)) | np.uint64(b)
                slot = _slot(keys, key)
                n_pairs += keys[slot] == 0
                keys[slot] = key
                pixels[slot] += stop - start
                if 2 * n_pairs > keys.size:
                    keys, pixels = _doubled(keys, pixels)
            start = stop
    return first_area, second_area, keys, pixels


@compile_kernel
def _slot(keys: Any, key: Any) -> Any:
    # Fibonacci hashing; the table's size is a power of two.
    last = keys.size - 1
    slot = np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & last
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & last
    return slot


@compile_kernel
def _doubled(keys: Any, pixels: Any) -> Any:
    more_keys = np.zeros(2 * keys.size, np.uint64)
    more_pixels = np.zeros(2 * keys.size, np.int64)
    for old in range(keys.size):
        if keys[old] != 0:
            slot = _slot(more_keys, keys[old])
            more_keys[slot] = keys[old]
            more_pixels[slot] = pixels[old]
    return more_keys, more_pixels
