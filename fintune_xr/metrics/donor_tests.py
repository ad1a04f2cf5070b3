"""What few donors can tell: Student's t intervals from leaving each donor out, and an exact test of differences."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from fintune_xr.seeds import stream

Floats = NDArray[np.float64]

MIN_DONORS: Final = 4
"""Fewer donors get neither an interval nor a p: a spread over three is hardly known."""
MAX_ALL_SIGNS: Final = 14
"""Donors to whose 2**14 combinations of signs all are tried."""
_CELLS_AT_ONCE: Final = 64


def jackknife_interval(whole: Floats, without: Floats, has: NDArray[np.bool_], *, level: float = 0.95) -> Floats:
    """Student's t interval (…, 2) of a statistic `whole` (…) from its values `without` (…, donor) each donor.

    `has` (…, donor) says which donors take part; degrees of freedom are one less than those. Of a mean with equal
    weights this is the t interval of the donors' own values. NaN below MIN_DONORS donors.

    Reference: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 11.
    """
    m = has.sum(axis=-1)
    enough = m >= MIN_DONORS
    left = np.where(has, without, 0.0)
    middle = left.sum(axis=-1) / np.maximum(m, 1)
    squares = (np.where(has, left - middle[..., None], 0.0) ** 2).sum(axis=-1)
    error = np.sqrt(squares * (m - 1) / np.maximum(m, 1))
    half = stdtrit(np.maximum(m - 1, 1).astype(np.float64), 0.5 + level / 2) * error
    ends = np.stack([whole - half, whole + half], axis=-1)
    return np.where(enough[..., None], ends, np.nan)


def sign_flip_p(differences: Floats, *, n_flips: int, seed: int) -> Floats:
    """Two-sided p (…) that paired `differences` (…, donor) lie around zero, from flipping the signs of donors.

    To MAX_ALL_SIGNS donors every combination is tried; beyond, `n_flips` are drawn from a stream that depends on `seed`
    and the number of donors only, and p = (1 + as extreme) / (1 + n_flips). NaN differences take no part; below
    MIN_DONORS others p is NaN. It is never 0.

    Reference: Fisher 1935, The Design of Experiments, section 21.
    """
    known = ~np.isnan(differences)
    values = np.where(known, differences, 0.0).reshape(-1, differences.shape[-1])
    # A difference of zero flips nothing: the share of combinations is that among the donors that take part.
    signs, drawn = _signs(values.shape[1], n_flips, seed)
    p = np.empty(len(values))
    for first in range(0, len(values), _CELLS_AT_ONCE):
        part = values[first : first + _CELLS_AT_ONCE]
        limit = np.abs(part.sum(axis=1)) * (1 - 1e-9) - 1e-15
        extreme = (np.abs(part @ signs) >= limit[:, None]).sum(axis=1)
        p[first : first + _CELLS_AT_ONCE] = (extreme + drawn) / (signs.shape[1] + drawn)
    enough = known.sum(axis=-1) >= MIN_DONORS
    return np.where(enough, p.reshape(enough.shape), np.nan)


def holm(p: Floats) -> Floats:
    """P-values (test,) corrected for their number so that the chance of any false one holds; NaN are no tests.

    Reference: Holm 1979, Scand. J. Stat. 6:65.
    """
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(order.size, 0, -1)), 1.0)
    return corrected


def _signs(n_donors: int, n_flips: int, seed: int) -> tuple[NDArray[Any], int]:
    """Signs (donor, combination), and 1 where they are drawn, 0 where they are all there are."""
    if n_donors <= MAX_ALL_SIGNS:
        # The first donor keeps its sign: turning all of them around changes no absolute sum.
        rest = list(itertools.product((1.0, -1.0), repeat=max(n_donors - 1, 0)))
        return np.array([(1.0, *one) for one in rest], np.float64).T[:n_donors], 0
    drawn = stream(seed, "signs of donors", n_donors).integers(0, 2, (n_donors, n_flips))
    return 2.0 * drawn - 1.0, 1
