"""Regions that were given classes, as a run of maps of classes: instances of a network that knows no classes, named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.runs.run import run_creation
from fintune_xr.store.runs.run_shard import encode_tile, write_run_shard
from fintune_xr.store.runs.writer import RunWriter, writing_run
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.product import CLASSES, INSTANCES
from fintune_xr.tasks.records import ClassTile, ShardPlan, ShardReceipt, TileResult
from fintune_xr.text import text_array, texts


def require_instances(cohort: Cohort, source: str) -> None:
    """Raises FintuneValueError where `source` is no run of instances: only those become a run of classes."""
    if source not in cohort.run_names() or cohort.run_product(source) is not INSTANCES:
        raise FintuneValueError(
            f"--as-run: expected regions of a run of instances, such as one of sam2.1_hiera_large, got {source!r}. "
            "Classes drawn from the truth, or from classes, are no automatic result."
        )


def write_class_run(
    cohort: Cohort, run: str, source: str, regions: xr.Dataset, class_map: ClassMap, *, identity: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:  # fmt: skip
    """The run `run`: each instance of `source` that is among `regions` with its class, all else none of the classes.

    Tiles without an annotation have not been looked at and stay pending.

    Raises RunMismatchError where another run of that name exists, RunBusyError while it is written.
    """
    of_tile = _classes_of_instances(regions, class_map.n_classes)
    looked_at = np.isin(text_array(cohort.images(lazy=False)[n.TILE]), list(of_tile))
    with writing_run(
        cohort, run, identity=identity, facts=facts, product=CLASSES, sizes={n.CLASS: list(class_map.names)},
        attrs={n.CLASSES: class_map.flags},
    ) as writer:  # fmt: skip
        masks = cohort.run(source, lazy=False)
        for plan in writer.plans(looked_at):
            writer.commit([_written(writer, masks, plan, of_tile, class_map)])
        writer.finish()


def _classes_of_instances(regions: xr.Dataset, n_classes: int) -> dict[str, dict[int, int]]:
    """Class of each instance, by tile; of every tile that was looked at, if nothing was found in it too."""
    found: dict[str, dict[int, int]] = {name: {} for name in regions.attrs["tiles"]}
    rows = zip(texts(regions[n.TILE]), regions[n.LABEL].values, regions[n.REGION_CLASS].values, strict=True)
    for tile, label, chosen in rows:
        if not 1 <= int(chosen) <= n_classes:
            raise FintuneValueError(f"region of {tile}: expected classes 1 to {n_classes}, got {int(chosen)}")
        found[tile][int(label)] = int(chosen)
    return found


def _written(
    writer: RunWriter, masks: xr.Dataset, plan: ShardPlan, of_tile: Mapping[str, Mapping[int, int]], class_map: ClassMap
) -> ShardReceipt:
    cohort = writer.cohort
    images = cohort.images(lazy=False)
    made = []
    for slot in plan.todo:
        at = plan.first + slot
        mask = tile_pixels(masks, at, n.MASK)
        made.append(ClassTile(_named(mask, of_tile[str(images[n.TILE].values[at])]), class_map.n_classes))
    encoded = (encode_tile(one.classes, writer.grid) for one in made)
    write_run_shard(cohort.location, writer.name, plan, encoded, creation=run_creation(cohort.location, writer.name))
    return ShardReceipt(plan, tuple(TileResult(n.DONE, 0.0, values=one.of_tile) for one in made))


def _named(mask: NDArray[np.uint32], classes: Mapping[int, int]) -> NDArray[np.uint8]:
    table = np.zeros(int(mask.max()) + 1, np.uint8)
    for label, chosen in classes.items():
        table[label] = chosen
    return table[mask]
