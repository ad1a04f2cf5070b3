"""Ratios corrected by the few annotated tiles, with intervals that carry the segmentation's error.

A model that counts too few or too many positive cells does so in every donor; annotated tiles of some tell by how
much, and how much that differs between donors. Donors are the units throughout: tiles of one share its errors.

References: Angelopoulos et al. 2023, Prediction-powered inference, Science 382:669; Angelopoulos, Duchi & Zrnic 2023,
PPI++: efficient prediction-powered inference, arXiv 2311.01453 (the tuning); Spearman 1904, Am. J. Psychol. 15:72 (the
attenuation of a correlation by errors).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import stdtrit

from fintune_xr import names as n
from fintune_xr.analysis.groups import of_donors
from fintune_xr.analysis.kernels import correlation as kernels
from fintune_xr.datasets import ANALYSIS
from fintune_xr.metrics.donor_tests import MIN_DONORS
from fintune_xr.seeds import stream

Floats = NDArray[np.float64]

LEVEL: Final = 0.95
N_RESAMPLES: Final = 2000
LEAST_RELIABILITY: Final = 0.2
"""Below it, differences of the model's errors between donors are most of the differences between donors: no rho."""

_FLOOR: Final = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """True ratios and the model's on the same annotated tiles, one of each annotated donor (donor,)."""

    true: Floats
    predicted: Floats

    @property
    def rectifiers(self) -> Floats:
        """What is to be added to the model's ratio of each annotated donor."""
        return self.true - self.predicted


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float


NOTHING: Final = Estimate(float("nan"), float("nan"), float("nan"))


def labelled_sums(validation: xr.Dataset) -> Labelled:
    """Of `validation` (tile) of one rule and marker with true_positive, true_all, n_positive, n_all and donor.

    Tiles in which something is unknown (negative) are left out, and donors without a cell on either side.
    """
    counts = np.array([validation[name].values for name in (n.TRUE_POSITIVE, n.TRUE_ALL, n.N_POSITIVE, n.N_ALL)])
    known = (counts >= 0).all(axis=0)
    donors, place = np.unique(np.asarray(validation[n.DONOR].values, str)[known], return_inverse=True)
    sums = np.zeros((4, donors.size))
    for row, values in enumerate(counts[:, known]):
        np.add.at(sums[row], place, values)
    positive, total, called, found = sums[:, (sums[1] > 0) & (sums[3] > 0)]
    return Labelled(positive / total, called / found)


def mean_ratio(ratio: Floats, known: Labelled) -> Estimate:
    """Mean over donors of the true ratio, from the model's `ratio` (donor,) of all and the annotated donors.

    The model's mean counts by the weight that makes the variance least (PPI++), between 0 and 1; Student's t over
    annotated donors. Nothing below MIN_DONORS of these.
    """
    ratio = ratio[~np.isnan(ratio)]
    size = known.true.size
    if size < MIN_DONORS or ratio.size < MIN_DONORS:
        return NOTHING
    spread = float(ratio.var(ddof=1))
    together = float(np.cov(known.true, known.predicted)[0, 1])
    weight = float(np.clip(together / ((1 + size / ratio.size) * spread), 0, 1)) if spread > 0 else 1.0
    value = weight * ratio.mean() + float(np.mean(known.true - weight * known.predicted))
    variance = weight**2 * spread / ratio.size + float(np.var(known.true - weight * known.predicted, ddof=1)) / size
    return _with_interval(value, np.sqrt(variance), size - 1)


def donor_ratios(ratio: Floats, known: Labelled) -> tuple[Floats, Floats, Floats]:
    """The corrected ratio (donor,) of every donor and the ends of its interval, within 0 to 1.

    The mean rectifier is added. The interval holds the true ratio of a donor like the annotated ones: its half width
    is Student's t times the spread of the rectifiers, for one more donor. NaN below MIN_DONORS annotated donors.
    """
    size = known.true.size
    if size < MIN_DONORS:
        nothing = np.full(ratio.shape, np.nan)
        return nothing, nothing, nothing
    value = ratio + known.rectifiers.mean()
    error = known.rectifiers.std(ddof=1) * np.sqrt(1 + 1 / size)
    half = stdtrit(size - 1, 0.5 + LEVEL / 2) * error
    corrected, low, high = (np.clip(one, 0, 1) for one in (value, value - half, value + half))
    return corrected, low, high


def reliability(ratio: Floats, known: Labelled) -> float:
    """The share of the variance of the model's `ratio` (donor,) that is not its own error, at most 1.

    The error is what a line through the annotated donors leaves of the model's ratios, so that a bias that is the same
    in all donors, or grows with the ratio, is none. NaN below MIN_DONORS annotated donors.
    """
    if known.true.size < MIN_DONORS:
        return float("nan")
    spread = float(np.nanvar(ratio, ddof=1))
    return 1 - _error_variance(known.true, known.predicted) / spread if spread > 0 else 0.0


