"""How often intervals of scores hold the truth, and how often a run that is no better is said to be.

Simulated: donors differ, their images less; two runs of the same quality on the same images. Coverage is that of the
image mean of average precision and of the paired difference. A verdict is what the report gives: the interval leaves
out zero and p of the sign flips is 0.05 or less. Beside it, percentiles of 1,000 resamples of the donors.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from table import Fact, print_table

from fintune_xr import names as n
from fintune_xr.metrics.counts import AP50
from fintune_xr.metrics.intervals import scores_by_donor
from fintune_xr.seeds import stream

N_STUDIES = 1000
N_DONORS = (4, 5, 6, 8, 12, 24, 70)
N_IMAGES, N_CELLS, N_RESAMPLES = 4, 40, 1000
FAILING = (0.0, 0.1)


def found_cells(n_donors: int, failing: float, chance: np.random.Generator) -> NDArray[np.int64]:
    """True positives (study, run, image) of two runs alike: a donor is easy or hard for both, and more so for one."""
    shape = (N_STUDIES, 1, n_donors, 1)
    of_donor = chance.normal(1.2, 0.5, shape) + chance.normal(0, 0.25, (N_STUDIES, 2, n_donors, 1))
    of_image = of_donor + chance.normal(0, 0.3, (N_STUDIES, 2, n_donors, N_IMAGES))
    share = np.where(chance.random((N_STUDIES, 2, n_donors, 1)) < failing, 0.05, 1 / (1 + np.exp(-of_image)))
    return chance.binomial(N_CELLS, share).reshape(N_STUDIES, 2, n_donors * N_IMAGES)


def scores(n_donors: int, failing: float) -> tuple[xr.Dataset, NDArray[np.float64]]:
    """What the product says of all studies, and average precision (study, run, donor) for the peer."""
    tp = found_cells(n_donors, failing, stream(0, "interval coverage", n_donors))
    wrong = N_CELLS - tp
    dims = ("study", n.RUN, n.TILE)
    counts = xr.Dataset({n.TP: (dims, tp), n.FP: (dims, wrong), n.FN: (dims, wrong)}, {n.RUN: ["a", "b"]})
    donor = xr.DataArray(np.repeat([f"d{i:03d}" for i in range(n_donors)], N_IMAGES), dims=n.TILE)
    own = (tp / (tp + 2 * wrong)).reshape(N_STUDIES, 2, n_donors, N_IMAGES).mean(axis=-1)
    return scores_by_donor(counts, donor, n_flips=999, seed=0), own


def truth(failing: float) -> float:
    """The mean over a great many donors."""
    tp = found_cells(500, failing, stream(1, "truth of interval coverage"))
    return float(np.mean(tp / (2 * N_CELLS - tp)))


def rows() -> list[Fact]:
    """A row for each number of donors, without and with donors on which a run fails."""
    found: list[Fact] = []
    for failing in FAILING:
        expected = truth(failing)
        for n_donors in N_DONORS:
            ours, own = scores(n_donors, failing)
            what = f"{n_donors} donors" + (f", {failing:.0%} fail" if failing else "")
            told, share, wrong = _ours(ours, expected)
            reached = share >= 0.93 and wrong <= 0.06 if n_donors >= 6 and not failing else None
            reach = ">= 93 %, <= 6 %" if reached is not None else ""
            found.append(Fact(what=what, ours=told, reach=reach, reached=reached, peer=_percentiles(own, expected)))
    return found


def _ours(found: xr.Dataset, expected: float) -> tuple[str, float, float]:
    at = {n.RUN: "b", n.REFERENCE: "a"}
    low, high = found[f"{AP50}_{n.INTERVAL}"].sel({n.RUN: "a"}).transpose(n.QUANTILE, ...).values
    share = float(np.mean((low <= expected) & (expected <= high)))
    name = f"{AP50}_{n.DIFFERENCE}"
    below, above = found[f"{name}_{n.INTERVAL}"].sel(at).transpose(n.QUANTILE, ...).values
    holds = (below <= 0) & (above >= 0)
    wrong = float(np.mean(~holds & (found[f"{name}_{n.P}"].sel(at).values <= 0.05)))
    return f"score {share:.1%}, difference {holds.mean():.1%}, false verdicts {wrong:.1%}", share, wrong


def _percentiles(own: NDArray[np.float64], expected: float) -> str:
    n_donors = own.shape[-1]
    drawn = stream(2, "percentiles", n_donors).multinomial(n_donors, np.full(n_donors, 1 / n_donors), N_RESAMPLES)
    means = own @ drawn.T / n_donors
    low, high = np.quantile(means[:, 0], (0.025, 0.975), axis=-1)
    below, above = np.quantile(means[:, 1] - means[:, 0], (0.025, 0.975), axis=-1)
    holds = (below <= 0) & (above >= 0)
    share = np.mean((low <= expected) & (expected <= high))
    return f"score {share:.1%}, difference {holds.mean():.1%} (percentiles)"


if __name__ == "__main__":
    print_table(rows())
