"""Bootstrap of donor ratios: 70 donors x 5 markers x 2 runs x about 50 tiles, 8 outcomes, 1,000 resamples.

The peer is the loop that one writes first: pandas draws and sums, `scipy.stats.spearmanr` correlates. It would take
minutes, so that it is timed on a few resamples and scaled to as many as ours did.
"""

from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import spearmanr
from table import Fact, Reach, Row, medians, print_table, row, seconds

from fintune_xr.analysis.bootstrap import Scheme, resample
from fintune_xr.analysis.kernels.correlation import spearman_blocks
from fintune_xr.analysis.ratio import marker_ratio

N_RESAMPLES = 1_000
N_EXTENDED = 10_000
PEER_RESAMPLES = 5
REACH = Reach(faster=500)
MOST_MB = 300


def cohort(seed: int = 0) -> tuple[xr.Dataset, xr.DataArray]:
    """Counts (run, tile) with ragged tiles, and outcomes (donor, outcome) of which 12 % are missing."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"{donor:08d}", f"marker-{marker}", f"{donor:08d}-{marker}-{i}")
        for donor in range(70)
        for marker in range(5)
        for i in range(rng.integers(30, 71))
    ]
    donor, marker, tile = (list(column) for column in zip(*rows, strict=True))
    n_all = rng.integers(50, 200, (2, len(rows))).astype(np.int32)
    counts = xr.Dataset(
        {"n_positive": (("run", "tile"), rng.binomial(n_all, 0.3).astype(np.int32)), "n_all": (("run", "tile"), n_all)},
        coords={"run": ["baseline", "tuned"], "tile": tile, "donor": ("tile", donor), "marker": ("tile", marker)},
    )
    values = rng.normal(size=(70, 8))
    values[rng.random(values.shape) < 0.12] = np.nan
    coords = {"donor": np.unique(donor), "outcome": [f"outcome-{k}" for k in range(8)]}
    return counts, xr.DataArray(values, dims=("donor", "outcome"), coords=coords)


def pandas_loop(counts: xr.Dataset, outcomes: xr.DataArray, draw: dict[str, object], n_resamples: int) -> list[float]:
    """Rho of every run, marker and outcome in each resample; `draw` goes to `DataFrameGroupBy.sample`."""
    table = counts.to_dataframe().reset_index()
    clinical = outcomes.to_pandas()
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n_resamples):
        drawn = table.groupby(["run", "donor", "marker"]).sample(random_state=rng, **draw)
        sums = drawn.groupby(["run", "marker", "donor"])[["n_positive", "n_all"]].sum()
        ratio = sums.n_positive / sums.n_all
        for _, one in ratio.groupby(["run", "marker"]):
            values = one.droplevel(["run", "marker"])
            for name in clinical.columns:
                pair = pd.concat([values, clinical[name]], axis=1).dropna()
                found.append(spearmanr(pair.iloc[:, 0], pair.iloc[:, 1]).statistic)
    return found


def rows() -> list[Row | Fact]:
    """One row for each scheme that redraws tiles; the limit is the ranking and correlating alone."""
    counts, outcomes = cohort()
    peak_mb = peak_mib(counts, outcomes) * 2**20 / 1e6
    memory = Fact(
        what=f"memory of {N_EXTENDED:,} resamples", ours=f"{peak_mb:.0f} MB", reach=f"< {MOST_MB} MB",
        reached=peak_mb < MOST_MB,
    )  # fmt: skip
    return [
        _speed(counts, outcomes, "tiles_80", {"frac": 0.8}),
        _speed(counts, outcomes, "tiles", {"frac": 1.0, "replace": True}),
        memory,
    ]


def peak_mib(counts: xr.Dataset, outcomes: xr.DataArray, n_resamples: int = N_EXTENDED) -> float:
    """Most MiB that Python and NumPy hold at once for rho and p of `n_resamples`, above what was there before."""
    lazy = resample(counts, outcomes, scheme="tiles_80", n_resamples=n_resamples, seed=1)
    tracemalloc.start()
    lazy[["rho_resampled", "p_resampled"]].compute(scheduler="threads")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def _speed(counts: xr.Dataset, outcomes: xr.DataArray, scheme: Scheme, draw: dict[str, object]) -> Row:
    ratio = marker_ratio(counts.n_positive, counts.n_all).ratio.values
    repeated = np.broadcast_to(ratio, (N_RESAMPLES, *ratio.shape))
    once = np.ones((N_RESAMPLES, 70), np.int64)
    ours = functools.partial(_ours, counts, outcomes, scheme)
    found = medians({"ours": ours, "limit": lambda: spearman_blocks(repeated, once, outcomes.values)})
    pandas_loop(counts, outcomes, draw, 1)
    peer_s = seconds(lambda: pandas_loop(counts, outcomes, draw, PEER_RESAMPLES)) * N_RESAMPLES / PEER_RESAMPLES
    return row(
        f"bootstrap {scheme}, {N_RESAMPLES:,} resamples, 80 rho each", found["ours"],
        (f"pandas loop + spearmanr, scaled from {PEER_RESAMPLES}", peer_s), limit_s=found["limit"], reach=REACH,
    )  # fmt: skip


def _ours(counts: xr.Dataset, outcomes: xr.DataArray, scheme: Scheme) -> xr.Dataset:
    return resample(counts, outcomes, scheme=scheme, n_resamples=N_RESAMPLES, seed=1).compute(scheduler="threads")


if __name__ == "__main__":
    print_table(rows())
