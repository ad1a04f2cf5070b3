"""Files of a bucket: tried again while that helps, kept where asked, listed once; a manifest in place of a listing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flaky_s3 import KEY, SECRET, Door, flaky_s3

from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.store.raw import fetching, listings
from fintune_xr.store.raw.fetching import (
    DELAYS_S,
    Staging,
    in_few_words,
    is_passing,
    read_file,
    with_file,
    with_retries,
)
from fintune_xr.store.raw.manifest import find_manifest, where_of

BUCKET = "eyes"
URL = f"s3://{BUCKET}/retinal_oct"
A_FILE = f"/{BUCKET}/retinal_oct/spectralis/0001/a.npy"


@pytest.fixture(scope="module")
def storage() -> Iterator[Door]:
    import boto3

    with flaky_s3() as (endpoint, door), pytest.MonkeyPatch.context() as patch:
        # The study's word; botocore's own is AWS_ENDPOINT_URL.
        patch.setenv("S3_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket=BUCKET)
        for donor in ("0001", "0002"):
            client.put_object(Bucket=BUCKET, Key=f"retinal_oct/spectralis/{donor}/a.npy", Body=donor.encode() * 50)
        yield door


@pytest.fixture
def door(storage: Door, monkeypatch: pytest.MonkeyPatch) -> Door:
    storage.reset()
    monkeypatch.setattr(fetching, "_sleep", lambda seconds: None)
    return storage


def tries(door: Door, path: str = A_FILE) -> int:
    return door.asked["GET", path]


def test_a_file_comes_in_one_request(door: Door) -> None:
    assert read_file(f"{URL}/spectralis/0001/a.npy") == b"0001" * 50
    assert sum(door.asked.values()) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_failures_that_pass_are_tried_again(door: Door, status: int) -> None:
    door.judge = lambda method, path, times: status if times <= len(DELAYS_S) else 0
    assert read_file(f"{URL}/spectralis/0001/a.npy") == b"0001" * 50
    assert tries(door) == len(DELAYS_S) + 1


def test_after_the_last_try_the_error_is_raised_and_tries_do_not_multiply(door: Door) -> None:
    door.judge = lambda method, path, times: 500
    with pytest.raises(OSError):
        read_file(f"{URL}/spectralis/0001/a.npy")
    assert tries(door) == len(DELAYS_S) + 1


@pytest.mark.parametrize(("status", "said"), [(403, "access denied (HTTP 403)"), (404, "not found (HTTP 404)")])
def test_refusals_and_absence_are_final(door: Door, status: int, said: str) -> None:
    door.judge = lambda method, path, times: status
    with pytest.raises(OSError) as caught:
        read_file(f"{URL}/spectralis/0001/a.npy")
    assert tries(door) == 1
    assert in_few_words(caught.value) == said
    assert SECRET not in in_few_words(caught.value)


def test_parts_of_a_file_are_tried_again_too(door: Door) -> None:
    door.judge = lambda method, path, times: 503 if method == "GET" and times == 1 else 0
    assert with_file(f"{URL}/spectralis/0002/a.npy", lambda file: file.read(6)) == b"000200"


def test_waiting_is_half_a_second_and_twice_as_long_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(fetching, "_sleep", waited.append)

    def never() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        with_retries(never, "a")
    assert waited == [pytest.approx(delay, rel=0.26) for delay in (0.5, 1, 2, 4)]
    assert len({round(one / delay, 6) for one, delay in zip(waited, DELAYS_S, strict=True)}) == 4
    first = list(waited)
    waited.clear()
    with pytest.raises(ConnectionResetError):
        with_retries(never, "b")
    assert waited != first


def test_what_passes_and_what_does_not() -> None:
    assert is_passing(TimeoutError())
    assert is_passing(OSError(errno.ECONNRESET, "reset"))
    for final in (FileNotFoundError(), PermissionError(), TileReadError("damaged"), ValueError(), OSError("damaged")):
        assert not is_passing(final)


def test_a_staged_file_is_fetched_once_and_anew_where_it_changed(door: Door, tmp_path: Path) -> None:
    import boto3

    staging, url = Staging(tmp_path / "cache", 10_000), f"{URL}/spectralis/0001/a.npy"
    assert [read_file(url, staging) for _ in range(3)] == [b"0001" * 50] * 3
    assert tries(door) == 1
    client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"])
    client.put_object(Bucket=BUCKET, Key="retinal_oct/spectralis/0001/a.npy", Body=b"other" * 40)
    assert read_file(url, staging) == b"other" * 40
    client.put_object(Bucket=BUCKET, Key="retinal_oct/spectralis/0001/a.npy", Body=b"0001" * 50)


def test_staging_is_bounded_and_what_was_used_longest_ago_goes(tmp_path: Path) -> None:
    staging = Staging(tmp_path, 1000)
    for number in range(5):
        staging.read(f"k{number}", lambda: bytes(300))
        newest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1000
    assert staging.read("k4", lambda: b"fetched anew") == bytes(300)
    assert staging.read("k0", lambda: b"fetched anew") == b"fetched anew"
    assert staging.read("large", lambda: bytes(5000)) == bytes(5000)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1000
    with pytest.raises(FintuneValueError, match="--cache-gb"):
        Staging(tmp_path, 0)


def test_staging_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_bytes(bytes(900))
    os.utime(tmp_path / "thesis.docx", (1, 1))
    (tmp_path / "folder").mkdir()
    os.utime(tmp_path / "folder", (0, 0))
    staging = Staging(tmp_path, 1000)
    for number in range(4):
        staging.read(f"k{number}", lambda: bytes(400))
    assert (tmp_path / "thesis.docx").stat().st_size == 900
    assert (tmp_path / "folder").is_dir()
    # Its own are bounded, and those of others take no room of theirs.
    assert sum(1 for file in tmp_path.iterdir() if len(file.name) == 64) == 2


def test_a_listing_is_of_the_endpoint_that_gave_it(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    listings.listing(URL)
    assert listings.listing(URL).age_s is not None
    here = os.environ["S3_ENDPOINT_URL"]
    for word in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        with monkeypatch.context() as changed:
            for other in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
                changed.delenv(other, raising=False)
            changed.setenv(word, here.replace("127.0.0.1", "elsewhere").replace("localhost", "elsewhere"))
            assert listings._kept(listings.listing_file(URL), URL) is None
    assert listings.listing(URL).age_s is not None


def test_a_listing_is_of_the_endpoint_of_the_profile(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config, here = tmp_path / "config", os.environ["S3_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("S3_ENDPOINT_URL")
    config.write_text(
        f"[profile near]\nendpoint_url = {here}\n[profile same]\nservices = lab\n[services lab]\ns3 =\n"
        f"  endpoint_url = {here}\n[profile far]\nendpoint_url = http://elsewhere.invalid\n[profile bare]\n"
    )

    def is_known(profile: str) -> bool:
        monkeypatch.setenv("AWS_PROFILE", profile)
        return listings._kept(listings.listing_file(URL), URL) is not None

    monkeypatch.setenv("AWS_PROFILE", "near")
    listings.listing(URL)
    known = {one: is_known(one) for one in ("near", "same", "far", "bare", "missing")}
    assert known == {"near": True, "same": True, "far": False, "bare": False, "missing": False}
    # Named by the environment or by a profile, it is the same place.
    monkeypatch.setenv("AWS_ENDPOINT_URL", here)
    assert is_known("far")
    assert "elsewhere" not in listings.listing_file(URL).read_text()


def test_a_bucket_is_listed_once(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = listings.listing(URL)
    asked = sum(door.asked.values())
    assert (sorted(first.paths), first.age_s) == (["spectralis/0001/a.npy", "spectralis/0002/a.npy"], None)
    again = listings.listing(URL)
    assert sum(door.asked.values()) == asked
    assert again.paths == first.paths
    assert again.age_s is not None
    assert listings.listing(URL, refresh=True).age_s is None
    assert sum(door.asked.values()) > asked
    listings.listing_file(URL).write_text("{damaged")
    assert listings.listing(URL).age_s is None
    text = listings.listing_file(URL).read_text()
    assert KEY not in text
    assert SECRET not in text


def test_keys_in_a_url_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FintuneValueError, match="Keys belong in the environment") as caught:
        read_file(f"s3://{KEY}:{SECRET}@eyes/a.npy")
    assert SECRET not in str(caught.value)


def manifest(folder: Path, *rows: str) -> None:
    head = "person_id\tmanufacturers_model_name\tanatomic_region\tlaterality\tfilepath\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.tsv").write_text(head + "".join(f"{row}\n" for row in rows))


ROWS = (
    "0001\tSpectralis\tMacula\tR\t/retinal_oct/structural_oct/s/0001/a.dcm",
    "0002\tMaestro2\tMacula, 6 x 6\tL\t/retinal_oct/structural_oct/m/0002/b.dcm",
    "0002\tMaestro2\tOptic disc\tleft\t/retinal_oct/octa/0002/c.dcm",
)


def test_an_id_that_a_spreadsheet_made_a_number_is_refused(tmp_path: Path) -> None:
    manifest(tmp_path, *ROWS, ROWS[0].replace("0001", "1.00002E+05", 1))
    with pytest.raises(FintuneValueError, match=r"'person_id' of .*manifest\.tsv: '1\.00002E\+05' is an id"):
        find_manifest(tmp_path, {})


@pytest.mark.parametrize("source", ["retinal_oct", "retinal_oct/structural_oct"])
def test_a_manifest_in_the_source_or_above(tmp_path: Path, source: str) -> None:
    manifest(tmp_path / "retinal_oct", *ROWS)
    (tmp_path / source).mkdir(exist_ok=True)
    found = find_manifest(tmp_path / source, {})
    assert found is not None
    inside = source.endswith("structural_oct")
    prefix = "" if inside else "structural_oct/"
    assert [file.path for file in found.files][:2] == [f"{prefix}s/0001/a.dcm", f"{prefix}m/0002/b.dcm"]
    assert len(found.files) == (2 if inside else 3)
    assert found.n_elsewhere == (1 if inside else 0)
    first, second = found.files[:2]
    assert (first.donor, first.device, first.laterality, first.protocol) == ("0001", "Spectralis", "R", "Macula")
    assert second.laterality == "L"


def test_where_keeps_rows(tmp_path: Path) -> None:
    manifest(tmp_path / "r", *ROWS)
    found = find_manifest(tmp_path / "r", where_of(["manufacturers_model_name=Maestro2", "anatomic_region=Optic disc"]))
    assert found is not None
    assert [file.path for file in found.files] == ["retinal_oct/octa/0002/c.dcm"]
    for where, said in (
        (["anatomic_regoin=Macula"], "Did you mean 'anatomic_region'"),
        (["laterality=X"], "no row left; values are L, R, left"),
        (["laterality"], "expected COLUMN=VALUE"),
    ):
        with pytest.raises(FintuneValueError, match=said):
            find_manifest(tmp_path / "r", where_of(where))
    (tmp_path / "other" / "x").mkdir(parents=True)
    assert find_manifest(tmp_path / "other" / "x", {}) is None
    with pytest.raises(FintuneValueError, match="--where needs a manifest"):
        find_manifest(tmp_path / "other" / "x", {"a": "b"})


def test_a_manifest_without_paths_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_text("person_id\tname\n1\ta\n")
    with pytest.raises(FintuneValueError, match="and filepath"):
        find_manifest(tmp_path, {})


def test_kept_listings_are_of_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Door) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    listings.listing(URL)
    other = listings.listing_file("s3://other/place")
    other.write_bytes(listings.listing_file(URL).read_bytes())
    assert listings._kept(other, "s3://other/place") is None


def test_a_folder_is_listed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a").mkdir()
    names: list[Any] = []
    for name in ("x.npy", "y.npy"):
        (tmp_path / "a" / name).touch()
        names.append(sorted(listings.listing(tmp_path / "a").paths))
    assert names == [["x.npy"], ["x.npy", "y.npy"]]


def test_a_file_of_two_people_in_a_manifest_is_nobodys(tmp_path: Path) -> None:
    row = "{}\ta/x.dcm\tTriton\tR\n".format
    head = "person_id\tfilepath\tdevice\tlaterality\n"
    (tmp_path / "manifest.tsv").write_text(head + row("1001") + row("1001"))
    found = find_manifest(tmp_path, {})
    assert found is not None
    assert [(file.path, file.donor) for file in found.files] == [("a/x.dcm", "1001")]
    assert found.n_elsewhere == 0
    (tmp_path / "manifest.tsv").write_text(head + row("1001") + row("1002"))
    with pytest.raises(FintuneValueError, match=r"rows of a/x\.dcm that differ: 1001, Triton, R and 1002, Triton, R"):
        find_manifest(tmp_path, {})


@pytest.mark.parametrize("size", ["nan", "inf", "-1", "0"])
def test_a_size_of_the_cache_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    from fintune_xr.pipelines.classification.ingest import VolumeRequest
    from fintune_xr.pipelines.steps.ingest import ingest

    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "v.npy", np.zeros((2, 32, 32), np.uint8))
    asked = VolumeRequest(cache=tmp_path / "cache", cache_gb=float(size))
    with pytest.raises(FintuneValueError, match="--cache-gb"):
        ingest(tmp_path, tmp_path / "a.zarr", layout="volumes", volumes=asked)
