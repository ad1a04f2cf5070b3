"""Published figures of the original study, for tables that set ours beside them."""

from __future__ import annotations

from typing import Final

import xarray as xr

MODEL: Final = "model"
METRIC: Final = "metric"

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


def published_segmentation() -> xr.DataArray:
    """Test scores (model, metric): AP at IoU 0.5 as a mean over images; precision, recall and F1 pooled."""
    return xr.DataArray(
        list(_SEGMENTATION.values()),
        dims=(MODEL, METRIC),
        coords={MODEL: list(_SEGMENTATION), METRIC: list(_METRICS)},
        name="published_segmentation",
        attrs={"units": "1", "long_name": "Test scores of the original study."},
    )


PUBLISHED_CHOICES: Final = {
    "post-processing": "percentiles 0 to 100, min_area 50 px",
    "micro-SAM": "64 points per side",
}
"""Settings that the original study found best in its ablations."""
