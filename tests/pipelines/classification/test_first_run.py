"""The first-run checklist of docs/how-to/oct.md, line by line, against a bucket on this machine."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flaky_s3 import KEY, SECRET, flaky_s3

from fintune_xr import names as n
from fintune_xr.pipelines.classification import demo_encoders
from fintune_xr.pipelines.cli.app import run
from fintune_xr.simulation.oct_cohort import StudySettings, simulate_study
from fintune_xr.store.cohort import open_cohort

GRID = ("--grid", "16", "64", "64")
SOURCE = "s3://first-run/retinal_oct"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, beside a bucket with a study of simulated volumes."""
    import boto3

    folder = tmp_path_factory.mktemp("first-run")
    made = simulate_study(folder / "retinal_oct", settings=StudySettings(n_train=32, n_val=8, n_test=8, seed=3))
    with flaky_s3() as (endpoint, _), pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("S3_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true"),
            ("XDG_CACHE_HOME", str(folder / "cache")),
        ):  # fmt: skip
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="first-run")
        for file in made.source.rglob("*.*"):
            client.upload_file(str(file), "first-run", str(file.relative_to(folder)))
        yield folder


@pytest.mark.slow
def test_each_line_of_the_checklist(bucket: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(bucket)
    monkeypatch.setattr(demo_encoders, "N_VOLUMES", 24)
    encoder = str(demo_encoders.demo_encoder("multi", bucket, seed=0, n_steps=4))
    table = f"{SOURCE}/participants.tsv"
    ingest = ["ingest", SOURCE, "oct.zarr", "--layout", "ai-readi", "--participants", table, *GRID]
    assert run([*ingest, "--limit", "5", "--dry-run"]) == 0
    assert not Path("oct.zarr").exists()
    assert run([*ingest, "--limit", "5"]) in (0, 3)
    assert len(set(open_cohort("oct.zarr").images()[n.DONOR].values.tolist())) == 20
    assert run(["annotate", table, "oct.zarr"]) == 0
    # The first five of each group are all of train, so the parts come with the rest.
    assert run([*ingest, "--errors", "data_errors.csv"]) == 3
    rows = csv.DictReader(Path("data_errors.csv").read_text().splitlines())
    assert {row["participant_id"] for row in rows} == {"2001", "2002", "2003"}
    assert run(["annotate", SOURCE, "oct.zarr"]) == 0
    assert run(["split", "oct.zarr", "--keep"]) == 0
    assert run(["infer", "oct.zarr", "--run", "multi", "--model", encoder, "model.heads=3", "device=cpu"]) == 0
    smoke = ["--run-name", "smoke", "--config", "oct_smoke", "encoder.heads=3"]
    assert run(["train", "oct.zarr", "--model", encoder, *smoke]) == 0
    assert run(["probe", "oct.zarr", "--run", "multi"]) == 0
    assert run(["evaluate", "oct.zarr"]) == 0
    assert run(["export", "oct.zarr", "--to", "tables", "--out", "tables"]) == 0
    assert Path("tables/data_errors.csv").read_bytes() == Path("data_errors.csv").read_bytes()
    assert run(["report", "oct.zarr", "--out", "report.html"]) == 0
    assert run(["check", "oct.zarr"]) == 0
    said = capsys.readouterr()
    text = said.out + said.err + Path("report.html").read_text()
    for file in Path("oct.zarr").rglob("*"):
        text += file.read_bytes().decode("latin-1") if file.is_file() else ""
    assert KEY not in text
    assert SECRET not in text
