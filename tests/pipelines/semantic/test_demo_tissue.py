"""The demo of stained tissue: every step runs, and the report says what was left out and what came of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.pipelines.demos import tissue
from fintune_xr.pipelines.demos.demo import demo
from fintune_xr.simulation.he_cohort import HeCohortSettings, SimulatedPatches, simulate_he_cohort
from fintune_xr.store.cohort import open_cohort

QUICK = {"patch_px": 64, "patches_per_epoch": 4, "batch_size": 2, "epochs": 1, "validate_every": 1, "threads": 1}


def _simulated(folder: Path, seed: int) -> SimulatedPatches:
    settings = HeCohortSettings(n_donors=12, tiles_per_donor=(1, 1), tile_px=96, seed=seed)
    return simulate_he_cohort(folder, settings=settings)


@pytest.mark.slow
def test_one_report_carries_every_step(tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tissue, "_simulated", _simulated)
    monkeypatch.setattr(tissue, "UNET", {**QUICK, "filters": [4, 8, 8]})
    monkeypatch.setattr(tissue, "SMALL_SAM2", QUICK)
    path = demo(tmp_path / "demo", cohort="he")
    page = path.read_text()
    for title in (
        "Balance of classes",
        "Example patches",
        "Classes of pixels",
        "Confusion of classes",
        "Left out",
        "Classes of regions by sentences",
        "random-clip-probe",
        "has random weights: its answers are luck",
    ):
        assert title in page
    assert "truncated" in page
    cohort = open_cohort(tmp_path / "demo/cohort.zarr")
    assert cohort.run_names() == ["sam2-small", "unet-sqrt-weights", "unet-unweighted"]
    for name in (tissue.ZERO_SHOT, tissue.PROBE):
        study = cohort.read(f"regions/{name}")
        assert study.attrs["protocol"] == "prompted"
        assert 0 < float(study["accuracy"]) < 1
    assert len(list((tmp_path / "demo/maps").rglob("*_pred.png"))) == 13
    with pytest.raises(FintuneValueError, match="holds a demo with seed he 0"):
        demo(tmp_path / "demo", seed=1, cohort="he")


def test_kinds_without_a_demo_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no cohort for a demo 'em'"):
        demo(tmp_path, cohort="em")
