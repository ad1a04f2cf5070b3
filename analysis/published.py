"""Published figures of the original study, for tables that set ours beside them."""

from __future__ import annotations

from typing import Final

import xarray as xr

MODEL: Final = "model"
METRIC: Final = "metric"
BUDGET: Final = "budget"

# The figures are shown beside cohorts with a marker of that study only.
STUDY_MARKERS: Final = frozenset({"GFAP", "IBA1", "OLIG2"})

_SEGMENTATION: Final = {
    "baseline": (0.1062, 0.0981, 0.7864, 0.1744),
    "generic": (0.2359, 0.5009, 0.5261, 0.5132),
    "GFAP-specific": (0.1493, 0.2364, 0.6185, 0.3420),
    "hybrid": (0.2580, 0.4639, 0.5700, 0.5115),
    "marker-only": (0.0899, 0.4863, 0.2659, 0.3438),
}
_METRICS: Final = ("average_precision_50", "precision", "recall", "f1")
_LABEL_BUDGET: Final = {2: 0.0623, 5: 0.1439, 10: 0.2324, 20: 0.3970, 30: 0.4044}


def published_segmentation() -> xr.DataArray:
    """Test scores (model, metric): AP at IoU 0.5 as a mean over images; precision, recall and F1 pooled."""
    return xr.DataArray(
        list(_SEGMENTATION.values()),
        dims=(MODEL, METRIC),
        coords={MODEL: list(_SEGMENTATION), METRIC: list(_METRICS)},
        name="published_segmentation",
        attrs={"units": "1", "long_name": "Test scores of the original study."},
    )


def published_budget() -> xr.DataArray:
    """AP at IoU 0.5 (budget) after training on that many annotated tiles."""
    return xr.DataArray(
        list(_LABEL_BUDGET.values()),
        dims=BUDGET,
        coords={BUDGET: list(_LABEL_BUDGET)},
        name="published_budget",
        attrs={"units": "1", "long_name": "AP50 of the original study by number of annotated tiles."},
    )


PUBLISHED_CHOICES: Final = {
    "post-processing": "percentiles 0 to 100, min_area 50 px",
    "micro-SAM": "64 points per side",
}
"""Settings that the original study found best in its ablations."""
