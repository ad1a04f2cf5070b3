"""Whether what lies on tiles lies on what their images show, or only once it is turned, or on nothing there."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.pixels.orientations import TURNS

Floats = NDArray[np.float64]

# What lies on nothing is not so many times as like its image as it is once it is turned.
_AS_CHANCE: Final = 1.5
_NAMED: Final = 5
MOST_TILES: Final = 500
"""So many tiles are looked at, evenly spread, where there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What lies on which tiles, and what can be done where it is turned, or of other tiles."""

    what: str
    tiles: str
    turned: str
    lost: str


@dataclass(frozen=True, slots=True, eq=False)
class Placements:
    """How like its image what lies on a tile is, by the ids of tiles (orientation,), as it is first, and 0 where an
    orientation does not fit; from `lies` on it lies there, and below `lies_not` it does not.
    """

    found: Mapping[str, Floats]
    lies: float
    lies_not: float

    @property
    def turned(self) -> dict[str, int]:
        """The place of the orientation that tiles lie in, of those that lie in another one than they have."""
        best = {tile: int(values.argmax()) for tile, values in self.found.items()}
        return {
            tile: turn
            for tile, turn in best.items()
            if self.found[tile][turn] >= max(self.lies, 2 * self.found[tile][0])
        }

    @property
    def lost(self) -> list[str]:
        """Tiles on whose images nothing lies, whichever way it is turned."""
        chance = {tile: _AS_CHANCE * values[1:].max(initial=0.0) for tile, values in self.found.items()}
        turned = self.turned
        return [
            tile
            for tile, values in self.found.items()
            if tile not in turned and values[0] < min(self.lies_not, chance[tile])
        ]

    @property
    def lying(self) -> list[str]:
        """Tiles that lie as they are."""
        turned = self.turned
        return [tile for tile, values in self.found.items() if values[0] >= self.lies and tile not in turned]

    def lines(self, words: Words) -> list[str]:
        """What is to be said, nothing where most tiles lie as they are and no single one otherwise."""
        of_most = self._turned_alike(words) or self._lost_mostly(words)
        if of_most or 2 * len(self.lying) <= len(self.found):
            return of_most
        return self._single_turned(words) + self._single_lost(words)

    def _among(self, tiles: Sized, words: Words) -> str:
        return f"in {len(tiles)} of the {len(self.found)} {words.tiles} looked at"

    def _turned_alike(self, words: Words) -> list[str]:
        turned = self.turned
        for turn in sorted(set(turned.values())):
            tiles = [tile for tile, own in turned.items() if own == turn]
            if 2 * len(tiles) > len(self.found):
                return [
                    f"{self._among(tiles, words)}, the {words.what} lie on what the image shows "
                    f"only once they are {TURNS[turn]}, {tiles[0]} among them. {words.turned}"
                ]
        return []

    def _lost_mostly(self, words: Words) -> list[str]:
        lost = self.lost
        if len(lost) < 2 or 2 * len(lost) <= len(self.found):
            return []
        return [
            f"{self._among(lost, words)}, no channel tells {words.what} from what lies around "
            f"them, {lost[0]} among them. {words.lost}"
        ]

    def _single_turned(self, words: Words) -> list[str]:
        told = [f"{tile} ({TURNS[turn]})" for tile, turn in self.turned.items()]
        return told and [
            f"{self._among(told, words)}, the {words.what} lie on what the image shows only once "
            f"they are turned, in the others as they are: {', '.join(told[:_NAMED])}. {words.turned}"
        ]

    def _single_lost(self, words: Words) -> list[str]:
        lost = self.lost
        return lost and [
            f"{self._among(lost, words)}, no channel tells {words.what} from what lies around "
            f"them, as it does in the others: {', '.join(lost[:_NAMED])}. {words.lost}"
        ]


def without_none(found: Mapping[str, Any]) -> dict[str, Any]:
    """Those of which something can be said."""
    return {tile: one for tile, one in found.items() if one is not None}


def spread(count: int) -> range:
    """Rows of at most MOST_TILES of so many tiles, evenly spread."""
    return range(0, count, max(1, -(-count // MOST_TILES)))
