"""How often resamples of donors, and of tiles within donors, hold the true rho.

Simulated: a latent burden drives the outcome and the share of positive cells; 10 tiles of 40 cells a donor, which
differ more than chance. The truth is Spearman's rho of the measured ratio in a great many such donors. Tiles drawn
within donors keep every donor: their range cannot say what other donors would give; it is called stability,
without a level.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import spearmanr
from table import Fact, print_table

from fintune_xr import names as n
from fintune_xr.analysis.bootstrap import Scheme, resample
from fintune_xr.analysis.comparison import HIGH, LOW, summarise
from fintune_xr.seeds import stream

N_STUDIES, N_RESAMPLES, N_TILES, N_CELLS = 300, 500, 10, 40
N_DONORS = (6, 12, 24, 70)
STRENGTHS = (0.0, 1.0)
SCHEMES: tuple[Scheme, ...] = ("donors", "tiles_80", "tiles")


def study(n_donors: int, strength: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positive cells (donor, tile) and outcome (donor,)."""
    chance = stream(seed, "rho coverage", n_donors)
    outcome = chance.normal(size=n_donors)
    of_donor = -1 + 0.5 * strength * outcome + chance.normal(0, 0.5, n_donors)
    of_tile = of_donor[:, None] + chance.normal(0, 0.5, (n_donors, N_TILES))
    return chance.binomial(N_CELLS, 1 / (1 + np.exp(-of_tile))), outcome


def truth(strength: float) -> float:
    """Rho of 20,000 donors."""
    positive, outcome = study(20_000, strength, 1)
    return float(spearmanr(positive.sum(axis=-1), outcome).statistic) if strength else 0.0


def held(n_donors: int, strength: float, index: int, expected: float) -> list[bool]:
    """Whether 95 % of the resamples of one study hold the truth, by scheme."""
    positive, outcome = study(n_donors, strength, 2 + index)
    donor = [f"{i:03d}" for i in range(n_donors) for _ in range(N_TILES)]
    tile = [f"{name}-{i}" for i, name in enumerate(donor)]
    coords = {n.RUN: ["r"], n.TILE: tile, n.DONOR: (n.TILE, donor), n.MARKER: (n.TILE, ["m"] * len(tile))}
    cells = {n.N_POSITIVE: positive.reshape(1, -1), n.N_ALL: np.full((1, len(tile)), N_CELLS)}
    counts = xr.Dataset({name: ((n.RUN, n.TILE), value) for name, value in cells.items()}, coords)
    table = xr.DataArray(
        outcome[:, None], dims=(n.DONOR, n.OUTCOME), coords={n.DONOR: donor[::N_TILES], n.OUTCOME: ["o"]}
    )
    found = []
    for scheme in SCHEMES:
        drawn = resample(counts, table, scheme=scheme, n_resamples=N_RESAMPLES, seed=index)
        ends = summarise(drawn.compute(scheduler="synchronous"))
        found.append(bool(ends[LOW].item() <= expected <= ends[HIGH].item()))
    return found


def rows() -> list[Fact]:
    """A row for each number of donors, with and without an association."""
    found: list[Fact] = []
    for strength in STRENGTHS:
        expected = truth(strength)
        for n_donors in N_DONORS:
            shares = np.mean([held(n_donors, strength, index, expected) for index in range(N_STUDIES)], axis=0)
            within = ", ".join(f"{scheme} {share:.1%}" for scheme, share in zip(SCHEMES[1:], shares[1:], strict=True))
            what = f"{n_donors} donors, rho {expected:.2f}"
            found.append(Fact(what=what, ours=f"donors {shares[0]:.1%}", reach="", reached=None, peer=within))
    return found


if __name__ == "__main__":
    print_table(rows())