def rho_of_true_ratios(ratio: Floats, outcome: Floats, known: Labelled, *, seed: int = 0) -> Estimate:
    """Spearman's rho of the true ratios with `outcome` (donor,), the model's `ratio` (donor,) being all that is known.

    Rho of the model's ratios over the square root of their reliability. In each of N_RESAMPLES resamples donors and
    annotated donors are drawn anew, so that the interval (percentiles) holds both what other donors and what other
    annotations would give. Nothing where the reliability is below LEAST_RELIABILITY or rho does not exist.
    """
    has = ~np.isnan(ratio) & ~np.isnan(outcome)
    ratio, outcome = ratio[has], outcome[has]
    rho = kernels.spearman(ratio[None], outcome[None]).rho[0] if ratio.size else np.nan
    trust = reliability(ratio, known) if ratio.size >= MIN_DONORS else np.nan
    if np.isnan(rho) or not trust >= LEAST_RELIABILITY:
        return NOTHING
    rng = stream(seed, "rho of true ratios", ratio.size, known.true.size)
    donors = rng.integers(0, ratio.size, (N_RESAMPLES, ratio.size))
    annotated = rng.integers(0, known.true.size, (N_RESAMPLES, known.true.size))
    drawn = kernels.spearman(ratio[donors], outcome[donors]).rho
    spread = ratio[donors].var(axis=1, ddof=1)
    error = np.array([_error_variance(known.true[one], known.predicted[one]) for one in annotated])
    trusts = np.clip(1 - error / np.where(spread > 0, spread, np.inf), _FLOOR, 1)
    found = np.clip(drawn / np.sqrt(trusts), -1, 1)
    low, high = np.nanquantile(found, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2))
    return Estimate(float(np.clip(rho / np.sqrt(trust), -1, 1)), float(low), float(high))


def correct_ratios(
    ratio: xr.DataArray,
    outcomes: xr.DataArray,
    validation: xr.Dataset,
    *,
    covariates: xr.DataArray | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Corrected ratios (donor, marker) and their means (marker), rho of the true ratios (marker, outcome).

    `ratio` (donor, marker) is the model's, in memory; `outcomes` (donor, outcome), of which donors may be missing;
    `validation` (tile) as in `labelled_sums`, of all markers. With `covariates` (donor, covariate) there is no rho:
    what the model's error does to a partial correlation is not known here. Variables of ANALYSIS, NaN where annotated
    donors are too few or the reliability too low.
    """
    donors = ratio[n.DONOR]
    values = of_donors(outcomes, donors).transpose(n.OUTCOME, n.DONOR).values
    markers = ratio[n.MARKER].values.tolist()
    columns = [_of_marker(ratio.sel({n.MARKER: one}).values, values, validation, str(one), seed) for one in markers]
    parts: dict[str, tuple[tuple[str, ...], list[Any]]] = {}
    for name, dims in _DIMS.items():
        parts[name] = (dims, [column[name] for column in columns])
    found = xr.Dataset(
        {name: (dims, np.array(one)) for name, (dims, one) in parts.items()},
        coords={n.MARKER: ratio[n.MARKER].values, n.DONOR: donors.values, n.OUTCOME: outcomes[n.OUTCOME].values},
    )
    found = found.transpose(n.DONOR, n.MARKER, n.OUTCOME)
    if covariates is not None:
        found = found.assign({name: found[name] * np.nan for name in _RHOS})
    return found.assign({name: array.assign_attrs(ANALYSIS[str(name)].attrs) for name, array in found.items()})


_RATIOS: Final = (n.RATIO_CORRECTED, n.RATIO_CORRECTED_LOW, n.RATIO_CORRECTED_HIGH)
_MEANS: Final = (n.MEAN_CORRECTED, n.MEAN_CORRECTED_LOW, n.MEAN_CORRECTED_HIGH)
_RHOS: Final = (n.RHO_CORRECTED, n.RHO_CORRECTED_LOW, n.RHO_CORRECTED_HIGH)
_DIMS: Final = {
    **dict.fromkeys(_RATIOS, (n.MARKER, n.DONOR)),
    **dict.fromkeys((*_MEANS, n.RECTIFIER, n.RELIABILITY, n.N_ANNOTATED), (n.MARKER,)),
    **dict.fromkeys(_RHOS, (n.MARKER, n.OUTCOME)),
}


def _of_marker(ratio: Floats, outcomes: Floats, validation: xr.Dataset, marker: str, seed: int) -> dict[str, Any]:
    chosen = np.flatnonzero(np.asarray(validation[n.MARKER].values, str) == marker)
    known = labelled_sums(validation.isel({n.TILE: chosen}))
    mean = mean_ratio(ratio, known)
    rhos = [rho_of_true_ratios(ratio, outcome, known, seed=seed) for outcome in outcomes]
    return {
        **dict(zip(_RATIOS, donor_ratios(ratio, known), strict=True)),
        **dict(zip(_MEANS, (mean.value, mean.low, mean.high), strict=True)),
        **dict(zip(_RHOS, np.array([(one.value, one.low, one.high) for one in rhos]).reshape(-1, 3).T, strict=True)),
        n.RECTIFIER: float(known.rectifiers.mean()) if known.true.size else np.nan,
        n.RELIABILITY: reliability(ratio, known),
        n.N_ANNOTATED: known.true.size,
    }


def _error_variance(true: Floats, predicted: Floats) -> float:
    """Variance of `predicted` (donor,) around its line on `true`."""
    centred = true - true.mean()
    total = float(centred @ centred)
    around = predicted - predicted.mean()
    slope = float(centred @ around) / total if total > 0 else 0.0
    left = around - slope * centred
    return float(left @ left) / max(true.size - 2, 1)


def _with_interval(value: float, error: float, freedom: int) -> Estimate:
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * float(error)
    low, middle, high = (float(np.clip(one, 0, 1)) for one in (value - half, value, value + half))
    return Estimate(middle, low, high)
