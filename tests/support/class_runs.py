"""Cohorts of simulated tissue, and runs of classes made without a network, stored as `infer` stores them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.seeds import stream
from fintune_xr.simulation.he_cohort import HeCohortSettings, simulate_he_cohort
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.store.runs.run import run_creation
from fintune_xr.store.runs.run_shard import write_run_shard
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.store.zarr_io import shards
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.product import CLASSES
from fintune_xr.tasks.records import ClassTile, ShardPlan, ShardReceipt, TileResult
from fintune_xr.text import texts

SMALL = HeCohortSettings(n_donors=8, tiles_per_donor=(1, 2), tile_px=96, damaged=False, seed=3)


def tissue_store(folder: Path, *, settings: HeCohortSettings = SMALL, cut: int = 0) -> Path:
    """A store of annotated simulated patches, not split."""
    simulate_he_cohort(folder / "raw", settings=settings)
    ingest(folder / "raw", folder / "he.zarr", layout="bcss", cut=cut)
    annotate(folder / "raw", folder / "he.zarr", layout="bcss")
    return folder / "he.zarr"


def truth_maps(cohort: Cohort, class_map: ClassMap) -> list[NDArray[np.uint8]]:
    """Labels (y, x) of every tile, which are annotated all, in its real size."""
    images, truth = cohort.images(lazy=False), cohort.annotations(lazy=False)
    ignored = annotated_legend(cohort).ignored
    maps = []
    for at, tile in enumerate(texts(images[n.TILE])):
        height, width = int(images[n.HEIGHT][at]), int(images[n.WIDTH][at])
        codes = truth[n.CLASSES].sel({n.TILE: tile}).values[:height, :width]
        maps.append(class_map.labels(codes, ignored))
    return maps


def shaken_maps(cohort: Cohort, class_map: ClassMap, *, wrong: float, seed: int = 0) -> list[NDArray[np.uint8]]:
    """The truth with blocks of 8 px that are wrong."""
    maps = []
    for at, truth in enumerate(truth_maps(cohort, class_map)):
        rng = stream(seed, "shaken", at)
        height, width = truth.shape
        blocks = (-(-height // 8), -(-width // 8))
        is_wrong = np.kron(rng.random(blocks) < wrong, np.ones((8, 8), bool))[:height, :width]
        other = np.kron(rng.integers(0, class_map.n_classes + 1, blocks), np.ones((8, 8)))[:height, :width]
        maps.append(np.where(is_wrong | (truth == 255), other, truth).astype(np.uint8))
    return maps


def store_class_run(
    cohort: Cohort, run: str, maps: Sequence[NDArray[np.uint8]], class_map: ClassMap, *, restart: bool = False
) -> None:
    """A finished run of these maps, one for each tile."""
    with writing_run(
        cohort, run, identity={"made": "by hand"}, facts={"model": {"name": "by hand"}}, product=CLASSES,
        sizes={n.CLASS: list(class_map.names)}, attrs={n.CLASSES: class_map.flags}, restart=restart,
    ) as writer:  # fmt: skip
        creation = run_creation(cohort.location, run)
        for plan in writer.plans():
            chosen = [maps[plan.first + slot] for slot in plan.todo]
            encoded = (shards.encode_tile(one, writer.grid) for one in chosen)
            write_run_shard(cohort.location, run, plan, encoded, creation=creation)
            writer.commit([_receipt(plan, chosen, class_map)])
        assert writer.finish()


def small_store_with_runs(folder: Path) -> Path:
    """A split store with two runs, `good` and `poor`."""
    from fintune_xr.pipelines.steps.split import split

    store = tissue_store(folder)
    split(store, fractions=(0.5, 0.25, 0.25), seed=1)
    cohort, class_map = open_cohort(store), ClassMap()
    for name, wrong in (("good", 0.05), ("poor", 0.4)):
        store_class_run(cohort, name, shaken_maps(cohort, class_map, wrong=wrong), class_map)
    return store


def _receipt(plan: ShardPlan, maps: Sequence[NDArray[np.uint8]], class_map: ClassMap) -> ShardReceipt:
    values = [ClassTile(one, class_map.n_classes).of_tile for one in maps]
    return ShardReceipt(plan, tuple(TileResult(n.DONE, 0.1, values=one) for one in values))
