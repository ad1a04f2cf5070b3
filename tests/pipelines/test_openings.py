"""A verb opens the images of a store once, and hands on what it has opened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from budgets import QUICK, SMALL

from fintune_xr import names as n
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.steps.train import train
from fintune_xr.pipelines.studies.benchmark import benchmark
from fintune_xr.simulation.if_cohort import simulate_cohort
from fintune_xr.store.cohort import open_cohort

THRESHOLD = {"model": {"background_px": 0, "min_area_px": 20}, "device": "cpu"}
WAYS = (*(f"train.{one}" for one in QUICK), "marker_only=[]", "markers=[]", "resamples=5")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openings")
    made = simulate_cohort(folder / "raw", settings=SMALL)
    ingest(made.source, folder / "a.zarr")
    annotate(made.annotations, folder / "a.zarr")
    split(folder / "a.zarr", fractions=(0.6, 0.2, 0.2), seed=1)
    infer(folder / "a.zarr", run="a", model="threshold", config=THRESHOLD)
    return folder / "a.zarr"


class Openings:
    """How often the image array of a store is opened: each time its metadata is read."""

    def __init__(self) -> None:
        self.watched: Path | None = None
        self.n_reads = 0
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watched is not None and event == "open" and str(arguments[0]) == str(self.watched):
            self.n_reads += 1

    def during(self, store: Path, call: Callable[[], object]) -> int:
        """Number of readings while `call` goes on."""
        self.watched, self.n_reads = store / n.IMAGES / n.IMAGE / "zarr.json", 0
        try:
            call()
        finally:
            self.watched = None
        return self.n_reads


@pytest.fixture(scope="module")
def openings() -> Iterator[Openings]:
    return Openings()


@pytest.fixture(scope="module")
def once(store: Path, openings: Openings) -> int:
    """Readings of the metadata in one opening."""
    found = openings.during(store, lambda: open_cohort(store).images(lazy=False))
    assert found > 0
    assert openings.during(store, lambda: [open_cohort(store).images(lazy=False) for _ in range(3)]) == 3 * found
    return found


def test_evaluate_and_report(store: Path, openings: Openings, once: int, tmp_path: Path) -> None:
    assert openings.during(store, lambda: evaluate(store, resamples=5)) == once
    assert openings.during(store, lambda: report(store, out=tmp_path / "report.html")) == once


@pytest.mark.slow
def test_train_and_benchmark(store: Path, openings: Openings, once: int, tmp_path: Path) -> None:
    def trained() -> Path:
        return train(store, run_name="t", out=tmp_path, overrides=QUICK)

    assert openings.during(store, trained) == once

    def compared() -> object:
        return benchmark(store, out=tmp_path, config={"baseline_infer": THRESHOLD}, overrides=WAYS)

    compared()
    # Each run and each training is a verb of its own; those that are finished are opened, looked at and left.
    n_runs = len(open_cohort(store).metrics(n.BENCHMARK).attrs["runs"])
    of_infer = openings.during(store, lambda: infer(store, run="e1-baseline", parts=(n.VAL, n.TEST)))
    assert openings.during(store, compared) == once + n_runs * of_infer + (n_runs - 1) * once
