"""Donor ratios and their correlations in many resamples of the tiles or of the donors, lazily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.groups import TileGroups, of_donors, tile_groups, with_runs
from fintune_xr.analysis.kernels import correlation as kernels
from fintune_xr.analysis.kernels import permutation
from fintune_xr.analysis.kernels import resampling as kernels_resample
from fintune_xr.datasets import BOOTSTRAP
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.names import (
    COVARIATE,
    DONOR,
    MARKER,
    N_ALL,
    N_DRAWN,
    N_POSITIVE,
    OUTCOME,
    P_METHOD,
    P_RESAMPLED,
    RATIO_RESAMPLED,
    RESAMPLE,
    RHO_RESAMPLED,
    RUN,
    TILE,
)
from fintune_xr.schema import check_dataset
from fintune_xr.seeds import stream

Scheme = Literal["tiles_80", "tiles", "donors", "donors_threshold"]

OF_DONORS: Final = "donors"
"""The scheme whose draws give intervals; the others draw tiles within donors and show stability alone."""

DONORS_THRESHOLD: Final = "donors_threshold"
"""The same draws of donors, with the threshold of positivity found anew in each (`threshold_redrawn`)."""

OVER_DONORS: Final = (OF_DONORS, DONORS_THRESHOLD)

SCHEMES: Final[dict[str, str]] = {
    "tiles_80": "80 % of each donor's tiles of a marker, to the nearest tile, without replacement",
    "tiles": "as many tiles of each donor and marker as there are, with replacement",
    "donors": "as many donors as there are, with replacement; their tiles stay nested and come whole",
}

ALL_SCHEMES: Final[dict[str, str]] = {
    **SCHEMES,
    DONORS_THRESHOLD: "as donors, and the threshold of positivity is found anew among the cells of the drawn donors",
}

P_OF_RESAMPLES: Final = "orders without ties to 9 pairs, Student t beyond"
"""How p_resampled is found, stored as `p_method`; resamples that lack the attribute used Student's t throughout."""

RESAMPLES_PER_BLOCK: Final = 100


def resample(
    counts: xr.Dataset,
    outcomes: xr.DataArray,
    *,
    scheme: Scheme,
    n_resamples: int,
    seed: int,
    first: int = 0,
    covariates: xr.DataArray | None = None,
) -> xr.Dataset:
    """Ratio (resample, run, donor, marker), rho and p (resample, run, marker, outcome), all lazy.

    `counts` holds n_positive and n_all (tile) or (run, tile), with the coordinates tile, donor and marker;
    `outcomes` (donor, outcome) may lack donors and values. The coordinate `resample` runs from `first`: 1,000
    resamples are extended to 10,000 by asking for 9,000 with `first=1000`. n_drawn (resample, donor) is how
    often a donor counts. All runs and outcomes see the same draws, and a draw depends on `seed`, `scheme`,
    its index and the names of tile, donor and marker only.

    `donors` keeps the tiles of a drawn donor as they are, because redrawing them as well would count the
    variation between tiles twice; a donor that is not drawn has ratio NaN. p takes the draws as independent
    donors. With `covariates` (donor, covariate) rho is the partial Spearman correlation in each resample.

    Raises FintuneValueError for numbers or coordinates that make no sense, UnknownNameError for a scheme.
    Reference: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8.
    """
    _check_request(scheme, n_resamples, first)
    n_positive, n_all = with_runs(counts[N_POSITIVE]), with_runs(counts[N_ALL])
    draws = _draws(n_all, scheme, seed)
    index = _index(first, n_resamples)
    drawn = _drawn(index, draws)
    ratio = _ratio(index, n_positive, n_all, draws)
    tables = [outcomes.transpose(DONOR, OUTCOME)]
    if covariates is not None:
        tables.append(covariates.transpose(DONOR, COVARIATE))
    rho, p = rho_over_draws(ratio, drawn, [of_donors(table, draws.groups.donors) for table in tables])
    parts = {RATIO_RESAMPLED: ratio.where(drawn > 0), RHO_RESAMPLED: rho, P_RESAMPLED: p, N_DRAWN: drawn}
    named = {name: part.assign_attrs(BOOTSTRAP[name].attrs) for name, part in parts.items()}
    facts: dict[str, Any] = {"scheme": scheme, "scheme_meaning": SCHEMES[scheme], "seed": seed}
    facts[P_METHOD] = P_OF_RESAMPLES
    if covariates is not None:
        facts["covariates"] = [str(name) for name in covariates[COVARIATE].to_numpy()]
    return check_dataset(xr.Dataset(named, attrs=facts), BOOTSTRAP)


@dataclass(frozen=True)
class _Draws:
    """What a block needs to draw: the scheme, the tiles in an order that their names fix, and the key."""

    scheme: str
    groups: TileGroups
    order: NDArray[np.int64]
    key: int


def _draws(tiles: xr.DataArray, scheme: str, seed: int) -> _Draws:
    if TILE not in tiles.coords:
        raise FintuneValueError(
            f"expected the coordinate {TILE!r} along {TILE!r}, found {sorted(map(str, tiles.coords))}. "
            "A draw is addressed by the tile's name, so that it does not depend on the order of the tiles."
        )
    groups = tile_groups(tiles)
    order = np.lexsort([np.array(tiles.coords[TILE].to_numpy().tolist(), dtype=str), groups.group_of_tile])
    return _Draws(scheme, groups, order, _key(seed, scheme))


