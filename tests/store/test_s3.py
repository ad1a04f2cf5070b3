"""A cohort on S3 goes the same way as one in a folder, and its keys stay in the environment."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr
from s3_server import s3_server
from slurm import wait_for
from stores import assert_same_run, run_values, tile_names, tile_pixels

from fintune_xr import names as n
from fintune_xr.errors import (
    FintuneValueError,
    MissingPackageError,
    RunBusyError,
    StoreDamagedError,
    StoreUnreachableError,
    StoreWriteError,
)
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.zarr_io import leases, locks
from fintune_xr.store.zarr_io import location as location_module
from fintune_xr.store.zarr_io import object_storage as remote
from fintune_xr.store.zarr_io.location import Location

KEY, SECRET = "AKIDNOTTOBESEEN", "secret-not-to-be-seen/anywhere"
BUCKET = "cohorts"
DONORS, TILES = 4, 2
S3_SMALLEST_PART = 5 << 20
LEASE = "images/image/.run-r.lock"
RUN = ("--model", "threshold", "device=cpu", "model.background_px=0", "model.min_area_px=20")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def client(endpoint: str) -> Iterator[Any]:
    """A client of our own, with the environment set as a user sets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        made = boto3.client("s3")
        made.create_bucket(Bucket=BUCKET)
        yield made


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("raw")
    for name in tile_names(DONORS, TILES):
        donor, marker, tile = name.split("/")
        folder = source / "tiles" / donor / marker
        folder.mkdir(parents=True, exist_ok=True)
        for channel, plane in enumerate(tile_pixels(name, 64)):
            tifffile.imwrite(folder / f"{donor}_{marker}_{tile}_b0c{channel}.tif", plane, photometric="minisblack")
    ages = {"projid": [f"d{i}" for i in range(DONORS)], "nft": np.arange(DONORS) * 0.5}
    pd.DataFrame(ages).to_csv(source / "clinical.csv", index=False)
    return source


def write_regions(folder: Path) -> None:
    """The left half of every tile is cortex."""
    folder.mkdir(parents=True)
    (folder / "legend.tsv").write_text("cortex\t1\n")
    for name in tile_names(DONORS, TILES):
        donor, marker, tile = name.split("/")
        regions = np.tile(np.arange(64) < 32, (64, 1)).astype(np.uint8)
        tifffile.imwrite(folder / f"{donor}_{marker}_{tile}_regions.tif", regions)


def steps(raw: Path, store: str, out: Path) -> list[list[str]]:
    return [
        ["ingest", str(raw / "tiles"), store, "--layout", "rosmap"],
        ["infer", store, "--run", "r", *RUN],
        ["annotate", str(out / "regions"), store, "--as", "regions", "--legend", str(out / "regions" / "legend.tsv")],
        ["measure", store, "cluster.dashboard=false", "--run", "r", "--columns", "region", "solidity", "texture"],
        ["associate", store, "--clinical", str(raw / "clinical.csv"), "--outcome", "nft"],
        ["bootstrap", store, "--resamples", "20"],
        ["check", store],
        ["report", store, "--out", str(out / "report.html")],
        ["export", store, "--to", "masks", "--run", "r", "--out", str(out / "masks")],
    ]


def objects(client: Any, prefix: str) -> dict[str, bytes]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


