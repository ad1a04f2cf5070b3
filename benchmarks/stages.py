"""CPU seconds of every stage of one tile of 2048 x 2048 with 1,500 cells but the network, and stored bytes.

What a GPU worker needs of its CPU cores. `python benchmarks/stages.py`
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cells import grid_of_cells, image_of_cells

from fintune_xr import names as n
from fintune_xr.models.flows.dynamics import masks_from_flows
from fintune_xr.models.flows.field import FLOW_SCALE, instance_flows
from fintune_xr.models.flows.segmenter import normalise
from fintune_xr.models.flows.settings import DynamicsSettings
from fintune_xr.pixels.cell_measurement import measure_cells
from fintune_xr.store.cohort import create_cohort
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import open_column

REPEATS = 3


def main() -> None:
    """Prints CPU seconds (median of three calls) and bytes."""
    mask = grid_of_cells(1_500)
    image = image_of_cells(mask)
    maps = np.concatenate([instance_flows(mask) * FLOW_SCALE, np.where(mask > 0, 6.0, -6.0)[None]]).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="bench-stages-") as folder:
        cohort = create_cohort(
            Path(folder) / "a.zarr", kind="if", channels=["DAPI", "marker"], tile_shape=image.shape[1:], dtype="uint16"
        )
        grid = cohort.images_group().grid
        mask_grid = shards.plan_grid("mask", "uint32", mask.shape, 256)
        encoded = shards.encode_tile(image, grid)
        shards.write_shard(cohort.location, grid, 0, [encoded])
        column = open_column(cohort.location, f"{n.IMAGES}/{n.IMAGE}")
        column.resize((1, *column.shape[1:]))
        array = cohort.images_group().array
        stages: dict[str, Callable[[], object]] = {
            "read and decode": lambda: np.asarray(array[0]),
            "normalise": lambda: normalise(image),
            "reconstruct": lambda: masks_from_flows(maps, DynamicsSettings()),
            "measure": lambda: measure_cells(mask, image),
            "encode mask": lambda: shards.encode_tile(mask, mask_grid),
        }
        seconds = {name: _cpu_s(stage) for name, stage in stages.items()}
    for name, cpu in {**seconds, "all": sum(seconds.values())}.items():
        print(f"{name:16} {cpu:6.2f} CPU-s")
    found = masks_from_flows(maps, DynamicsSettings())
    print(f"cells drawn and reconstructed: {mask.max()}, {found.max()}")
    print(f"image {image.nbytes / 1e6:.1f} MB, stored {_size(encoded):.2f} MB")
    print(f"mask  {mask.nbytes / 1e6:.1f} MB, stored {_size(shards.encode_tile(mask, mask_grid)):.2f} MB")


def _size(encoded: shards.Encoded) -> float:
    return sum(map(len, encoded)) / 1e6


def _cpu_s(stage: Callable[[], object]) -> float:
    stage()
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        stage()
        found.append(time.process_time() - began)
    return sorted(found)[REPEATS // 2]


if __name__ == "__main__":
    main()
