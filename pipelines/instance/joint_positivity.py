"""Shares of cells that are positive in one channel or in several at once, of each donor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.positivity.doubts import doubt_lines
from fintune_xr.analysis.positivity.joint import joint_counts
from fintune_xr.analysis.positivity.rules import FixedRule, OtsuRule
from fintune_xr.analysis.readouts import Readout
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.instance.cell_blocks import cell_blocks
from fintune_xr.pipelines.instance.tissue_regions import TissueRegion
from fintune_xr.store.cohort import Cohort

OfTiles: TypeAlias = Callable[[NDArray[np.int64]], float]
"""A number of the tiles at these positions."""


def positive_share(cohort: Cohort, run: str, readout: Readout, region: TissueRegion | None) -> OfTiles:
    """The share of cells that are positive in every channel of `readout`; tiles of which it is not known are left out.

    How many these are, and why, is said, and which thresholds lie within one mode.

    Raises UnknownNameError for a channel that is not there.
    """
    columns = [n.TILE_INDEX, n.MEAN_INTENSITY, *([n.REGION_CODE] if region is not None else [])]
    conditions = [
        (channel, OtsuRule() if threshold is None else FixedRule(threshold=threshold))
        for channel, threshold in readout.conditions
    ]
    counts = joint_counts(
        cell_blocks(cohort, run, columns), cohort.run(run, lazy=False), conditions=conditions,
        region=None if region is None else region.code,
    )  # fmt: skip
    for reason, number in Counter(filter(None, counts[n.REASON].values.tolist())).items():
        say(f"associate: {readout.text} of run {run}: {number} tile(s) are left out: {reason}")
    for line in doubt_lines(counts.attrs[n.THRESHOLD_DOUBTS], OtsuRule().name):
        say(f"associate: {readout.text} of run {run}: {line}")
    n_all, n_positive = counts[n.N_ALL].values, counts[n.N_POSITIVE].values

    def share(rows: NDArray[np.int64]) -> float:
        known = rows[n_all[rows] >= 0]
        return float(n_positive[known].sum() / n_all[known].sum()) if n_all[known].any() else float("nan")

    return share