@pytest.mark.slow
def test_a_cohort_on_s3_gives_what_one_in_a_folder_gives(
    client: Any, raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url, folder = f"s3://{BUCKET}/whole/a.zarr", str(tmp_path / "a.zarr")
    for place in ("remote", "local"):
        write_regions(tmp_path / place / "regions")
    for step in steps(raw, url, tmp_path / "remote"):
        assert cli.run(step) == 0, step
    said = "".join(capfd.readouterr())
    for step in steps(raw, folder, tmp_path / "local"):
        assert cli.run(step) == 0, step
    far, near = open_cohort(url), open_cohort(folder)
    xr.testing.assert_equal(far.images().load(), near.images().load())
    assert_same_run(run_values(far, "r"), run_values(near, "r"))
    assert {"solidity", "sd_intensity", "region_code"} < set(far.cells("r").data_vars)
    xr.testing.assert_equal(far.regions().load(), near.regions().load())
    xr.testing.assert_equal(far.analysis().load(), near.analysis().load())
    assert far.images().sizes[n.TILE] == DONORS * TILES
    masks = sorted((tmp_path / "remote" / "masks").rglob("*_pred.tif"))
    assert len(masks) == DONORS * TILES

    stored = objects(client, "whole/")
    assert len(stored) > 20
    held = [client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in stored if key.endswith(".lock")]
    assert held == [leases.FREE] * len(held)
    report = (tmp_path / "remote" / "report.html").read_text()
    assert "d0" in report
    for secret in (KEY, SECRET):
        assert secret not in said
        assert secret not in report
        assert not [key for key, body in stored.items() if secret.encode() in body]
    assert xr.open_zarr(url, group="images", consolidated=False).sizes[n.TILE] == DONORS * TILES


@pytest.fixture
def small(client: Any, raw: Path, request: pytest.FixtureRequest) -> str:
    url = f"s3://{BUCKET}/{request.node.name}/a.zarr"
    assert cli.run(["ingest", str(raw / "tiles"), url, "--layout", "rosmap"]) == 0
    return url


@pytest.mark.slow
def test_raw_files_on_s3_and_more_donors_later(client: Any, raw: Path) -> None:
    place = f"s3://{BUCKET}/raw"
    store = f"s3://{BUCKET}/from-s3/a.zarr"
    files = sorted(raw.rglob("*.tif"))
    for part in (files[:8], files[8:]):
        for file in part:
            client.upload_file(str(file), BUCKET, f"raw/{file.relative_to(raw / 'tiles')}")
        assert cli.run(["ingest", place, store, "--layout", "rosmap"]) == 0
    cohort = open_cohort(store)
    assert cohort.images().sizes[n.TILE] == DONORS * TILES
    for i, name in enumerate(cohort.images()[n.TILE].values):
        donor, marker, stem = str(name).split("/")
        tile = f"{donor}/{marker}/{stem.split('_')[2]}"
        np.testing.assert_array_equal(cohort.images()[n.IMAGE][i].values, tile_pixels(tile, 64))


@pytest.mark.slow
def test_a_shard_that_is_gone_or_damaged_is_found_and_remade(client: Any, small: str) -> None:
    settings = list(RUN[2:])
    infer(small, run="r", model="threshold", overrides=settings)
    before = run_values(open_cohort(small), "r")
    prefix = f"{small.removeprefix(f's3://{BUCKET}/')}/runs/r/mask"
    client.delete_object(Bucket=BUCKET, Key=f"{prefix}/c.2.0.0")
    body = bytearray(client.get_object(Bucket=BUCKET, Key=f"{prefix}/c.4.0.0")["Body"].read())
    body[10] ^= 4
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/c.4.0.0", Body=bytes(body))
    with pytest.raises(StoreDamagedError, match="is missing"):
        open_cohort(small).run("r")[n.MASK][2].values  # noqa: B018
    assert len(check(small)) == 2
    check(small, repair=True)
    assert infer(small, run="r").n_new == 2
    assert_same_run(before, run_values(open_cohort(small), "r"))
    assert check(small) == []


# ---- large objects, in parts


def parts_under_way(client: Any) -> list[str]:
    return [upload["Key"] for upload in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


def test_what_is_sent_in_parts_is_what_was_given(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location_module, "PART_BYTES", S3_SMALLEST_PART)
    rng = np.random.default_rng(5)
    for size in (0, 1, S3_SMALLEST_PART - 1, S3_SMALLEST_PART, 2 * S3_SMALLEST_PART, 2 * S3_SMALLEST_PART + 1):
        body = rng.bytes(size)
        cuts = [0, *sorted(rng.integers(0, size + 1, 3)), size]
        given = [body[begin:end] for begin, end in itertools.pairwise(cuts)]
        assert Location(f"s3://{BUCKET}/parts").write_whole("a", given) == size
        found = client.get_object(Bucket=BUCKET, Key="parts/a")
        assert found["Body"].read() == body
        assert ("-" in found["ETag"]) == (size >= S3_SMALLEST_PART), "many parts, or one request"
    assert parts_under_way(client) == []


@pytest.mark.parametrize("error", [ValueError("a tile"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [1, 3])
def test_an_error_among_the_parts_leaves_nothing(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, before: int
) -> None:
    monkeypatch.setattr(location_module, "PART_BYTES", S3_SMALLEST_PART)
    folder = tmp_path.name
    location = Location(f"s3://{BUCKET}/{folder}")
    open_then: list[list[str]] = []

    def parts() -> Iterator[bytes]:
        yield from [bytes(S3_SMALLEST_PART // 2 + 1)] * before
        open_then.append(parts_under_way(client))
        raise error

    with pytest.raises(type(error)):
        location.write_whole("a", parts())
    assert open_then == [[f"{folder}/a"] if before > 1 else []]
    assert parts_under_way(client) == []
    assert objects(client, folder) == {}
    # What comes after it is not held back as part of what failed.
    location.write_whole("a", [b"good"])
    assert objects(client, folder) == {f"{folder}/a": b"good"}


def test_threads_that_send_large_objects_at_once_do_not_touch_each_others(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(location_module, "PART_BYTES", S3_SMALLEST_PART)
    location = Location(f"s3://{BUCKET}/{tmp_path.name}")
    bodies = {f"o{i}": bytes([i]) * (3 * S3_SMALLEST_PART) for i in range(6)}

    def send(key: str) -> int:
        body = bodies[key]
        return location.write_whole(key, (body[at : at + (1 << 20)] for at in range(0, len(body), 1 << 20)))

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(send, bodies)) == {3 * S3_SMALLEST_PART}
    assert objects(client, tmp_path.name) == {f"{tmp_path.name}/{key}": body for key, body in bodies.items()}
    assert parts_under_way(client) == []


@pytest.mark.usefixtures("client")
def test_memory_holds_parts_of_a_large_object_and_not_the_whole() -> None:
    code = f"""
import tracemalloc
from fintune_xr.store.zarr_io import location as module
module.PART_BYTES = {S3_SMALLEST_PART}
location = module.Location("s3://{BUCKET}/large")
location.write_whole("small", [b"the client is made"])
tracemalloc.start()
size = location.write_whole("a", (bytes(1 << 20) for _ in range(60)))
print(size, tracemalloc.get_traced_memory()[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    size, peak = map(int, done.stdout.split())
    assert size == 60 << 20
    assert peak < 4 * S3_SMALLEST_PART


# ---- one writer at a time, without a lock of the operating system


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.2)
    monkeypatch.setattr(leases, "PATIENCE_S", 3.0)
    monkeypatch.setattr(leases, "SPARE_S", 0.5)


@pytest.mark.usefixtures("client", "quick")
def test_a_second_writer_is_refused_and_a_dead_ones_lease_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    location = Location(f"s3://{BUCKET}/lease.zarr")

    def until_renewed(seconds: float) -> None:
        """On a busy machine the holder may not get to renew in time."""
        before = location.read(LEASE)
        wait_for(lambda: seconds < leases.PATIENCE_S or location.read(LEASE) != before, "the lease to be renewed")

    with (
        monkeypatch.context() as patch,
        locks.hold_lock(location, "run-r", what="writing run 'r'"),
        pytest.raises(RunBusyError, match=r"another process is writing run 'r' in s3://cohorts/lease\.zarr"),
    ):
        patch.setattr(leases, "time", SimpleNamespace(sleep=until_renewed, monotonic=time.monotonic))
        with locks.hold_lock(location, "run-r", what="writing run 'r'"):
            pass
    code = f"""
import os, time
from fintune_xr.store.zarr_io import leases, locks
from fintune_xr.store.zarr_io.location import Location
leases.RENEW_S = 0.2
with locks.hold_lock(Location("{location.url}"), "run-r", what="x"):
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert location.read(LEASE) != leases.FREE
    with locks.hold_lock(location, "run-r", what="writing run 'r'"):
        pass
    assert location.read(LEASE) == leases.FREE


@pytest.mark.usefixtures("client", "quick")
@pytest.mark.parametrize("there_before", [False, True])
def test_of_writers_that_begin_together_one_has_the_lease_however_slow_the_storage(
    monkeypatch: pytest.MonkeyPatch, there_before: bool
) -> None:
    location = Location(f"s3://{BUCKET}/slow{int(there_before)}.zarr")
    if there_before:
        location.write_whole(LEASE, [leases.FREE])
    with location.remote() as (system, _):
        send = type(system).call_s3
    gate, inside, most = threading.Barrier(4), [], []

    def late(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "put_object" and kwargs["Body"].endswith(b" 0"):
            time.sleep(0.1 + 1.5 * (uuid.uuid4().int % 2))
        return send(self, method, *args, **kwargs)

    def writer() -> None:
        gate.wait()
        with contextlib.suppress(RunBusyError), locks.hold_lock(location, "run-r", what="writing"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(2.5)
            inside.pop()

    monkeypatch.setattr(type(system), "call_s3", late)
    monkeypatch.setattr(leases, "_stop_this_process", lambda: most.append(99))
    writers = [threading.Thread(target=writer) for _ in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert most == [1]


@pytest.mark.usefixtures("client", "quick")
def test_a_holder_that_cannot_renew_stops_before_another_may_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    location = Location(f"s3://{BUCKET}/hangs.zarr")
    stopped = threading.Event()
    began: list[float] = []
    monkeypatch.setattr(leases, "_stop_this_process", lambda: (began.append(time.monotonic()), stopped.set()))
    with locks.hold_lock(location, "run-r", what="writing"):
        start = time.monotonic()
        monkeypatch.setattr(leases, "_renewed", lambda *_: time.sleep(30))
        assert stopped.wait(20)
    assert began[0] - start < leases.PATIENCE_S


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(("sigint", "status"), [("default_int_handler", -signal.SIGINT), ("SIG_IGN", -signal.SIGTERM)])
def test_a_writer_that_lost_its_lease_stops(sigint: str, status: int) -> None:
    """Also one that a script started in the background, where Ctrl-C is ignored."""
    location = Location(f"s3://{BUCKET}/lost.zarr")
    code = f"""
import signal, time
from fintune_xr.store.zarr_io import locks
from fintune_xr.store.zarr_io.location import Location
signal.signal(signal.SIGINT, signal.{sigint})
locks.RENEW_S = 0.2
location = Location("{location.url}")
with locks.hold_lock(location, "run-r", what="x"):
    location.write_whole("{LEASE}", [b"another 0"])
    for _ in range(600):
        time.sleep(0.1)
        # Again and again: one write could fall between the reading and the writing of a renewal.
        location.write_whole("{LEASE}", [b"another 0"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert location.read(LEASE) == b"another 0"
    location.remove(LEASE)


# ---- what goes wrong on the way


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/a.zarr", "s3://bucket/a.zarr?token=abc"])
def test_keys_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(FintuneValueError, match="Keys belong in the environment") as caught:
        open_cohort(url)
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_an_unknown_protocol_and_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FintuneValueError, match="Protocol not known: foo"):
        open_cohort("foo://bucket/a.zarr")

    def missing(*_: Any, **__: Any) -> Any:
        raise ImportError("Install s3fs")

    monkeypatch.setattr(remote.fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingPackageError, match=r"pip install 'fintune-xr\[s3\]'"):
        open_cohort("s3://bucket/a.zarr")


def test_a_bucket_that_is_not_there(client: Any, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["ingest", str(raw / "tiles"), "s3://nobucket/a.zarr", "--layout", "rosmap"]) == 1
    said = capsys.readouterr().err
    assert "cannot write s3://nobucket/a.zarr" in said
    assert "Make the bucket first" in said
    assert issubclass(StoreWriteError, OSError)


@pytest.mark.parametrize(
    ("tokens", "what"),
    [
        (["check", "s3://bucket/a.zarr"], "s3://bucket/a.zarr"),
        (["ingest", "s3://bucket/raw", "{here}/a.zarr"], "s3://bucket/raw"),
    ],
)
def test_storage_that_does_not_answer(tmp_path: Path, tokens: list[str], what: str) -> None:
    code = f"""
import os
os.environ |= {{"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}}
from fintune_xr.pipelines.cli import app as cli
raise SystemExit(cli.run({[token.replace("{here}", str(tmp_path)) for token in tokens]!r}))
"""
    secret = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=secret, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"cannot reach {what}" in done.stderr
    assert SECRET not in done.stderr
    assert KEY not in done.stderr
    assert "Traceback" not in done.stderr
    assert issubclass(StoreUnreachableError, ConnectionError)
