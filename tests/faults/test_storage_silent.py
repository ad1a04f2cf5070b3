"""Storage that does not answer: an error of its own wherever it happens, never damage, and nothing is thrown away."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from flaky_s3 import KEY, SECRET, Door, flaky_s3
from silent_mount import FAULTS, Mount

from fintune_xr import names as n
from fintune_xr.errors import StoreDamagedError, StoreUnreachableError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.associate import association_doubt
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.doctor import doctor
from fintune_xr.pipelines.steps.measure import measure
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.labels.measurements import measurement_doubt
from fintune_xr.store.raw.fetching import table_bytes
from fintune_xr.store.runs.measurement_writer import set_back_damaged
from fintune_xr.store.zarr_io.location import Location, explain_read_errors
from fintune_xr.store.zarr_io.refusals import is_refusal

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="module")
def mount() -> Mount:
    return Mount()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with tarfile.open(DATA / "cells.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    measure(folder / "a.zarr", run="a", columns=["solidity"], overrides=("cluster.dashboard=false",))
    return folder / "a.zarr"


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def content(store: Path) -> dict[str, str]:
    """Digests of all that is stored; locks hold nothing."""
    files = (file for file in store.rglob("*") if file.is_file() and not file.name.endswith(".lock"))
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def checked(store: Path) -> list[str]:
    return [str(problem) for problem in check(store, repair=True)]


def looked_at(store: Path) -> list[Any]:
    """What is told of runs, columns and statistics: whether they are there, finished, and still true."""
    cohort = open_cohort(store)
    states = {run: cohort.run(run, lazy=False)[n.STATE].values.tolist() for run in cohort.run_names()}
    half = cohort.run("half")
    return [
        states,
        type(half[n.MASK].data).__name__,
        measurement_doubt(cohort.location, "a", "solidity"),
        association_doubt(cohort, cohort.analysis()),
        cohort.names_under(n.POSITIVITY),
        cohort.names_under(n.BOOTSTRAP),
        "solidity" in cohort.cells("a"),
    ]


def set_back(store: Path) -> list[str]:
    return set_back_damaged(Location.of(store), "a")


def answer_or_refusal(asked: Callable[[Path], Any], store: Path) -> Any:
    try:
        return asked(store)
    except StoreUnreachableError as refusal:
        return refusal


@pytest.mark.parametrize(
    ("asked", "times", "most"),
    [(checked, 14, 1), (checked, 7, 10**9), (looked_at, 14, 1), (set_back, 12, 1)],
    ids=["check, once", "check, for good", "looks, once", "measured, once"],
)
def test_a_mount_that_fails_at_any_reading(
    store: Path, mount: Mount, asked: Callable[[Path], Any], times: int, most: int
) -> None:
    expected = mount.during(store, lambda: asked(store))
    n_readings, before = mount.n_readings, content(store)
    assert n_readings > times
    for number in range(times):
        mount.fault = FAULTS[number % len(FAULTS)]
        first = 1 + number * n_readings // times
        found = mount.during(store, lambda: answer_or_refusal(asked, store), first=first, most=most)
        if isinstance(found, StoreUnreachableError):
            assert str(store) in str(found)
            assert "damage" not in str(found).replace("this is no damage", "")
        elif found != expected:
            # One file that its disk cannot give is named, and the check goes on.
            assert (asked, mount.fault().errno) == (checked, errno.EIO), f"reading {first} of {n_readings}"
            assert any("cannot reach" in one for one in found)
            assert {one for one in found if "cannot reach" not in one} <= set(expected)
        assert content(store) == before


FILES = [
    "images/image/c.0.0.0.0", "images/zarr.json", "images/donor/c.0", "annotations/mask/c.0.0.0", "runs/a/mask/c.0.0.0",
    "runs/a/mask/zarr.json", "runs/a/zarr.json", "runs/a/state/c.0", "runs/a/n_cells/c.0", "cells/a/label/c.0",
    "measurements/a/solidity/value/c.0", "measurements/a/solidity/state/c.0", "measurements/a/solidity/zarr.json",
]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_one_file_on_a_bad_sector_is_named_and_stays(store: Path, mount: Mount, file: str) -> None:
    mount.fault = lambda: OSError(errno.EIO, "Input/output error")
    (store / "runs" / "half" / "state" / "c.0").write_bytes(b"damaged")
    assert (store / file).is_file()
    before = content(store)
    found = mount.during(store / file, lambda: check(store, repair=True), most=10**9)
    assert "runs/half/state" in {problem.where for problem in found}, "it went on to what is damaged elsewhere"
    unread = [problem for problem in found if "cannot reach" in problem.what]
    assert any(file in problem.what for problem in unread)
    assert all("`--repair` leaves it as it is" in problem.remedy and not problem.tiles for problem in unread)
    after = content(store)
    assert {name: after[name] for name in before if "half" not in name} == {
        name: digest for name, digest in before.items() if "half" not in name
    }


def test_a_lost_file_that_was_taken_away_is_repaired(store: Path, mount: Mount) -> None:
    mount.fault = lambda: OSError(errno.EIO, "Input/output error")
    file = store / "runs" / "a" / "mask" / "c.0.0.0"
    found = mount.during(file, lambda: check(store, repair=True), most=10**9)
    assert any("If that file is lost, remove it" in problem.remedy for problem in found)
    file.unlink()
    assert any(problem.tiles for problem in check(store, repair=True))
    assert (open_cohort(store).run("a", lazy=False)[n.STATE].values == n.PENDING).any()


@pytest.mark.parametrize("error", [errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_other_silence_of_one_file_ends_a_check(store: Path, mount: Mount, error: int) -> None:
    mount.fault = lambda: OSError(error, "no answer")
    with pytest.raises(StoreUnreachableError):
        mount.during(store / "runs" / "a" / "mask" / "c.", lambda: check(store), most=10**9)


def test_a_folder_that_may_not_be_listed_hides_nothing(store: Path, mount: Mount) -> None:
    mount.fault = FAULTS[2]
    with pytest.raises(StoreUnreachableError, match="runs"):
        mount.during(store / "runs", lambda: open_cohort(store).run_names(), most=10**9)
    with pytest.raises(StoreUnreachableError):
        mount.during(store / "positivity" / "a", lambda: check(store), most=10**9)


def test_doctor_sends_nobody_to_look_for_damage(store: Path, mount: Mount) -> None:
    mount.fault = FAULTS[0]
    told = mount.during(store, lambda: doctor(store), most=10**9).set_index("subject").loc["store"]
    assert "cannot reach" in told["finding"]
    assert "fintune-xr check" not in told["remedy"]


def test_a_table_that_may_not_be_read_is_not_missing(tmp_path: Path, mount: Mount) -> None:
    (tmp_path / "participants.tsv").write_text("person_id\n")
    mount.fault = FAULTS[2]
    with pytest.raises(StoreUnreachableError, match=r"participants.tsv"):
        mount.during(tmp_path, lambda: table_bytes(tmp_path / "participants.tsv"), most=1)
    assert table_bytes(tmp_path / "other.tsv") is None


def answer(code: str, status: int) -> Exception:
    """What s3fs makes of an answer of S3."""
    from s3fs.errors import translate_boto_error

    told = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    made: Exception = translate_boto_error(ClientError(told, "GetObject"))
    return made


PASSING = [
    answer("AccessDenied", 403), answer("ServiceUnavailable", 503), answer("SlowDown", 503),
    answer("InternalError", 500), answer("RequestTimeout", 400), answer("InvalidToken", 400),
    answer("NoNameOfAnError", 502), EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
    ClientError({"Error": {"Code": "503"}}, "GetObject"), *(fault() for fault in FAULTS),
]  # fmt: skip


@pytest.mark.parametrize("error", PASSING, ids=lambda error: f"{type(error).__name__} {error}")
def test_refusals_are_no_damage(error: Exception) -> None:
    assert is_refusal(error)
    with pytest.raises(StoreUnreachableError, match="cannot reach there"), explain_read_errors("there"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("zstd"), OSError("truncated"), OSError(errno.EINVAL, "Invalid argument"), KeyError("codecs"),
        FileNotFoundError(errno.ENOENT, "none"), answer("NoSuchKey", 404), OverflowError(), MemoryError(),
    ],
)  # fmt: skip
def test_what_is_gone_or_does_not_decode_is_damage(error: Exception) -> None:
    assert not is_refusal(error)
    with pytest.raises(StoreDamagedError, match="cannot be read"), explain_read_errors("there"):
        raise error


@pytest.fixture
def bucket(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Door]]:
    """The store in a bucket, and the door before it."""
    with flaky_s3() as (endpoint, door):
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="cells")
        for file in (one for one in store.rglob("*") if one.is_file()):
            client.put_object(Bucket="cells", Key=f"a.zarr/{file.relative_to(store)}", Body=file.read_bytes())
        yield "s3://cells/a.zarr", door


@pytest.mark.slow
def test_a_bucket_that_refuses_one_chunk(
    bucket: tuple[str, Door], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where, door = bucket
    for part in ("/runs/a/mask/c.", "/images/tile/zarr.json"):
        door.judge = lambda method, path, times, part=part: 403 if method == "GET" and part in path else 0
        with pytest.raises(StoreUnreachableError, match="cannot reach s3://cells"):
            check(where)
    assert command(["check", where]) == 1
    said = capsys.readouterr()
    assert "no damage" in said.err
    assert SECRET not in said.err
    door.reset()
    assert {problem.where for problem in check(where)} <= {problem.where for problem in check(store)}
