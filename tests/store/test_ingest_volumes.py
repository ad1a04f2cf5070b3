"""Volumes into a store: what is stored, what is left out, and that neither kills nor a failing bucket lose any."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import volume_files as v
from flaky_s3 import KEY, LOST, SECRET, Door, flaky_s3
from oct_files import pixels_of, write_study

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError, StoreUnreachableError
from fintune_xr.pipelines.classification.ingest import VolumeRequest
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest, plan_ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.ingest import volumes
from fintune_xr.store.ingest.participants import parts_not_recommended, stored_participants
from fintune_xr.store.ingest.volume_summary import unusual_volumes, volume_summary
from fintune_xr.store.raw import fetching
from fintune_xr.text import texts

GRID = (8, 32, 40)
N = 8


def stored(folder: Path, store: Path, **asked: Any) -> Any:
    return ingest(folder, store, layout="ai-readi", volumes=VolumeRequest(**{"grid": GRID, **asked}))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "retinal_oct", N)


@pytest.fixture(scope="module")
def store(study: Path) -> Path:
    where = study.parent / "oct.zarr"
    stored(study, where)
    return where


def test_what_a_request_says_of_threads_digests_and_title_is_obeyed(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[VolumeRequest] = []
    monkeypatch.setattr("fintune_xr.pipelines.steps.ingest.ingest_study", lambda *told, **_: asked.append(told[3]))
    request = VolumeRequest(grid=GRID, workers=1, verify=True, title="Eyes")
    where = tmp_path / "oct.zarr"
    ingest(study, where, layout="ai-readi", volumes=request)
    ingest(study, where, layout="ai-readi", volumes=request, workers=3, verify=False, title="Others")
    ingest(study, where, layout="ai-readi", title="Others")
    others = replace(request, workers=3, verify=False, title="Others")
    assert asked == [request, others, VolumeRequest(title="Others")]


def expected(donor: int) -> Any:
    import torch

    volume = torch.from_numpy(pixels_of(donor).astype(np.float32))[None, None]
    resized = torch.nn.functional.interpolate(volume, size=GRID, mode="trilinear", align_corners=False)[0, 0]
    return np.rint(resized.numpy()).astype(np.uint8)


def test_every_volume_is_stored_on_the_grid(store: Path) -> None:
    images = open_cohort(store).images(lazy=False)
    assert images[n.IMAGE].dims == (n.TILE, n.CHANNEL, n.Z, n.Y, n.X)
    assert images.attrs["grid"] == list(GRID)
    tiles = texts(images[n.TILE])
    assert tiles == [f"{d:04d}/{d:04d}_macula_oct_{'rl'[d % 2]}_1" for d in [*range(1, N, 2), *range(0, N, 2)]]
    for at, donor in enumerate(texts(images[n.DONOR])):
        assert np.abs(images[n.IMAGE].values[at, 0].astype(int) - expected(int(donor))).max() <= 1
        assert (images[n.IMAGE].values[at, 0] == expected(int(donor))).mean() > 0.999


def test_what_is_told_of_a_volume_is_stored(store: Path) -> None:
    images = open_cohort(store).images(lazy=False)
    first, last = images.isel(tile=0), images.isel(tile=-1)
    assert (str(first[n.MARKER].values), str(last[n.MARKER].values)) == ("maestro", "spectralis")
    assert (str(first[n.LATERALITY].values), str(first[n.PROTOCOL].values)) == ("L", "macula")
    assert int(last[n.SOURCE_DEPTH]) == pixels_of(6).shape[0]
    assert float(last[n.SPACING_Y]) == pytest.approx(0.004)
    assert float(first[n.SPACING_Y]) == 0
    assert float(last[n.VALUE_MEAN]) == pytest.approx(float(images[n.IMAGE].values[-1].mean()))
    assert float(last[n.VALUE_SD]) == pytest.approx(float(images[n.IMAGE].values[-1].std()))


def test_everything_that_is_left_out_has_its_reason(study: Path, store: Path) -> None:
    left_out = open_cohort(store).quarantine()
    reasons = dict(zip(texts(left_out[n.DONOR]), texts(left_out[n.REASON]), strict=True))
    assert set(reasons) == {"bad", "gone", "none", "x99"}
    assert reasons["bad"].startswith("truncated: expected")
    assert reasons["gone"] == "no volume found"
    assert reasons["none"] == "participant none has retinal_oct FALSE"
    assert reasons["x99"] == "participant x99 is not in the table of participants"


def test_a_second_ingest_adds_nothing_and_keeps_the_list(study: Path, store: Path, tmp_path: Path) -> None:
    errors = tmp_path / "data_errors.csv"
    report = stored(study, store, grid=None, errors=errors)
    assert (report.n_added, report.n_present, len(report.left_out)) == (0, N, 4)
    rows = list(csv.DictReader(errors.open()))
    assert len(rows) == 4
    assert list(rows[0]) == ["participant_id", "key", "exception"]
    assert open_cohort(store).quarantine().sizes[n.ITEM] == 4


def test_a_volume_that_came_later_leaves_the_list(tmp_path: Path) -> None:
    study, store = write_study(tmp_path / "s", 2), tmp_path / "o.zarr"
    stored(study, store)
    file = study / "spectralis" / "gone" / "late.npy"
    file.parent.mkdir()
    file.write_bytes(v.npy_bytes(v.volume_of((4, 33, 34))))
    report = stored(study, store)
    assert report.n_added == 1
    assert "gone" not in texts(open_cohort(store).quarantine()[n.DONOR])
    assert len(report.left_out) == 3


def test_labels_and_the_recommended_split(store: Path, study: Path) -> None:
    report = annotate(study, store)
    assert report.n_added == N
    cohort = open_cohort(store)
    labels = cohort.annotations(lazy=False)
    by_donor = {
        tile.partition("/")[0]: int(one)
        for tile, one in zip(texts(labels["tile"]), labels["label"].values, strict=True)
    }
    assert by_donor == {f"{d:04d}": d % 4 for d in range(N)}
    assert labels["label"].attrs["flag_meanings"] == "healthy pre_diabetes oral_medication insulin_dependent"
    assert annotate(study, store).n_present == N
    with pytest.raises(FintuneValueError, match="--restart"):
        annotate(study, store, layout="oct_binary")
    split(store, keep=True)
    assert parts_not_recommended(cohort) == 0
    with pytest.raises(SplitError, match="--restart"):
        split(store, fractions=(0.5, 0.25, 0.25))
    table = split(store, fractions=(0.4, 0.3, 0.3), force=True)
    assert set(table["split"]) == {"train", "val", "test"}
    assert parts_not_recommended(cohort) > 0
    split(store, keep=True)
    assert parts_not_recommended(cohort) == 0
    assert stored_participants(cohort).people["gone"].retinal_oct


def test_one_eye_in_two_parts_is_a_leak(tmp_path: Path) -> None:
    study, store = write_study(tmp_path / "s", 16), tmp_path / "o.zarr"
    twin = study / "spectralis" / "0008" / "0008_macula_oct_r_1.dcm"
    # Donor 8 is of part val; its file becomes that of donor 0, of part train, with another gain.
    twin.write_bytes(v.dicom_bytes((pixels_of(0) * 0.8).astype(np.uint8), ImageLaterality="R"))
    stored(study, store)
    annotate(study, store)
    with pytest.raises(SplitError, match="would leak"):
        split(store, keep=True)


def test_the_first_of_each_group(tmp_path: Path, study: Path) -> None:
    report = stored(study, tmp_path / "o.zarr", limit=1)
    assert report.n_added == 4
    assert sorted(texts(open_cohort(tmp_path / "o.zarr").images()[n.DONOR])) == ["0000", "0001", "0002", "0003"]
    assert stored(study, tmp_path / "o.zarr").n_added == N - 4


def test_a_plan_reads_headers_and_writes_nothing(study: Path, tmp_path: Path) -> None:
    planned = plan_ingest(study, layout="ai-readi")
    assert planned.tiles["volumes"].tolist() == [N // 2, N // 2]
    assert planned.tiles["depth_max"].tolist() == [8, 8]
    assert len(planned.left_out) == 4
    assert not list(tmp_path.iterdir())


def test_native_grid_where_all_agree(tmp_path: Path) -> None:
    for donor in ("a", "b"):
        (tmp_path / "in" / donor).mkdir(parents=True)
        np.save(tmp_path / "in" / donor / "x.npy", v.volume_of((4, 33, 34), "uint16", seed=ord(donor)))
    ingest(tmp_path / "in", tmp_path / "o.zarr", layout="volumes")
    images = open_cohort(tmp_path / "o.zarr").images(lazy=False)
    assert images[n.IMAGE].shape[2:] == (4, 33, 34)
    back = images[n.IMAGE].values[0, 0] * float(images[n.VALUE_STEP][0]) + float(images[n.VALUE_OFFSET][0])
    truth = v.volume_of((4, 33, 34), "uint16", seed=ord("a"))
    assert np.abs(back - truth).max() <= float(images[n.VALUE_STEP][0]) * 0.501
    np.save(tmp_path / "in" / "b" / "y.npy", v.volume_of((5, 33, 34)))
    with pytest.raises(FintuneValueError, match=r"4 x 33 x 34: 2, 5 x 33 x 34: 1"):
        ingest(tmp_path / "in", tmp_path / "p.zarr", layout="volumes")
    with pytest.raises(FintuneValueError, match="is on the grid 4 33 34, asked for is 8 32 32"):
        ingest(tmp_path / "in", tmp_path / "o.zarr", layout="volumes", volumes=VolumeRequest(grid=(8, 32, 32)))
    with pytest.raises(FintuneValueError, match="--axes zyx, asked for is yxz"):
        ingest(tmp_path / "in", tmp_path / "o.zarr", layout="volumes", volumes=VolumeRequest(axes="yxz"))


def test_unusual_volumes_are_listed_and_left_out_where_asked(tmp_path: Path) -> None:
    odd = {
        "dark": np.ones((8, 33, 34), np.uint8),
        "flat": np.full((8, 33, 34), 90, np.uint8),
        "deep": v.volume_of((40, 33, 34)),
    }
    odd["dark"][0, 0, 0] = 2
    many = {f"n{i}": v.volume_of((8, 33, 34), seed=i) for i in range(7)}
    for name, volume in {**many, **odd}.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        np.save(tmp_path / "in" / name / "x.npy", volume)
    ingest(tmp_path / "in", tmp_path / "o.zarr", layout="volumes", volumes=VolumeRequest(grid=(8, 32, 32)))
    unusual = volume_summary(open_cohort(tmp_path / "o.zarr"), {}).unusual
    reasons = dict(zip(unusual["tile"], unusual["why"], strict=True))
    assert set(reasons) == {"dark/x", "flat/x", "deep/x"}
    assert reasons["flat/x"].startswith("constant volume")
    assert reasons["deep/x"].startswith("depth 40, usual for the device 8")
    assert reasons["dark/x"].startswith("mean 1")
    assert open_cohort(tmp_path / "o.zarr").images().attrs["summary"]["unusual"][0]["tile"] in reasons
    asked = VolumeRequest(grid=(8, 32, 32), drop_outliers=True)
    report = ingest(tmp_path / "in", tmp_path / "p.zarr", layout="volumes", volumes=asked)
    assert report.n_added == 7
    assert {item.tile for item in report.left_out} == set(reasons)
    assert all(item.reason.startswith("outlier: ") for item in report.left_out)


def test_unusual_is_judged_within_a_device() -> None:
    rows = [
        (f"{device}{i}", device, size, 40, 40, mean + i % 2, 5.0, 1.0)
        for device, size, mean in (("a", 10, 50), ("b", 90, 150))
        for i in range(5)
    ]
    sizes = ["source_depth", "source_height", "source_width"]
    table = pd.DataFrame(rows, columns=["tile", "marker", *sizes, "value_mean", "value_sd", "value_step"])
    assert unusual_volumes(table) == {}


def test_the_device_that_files_tell_is_the_one_that_volumes_are_judged_by(tmp_path: Path) -> None:
    """Two devices in one folder, of quite other sizes: none is an outlier, and a plan names them."""
    for at in range(6):
        device, depth = (("Maestro2", 4), ("Triton", 20))[at % 2]
        volume = v.volume_of((depth, 33, 34), seed=at)
        v.write_dicom(tmp_path / "in" / f"p{at}" / "x.dcm", volume, ManufacturerModelName=device)
    asked = VolumeRequest(grid=(8, 32, 32), drop_outliers=True)
    assert plan_ingest(tmp_path / "in", layout="volumes", volumes=asked).tiles["marker"].tolist() == [
        "Maestro2", "Triton"
    ]  # fmt: skip
    report = ingest(tmp_path / "in", tmp_path / "o.zarr", layout="volumes", volumes=asked)
    assert (report.n_added, report.left_out) == (6, ())
    assert set(texts(open_cohort(tmp_path / "o.zarr").images()[n.MARKER])) == {"Maestro2", "Triton"}


def test_a_volume_of_one_eye_by_its_name_and_of_the_other_by_its_header_is_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for donor, side in (("a", "R"), ("b", "L"), ("c", "")):
        volume = rng.integers(0, 255, (4, 32, 32), dtype=np.uint8)
        file = tmp_path / "in" / donor / f"{donor}_macula_oct_r_1.dcm"
        v.write_dicom(file, volume, ImageLaterality=side)
    how = VolumeRequest(grid=(4, 32, 32))
    plan = plan_ingest(tmp_path / "in", layout="volumes", volumes=how)
    report = ingest(tmp_path / "in", tmp_path / "o.zarr", layout="volumes", volumes=how)
    (left_out,) = report.left_out
    assert left_out.donor == "b"
    assert left_out.reason == "the file tells of eye L, its name or the manifest of R; correct one"
    images = open_cohort(tmp_path / "o.zarr").images(lazy=False)
    assert texts(images[n.DONOR]) == ["a", "c"]
    assert texts(images[n.LATERALITY]) == ["R", "R"]
    assert left_out.reason in plan.left_out.to_string()


def test_a_volume_whose_header_tells_of_another_eye_or_participant_than_its_name_is_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    told = {
        "1001/1001_L": {"ImageLaterality": "R"}, "1002/OD-1": {"ImageLaterality": "L"}, "1003/x": {"PatientID": "1004"},
        "1004/1004_left": {"ImageLaterality": "L", "PatientID": "1004"}, "1006/l_to_r": {"ImageLaterality": "R"},
        "1005/os": {"ImageLaterality": "", "PatientID": "anonymous"},
    }  # fmt: skip
    for name, header in told.items():
        volume = rng.integers(0, 255, (4, 32, 32), dtype=np.uint8)
        v.write_dicom(tmp_path / f"in/{name}.dcm", volume, **header)
    how = VolumeRequest(grid=(4, 32, 32))
    report = ingest(tmp_path / "in", tmp_path / "o.zarr", layout="volumes", volumes=how)
    assert {item.donor: item.reason for item in report.left_out} == {
        "1001": "the file tells of eye R, its name or the manifest of L; correct one",
        "1002": "the file tells of eye L, its name or the manifest of R; correct one",
        "1003": "the file tells of participant 1004, its name or the manifest of 1003; correct one",
    }
    images = open_cohort(tmp_path / "o.zarr").images(lazy=False)
    assert dict(zip(texts(images[n.DONOR]), texts(images[n.LATERALITY]), strict=True)) == {
        "1004": "L", "1005": "", "1006": "R",
    }  # fmt: skip


def test_a_volume_whose_scale_an_extreme_voxel_has_taken_up_is_unusual(tmp_path: Path) -> None:
    for at in range(4):
        volume = v.volume_of((16, 64, 64), "float32", seed=at)
        if at == 3:
            volume[4, 5, 6] = 1e6
        (tmp_path / "in" / f"p{at}").mkdir(parents=True)
        np.save(tmp_path / "in" / f"p{at}" / "x.npy", volume)
    ingest(tmp_path / "in", tmp_path / "o.zarr", layout="volumes")
    unusual = volume_summary(open_cohort(tmp_path / "o.zarr"), {}).unusual
    assert unusual["tile"].tolist() == ["p3/x"]
    assert "of the 256 levels that are stored" in unusual["why"][0]


def test_two_files_of_one_tile_are_both_left_out(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "in" / folder / "0001").mkdir(parents=True)
        np.save(tmp_path / "in" / folder / "0001" / "x.npy", v.volume_of((4, 33, 34)))
    (tmp_path / "in" / "0002").mkdir()
    np.save(tmp_path / "in" / "0002" / "x.npy", v.volume_of((4, 33, 34)))
    report = ingest(tmp_path / "in", tmp_path / "o.zarr", layout="volumes")
    assert report.n_added == 1
    assert [item.reason for item in report.left_out] == [
        "duplicate: 2 files of one tile, a/0001/x.npy, b/0001/x.npy"
    ] * 2


def test_memory_does_not_grow_with_files(tmp_path: Path) -> None:
    def peak(n_files: int) -> int:
        for number in range(n_files):
            (tmp_path / f"in{n_files}" / f"{number:03d}").mkdir(parents=True)
            np.save(tmp_path / f"in{n_files}" / f"{number:03d}" / "x.npy", v.volume_of((20, 64, 64), seed=number))
        tracemalloc.start()
        ingest(tmp_path / f"in{n_files}", tmp_path / f"o{n_files}.zarr", layout="volumes", workers=1)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    assert peak(24) < peak(8) + 3 * 20 * 64 * 64


def test_killed_anywhere_an_ingest_goes_on(study: Path, store: Path, tmp_path: Path) -> None:
    where = tmp_path / "o.zarr"
    program = (
        "import os, signal, sys\n"
        "from fintune_xr.store.ingest import volumes\n"
        "from fintune_xr.pipelines.classification.ingest import VolumeRequest\n"
        "from fintune_xr.pipelines.steps.ingest import ingest\n"
        "from fintune_xr.store.zarr_io import shards, appendable\n"
        "which, at = sys.argv[1], int(sys.argv[2])\n"
        "target = {'read': (volumes, '_gridded'), 'rows': (appendable, 'write_rows')}[which]\n"
        "real, calls = getattr(*target), [0]\n"
        "def counted(*a, **k):\n"
        "    calls[0] += 1\n"
        "    if calls[0] == at: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*a, **k)\n"
        "setattr(*target, counted)\n"
        f"ingest({str(study)!r}, {str(where)!r}, layout='ai-readi', volumes=VolumeRequest(grid={GRID}))\n"
    )
    for which, at in (("read", 3), ("rows", 4)):
        died = subprocess.run(
            [sys.executable, "-c", program, which, str(at)], env=dict(os.environ), check=False, capture_output=True
        )
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    stored(study, where)
    ours, theirs = open_cohort(where).images(lazy=False), open_cohort(store).images(lazy=False)
    assert np.array_equal(ours[n.IMAGE].values, theirs[n.IMAGE].values)
    for name in (n.TILE, n.SHA256, n.VALUE_MEAN, n.LATERALITY):
        assert np.array_equal(ours[name].values, theirs[name].values)


@pytest.fixture(scope="module")
def bucket(study: Path) -> Iterator[Door]:
    import boto3

    with flaky_s3() as (endpoint, door), pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("S3_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true"),
        ):  # fmt: skip
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="study-eyes")
        for file in study.rglob("*.*"):
            if file.is_file():
                client.upload_file(str(file), "study-eyes", str(file.relative_to(study.parent)))
        yield door


@pytest.fixture
def door(bucket: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Door:
    bucket.reset()
    monkeypatch.setattr(fetching, "_sleep", lambda seconds: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return bucket


def from_bucket(store: Path, **asked: Any) -> Any:
    request = VolumeRequest(**{"grid": GRID, **asked})
    return ingest("s3://study-eyes/retinal_oct", store, layout="ai-readi", volumes=request, workers=2)


def test_a_failing_bucket_loses_no_volume(door: Door, store: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fails = {f"{d:04d}" for d in rng.permutation(N)[:3]}
    door.judge = lambda method, path, times: 500 if any(f"/{d}/" in path for d in fails) and times <= 3 else 0
    report = from_bucket(tmp_path / "o.zarr")
    assert report.n_added == N
    ours, theirs = open_cohort(tmp_path / "o.zarr").images(lazy=False), open_cohort(store).images(lazy=False)
    assert np.array_equal(ours[n.IMAGE].values, theirs[n.IMAGE].values)
    assert np.array_equal(ours[n.SHA256].values, theirs[n.SHA256].values)


def test_files_that_never_come_are_rows_and_come_later(door: Door, tmp_path: Path, capsys: Any) -> None:
    door.judge = lambda method, path, times: 503 if "/0002/" in path else 404 if "/0005/" in path else 0
    errors = tmp_path / "data_errors.csv"
    report = from_bucket(tmp_path / "o.zarr", errors=errors)
    assert report.n_added == N - 2
    rows = {row["participant_id"]: row["exception"] for row in csv.DictReader(errors.open())}
    assert rows["0002"] == "not fetched: OSError (HTTP 503)"
    assert rows["0005"] == "not fetched: not found (HTTP 404)"
    assert len(rows) == 6
    door.reset()
    again = from_bucket(tmp_path / "o.zarr")
    assert again.n_added == 2
    listings = [key for key in door.asked if key[1].rstrip("/") == "/study-eyes"]
    assert not listings
    said = capsys.readouterr().err + errors.read_text()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            said += file.read_bytes().decode("latin-1")
    assert KEY not in said
    assert SECRET not in said


def test_a_lost_connection_is_a_reason_before_an_ingest_too(door: Door) -> None:
    door.judge = lambda method, path, times: LOST if "/0002/" in path else 0
    planned = plan_ingest("s3://study-eyes/retinal_oct", layout="ai-readi", volumes=VolumeRequest(grid=GRID))
    reasons = planned.left_out.set_index(n.DONOR)[n.REASON]
    assert reasons["0002"].startswith("not fetched: ")
    assert "127.0.0.1" not in reasons["0002"]
    assert planned.tiles["volumes"].sum() == N - 1


def test_staged_files_are_fetched_once(door: Door, tmp_path: Path) -> None:
    from_bucket(tmp_path / "o.zarr", cache=tmp_path / "staging", cache_gb=1.0)
    from_bucket(tmp_path / "p.zarr", cache=tmp_path / "staging", cache_gb=1.0)
    fetched = [times for (method, path), times in door.asked.items() if method == "GET" and path.endswith("r_1.dcm")]
    assert fetched == [1] * (N // 2)


def test_a_bucket_that_refuses_is_one_error(door: Door, tmp_path: Path) -> None:
    door.judge = lambda method, path, times: 403
    with pytest.raises((StoreUnreachableError, FintuneValueError)) as caught:
        from_bucket(tmp_path / "o.zarr")
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "o.zarr").exists()


def test_on_the_command_line(study: Path, tmp_path: Path, capsys: Any) -> None:
    where, errors = str(tmp_path / "o.zarr"), tmp_path / "e.csv"
    asked = ["--layout", "ai-readi", "--grid", "8", "32", "40", "--limit", "2", "--errors", str(errors)]
    assert cli.run(["ingest", str(study), where, *asked, "--dry-run"]) == 0
    assert cli.run(["ingest", str(study), where, *asked]) == 3
    assert errors.exists()
    assert cli.run(["annotate", str(study), where]) == 0
    assert cli.run(["split", where, "--keep"]) == 0
    assert cli.run(["ingest", str(study), where, "--layout", "rosmap", "--grid", "8", "32", "40"]) == 2
    assert cli.run(["ingest", str(study), where, *asked, "--where", "device"]) == 2
    assert "COLUMN=VALUE" in capsys.readouterr().err


def test_real_exports_of_one_scan_each_are_no_volumes(real_data: Path, tmp_path: Path) -> None:
    report = ingest(real_data / "spectralis-vol", tmp_path / "o.zarr", layout="heyex", volumes=VolumeRequest(grid=GRID))
    assert report.n_added == 0
    assert {item.reason for item in report.left_out} == {
        "wrong shape: expected 2 B-scans or more, found 1 x 496 x 768"
    }  # fmt: skip


def lying(seed: int, *, turned: bool) -> bytes:
    """A NIfTI whose columns and rows are stored backwards where it is `turned`, and whose affine says so."""
    import nibabel

    image = nibabel.Nifti1Image(pixels_of(seed).transpose(2, 1, 0), np.eye(4))
    return bytes((image.slicer[::-1, ::-1, :] if turned else image).to_bytes())


def test_volumes_that_lie_otherwise_are_turned_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, where = tmp_path / "raw", tmp_path / "oct.zarr"

    def put(*seeds: int, turned: bool) -> None:
        for seed in seeds:
            (folder / f"p{seed}").mkdir(parents=True)
            (folder / f"p{seed}" / "v.nii").write_bytes(lying(seed, turned=turned))

    def add() -> str:
        capsys.readouterr()
        ingest(folder, where, layout="volumes", volumes=VolumeRequest(grid=GRID))
        return capsys.readouterr().err

    put(1, 2, turned=False)
    assert "alike" not in add()
    put(3, 4, turned=True)
    said = add()
    assert "2 SAR, stored as they lie; 2 SPL, turned to SAR. Look at one of each" in said
    images = open_cohort(where).images(lazy=False)
    assert images.attrs[n.ORIENTATION] == "SAR"
    assert texts(images[n.ORIENTATION]) == ["SAR", "SAR", "SPL", "SPL"]
    for at, seed in enumerate((1, 2, 3, 4)):
        assert np.abs(images[n.IMAGE].values[at, 0].astype(int) - expected(seed)).max() <= 1
    # A store of an earlier release has no such column: it opens, and goes on taking volumes as they lie.
    shutil.rmtree(where / n.IMAGES / n.ORIENTATION)
    put(5, turned=True)
    assert "alike" not in add()
    images = open_cohort(where).images(lazy=False)
    assert n.ORIENTATION not in images
    assert np.abs(images[n.IMAGE].values[4, 0].astype(int) - expected(5)[:, ::-1, ::-1]).max() <= 1


@pytest.mark.parametrize(
    ("error", "is_of_file"),
    [
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), False),
        (OSError(errno.ESTALE, "Stale file handle"), False),
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), True),
        (OSError(errno.EIO, "Input/output error"), True),
    ],
)
def test_a_lost_connection_does_not_turn_a_store(
    error: OSError, is_of_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, where = tmp_path / "raw", tmp_path / "oct.zarr"
    for seed, turned in ((1, False), (2, True)):
        (folder / f"p{seed}").mkdir(parents=True)
        (folder / f"p{seed}" / "v.nii").write_bytes(lying(seed, turned=turned))
    real = volumes.volume_header

    def lost(opened: Any, path: str, reading: Any) -> Any:
        if path.startswith("p1"):
            raise error
        return real(opened, path, reading)

    with monkeypatch.context() as patch:
        patch.setattr(volumes, "volume_header", lost)
        if is_of_file:
            ingest(folder, where, layout="volumes", volumes=VolumeRequest(grid=GRID))
        else:
            with pytest.raises(StoreUnreachableError, match=rf"p1.*{error.strerror}"):
                ingest(folder, where, layout="volumes", volumes=VolumeRequest(grid=GRID))
    ingest(folder, where, layout="volumes", volumes=VolumeRequest(grid=GRID))
    # What the store decided once holds; before that, the first file that can be had decides.
    assert open_cohort(where).images().attrs[n.ORIENTATION] == ("SPL" if is_of_file else "SAR")