def _key(seed: int, scheme: str) -> int:
    return int(stream(seed, "bootstrap", scheme).integers(0, 2**64, dtype=np.uint64))


def _check_request(scheme: str, n_resamples: int, first: int) -> None:
    if scheme not in SCHEMES:
        raise unknown_name("resampling scheme", scheme, SCHEMES)
    if n_resamples < 1 or first < 0:
        raise FintuneValueError(
            f"expected n_resamples >= 1 and first >= 0, got n_resamples={n_resamples} and first={first}"
        )


def _index(first: int, n_resamples: int) -> xr.DataArray:
    values = np.arange(first, first + n_resamples)
    index = xr.DataArray(values, dims=RESAMPLE, coords={RESAMPLE: values})
    return index.chunk({RESAMPLE: RESAMPLES_PER_BLOCK})


def _drawn(index: xr.DataArray, draws: _Draws) -> xr.DataArray:
    drawn: xr.DataArray = xr.apply_ufunc(
        _drawn_block,
        index,
        kwargs={"draws": draws},
        output_core_dims=[[DONOR]],
        dask="parallelized",
        output_dtypes=[np.int32],
        dask_gufunc_kwargs={"output_sizes": {DONOR: draws.groups.donors.size}},
    )
    return drawn.assign_coords({DONOR: draws.groups.donors})


def _ratio(index: xr.DataArray, n_positive: xr.DataArray, n_all: xr.DataArray, draws: _Draws) -> xr.DataArray:
    groups = draws.groups
    ratio: xr.DataArray = xr.apply_ufunc(
        _ratio_block,
        index,
        n_positive,
        n_all,
        kwargs={"draws": draws},
        input_core_dims=[[], [RUN, TILE], [RUN, TILE]],
        output_core_dims=[[RUN, DONOR, MARKER]],
        join="exact",
        exclude_dims={TILE},
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {DONOR: groups.donors.size, MARKER: groups.markers.size}},
    )
    return ratio.assign_coords({DONOR: groups.donors, MARKER: groups.markers})


def drawn_donors(
    donors: xr.DataArray, *, n_resamples: int, seed: int, first: int = 0
) -> tuple[xr.DataArray, xr.DataArray]:
    """Numbers of resamples (resample,) and how often each donor (resample, donor) is drawn by the scheme `donors`."""
    index, key = _index(first, n_resamples), _key(seed, OF_DONORS)
    drawn: xr.DataArray = xr.apply_ufunc(
        lambda block: kernels_resample.draw_donors(donors.size, key, block),
        index,
        output_core_dims=[[DONOR]],
        dask="parallelized",
        output_dtypes=[np.int32],
        dask_gufunc_kwargs={"output_sizes": {DONOR: donors.size}},
    )
    return index, drawn.assign_coords({DONOR: donors.values})


def rho_over_draws(
    ratio: xr.DataArray, drawn: xr.DataArray, tables: list[xr.DataArray]
) -> tuple[xr.DataArray, xr.DataArray]:
    """Rho and p (resample, run, marker, outcome) of ratios (resample, run, donor, marker), donors counted as `drawn`.

    `tables` are the outcomes (donor, outcome) and, where rho is partial, covariates (donor, covariate) of these donors.
    """
    rho, p = xr.apply_ufunc(
        _rho_block,
        ratio,
        drawn,
        *tables,
        input_core_dims=[[RUN, DONOR, MARKER], [DONOR], *(list(map(str, table.dims)) for table in tables)],
        output_core_dims=[[RUN, MARKER, OUTCOME]] * 2,
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64] * 2,
    )
    return rho, p


def _drawn_block(index: NDArray[np.int64], *, draws: _Draws) -> NDArray[np.int32]:
    n_donors = draws.groups.donors.size
    if draws.scheme == "donors":
        return kernels_resample.draw_donors(n_donors, draws.key, index)
    return np.ones((index.size, n_donors), np.int32)


def _ratio_block(
    index: NDArray[np.int64], n_positive: NDArray[Any], n_all: NDArray[Any], *, draws: _Draws
) -> NDArray[np.float64]:
    group = draws.groups.group_of_tile[draws.order]
    n_positive, n_all = n_positive[:, draws.order], n_all[:, draws.order]
    pools = kernels_resample.pools(n_positive, n_all, group, draws.groups.group_keys)
    if draws.scheme == "tiles_80":
        ratio = kernels_resample.leave_out_ratios(pools, draws.key, index)
    elif draws.scheme == "tiles":
        ratio = kernels_resample.ratios_redrawn(pools, draws.key, index)
    else:
        ratio = kernels_resample.ratios_whole(pools, index)
    return ratio.reshape(*ratio.shape[:2], *draws.groups.shape)


def _rho_block(
    ratio: NDArray[np.float64],
    drawn: NDArray[np.int32],
    outcomes: NDArray[np.float64],
    covariates: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if covariates is None:
        rho, n = kernels.spearman_blocks(ratio, drawn, outcomes)
        return rho, permutation.resampled_p(rho, n)
    rho, n, lost = kernels.partial_spearman_blocks(ratio, drawn, outcomes, covariates)
    return rho, permutation.resampled_p(rho, n, lost)
