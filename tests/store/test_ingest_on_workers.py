"""Shards that workers write: the same bytes as one process writes, whatever the order, the bad tiles and the end."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import tifffile

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.ingest.new_tiles import Mapper, NewTiles, ShardPlan, ShardRead
from fintune_xr.store.ingest.tiles import IngestReport, ingest_tiles, open_or_create
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.scan import scan
from fintune_xr.store.zarr_io import shards

N_TILES, WINDOW = 20, 5
BAD = ("d0/GFAP/t04", "d1/GFAP/t10", "d1/GFAP/t11")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_TILES_PER_SHARD", 3)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twenty tiles of two donors; the headers of all are sound, the pixels of `BAD` are not."""
    for number in range(N_TILES):
        name = f"d{number // 10}/GFAP/t{number:02d}"
        for channel in (0, 1):
            file = tmp_path / "source" / f"{name}_b0c{channel}.tif"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(2 * number + channel).integers(1, 250, (20, 24)).astype(np.uint16)
            tifffile.imwrite(file, pixels, photometric="minisblack", compression="zlib")
        if name in BAD:
            spoil(file)
    return tmp_path / "source"


def spoil(file: Path) -> None:
    with tifffile.TiffFile(file) as tif:
        at = tif.pages[0].dataoffsets[0]
    raw = bytearray(file.read_bytes())
    raw[at : at + 20] = bytes(20)
    file.write_bytes(raw)


def workers(seed: int, *, fails_at: int = -1) -> Mapper:
    """A few shards at a time, ending in an order drawn with `seed`; all that travels is pickled as Dask does it."""
    draw, given = random.Random(seed), 0

    def mapper(
        function: Callable[..., ShardRead], plans: Iterable[ShardPlan[Any]], context: NewTiles[Any]
    ) -> Iterator[ShardRead]:
        nonlocal given
        waiting, under_way = iter(plans), []
        while under_way := [*under_way, *islice(waiting, WINDOW - len(under_way))]:
            plan = under_way.pop(draw.randrange(len(under_way)))
            given += 1
            if given == fails_at:
                raise ConnectionError("the workers are gone")
            there = pickle.loads(cloudpickle.dumps((plan, context)))
            yield pickle.loads(cloudpickle.dumps(function(*there)))

    return mapper


def run(source: Path, store: Path, **options: Any) -> tuple[Cohort, IngestReport]:
    found = scan(source, choose_layout("rosmap"), workers=2)
    cohort = open_or_create(store, found)
    return cohort, ingest_tiles(cohort, found, workers=2, **options)


def digests(cohort: Cohort) -> dict[str, str]:
    """SHA-256 of every chunk and shard of the images."""
    folder = cohort.location.path / n.IMAGES
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "zarr.json"]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("seed", range(3))
def test_the_bytes_are_those_of_one_process(source: Path, tmp_path: Path, seed: int) -> None:
    cohort, report = run(source, tmp_path / "one.zarr")
    assert sorted(item.tile for item in report.left_out) == sorted(BAD)
    other, same = run(source, tmp_path / "many.zarr", mapper=workers(seed))
    assert digests(other) == digests(cohort)
    assert same.n_added == N_TILES - len(BAD)
    assert sorted(same.left_out, key=str) == sorted(report.left_out, key=str)
    assert other.quarantine().identical(cohort.quarantine())


def test_a_shard_that_is_part_full_is_filled(source: Path, tmp_path: Path) -> None:
    whole, _ = run(source, tmp_path / "whole.zarr")
    later = tmp_path / "later"
    (source / "d1").rename(later)
    cohort, _ = run(source, tmp_path / "two.zarr")
    later.rename(source / "d1")
    run(source, tmp_path / "two.zarr", mapper=workers(0))
    assert digests(cohort) == digests(whole)


@pytest.mark.parametrize("fails_at", [2, 7])
def test_workers_that_go_leave_what_was_committed(source: Path, tmp_path: Path, fails_at: int) -> None:
    whole, _ = run(source, tmp_path / "whole.zarr")
    with pytest.raises(ConnectionError):
        run(source, tmp_path / "a.zarr", mapper=workers(1, fails_at=fails_at))
    assert open_cohort(tmp_path / "a.zarr").images().sizes[n.TILE] % 3 == 0
    cohort, _ = run(source, tmp_path / "a.zarr", mapper=workers(2))
    assert digests(cohort) == digests(whole)


def test_threads_of_a_profile_read_shards(source: Path, tmp_path: Path) -> None:
    whole, _ = run(source, tmp_path / "whole.zarr")
    report = ingest(source, tmp_path / "a.zarr", cluster="threads")
    assert digests(open_cohort(tmp_path / "a.zarr")) == digests(whole)
    assert report.n_added == N_TILES - len(BAD)


def test_object_storage_is_refused(source: Path) -> None:
    with pytest.raises(FintuneValueError, match="object storage renames nothing"):
        run(source, "memory://somewhere/else.zarr", mapper=workers(0))  # type: ignore[arg-type]
