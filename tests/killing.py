"""Work that the kill tests start in processes of their own, slowed down so that a kill finds it under way."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from typing import Any

# One server of forks for all tests: what it has imported, no child has to import again.
FORKS = mp.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "fintune_xr.pipelines.infer", "fintune_xr.pipelines.ingest", "fintune_xr.pipelines.cli",
        "fintune_xr.pipelines.benchmark", "fintune_xr.models.cellpose_sam", "killing",
    ]
)  # fmt: skip

SECONDS_PER_TILE = 0.03
TILES_PER_TASK = 2
TILES_PER_SHARD = 3
SETTINGS = ("model.background_px=0", "model.min_area_px=20", "device=cpu")


def run_infer(store: str, cluster: str) -> None:
    """`infer` with a slow threshold."""
    import dask

    from fintune_xr.pipelines import cli
    from fintune_xr.store import runs

    own_group()
    slow_threshold()
    runs.tiles_per_task = lambda _: TILES_PER_TASK
    # Worker processes are started afresh and read this file before their first task.
    with dask.config.set({"distributed.worker.preload": [__file__]}):
        os._exit(cli.run(["infer", store, "--run", "r", "--cluster", cluster, *SETTINGS]))


def run_ingest(source: str, store: str) -> None:
    """`ingest` with slow reading and small shards."""
    from fintune_xr.pipelines import cli
    from fintune_xr.store import ingest, shards

    own_group()
    read = ingest.read_plane_with_digest

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(SECONDS_PER_TILE / 2)
        return read(*arguments, **options)

    ingest.read_plane_with_digest = slowly
    shards.MAX_TILES_PER_SHARD = TILES_PER_SHARD
    os._exit(cli.run(["ingest", source, store, "--workers", "2"]))


def run_benchmark(store: str, model: str, models: str, settings: dict[str, Any]) -> None:
    """`benchmark`, killed in the second epoch of the training of a marker, when other models are finished."""
    from fintune_xr.finetune import steps
    from fintune_xr.pipelines import benchmark

    own_group()
    step = steps.NetworkTraining.training_step

    def fatal(module: Any, batch: Any, index: int) -> Any:
        if module.current_epoch == 1 and "IBA1" in str(module.trainer.default_root_dir):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(module, batch, index)

    steps.NetworkTraining.training_step = fatal  # type: ignore[method-assign]
    benchmark.benchmark(store, model=model, out=models, config=settings)
    os._exit(0)


def own_group() -> None:
    """A process group of its own, quiet, so that a test can end all of it."""
    os.setpgrp()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)


def slow_threshold() -> None:
    """The threshold takes its time over every tile."""
    from fintune_xr.models.threshold import ThresholdSegmenter

    predict = ThresholdSegmenter.predict

    def slowly(self: ThresholdSegmenter, batch: Any) -> Any:
        time.sleep(SECONDS_PER_TILE * len(batch))
        return predict(self, batch)

    if predict.__name__ != "slowly":
        ThresholdSegmenter.predict = slowly  # type: ignore[method-assign]


def dask_setup(_worker: Any) -> None:
    """Called by Dask in each worker process."""
    slow_threshold()
