"""What `infer` would do, without doing it: for `--dry-run`."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.cluster.profile import Profile
from fintune_xr.cluster.slurm.job_script import job_script
from fintune_xr.errors import DeviceError
from fintune_xr.execution.peak_memory import begin_peak_gb, peak_gb
from fintune_xr.execution.read_ahead import batches
from fintune_xr.pipelines.inference.block import BlockContext
from fintune_xr.pipelines.inference.request import infer_settings, resolve_request, run_context, run_sizes
from fintune_xr.pipelines.steps.infer import in_parts
from fintune_xr.pipelines.workers.devices import profile_and_rest
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.settings import Config
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs.create import tiles_per_shard
from fintune_xr.store.runs.run import run_tiles_per_shard

PILOT_TILES: Final = 3
_ENOUGH_DONE: Final = 20


def plan_run(
    store: str | Path,
    *,
    run: str,
    model: str | None = None,
    cluster: str = "threads",
    config: Config = None,
    overrides: Sequence[str] = (),
    parts: Sequence[str] = (),
    pilot: int = PILOT_TILES,
) -> dict[str, Any]:
    """What `infer` would do: pending tiles, blocks, batches, jobs, hours; for slurm also the job script.

    The hours come from tiles that the run has done already where there are 20 or more, else from `pilot` pending tiles
    that are segmented here and now. Nothing is written.
    """
    cohort = open_cohort(store).opened_once()
    profile, rest = profile_and_rest(cluster, overrides)
    settings = infer_settings(config, rest)
    checkpoint, settings = resolve_request(cohort, run, model, settings, restart=False)
    context = run_context(cohort, run, checkpoint, settings, profile)
    # Nothing is made of them; what they refuse is refused here too.
    run_sizes(cohort, checkpoint, context.settings)
    pending = _pending(cohort, run, parts)
    blocks = _blocks(cohort, run, pending)
    jobs = max(1, min(profile.n_workers, math.ceil(sum(map(bool, blocks)) / profile.n_threads)))
    made = {
        "run": run,
        "model": f"{checkpoint.kind} {checkpoint.name} (sha256 {checkpoint.sha256[:12]})",
        "tiles": pending.size,
        "pending": int(pending.sum()),
        "blocks": f"{sum(map(bool, blocks))} of up to {max(blocks, default=0)} tiles",
        "batches": sum(math.ceil(size / context.batch_tiles) for size in blocks),
        "device": context.device,
        "workers": _workers(profile),
    }
    if profile.is_remote:
        made["jobs"] = f"{jobs} at once, each with {profile.n_threads} block(s) at a time"
    pace = _pace(cohort, context, pending, profile, pilot)
    made |= _hours(pace, blocks, jobs, profile) | _memory(pace, context, profile)
    return made | ({"job script": f"\n{job_script(profile)}"} if profile.is_remote else {})


def _workers(profile: Profile) -> str:
    if profile.kind == "cuda":
        return f"one for each of {profile.workers or 'all'} GPU(s) of this machine"
    return f"{'up to ' if profile.is_remote else ''}{profile.n_workers} {profile.kind}"


def _pending(cohort: Cohort, run: str, parts: Sequence[str]) -> NDArray[np.bool_]:
    """Tiles (tile,) still to do; those that the run does not know yet among them."""
    pending = np.ones(cohort.images(lazy=False).sizes[n.TILE], bool)
    if run in cohort.run_names():
        states = cohort.run(run, lazy=False)[n.STATE].values
        pending[: states.size] = states == n.PENDING
    wanted = in_parts(cohort, parts)
    return pending if wanted is None else pending & wanted


def _blocks(cohort: Cohort, run: str, pending: NDArray[np.bool_]) -> list[int]:
    """Pending tiles in each mask shard."""
    is_known = run in cohort.run_names()
    size = run_tiles_per_shard(cohort.location, run) if is_known else tiles_per_shard(pending.size)
    return [int(pending[first : first + size].sum()) for first in range(0, pending.size, size)]


@dataclass(frozen=True, slots=True)
class _Pace:
    """Seconds for one tile, all stages one after another, and where they come from; NaN where nobody knows.

    `batch_gb` is the memory that a batch of the pilot took at its peak, `rest_gb` what the process held before.
    """

    seconds: float
    source: str
    batch_gb: float = math.nan
    rest_gb: float = math.nan


def _seconds_of_run(cohort: Cohort, run: str) -> NDArray[np.float32]:
    """What tiles took that the run has done; none where there is no such run."""
    if run not in cohort.run_names():
        return np.zeros(0, np.float32)
    found = cohort.run(run, lazy=False)
    took: NDArray[np.float32] = found[n.SECONDS].values[found[n.STATE].values == n.DONE]
    return took


def _pace(cohort: Cohort, context: BlockContext, pending: NDArray[np.bool_], profile: Profile, pilot: int) -> _Pace:
    took = _seconds_of_run(cohort, context.run)
    if took.size >= _ENOUGH_DONE:
        return _Pace(float(np.median(took)), f"the median of {took.size} tiles that this run has done")
    tiles = np.flatnonzero(pending)
    if not pilot or not tiles.size:
        return _Pace(math.nan, "no pilot was asked for" if tiles.size else "nothing is pending")
    chosen = tiles[np.linspace(0, tiles.size - 1, min(pilot, tiles.size)).astype(int)]
    try:
        seconds, rest_gb, peak_gb = _timed(cohort.images(lazy=False), chosen, context)
    except DeviceError as error:
        return _Pace(math.nan, f"no pilot: the workers compute on {context.device}, which is not here ({error})")
    where = "on this machine, whose CPUs may differ from the nodes'" if profile.is_remote else "on this machine"
    return _Pace(seconds, f"a pilot of {len(chosen)} tiles {where}", peak_gb - rest_gb, rest_gb)


def _timed(images: xr.Dataset, tiles: NDArray[np.intp], context: BlockContext) -> tuple[float, float, float]:
    """Median seconds per tile, from reading to mask, of batches of `tiles`; the first is made twice, to warm up.

    And the memory of this process in GB, before and at its peak.
    """
    model = context.load()
    before = begin_peak_gb()
    took = []
    for batch in batches([tiles[0], *tiles], 1 if len(tiles) <= context.batch_tiles else context.batch_tiles):
        began = time.perf_counter()
        maps = model.predict([model.normalise(tile_pixels(images, int(tile))) for tile in batch])
        for one in maps:
            model.reconstruct(one)
        took.append((time.perf_counter() - began) / len(batch))
    return statistics.median(took[1:] or took), before, peak_gb()


def _memory(pace: _Pace, context: BlockContext, profile: Profile) -> dict[str, str]:
    """Memory of a worker, from the pilot; that of the GPU is not in it."""
    if math.isnan(pace.batch_gb):
        return {"memory": "unknown; a pilot measures it (on Linux)"}
    at_once = profile.n_threads
    total = pace.rest_gb + at_once * pace.batch_gb
    return {
        "memory": f"{total:.2g} GB for a worker, without that of a GPU: {pace.rest_gb:.2g} GB, and "
        f"{pace.batch_gb:.2g} GB for each of {at_once} batch(es) of up to {context.batch_tiles} tiles, as in the pilot"
    }


def _longest_block(seconds: float, profile: Profile) -> str:
    limit = profile.slurm.longest_task_s
    too_low = ": TOO LOW, blocks would be lost at the end of every job; raise it" if seconds > limit else ""
    return f"{seconds:.3g} s; longest_task_s is {limit:g}{too_low}"


def _hours(pace: _Pace, blocks: Sequence[int], jobs: int, profile: Profile) -> dict[str, Any]:
    if math.isnan(pace.seconds):
        return {"time": f"unknown; {pace.source}"}
    longest = pace.seconds * max(blocks, default=0)
    unit = "GPU-hours" if profile.has_gpu else "hours of one worker's thread"
    said = {
        "time per tile": f"{pace.seconds:.3g} s ({pace.source})",
        unit: f"{pace.seconds * sum(blocks) / 3600:.3g} at most: stages of different tiles overlap",
    }
    if profile.is_remote:
        said["time per block"] = _longest_block(longest, profile)
        at_once = jobs * profile.n_threads
        said["hours once all jobs run"] = f"{pace.seconds * sum(blocks) / 3600 / at_once:.3g}"
    return said
