"""Raw files behind storage that does not answer: what an ingest could not read, the next one takes up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import tifffile
from flaky_s3 import KEY, LOST, SECRET, Door, flaky_s3
from oct_files import write_study
from silent_mount import FAULTS, Mount

from fintune_xr import names as n
from fintune_xr.pipelines.classification.ingest import VolumeRequest
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.ingest.quarantine import quarantine_rows

N_TILES = 3


@pytest.fixture(scope="module")
def mount() -> Mount:
    return Mount()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Tiles of two files each."""
    (tmp_path / "raw").mkdir()
    for tile in range(N_TILES):
        for channel in (0, 1):
            pixels = np.random.default_rng((tile, channel)).integers(1, 250, (20, 24)).astype(np.uint16)
            name = f"d{tile}_GFAP_00{tile}_b0c{channel}.tif"
            tifffile.imwrite(tmp_path / "raw" / name, pixels, photometric="minisblack")
    return tmp_path / "raw"


def held(store: Path) -> dict[str, str]:
    """A digest of the pixels of each tile."""
    images = open_cohort(store).images()
    return {
        str(tile): hashlib.sha256(images[n.IMAGE].sel({n.TILE: tile}).values.tobytes()).hexdigest()
        for tile in images[n.TILE].values
    }


def takes_up(store: Path, ingest_again: Callable[[], Any], whole: Path) -> int:
    """How many tiles the next ingest adds; then all of the store `whole` are there, and no more is quarantined."""
    added = ingest_again()
    assert held(store) == held(whole)
    assert sorted(quarantine_rows(open_cohort(store))) == sorted(quarantine_rows(open_cohort(whole)))
    assert ingest_again().n_added == 0
    return int(added.n_added)


def silent(mount: Mount, where: Path, call: Callable[[], Any], **which: int) -> int:
    """How many were left out, or -1 where the ingest ended; nothing else than an error of ours, or the system's."""
    try:
        return len(mount.during(where, call, **which).left_out)
    except (OSError, ValueError):
        return -1


def test_tiles_that_could_not_be_read_are_taken_up(raw: Path, tmp_path: Path, mount: Mount) -> None:
    whole = tmp_path / "whole.zarr"
    mount.during(raw, lambda: ingest(raw, whole))
    n_readings, ends = mount.n_readings, []
    assert n_readings > 4 * N_TILES, "each file is opened for its header and for its pixels"
    for first in range(1, n_readings + 1):
        store = tmp_path / f"{first}.zarr"
        again = lambda store=store: ingest(raw, store)  # noqa: E731
        mount.fault = FAULTS[first % len(FAULTS)]
        left_out = silent(mount, raw, again, first=first, most=1)
        added = takes_up(store, again, whole)
        ends.append((left_out, added))
        assert left_out == -1 or added == left_out, f"reading {first}: {mount.fault()}"
    assert (1, 1) in ends


def test_stored_tiles_that_could_not_be_compared_are_compared_again(raw: Path, tmp_path: Path, mount: Mount) -> None:
    store, whole, mount.fault = tmp_path / "c.zarr", tmp_path / "whole.zarr", FAULTS[3]
    for one in (store, whole):
        ingest(raw, one)
    for first in (8, 9):
        left_out = silent(mount, raw, lambda: ingest(raw, store, verify=True), first=first, most=1)
        assert left_out == 1
        assert takes_up(store, lambda: ingest(raw, store), whole) == 0


def test_volumes_that_could_not_be_read_are_taken_up(tmp_path: Path, mount: Mount) -> None:
    study, asked = write_study(tmp_path / "study", 3), VolumeRequest(grid=(4, 16, 16))
    again = lambda store: ingest(study, store, layout="ai-readi", volumes=asked)  # noqa: E731
    whole = tmp_path / "whole.zarr"
    n_bad = len(mount.during(study, lambda: again(whole)).left_out)
    n_readings, ends = mount.n_readings, []
    for first in range(1, n_readings + 1):
        store = tmp_path / f"{first}.zarr"
        mount.fault = FAULTS[first % len(FAULTS)]
        left_out = silent(mount, study, lambda store=store: again(store), first=first, most=1)
        ends.append((left_out, takes_up(store, lambda store=store: again(store), whole)))
    assert (n_bad + 1, 1) in ends


@pytest.fixture
def bucket(raw: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Door]]:
    with flaky_s3() as (endpoint, door):
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="raw")
        for file in raw.iterdir():
            client.put_object(Bucket="raw", Key=file.name, Body=file.read_bytes())
        yield "s3://raw", door


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 500, 503, LOST])
@pytest.mark.parametrize("times_before", [0, 1], ids=["headers", "pixels"])
def test_tiles_that_a_bucket_refused_are_taken_up(
    bucket: tuple[str, Door], raw: Path, tmp_path: Path, status: int, times_before: int
) -> None:
    (where, door), store, whole = bucket, tmp_path / "c.zarr", tmp_path / "whole.zarr"
    ingest(raw, whole)
    door.judge = lambda method, path, times: (
        status if method == "GET" and "d1_GFAP_001_b0c1" in path and times > times_before else 0
    )
    assert [item.tile for item in ingest(where, store).left_out] == ["d1/GFAP/d1_GFAP_001"]
    door.reset()
    assert takes_up(store, lambda: ingest(where, store), whole) == 1


@pytest.mark.slow
def test_stored_tiles_of_a_bucket_are_compared_again(bucket: tuple[str, Door], raw: Path, tmp_path: Path) -> None:
    (where, door), store, whole = bucket, tmp_path / "c.zarr", tmp_path / "whole.zarr"
    ingest(raw, whole)
    ingest(where, store)
    door.judge = lambda method, path, times: LOST if "d1_GFAP_001_b0c1" in path and times > 1 else 0
    assert len(ingest(where, store, verify=True).left_out) == 1
    door.reset()
    assert takes_up(store, lambda: ingest(where, store), whole) == 0
