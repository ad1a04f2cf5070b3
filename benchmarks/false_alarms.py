"""How often a report tells of an association where there is none: 3 markers by 8 outcomes, any q below 0.05.

Ratios and outcomes are drawn independently of each other; two of the outcomes are whole-number stages with ties. Beside
the product (permutations, no q below 5 donors) the same table with Student's t, as `cor.test(exact = FALSE)` gives it.
"""

from __future__ import annotations

import xarray as xr
from table import Fact, print_table

from fintune_xr import names as n
from fintune_xr.analysis.association import associate, q_values
from fintune_xr.analysis.kernels.correlation import p_value
from fintune_xr.seeds import stream

N_STUDIES = 500
N_DONORS = (3, 4, 5, 6, 8, 12, 20, 30)
ALPHA = 0.05


def study(n_donors: int, index: int, n_covariates: int = 0) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray | None]:
    """Ratio (run, donor, marker), outcomes (donor, outcome) and covariates of one study in which nothing is true."""
    chance = stream(0, "false alarms", n_donors, index)
    donor = [f"{i:03d}" for i in range(n_donors)]
    ratio = xr.DataArray(chance.beta(2, 6, (1, n_donors, 3)), dims=(n.RUN, n.DONOR, n.MARKER), coords={n.DONOR: donor})
    values = chance.normal(size=(n_donors, 8))
    values[:, :2] = chance.integers(0, 7, (n_donors, 2))
    outcomes = xr.DataArray(values, dims=(n.DONOR, n.OUTCOME), coords={n.DONOR: donor})
    if not n_covariates:
        return ratio, outcomes, None
    more = chance.normal(size=(n_donors, n_covariates))
    coords = {n.DONOR: donor, n.COVARIATE: [f"c{i}" for i in range(n_covariates)]}
    return ratio, outcomes, xr.DataArray(more, dims=(n.DONOR, n.COVARIATE), coords=coords)


def shares(n_donors: int, n_covariates: int = 0) -> tuple[float, float]:
    """Share of the studies with any q below ALPHA: as the product reports, and by Student's t."""
    ours = theirs = 0
    for index in range(N_STUDIES):
        ratio, outcomes, covariates = study(n_donors, index, n_covariates)
        found = associate(ratio, outcomes, covariates=covariates)
        by_t = found[n.RHO].copy(data=p_value(found[n.RHO].values, found[n.N].values, n_covariates))
        ours += bool((found[n.Q] < ALPHA).any())
        theirs += bool((q_values(by_t, family=(n.MARKER, n.OUTCOME)) < ALPHA).any())
    return ours / N_STUDIES, theirs / N_STUDIES


def rows() -> list[Fact]:
    """A row for each number of donors, without and with a covariate."""
    found: list[Fact] = []
    for n_covariates in (0, 1):
        for n_donors in N_DONORS:
            ours, by_t = shares(n_donors, n_covariates)
            what = f"{n_donors} donors" + (f", {n_covariates} covariate" if n_covariates else "")
            found.append(
                Fact(
                    what=what,
                    ours=f"{ours:.1%}",
                    reach="<= 6.4 %",
                    reached=ours <= 0.064,
                    peer=f"{by_t:.1%} (Student t)",
                )
            )
    return found


if __name__ == "__main__":
    print_table(rows())
