"""What a report shows of the donors: stored datasets, each missing while it has not been computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import xarray as xr

from fintune_xr.analysis.figures.positivity import JudgedTile


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Donor ratios, their associations with outcomes, and how stable these are.

    `analysis` follows ANALYSIS, `clinical` CLINICAL (for the direction of outcomes), `bootstrap` BOOTSTRAP;
    `stability` and `comparisons` come from `comparison.summarise` and `comparison.compare_runs`. `rho_if_lost` has low
    and high (run, marker, outcome): rho if every cell of the quarantined tiles were negative, or positive.
    `positivity` follows POSITIVITY, by run, with `marker` along tile; `ratio_by_rule` is (run, rule, donor, marker),
    `rho_by_rule` (run, rule, marker, outcome), `active_rules` the rule of each run behind `analysis`;
    `baseline` is the run that others are compared to. `signals` are cells (marker, bin) by log(1 + signal) of some
    runs, `judged` tiles of these with the verdict on each cell.
    `redrawn` is `stability` with the threshold of positivity found anew in each resample. `validation` follows
    VALIDATION, by run, of the runs that
    annotations tell something of; `has_marker` says whether cells can be positive at all.
    """

    analysis: xr.Dataset | None = None
    clinical: xr.Dataset | None = None
    bootstrap: xr.Dataset | None = None
    stability: xr.Dataset | None = None
    comparisons: tuple[xr.Dataset, ...] = ()
    rho_if_lost: xr.Dataset | None = None
    positivity: Mapping[str, xr.Dataset] = field(default_factory=dict)
    ratio_by_rule: xr.DataArray | None = None
    rho_by_rule: xr.DataArray | None = None
    active_rules: Mapping[str, str] = field(default_factory=dict)
    baseline: str = ""
    signals: Mapping[str, xr.DataArray] = field(default_factory=dict)
    judged: Mapping[str, tuple[JudgedTile, ...]] = field(default_factory=dict)
    validation: Mapping[str, xr.Dataset] = field(default_factory=dict)
    has_marker: bool = True
    redrawn: xr.Dataset | None = None
