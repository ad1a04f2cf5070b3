"""Masks from flows and flows from masks, against Cellpose: CPU seconds, and pixels that differ.

The tile of 2048 x 2048 has 1,500 cells. Cellpose's own check and targets take long there, so it is compared on a
part of 768 x 768, without and with noise on the flows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import fastremap
import numpy as np
import torch
from cellpose import dynamics
from cells import grid_of_cells
from table import Fact, Reach, Row, print_table, row

from fintune_xr.models.flows.dynamics import masks_from_flows
from fintune_xr.models.flows.field import FLOW_SCALE, instance_flows
from fintune_xr.models.flows.settings import DynamicsSettings
from fintune_xr.models.flows.trajectories import follow_flows
from fintune_xr.models.protocol import Maps, Mask

REPEATS = 3
PART = 768
MASKS_CPU_S = 0.5


def rows() -> list[Row | Fact]:
    """A whole tile against its mark, its steps against torch's, and a part of it against Cellpose."""
    torch.set_num_threads(1)
    mask = grid_of_cells(1_500)
    maps = maps_of(mask)
    part = fastremap.renumber(mask[:PART, :PART], in_place=False)[0].astype(np.uint32)
    clean = maps_of(part)
    noisy = clean + np.random.default_rng(0).normal(0, 1, clean.shape).astype(np.float32)
    whole_s, _ = cpu_s(lambda: masks_from_flows(maps, DynamicsSettings()))
    whole = Fact(
        what="masks of a tile of 2048 x 2048", ours=f"{whole_s:.2f} CPU-s",
        reach=f"<= {MASKS_CPU_S} CPU-s", reached=whole_s <= MASKS_CPU_S,
    )  # fmt: skip
    return [whole, _steps(maps), *_masks(clean, "clean"), *_masks(noisy, "noisy"), _targets(part)]


def maps_of(mask: Mask) -> Maps:
    """Maps (3, y, x) of a network that makes no mistake on `mask`."""
    return np.concatenate([instance_flows(mask) * FLOW_SCALE, np.where(mask > 0, 6.0, -6.0)[None]]).astype(np.float32)


def cpu_s(function: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, Any]:
    """Least CPU seconds of a call, after one that is not measured, and what it gave."""
    found = function()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times), found


def _steps(maps: Maps) -> Row:
    inside = maps[2] > 0
    flows, pixels = maps[:2] * inside / np.float32(FLOW_SCALE), np.nonzero(inside)
    ours, _ = cpu_s(lambda: follow_flows(flows, pixels, niter=200))
    theirs, _ = cpu_s(lambda: dynamics.follow_flows(flows.copy(), inds=pixels, niter=200), 1)
    return row("200 steps of its 1.1 million pixels", ours, ("cellpose follow_flows", theirs))


def _masks(maps: Maps, kind: str) -> list[Row | Fact]:
    ours, mask = cpu_s(lambda: masks_from_flows(maps, DynamicsSettings()))
    theirs, expected = cpu_s(lambda: dynamics.resize_and_compute_masks(maps[:2].copy(), maps[2].copy()), 1)
    differ = int((mask != fastremap.renumber(expected)[0]).sum())
    return [
        row(f"masks of {PART} x {PART}, {kind} flows", ours, ("cellpose compute_masks", theirs)),
        Fact(what=f"pixels that differ from it, {kind} flows", ours=f"{differ}", reach="0", reached=differ == 0),
    ]


def _targets(mask: Mask) -> Row:
    ours, flows = cpu_s(lambda: instance_flows(mask))
    theirs, expected = cpu_s(lambda: dynamics.masks_to_flows_gpu(mask.astype(np.int64))[0], 1)
    np.testing.assert_allclose(flows, expected, atol=1e-4)
    return row(f"flows of masks, {PART} x {PART}", ours, ("cellpose masks_to_flows", theirs), reach=Reach(faster=50))


if __name__ == "__main__":
    print_table(rows())
