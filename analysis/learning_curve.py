"""How a score rises with the number of annotated tiles: a fitted power law, and where more stops to pay.

The curve is `score(n) = asymptote - amplitude * n ** -exponent`, fitted by least squares to every single fit (a
training at one budget with one seed), each with the same weight.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.names import BUDGET, N_TRAIN, QUANTILE, REASON, RESAMPLE, SEED
from fintune_xr.seeds import stream

Floats = NDArray[np.float64]


MIN_BUDGETS: Final = 3
"""Three numbers cannot be told from fewer places."""
TOLERANCE: Final = 0.01
STEP: Final = 10
"""Tiles more that `gain_of_more` asks about."""
LEVELS: Final = (0.025, 0.975)

FARTHEST: Final = 10.0
"""A saturation at more than this many times the most tiles tried is no estimate any more."""

_EXPONENTS: Final = (0.05, 5.0)
_NEAR: Final = 1e-3

TOO_FEW: Final = f"fewer than {MIN_BUDGETS} different numbers of tiles have a score"
NOT_RISING: Final = "the score does not rise with the number of tiles"
NOT_LEVELLING: Final = "the score does not level off within the numbers of tiles tried"
NOT_CONVERGED: Final = "the fit did not converge"
REASONS: Final = ("", TOO_FEW, NOT_RISING, NOT_LEVELLING, NOT_CONVERGED)

MEANINGS: Final = {
    n.ASYMPTOTE: "Score that the fitted curve comes close to.",
    n.AMPLITUDE: "What the curve lacks of it with one tile.",
    n.EXPONENT: "How fast the lack shrinks: n ** -exponent.",
    n.SATURATION: "Fewest tiles with which the curve is within the tolerance of its asymptote.",
    n.SATURATION_MEASURED: "Fewest tiles with which it is within the tolerance of its value at the most tiles tried.",
    n.N_LARGEST: "Most tiles tried.",
    n.GAIN_OF_MORE: f"What {STEP} tiles more than the most tried would add to the score.",
    n.N_MORE: "Tiles missing from the most tried to saturation.",
}
_ESTIMATES: Final = tuple(MEANINGS)
_SATURATION_AT: Final = _ESTIMATES.index(n.SATURATION)


class PowerLaw(NamedTuple):
    """asymptote - amplitude * n ** -exponent."""

    asymptote: float
    amplitude: float
    exponent: float

    def at(self, n: Floats | float) -> Any:
        """Score with `n` tiles."""
        return self.asymptote - self.amplitude * np.asarray(n, np.float64) ** -self.exponent


class CurveFit(NamedTuple):
    """A fitted curve, or why there is none; a curve that does not level off has a `reason` as well."""

    law: PowerLaw | None
    reason: str


def fit_power_law(n_tiles: Floats, score: Floats) -> CurveFit:
    """The curve through points (point,) with at least one tile and a finite score.

    Bounds: asymptote in 0 to 1, amplitude at least 0, exponent in 0.05 to 5. At the smallest exponent, or with an
    asymptote of 1, the points do not tell where the curve ends.
    """
    use = np.isfinite(score) & (n_tiles >= 1)
    n, score = n_tiles[use].astype(np.float64), score[use].astype(np.float64)
    if np.unique(n).size < MIN_BUDGETS:
        return CurveFit(None, TOO_FEW)
    first = float(n.min())
    start = _start(n / first, score)
    try:
        with warnings.catch_warnings():
            # It says that errors of the parameters cannot be estimated; they are taken from resamples.
            warnings.simplefilter("ignore", OptimizeWarning)
            (asymptote, drop, exponent), _ = curve_fit(
                _scaled,
                n / first,
                score,
                p0=start,
                bounds=((0, 0, _EXPONENTS[0]), (1, 1, _EXPONENTS[1])),
                jac=_slopes,
                maxfev=2000,
            )
    except RuntimeError:
        return CurveFit(None, NOT_CONVERGED)
    law = PowerLaw(float(asymptote), float(drop * first**exponent), float(exponent))
    if law.at(float(n.max())) - law.at(first) <= _NEAR**2:
        return CurveFit(None, NOT_RISING)
    open_ended = exponent <= _EXPONENTS[0] * (1 + _NEAR) or asymptote >= 1 - _NEAR**2 > score.max()
    return CurveFit(law, NOT_LEVELLING if open_ended else "")


def saturation(law: PowerLaw, *, tolerance: float, target: float | None = None) -> float:
    """Fewest whole tiles with which the curve is within `tolerance` of `target`, by default of its asymptote."""
    lack = tolerance + (0.0 if target is None else law.asymptote - target)
    if lack >= law.amplitude:
        return 1.0
    exact = math.exp(math.log(law.amplitude / lack) / law.exponent)
    return float(math.ceil(exact - 1e-9 * exact))


def learning_curve(
    score: xr.DataArray, n_tiles: xr.DataArray, *, tolerance: float = TOLERANCE, n_resamples: int = 200, seed: int = 0
) -> xr.Dataset:
    """The fitted curve of `score` (budget, seed, …) over `n_tiles` (budget, seed, …), for each of the other dims.

    Variables: asymptote, amplitude, exponent, saturation, saturation_measured, n_largest, gain_of_more, n_more,
    each but n_largest with `<name>_interval` (…, quantile), the 2.5 to 97.5 % percentiles over resamples in which
    seeds are drawn with replacement, each with all its fits (the test tiles stay the same): fits of one seed have their
    tiles and their stream of chance in common. n_resamples_fitted, how many of them have a saturation; and `reason`,
    why there is no curve or no saturation. Fits without a tile or a score are left out. NaN where there is none: with
    one seed there are no intervals.

    Raises FintuneValueError unless 0 < tolerance < 1 and n_resamples >= 0.
    """
    if not 0 < tolerance < 1 or n_resamples < 0:
        raise FintuneValueError(
            f"expected a tolerance between 0 and 1 and n_resamples of 0 or more, got {tolerance} and {n_resamples}"
        )
    estimate, interval, n_fitted, code = xr.apply_ufunc(
        _curve,
        score,
        n_tiles,
        kwargs={"tolerance": tolerance, "n_resamples": n_resamples, "seed": seed},
        input_core_dims=[[BUDGET, SEED]] * 2,
        output_core_dims=[["_name"], ["_name", QUANTILE], [], []],
        vectorize=True,
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64, np.float64, np.int32, np.int8],
        dask_gufunc_kwargs={"output_sizes": {"_name": len(_ESTIMATES), QUANTILE: len(LEVELS)}},
    )
    texts = np.asarray(REASONS)
    reason = xr.apply_ufunc(lambda codes: texts[codes], code, dask="parallelized", output_dtypes=[texts.dtype])
    found = {name: estimate.isel({"_name": i}) for i, name in enumerate(_ESTIMATES)}
    ends = {f"{name}_interval": interval.isel({"_name": i}) for i, name in enumerate(_ESTIMATES) if name != n.N_LARGEST}
    described = {name: part.assign_attrs(long_name=MEANINGS[name], units="1") for name, part in found.items()}
    made = xr.Dataset({**described, **ends, n.N_RESAMPLES_FITTED: n_fitted, REASON: reason})
    facts = {"tolerance": tolerance, "resamples": n_resamples, "seed": seed}
    return made.assign_coords({QUANTILE: list(LEVELS)}).assign_attrs(facts)


def budget_spread(score: xr.DataArray) -> xr.Dataset:
    """Mean and standard deviation (n - 1) of `score` over seeds, for each budget; NaN without enough fits."""
    n_fits = score.notnull().sum(SEED)
    mean, sd = score.mean(SEED), score.std(SEED, ddof=1).where(n_fits > 1)
    return xr.Dataset(
        {
            n.BUDGET_MEAN: mean.assign_attrs(long_name="Mean over seeds."),
            n.BUDGET_SD: sd.assign_attrs(long_name="Standard deviation over seeds."),
        }
    )


def curve_at(curve: xr.Dataset, n_tiles: NDArray[Any]) -> xr.DataArray:
    """The fitted score (…, n_train) with `n_tiles` (n_train,) tiles."""
    places = xr.DataArray(np.asarray(n_tiles, np.float64), dims=N_TRAIN, coords={N_TRAIN: n_tiles})
    return curve[n.ASYMPTOTE] - curve[n.AMPLITUDE] * places ** -curve[n.EXPONENT]


def _curve(
    score: Floats, n_tiles: NDArray[Any], *, tolerance: float, n_resamples: int, seed: int
) -> tuple[Floats, Floats, int, int]:
    """Estimates (name,), intervals (name, quantile), resamples with a saturation, index into REASONS."""
    n = n_tiles.astype(np.float64)
    law, reason = fit_power_law(n.ravel(), score.ravel())
    known = np.isfinite(score) & (n >= 1)
    estimates = _estimates(law, reason, n[known], tolerance)
    if law is not None and not reason and np.isnan(estimates[_SATURATION_AT]):
        reason = NOT_LEVELLING
    intervals = np.full((len(_ESTIMATES), len(LEVELS)), np.nan)
    seeds = np.flatnonzero(known.any(axis=0))
    resampled = [
        _resampled(score, n, known, _drawn(seeds, seed, i), tolerance)
        for i in range(n_resamples if law is not None and seeds.size > 1 else 0)
    ]
    values = np.array(resampled).reshape(-1, len(_ESTIMATES))
    for i, column in enumerate(values.T):
        if np.isfinite(column).any() and np.isfinite(estimates[i]):
            intervals[i] = np.nanquantile(column, LEVELS)
    n_fitted = int(np.isfinite(values[:, _SATURATION_AT]).sum())
    return estimates, intervals, n_fitted, REASONS.index(reason)


def _drawn(seeds: NDArray[np.intp], seed: int, resample: int) -> NDArray[np.intp]:
    """As many of `seeds` as there are, drawn with replacement."""
    return seeds[stream(seed, "learning curve", RESAMPLE, resample).integers(seeds.size, size=seeds.size)]


def _resampled(score: Floats, n: Floats, known: NDArray[np.bool_], drawn: NDArray[np.intp], tolerance: float) -> Floats:
    """Estimates from all fits of the seeds drawn."""
    use = known[:, drawn]
    return _estimates(*fit_power_law(n[:, drawn][use], score[:, drawn][use]), n[known], tolerance)


def _estimates(law: PowerLaw | None, reason: str, n: Floats, tolerance: float) -> Floats:
    """The numbers named in _ESTIMATES; those about the curve's end are NaN where it does not level off."""
    largest = float(n.max()) if n.size else np.nan
    if law is None:
        return np.array([np.nan] * 5 + [largest, np.nan, np.nan])
    measured = saturation(law, tolerance=tolerance, target=float(law.at(largest)))
    gain = float(law.at(largest + STEP) - law.at(largest))
    enough = np.nan if reason else saturation(law, tolerance=tolerance)
    enough = enough if enough <= FARTHEST * largest else np.nan
    return np.array([*law, enough, measured, largest, gain, np.maximum(0.0, enough - largest)])


def _scaled(n: Floats, asymptote: float, drop: float, exponent: float) -> Floats:
    """The curve by its drop at the fewest tiles (n = 1 there), which keeps all three numbers of one size."""
    return asymptote - drop * n**-exponent


def _slopes(n: Floats, asymptote: float, drop: float, exponent: float) -> Floats:  # noqa: ARG001
    shrunk = n**-exponent
    return np.stack([np.ones_like(n), -shrunk, drop * np.log(n) * shrunk], axis=-1)


def _start(n: Floats, score: Floats) -> Floats:
    """The best of a grid of exponents, each with its own least squares, put inside the bounds."""
    best, start = np.inf, np.array([0.5, 0.1, 1.0])
    for exponent in np.geomspace(0.1, 4.0, 12):
        design = np.stack([np.ones_like(n), -(n**-exponent)], axis=-1)
        line = np.linalg.lstsq(design, score, rcond=None)[0].clip(1e-6, 1 - 1e-6)
        error = float(np.sum((design @ line - score) ** 2))
        if error < best:
            best, start = error, np.array([*line, exponent])
    return start
