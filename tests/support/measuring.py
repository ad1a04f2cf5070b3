"""`measure` in a process of its own, slow enough that a kill finds it under way; sizes of pixels, and damage."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.zarr_io.groups import open_column


def set_sides(cohort: Cohort, side: float, tiles: slice = slice(None)) -> None:
    """Stores the side of a pixel of `tiles` in um."""
    open_column(cohort.location, f"{n.IMAGES}/{n.MPP}")[tiles] = side


def damage(file: Path) -> None:
    """Flips the bits of a byte in the middle of a file."""
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 0xFF
    file.write_bytes(bytes(body))


def measure_slowly(store: str, marker: str) -> None:
    """All columns of run `base` in blocks of five rows, each commit noted in the file `marker`."""
    from fintune_xr.pipelines.steps.measure import measure
    from fintune_xr.store.runs import measurement_writer as writer

    os.setpgrp()
    writer.LEAST_ROWS = 5
    commit = writer.MeasurementWriter.commit

    def slowly(self: writer.MeasurementWriter, done: Any) -> None:
        for block in done:
            commit(self, [block])
            with Path(marker).open("a") as file:
                file.write("1")
            time.sleep(0.1)

    writer.MeasurementWriter.commit = slowly  # type: ignore[method-assign]
    measure(store, run="base", overrides=("cluster.dashboard=false",))
    os._exit(0)
