"""Nested subsets of annotated tiles: the first n of one order, for every n."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from fintune_xr.errors import FintuneValueError
from fintune_xr.seeds import stream


def nested_order(names: Sequence[str], markers: Sequence[str], *, seed: int) -> list[str]:
    """`names` in a random order in which the markers take turns, so that any first n hold them evenly.

    `names` and `markers` (tile,) belong together. The order depends on `seed` and the names, not on the order in
    which they are given; a marker whose tiles are used up is passed over.

    Raises FintuneValueError where a name comes twice.
    """
    if len(set(names)) != len(names):
        raise FintuneValueError(f"{len(names)} tiles with {len(set(names))} names: expected each name once")
    rng = stream(seed, "budget")
    of_marker: dict[str, list[str]] = {marker: [] for marker in sorted(set(markers))}
    for name, marker in sorted(zip(names, markers, strict=True)):
        of_marker[marker].append(name)
    turns = [of_marker[str(marker)] for marker in rng.permutation(list(of_marker))]
    drawn = [[group[i] for i in rng.permutation(len(group))] for group in turns]
    return [name for turn in zip_longest(*drawn) for name in turn if name is not None]
