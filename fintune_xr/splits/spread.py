"""A few tiles out of many: those that score highest, spread over markers and donors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fintune_xr.errors import FintuneValueError


def spread_order(
    names: Sequence[str], scores: Sequence[float], donors: Sequence[str], markers: Sequence[str], *, n: int
) -> list[str]:
    """Up to `n` of `names`: markers take turns, and each takes its highest score among the donors chosen least so far.

    All four (tile,) belong together. Ties are broken by name, so that the order does not depend on the order given.

    Raises FintuneValueError where a name comes twice or `n` is below 1.
    """
    if len(set(names)) != len(names):
        raise FintuneValueError(f"{len(names)} tiles with {len(set(names))} names: expected each name once")
    if n < 1:
        raise FintuneValueError(f"n: expected 1 or more tiles, got {n}")
    left: dict[str, dict[str, tuple[float, str]]] = {marker: {} for marker in sorted(set(markers))}
    for name, score, donor, marker in zip(names, scores, donors, markers, strict=True):
        left[marker][name] = (score, donor)
    taken: Counter[str] = Counter()
    chosen: list[str] = []
    while len(chosen) < n and any(left.values()):
        for of_marker in left.values():
            if of_marker and len(chosen) < n:
                chosen.append(_next(of_marker, taken))
                taken[of_marker.pop(chosen[-1])[1]] += 1
    return chosen


def _next(left: Mapping[str, tuple[float, str]], taken: Counter[str]) -> str:
    """Of tiles with their score and donor, the one with the highest score among the donors `taken` least."""
    return min(left, key=lambda name: (taken[left[name][1]], -left[name][0], name))
