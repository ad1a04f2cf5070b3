"""Work that the kill tests start in processes of their own, slowed down so that a kill finds it under way."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

# Exit status of a process that ended itself at a given point.
DIED = 77

# What changes the tree of files; what is written into an open file comes before the event that shows it to others.
EVENTS = frozenset({"os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir"})

# One server of forks for all tests: what it has imported, no child has to import again.
FORKS = mp.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "fintune_xr.pipelines.steps.infer", "fintune_xr.pipelines.steps.ingest", "fintune_xr.pipelines.cli.app",
        "fintune_xr.pipelines.studies.benchmark", "fintune_xr.models.cellpose.adapter",
        "fintune_xr.models.semantic_unet.adapter", "killing",
    ]
)  # fmt: skip

SECONDS_PER_TILE = 0.03
_HOLD = "fintune-xr-tests.hold"
TILES_PER_RUN_SHARD = 2
TILES_PER_SHARD = 3
SETTINGS = ("model.background_px=0", "model.min_area_px=20", "device=cpu")


def run_infer(store: str, cluster: str, hold: str = "") -> None:
    """`infer` with a slow threshold, which stops after a worker's first block as long as there is a file `hold`."""
    import dask

    from fintune_xr.pipelines.cli import app as cli
    from fintune_xr.store.runs import create

    own_group()
    slow_threshold(hold)
    create.tiles_per_shard = lambda _: TILES_PER_RUN_SHARD
    # Worker processes are started afresh and read this file before their first task.
    with dask.config.set({"distributed.worker.preload": [__file__], _HOLD: hold}):
        os._exit(cli.run(["infer", store, "--run", "r", "--model", "threshold", "--cluster", cluster, *SETTINGS]))


def run_ingest(source: str, store: str) -> None:
    """`ingest` with slow reading and small shards."""
    from fintune_xr.pipelines.cli import app as cli
    from fintune_xr.store.ingest import last_planes
    from fintune_xr.store.zarr_io import shards

    own_group()
    read = last_planes.read_plane_with_digest

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(SECONDS_PER_TILE / 2)
        return read(*arguments, **options)

    last_planes.read_plane_with_digest = slowly
    shards.MAX_TILES_PER_SHARD = TILES_PER_SHARD
    os._exit(cli.run(["ingest", source, store, "--workers", "2"]))


def run_infer_classes(store: str, model: str) -> None:
    """`infer` of maps of classes with a network that takes its time over every tile, in small shards and tasks."""
    from fintune_xr.models.classes.mapper import ClassMapper
    from fintune_xr.pipelines.cli import app as cli
    from fintune_xr.store.runs import create

    own_group()
    predict = ClassMapper.predict

    def slowly(self: ClassMapper, batch: Any) -> Any:
        time.sleep(SECONDS_PER_TILE * len(batch))
        return predict(self, batch)

    ClassMapper.predict = slowly  # type: ignore[method-assign]
    create.tiles_per_shard = lambda _: TILES_PER_RUN_SHARD
    asked = ["infer", store, "--run", "r", "--model", model, "--cluster", "threads", "device=cpu"]
    os._exit(cli.run(asked))


def run_train_classes(tokens: list[str], dies: tuple[str, int]) -> None:
    """The command line `tokens`; the process is killed at the `dies[1]`-th call of what `dies[0]` names, from 1.

    `step` is a step of training, `tile` the validation of a tile, `state` the writing of the state to go on from, when
    it is half on disk; 0 lets the training end.
    """
    from fintune_xr.finetune import steps
    from fintune_xr.models.classes.mapper import ClassMapper
    from fintune_xr.pipelines.cli import app as cli

    own_group()
    calls = 0

    def fatal(function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == dies[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return counted

    if dies[0] == "step":
        steps.NetworkTraining.training_step = fatal(steps.NetworkTraining.training_step)  # type: ignore[method-assign]
    elif dies[0] == "tile":
        ClassMapper.predict = fatal(ClassMapper.predict)  # type: ignore[method-assign]
    elif dies[0] == "state":
        Path.replace = fatal(Path.replace)  # type: ignore[method-assign]
    os._exit(cli.run(tokens))


def run_benchmark(store: str, model: str, models: str, settings: dict[str, Any]) -> None:
    """`benchmark`, killed in the second epoch of the training of a marker, when other models are finished."""
    from fintune_xr.finetune import steps
    from fintune_xr.pipelines.studies import benchmark

    own_group()
    step = steps.NetworkTraining.training_step

    def fatal(module: Any, batch: Any, index: int) -> Any:
        if module.current_epoch == 1 and "IBA1" in str(module.trainer.default_root_dir):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(module, batch, index)

    steps.NetworkTraining.training_step = fatal  # type: ignore[method-assign]
    benchmark.benchmark(store, model=model, out=models, config=settings)
    os._exit(0)


def run_command(tokens: list[str], root: str, dies_at: int, seen: Any) -> None:
    """The command line `tokens`; the process ends just before the `dies_at`-th change of files under `root`.

    `seen` counts the changes; 0 lets all of them happen.
    """
    from fintune_xr.pipelines.cli import app as cli
    from fintune_xr.store.runs import create
    from fintune_xr.store.zarr_io import shards

    own_group()
    shards.MAX_TILES_PER_SHARD = TILES_PER_SHARD
    create.tiles_per_shard = lambda _: TILES_PER_RUN_SHARD
    os.chdir(root)
    sys.addaudithook(lambda event, arguments: _count(event, arguments, root, dies_at, seen))
    os._exit(cli.run(tokens))


def run_until_killed(tokens: list[str], root: str, dies_at: int, seen: Any) -> None:
    """The same, but the process is killed by SIGKILL there."""
    global _die
    _die = _kill
    run_command(tokens, root, dies_at, seen)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _end() -> None:
    os._exit(DIED)


_die = _end


def _count(event: str, arguments: tuple[Any, ...], root: str, dies_at: int, seen: Any) -> None:
    if event not in EVENTS:
        return
    path = Path(os.fsdecode(arguments[0]))
    descriptor = arguments[1 if event in ("os.remove", "os.rmdir") else 2]
    path = (Path(f"/proc/self/fd/{descriptor}").readlink() if descriptor >= 0 else Path(root)) / path
    if not path.is_relative_to(root) or (event == "os.mkdir" and path.is_dir()):
        return
    seen.value += 1
    if seen.value == dies_at:
        _die()


def own_group() -> None:
    """A process group of its own, quiet, so that a test can end all of it."""
    os.setpgrp()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)


def slow_threshold(hold: str) -> None:
    """The threshold takes its time over every tile."""
    from fintune_xr.models.threshold.adapter import ThresholdSegmenter

    predict = ThresholdSegmenter.predict
    begun: list[Any] = []

    def slowly(self: ThresholdSegmenter, batch: Any) -> Any:
        time.sleep(SECONDS_PER_TILE * len(batch))
        begun.append(batch)
        while hold and len(begun) > TILES_PER_RUN_SHARD and Path(hold).exists():
            time.sleep(SECONDS_PER_TILE)
        return predict(self, batch)

    if predict.__name__ != "slowly":
        ThresholdSegmenter.predict = slowly  # type: ignore[method-assign]


def dask_setup(_worker: Any) -> None:
    """Called by Dask in each worker process."""
    import dask

    slow_threshold(dask.config.get(_HOLD, ""))
