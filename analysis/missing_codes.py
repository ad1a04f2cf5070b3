"""Numbers of a column that may be codes for missing values: those that lie apart from all others."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

# What questionnaires write for "refused", "unknown" and "not asked", and how many others must tell what is usual.
_OF_ONE_DIGIT: Final = (7.0, 8.0, 9.0)
_LARGER: Final = (66.0, 77.0, 88.0, 99.0, 777.0, 888.0, 999.0, 6666.0, 7777.0, 8888.0, 9999.0)
_NEGATIVE: Final = (*range(-9, 0), -66, -77, -88, -99)
_FEW, _MANY = 8, 20
# So many steps between neighbours of the others a code is away from them at least, and so many times as far as these
# reach; less far where they are the whole numbers of a scale, and nearer still where a code is there so many times.
_STEPS: Final = 3.0
_TIMES, _TIMES_OF_SCALE, _REPEATED = 2.0, 1.5, 3
# A scale is full at its end with so many values there, and as many of what its numbers have on average.
_FULL_END: Final = 2
# A code of two digits is so many times as large as every other value where there are so many of them.
_FAR, _FEWEST = 3, 4
_AGE: Final = re.compile(r"(?:.*[_ .])?age(?:[_ .].*)?")
_ADULT: Final = 18.0


def codes_apart(values: NDArray[np.float64]) -> list[float]:
    """Codes among `values` (donor,) that lie beyond all others, ascending; 0 where all others are far above it.

    A 9 among scores of 0 to 10 is none, nor is the largest of skewed counts: a code is many of the steps between the
    other values away from them, and twice as far as these reach.
    """
    known, found = values[~np.isnan(values)], list[float]()
    codes = (*_OF_ONE_DIGIT, *_LARGER)
    for code in codes:
        beyond = (known > code) & np.isin(known, codes)
        others = known[(known != code) & ~np.isin(known, found) & ~beyond]
        if (known == code).any() and _is_beyond(code, others, int((known == code).sum())):
            found.append(code)
    others = known[(known != 0) & ~np.isin(known, found)]
    if (known == 0).any() and _is_below(others):
        found.insert(0, 0.0)
    return found


def codes_of_scale(labels: NDArray[np.float64]) -> list[float]:
    """Codes among the numbers of groups that lie beyond all others, as 9 beside 1 and 2, ascending; however often they
    are there, three times as far away as the others are from each other.
    """
    known = np.unique(labels[~np.isnan(labels)])
    codes = np.isin(known, (*_OF_ONE_DIGIT, *_LARGER))
    for first in np.flatnonzero(codes):
        others = known[:first]
        if codes[first:].all() and others.size > 1 and known[first] - others[-1] >= _STEPS * np.diff(others).max():
            return [float(code) for code in known[first:]]
    return []


def ages_of_none(name: str, values: NDArray[np.float64]) -> bool:
    """Whether 0 stands in a column of ages, by its `name`, whose other values are all those of adults."""
    others = values[~np.isnan(values) & (values != 0)]
    is_age = _AGE.fullmatch(name.casefold()) is not None
    return bool(is_age and (values == 0).any() and others.size and others.min() >= _ADULT)


def negative_codes(values: NDArray[np.float64]) -> list[float]:
    """Several negative codes that are the only negative numbers, as -9 and -1; none where they may be of a scale."""
    known = values[~np.isnan(values)]
    found, others = np.unique(known[known < 0]), np.unique(known[known >= 0])
    if not 2 <= found.size <= 3 or not np.isin(found, _NEGATIVE).all() or (known >= 0).sum() < _FEW or others.size < 2:
        return []
    is_apart = np.diff([*found, 0.0]).max() >= _STEPS * np.diff(others).max()
    return [float(code) for code in found] if is_apart else []


def _is_beyond(code: float, others: NDArray[np.float64], times: int) -> bool:
    steps = np.unique(others)
    if steps.size < 2 or code <= steps[-1]:
        return False
    if code >= _LARGER[0] and others.size >= _FEWEST and code > _FAR * np.abs(steps).max():
        return True
    gap, reach, step = code - steps[-1], np.ptp(steps), np.diff(steps).max()
    if others.size < (_MANY if code in _OF_ONE_DIGIT else _FEW) or gap < _STEPS * step:
        return False
    is_scale = others.size >= _MANY and step <= 1 and bool(np.all(steps == np.round(steps)))
    is_full = is_scale and _ends_full(others, steps)
    return bool(gap > (_TIMES_OF_SCALE if is_scale else _TIMES) * reach or (is_scale and times >= _REPEATED) or is_full)


def _ends_full(others: NDArray[np.float64], steps: NDArray[np.float64]) -> bool:
    """Whether a scale does not thin out towards its end, as skewed counts do, whose largest one may be far away."""
    at_end = int((others == steps[-1]).sum())
    return at_end >= max(_FULL_END, others.size / steps.size / _FULL_END)


def _is_below(others: NDArray[np.float64]) -> bool:
    steps = np.unique(others)
    if others.size < _FEW or steps.size < 2 or steps[0] <= 0:
        return False
    return bool(steps[0] > np.ptp(steps) and steps[0] >= _STEPS * np.diff(steps).max())
