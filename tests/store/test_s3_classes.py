"""Stained tissue on object storage: ingested in parts, annotated, written as a run, scored, checked and exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from class_runs import shaken_maps, store_class_run
from numpy.testing import assert_array_equal
from s3_server import KEYS, s3_server

from fintune_xr import names as n
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.simulation.he_cohort import HeCohortSettings, simulate_he_cohort
from fintune_xr.store.cohort import open_cohort
from fintune_xr.tasks.class_map import ClassMap

FEW = HeCohortSettings(n_donors=3, tiles_per_donor=(1, 1), tile_px=128, damaged=False, seed=3)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket, with the environment set as a user sets it."""
    with s3_server() as address:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="tissue")
        yield "s3://tissue"


@pytest.mark.slow
def test_a_bucket_holds_what_a_folder_holds(bucket: str, tmp_path: Path) -> None:
    simulate_he_cohort(tmp_path / "raw", settings=FEW)
    class_map, digests = ClassMap(), []
    for place in (f"{bucket}/he.zarr", str(tmp_path / "he.zarr")):
        assert ingest(tmp_path / "raw", place, layout="bcss", cut=64).left_out == ()
        assert annotate(tmp_path / "raw", place, layout="bcss").left_out == ()
        cohort = open_cohort(place)
        store_class_run(cohort, "r", shaken_maps(cohort, class_map, wrong=0.2), class_map)
        scores = evaluate(place, split="all", resamples=20)
        assert check(place) == []
        digests.append((cohort, scores))
    (remote, there), (local, here) = digests
    assert_array_equal(remote.images()[n.IMAGE].values, local.images()[n.IMAGE].values)
    assert_array_equal(remote.annotations()[n.CLASSES].values, local.annotations()[n.CLASSES].values)
    assert_array_equal(there[n.CONFUSION].values, here[n.CONFUSION].values)
    assert len(export(remote.url, to="masks", out=tmp_path / "maps", runs=["r"])) == 2 * remote.images().sizes[n.TILE]
