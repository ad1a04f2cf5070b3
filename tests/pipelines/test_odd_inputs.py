"""Inputs that nobody means to give: each is refused in one sentence, at once, and nothing is stored."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from stores import make_store

from fintune_xr.analysis.positivity.rules import FixedRule
from fintune_xr.errors import CheckpointError, SettingsError
from fintune_xr.models.checkpoints import load_weights_file, read_record
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings
from fintune_xr.store.cohort import open_cohort

QUICK = ("device=cpu", "cluster.dashboard=false", "model.background_px=0", "model.min_area_px=20")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run and a clinical table. Read only."""
    folder = tmp_path_factory.mktemp("odd")
    make_store(folder / "c.zarr", donors=4, tiles=1)
    infer(folder / "c.zarr", run="base", model="threshold", overrides=QUICK)
    (folder / "clinical.csv").write_text("projid,nft\n" + "".join(f"d{i},{i}\n" for i in range(4)))
    return folder


REFUSED = {
    "associate c.zarr --clinical clinical.csv --run base --run base": "run 'base' was asked for more than once",
    "associate c.zarr --clinical clinical.csv --readout count --run base --run base": "asked for more than once",
    "bootstrap c.zarr --resamples 0": "--resamples: expected 1 or more, got 0",
    "bootstrap c.zarr --resamples -5": "--resamples: expected 1 or more, got -5",
    "positivity c.zarr --run base --rule fixed --threshold nan": "--threshold: expected a finite number of counts",
    "ingest raw new.zarr --workers -3": "--workers: expected 0 (one for each processor) or more, got -3",
    f"infer c.zarr --run {'x' * 300} --model threshold": "up to 100, e.g. generic-v1",
    "report c.zarr --out c.zarr": "it is a folder. Name a file.",
    "infer c.zarr --run r --model threshold --cluster twice.yaml --dry-run": "'kind' stands twice",
    "infer c.zarr --run r --model threshold --cluster memory.yaml --dry-run": "is no amount of memory",
}


@pytest.mark.parametrize("asked", REFUSED, ids=lambda asked: asked[:40])
def test_it_is_refused_in_a_sentence(
    work: Path, asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "twice.yaml").write_text("kind: threads\nkind: processes\n")
    (work / "memory.yaml").write_text("kind: processes\nworkers: 1\nmemory_limit: '-5GB'\n")
    for donor in ("00000001", "00000002"):
        for channel in (0, 1):
            path = work / f"raw/{donor}/GFAP/{donor}_GFAP_00_b0c{channel}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, np.full((32, 32), channel + 1, np.uint16))
    monkeypatch.chdir(work)
    runs = open_cohort(work / "c.zarr").run_names()
    assert command(asked.split()) in (1, 2)
    said = capsys.readouterr().err
    assert REFUSED[asked] in " ".join(said.split())
    assert "Traceback" not in said
    assert open_cohort(work / "c.zarr").run_names() == runs
    assert not (work / "new.zarr").exists()


@pytest.mark.timeout(60)
def test_a_pipe_among_images_keeps_nobody_waiting(work: Path, tmp_path: Path) -> None:
    for channel in (0, 1):
        path = tmp_path / f"raw/1/GFAP/1_GFAP_00_b0c{channel}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.full((32, 32), channel + 1, np.uint16))
        os.mkfifo(path.with_name(f"1_GFAP_01_b0c{channel}.tif"))
    (tmp_path / "raw/1/GFAP/1_GFAP_02_b0c0.tif").symlink_to("nowhere.tif")
    assert command(["ingest", str(tmp_path / "raw"), str(tmp_path / "c.zarr")]) == 3
    assert open_cohort(tmp_path / "c.zarr").quarantine().sizes["item"] == 1
    shutil.rmtree(tmp_path / "raw")


def test_a_key_that_stands_twice_and_what_is_endless(tmp_path: Path) -> None:
    path = tmp_path / "rule.yaml"
    path.write_text("threshold: 1\nthreshold: 2\n")
    with pytest.raises(SettingsError, match="'threshold' stands twice"):
        load_settings(FixedRule, config=path)
    path.write_text(f"threshold: {['x'] * 10_000}\n")
    with pytest.raises(SettingsError) as told:
        load_settings(FixedRule, config=path)
    assert len(str(told.value)) < 1000


def test_seeds_begin_at_0() -> None:
    with pytest.raises(SettingsError, match="seed: expected a whole number from 0, got -1"):
        stream(-1, "anything")


def test_weights_without_names_and_records_that_are_none(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"expected names of tensors, found 1 \(int\)"):
        load_weights_file(tmp_path / "model.pt")
    record = tmp_path / "training.json"
    record.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read_record(record)
    record.write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="expected the record of a training, found a list"):
        read_record(record)


def test_a_keyword_that_ingest_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"ingest\(\) got an unexpected keyword argument 'bining'.*'binning'"):
        ingest(tmp_path, tmp_path / "c.zarr", bining=2)  # type: ignore[call-arg]
