"""Matching predicted with annotated instances on 2048 x 2048 at ten IoU thresholds."""

from __future__ import annotations

import numpy as np
from cellpose.metrics import average_precision
from cells import added_up, grid_of_cells
from table import Reach, Row, compared, print_table

from fintune_xr.metrics.instance import IOU_THRESHOLDS, match_masks


def rows() -> list[Row]:
    """Two rows: masks that hardly agree, and a prediction that is the truth with its outlines moved."""
    true = grid_of_cells(1500)
    pairs = {
        "1,500 x 1,650 cells, unrelated": grid_of_cells(1650, seed=1),
        "1,500 x 1,500 cells, moved by 3 px": np.roll(true, 3, axis=(0, 1)),
    }
    return [_row(what, true, predicted) for what, predicted in pairs.items()]


def _row(what: str, true: np.ndarray, predicted: np.ndarray) -> Row:
    thresholds = list(IOU_THRESHOLDS)
    ours = match_masks(true, predicted)
    theirs = average_precision(true, predicted, thresholds)[1:]
    for found, expected in zip((ours.tp, ours.fp, ours.fn), theirs, strict=True):
        np.testing.assert_array_equal(found, expected)
    return compared(
        f"instance matching, {what}",
        lambda: match_masks(true, predicted),
        ("cellpose.metrics", lambda: average_precision(true, predicted, thresholds)),
        limit=lambda: (added_up(true), added_up(predicted)),
        reach=Reach(faster=30),
    )


if __name__ == "__main__":
    print_table(rows())
