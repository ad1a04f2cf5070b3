"""Probability runs made without a network: maps of one's own, stored as `infer` stores them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.pixels.discs import disc_target
from fintune_xr.pixels.peaks import pick_peaks
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.runs.run import run_creation
from fintune_xr.store.runs.run_shard import write_run_shard
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.store.zarr_io import shards
from fintune_xr.tasks.detection import CandidateTable, tile_points
from fintune_xr.tasks.product import PROBABILITIES
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult
from fintune_xr.text import texts

FLOOR = 0.05


def plausible_maps(cohort: Cohort, *, noise: float = 0.15, seed: int = 0) -> list[NDArray[np.float32]]:
    """Maps of probability: the annotated discs, blurred, with noise; noise alone where nothing is annotated."""
    images, points = cohort.images(lazy=False), cohort.annotations(lazy=False).load()
    shape = (images.sizes[n.Y], images.sizes[n.X])
    maps = []
    for tile in texts(images[n.TILE]):
        target = np.zeros(shape)
        if tile in cohort.annotated_tiles():
            known = tile_points(points, tile)
            target = (disc_target(known.yx, known.diameter_px, shape) == 1).astype(float)
        rng = stream(seed, tile)
        grain = ndimage.gaussian_filter(rng.normal(size=shape), 2)
        maps.append(np.clip(ndimage.gaussian_filter(target, 1) * 0.8 + noise * grain / grain.std(), 0, 1).astype("f4"))
    return maps


def store_run(cohort: Cohort, run: str, maps: list[NDArray[np.float32]], *, restart: bool = False) -> None:
    """A finished run of these maps, one for each tile, with the candidates that are picked in them."""
    diameter = float(np.median(cohort.annotations(lazy=False)[n.DIAMETER_PX].values))
    with writing_run(
        cohort, run, identity={"made": "by hand"}, facts={"model": {"name": "by hand"}}, product=PROBABILITIES,
        restart=restart,
    ) as writer:  # fmt: skip
        creation = run_creation(cohort.location, run)
        for plan in writer.plans():
            chosen = [maps[plan.first + slot] for slot in plan.todo]
            stored = [np.rint(one * 65535).astype(np.uint16) for one in chosen]
            encoded = (shards.encode_tile(one, writer.grid) for one in stored)
            write_run_shard(cohort.location, run, plan, encoded, creation=creation)
            writer.commit([_receipt(plan, chosen, diameter)])
        assert writer.finish()


def _receipt(plan: ShardPlan, maps: list[NDArray[np.float32]], diameter: float) -> ShardReceipt:
    results = []
    for one in maps:
        peaks = pick_peaks(one, diameter_px=diameter, floor=FLOOR)
        label = np.arange(1, len(peaks) + 1, dtype=np.uint32)
        found = CandidateTable(label, peaks.y, peaks.x, peaks.score)
        results.append(TileResult(n.DONE, 0.1, values=found.of_tile, objects=found))
    return ShardReceipt(plan, tuple(results))
