"""How often the intervals of a learning curve hold the truth: simulated studies of a known curve.

Scores are a power law plus one shift per seed, common to its fits, plus one error per fit.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.learning_curve import STEP, PowerLaw, learning_curve, saturation
from fintune_xr.seeds import stream

LAW = PowerLaw(0.8, 0.9, 1.0)
BUDGETS = np.array([2, 5, 10, 20, 30])
SPREADS = ((0.05, 0.01), (0.0, 0.02))
SEEDS = (3, 5, 10)
N_STUDIES = 100
N_RESAMPLES = 100
TRUTH = {
    n.ASYMPTOTE: LAW.asymptote,
    n.SATURATION: saturation(LAW, tolerance=0.01),
    n.GAIN_OF_MORE: float(LAW.at(30.0 + STEP) - LAW.at(30.0)),
}


def studies(n_seeds: int, of_seed: float, of_fit: float) -> xr.DataArray:
    """Scores (study, budget, seed)."""
    shape = (N_STUDIES, BUDGETS.size, n_seeds)
    chance = stream(0, "coverage", n_seeds)
    shift, error = chance.normal(0, of_seed, (N_STUDIES, 1, n_seeds)), chance.normal(0, of_fit, shape)
    return xr.DataArray(
        LAW.at(BUDGETS.astype(float))[:, None] + shift + error,
        dims=("study", n.BUDGET, n.SEED),
        coords={n.BUDGET: BUDGETS, n.SEED: range(n_seeds)},
    )


def coverage(n_seeds: int, of_seed: float, of_fit: float) -> str:
    """For each estimate: share of the studies whose interval holds the truth, and the intervals' median width."""
    score = studies(n_seeds, of_seed, of_fit)
    found = learning_curve(score, xr.zeros_like(score, int) + score[n.BUDGET], n_resamples=N_RESAMPLES)
    told = []
    for name, truth in TRUTH.items():
        low, high = found[f"{name}_{n.INTERVAL}"].transpose(n.QUANTILE, ...).values
        there = np.isfinite(low)
        holds = (low[there] <= truth + 1e-9) & (truth - 1e-9 <= high[there])
        told.append(f"{name} {holds.mean():.0%} of {there.sum()} (width {np.median((high - low)[there]):.3g})")
    return ", ".join(told)


if __name__ == "__main__":
    for of_seed, of_fit in SPREADS:
        for n_seeds in SEEDS:
            print(f"seeds differ by {of_seed}, fits by {of_fit}; {n_seeds} seeds: {coverage(n_seeds, of_seed, of_fit)}")
