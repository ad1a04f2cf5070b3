"""Donors into train, val and test, and the leaks that would make a test worthless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.provenance import settings_digest
from fintune_xr.seeds import stream
from fintune_xr.splits.image_hash import N_BITS, Looks
from fintune_xr.splits.shared_fields import Shared, Windows

# Copies of real fields (gain, 8 bit, JPEG, noise, turned) differ in up to 14 bits, different fields in 40 and more.
NEAR_DUPLICATE_BITS = 24
# Between these and the above a second look at the pixels decides: small crops with one cell in the middle get there.
SURE_BITS = 14

# So many windows of a pair of tiles are held against each other.
_MOST_LOOKS = 3

SecondLook: TypeAlias = Callable[[int, int, Sequence[int]], bool]
"""Whether two tiles, by position, hold copies in one of these channels, by position."""


class BothShow(NamedTuple):
    """What two tiles both show, in words, and whether that is certain."""

    what: str
    is_certain: bool


@dataclass(frozen=True, slots=True)
class Leak:
    """Two tiles that must not lie on two sides of a split, named with their parts, and as they are stored in `tiles`.

    `by_looks` tells pairs that look alike, and nothing more, from those of one donor or file. A pair that `is_likely`
    may be no leak.
    """

    first: str
    second: str
    why: str
    tiles: tuple[str, str]
    by_looks: bool = False
    is_likely: bool = False

    def __str__(self) -> str:
        return f"{self.first} and {self.second}: {self.why}"


def split_donors(
    donor: Sequence[str],
    marker: Sequence[str],
    *,
    fractions: tuple[float, float, float],
    seed: int,
    unit: str = n.DONOR,
) -> dict[str, str]:
    """The split of each donor, so that each marker's tiles come close to `fractions` (train, val, test).

    `donor` and `marker` (tile,) describe the tiles to share out. Donors with most tiles are placed first, each
    where its markers lack most; chance decides between equals only. The same seed gives the same split. `unit` is what
    a donor is called where it is something else.

    Raises SplitError for fractions that do not add up to one or too few donors to fill every part.
    """
    if len(fractions) != len(n.SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise SplitError(f"fractions {fractions}: expected three numbers >= 0 that add up to 1")
    donors, markers = sorted(set(donor)), sorted(set(marker))
    wanted_parts = sum(f > 0 for f in fractions)
    if len(donors) < wanted_parts:
        fewer = ", or leave a part out: --fractions 0.9 0.1 0" if wanted_parts == len(n.SPLITS) else ""
        others = ", or split by tile: --by tile" if unit == n.DONOR else ""
        raise SplitError(f"{len(donors)} {unit}(s) cannot fill {wanted_parts} parts; annotate more{fewer}{others}")
    counts = np.zeros((len(donors), len(markers)))
    for d, m in zip(donor, marker, strict=True):
        counts[donors.index(d), markers.index(m)] += 1
    target = np.outer(fractions, counts.sum(0))
    placed = np.zeros_like(target)
    chance = stream(seed, "split").permutation(len(donors))
    order = sorted(range(len(donors)), key=lambda i: (-counts[i].sum(), chance[i]))
    assigned: dict[str, str] = {}
    for number, i in enumerate(order):
        part = _neediest(target, placed, counts[i], left=len(order) - number, used=set(assigned.values()))
        placed[part] += counts[i]
        assigned[donors[i]] = n.SPLITS[part]
    return assigned


def split_digest(split_of: Mapping[str, str]) -> str:
    """SHA-256 of the assignment of tiles to parts, part of the provenance of all that was trained on it."""
    return settings_digest(dict(split_of))


def find_leaks(
    tile: Sequence[str],
    split: Sequence[str],
    *,
    donor: Sequence[str],
    digest: Sequence[str],
    seen: Looks,
    second_look: SecondLook | None = None,
) -> list[Leak]:
    """Pairs of tiles on two sides of a split with the same donor, the same file or nearly the same image.

    All have one entry per tile. One plane that is alike is enough: no two fields share one, and cells that were seen in
    one of their planes are known. Of pairs whose hashes are alike and not nearly equal, `second_look` decides where
    it is given. Tiles that are unassigned are on no side.
    """
    placed = np.flatnonzero([part != n.UNASSIGNED for part in split])
    parts, donors, digests = (_codes(labels) for labels in (split, donor, digest))
    leaks = []
    for place, i in enumerate(placed.tolist()):
        others = placed[place + 1 :]
        others = others[parts[others] != parts[i]]
        differing = seen.differing(i, others)
        alike = (donors[others] == donors[i]) | (digests[others] == digests[i])
        alike |= (differing <= NEAR_DUPLICATE_BITS).any(axis=1)
        for j, bits in zip(others[alike].tolist(), differing[alike].tolist(), strict=True):
            by_looks = donor[i] != donor[j] and digest[i] != digest[j]
            near = [at for at, count in enumerate(bits) if count <= NEAR_DUPLICATE_BITS]
            if by_looks and second_look is not None and min(bits) > SURE_BITS and not second_look(i, j, near):
                continue
            why = f"nearly the same image ({_planes(seen.channels, bits)})"
            if digest[i] == digest[j]:
                why = "same file content"
            if donor[i] == donor[j]:
                why = f"same donor {donor[i]}"
            first, second = (f"{tile[k]} ({split[k]})" for k in (i, j))
            leaks.append(Leak(first, second, why, (tile[i], tile[j]), by_looks))
    return leaks


def find_shared_fields(
    tile: Sequence[str],
    split: Sequence[str],
    *,
    donor: Sequence[str],
    windows: Windows,
    shown_by_both: Callable[[Shared], BothShow | None],
) -> list[Leak]:
    """Pairs of tiles of two donors on two sides of a split that show a part of the same field, moved or cropped.

    Arguments are as those of `find_leaks`. `shown_by_both` looks at the pixels of windows that are alike, and says what
    both tiles show, None where that is not the same; of a pair it is asked about the most alike ones.
    """
    placed = np.flatnonzero([part != n.UNASSIGNED for part in split])
    parts, donors = _codes(split), _codes(donor)
    leaks = []
    for place, i in enumerate(placed.tolist()):
        others = placed[place + 1 :]
        others = others[(parts[others] != parts[i]) & (donors[others] != donors[i])]
        looked: Counter[int] = Counter()
        for shared in windows.shared(i, others):
            j = shared.tiles[1]
            if looked[j] >= _MOST_LOOKS:
                continue
            both = shown_by_both(shared)
            looked[j] += _MOST_LOOKS if both else 1
            if both:
                first, second = (f"{tile[k]} ({split[k]})" for k in (i, j))
                leaks.append(
                    Leak(first, second, both.what, (tile[i], tile[j]), by_looks=True, is_likely=not both.is_certain)
                )
    return leaks


def _planes(channels: Sequence[str], bits: Sequence[int]) -> str:
    """Which planes are alike, as words."""
    near = [(name, n) for name, n in zip(channels, bits, strict=True) if n <= NEAR_DUPLICATE_BITS]
    return ", ".join(f"{name}: {n} of {N_BITS} bits differ" for name, n in near)


def _codes(labels: Sequence[str]) -> NDArray[np.int64]:
    """A number for each label, the same for equal ones."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)


def _neediest(
    target: NDArray[np.float64],
    placed: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    left: int,
    used: set[str],
) -> int:
    """Part whose shortage this donor's tiles mend best; the last donors go to parts that are still empty."""
    wanted = [i for i in range(len(n.SPLITS)) if target[i].sum() > 0]
    empty = [i for i in wanted if n.SPLITS[i] not in used]
    among = empty if len(empty) >= left else wanted
    scale = np.maximum(target, 1e-9)
    after = [np.sum(((placed + _at(i, counts, placed) - target) / np.sqrt(scale)) ** 2) for i in among]
    return among[int(np.argmin(after))]


def _at(part: int, counts: NDArray[np.float64], like: NDArray[np.float64]) -> NDArray[np.float64]:
    added = np.zeros_like(like)
    added[part] = counts
    return added
