"""The demo: one command, and a report in which every study of the store has its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.instance.settings import TrainSettings
from fintune_xr.pipelines.demos import demo as module
from fintune_xr.pipelines.demos.demo import MARK, REMARK, demo
from fintune_xr.pipelines.studies.benchmark import BenchmarkSettings
from fintune_xr.settings import load_settings
from fintune_xr.simulation.if_cohort import CohortSettings, SimulatedCohort, simulate_cohort
from fintune_xr.store.cohort import open_cohort


def _simulated(folder: Path, settings: CohortSettings) -> SimulatedCohort:
    small = {"n_donors": 8, "tiles_per_donor": (1, 1), "tile_px": 96, "n_annotated": 24}
    return simulate_cohort(folder, settings=settings.model_copy(update=small))


def test_one_report_carries_every_step(tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings, which take minutes, are stood in for; what they are told is judged as they would judge it."""
    said: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(module, "_simulated", _simulated)
    monkeypatch.setattr(module, "WHOLE", replace(module.WHOLE, resamples=3))
    monkeypatch.setattr(module, "train", lambda _, **told: said.update(train=told) or "threshold")
    for name in ("benchmark", "budget"):
        monkeypatch.setattr(module, name, lambda _, name=name, **told: said.update({name: told}))
    page = demo(tmp_path / "demo", seed=2).read_text()
    assert load_settings(TrainSettings, said["train"]["config"]).seed == 2
    compared = load_settings(BenchmarkSettings, said["benchmark"]["config"])
    for config in (compared.train, said["budget"]["config"]):
        quick = load_settings(TrainSettings, config)
        assert (quick.seed, quick.epochs % quick.validate_every) == (2, 0)
    for title in ("Segmentation", "Post-processing", "Which cells are positive", "Donor ratios", "Resamples"):
        assert f">{title}</h2>" in page
    for title in ("Ways to train", "Label budget"):
        assert f"{title}: <code>fintune-xr" in page[page.index(">Not stored yet</h2>") :]
    assert "12 gates on its stored masks and cells" in page
    assert "Out of date" not in page
    assert page.index(REMARK) < page.index("tiles of 8 donors")


def test_a_quick_demo_has_one_marker_and_no_studies(
    tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_simulated", _simulated)
    monkeypatch.setattr(module, "train", lambda _, **__: "threshold")
    page = demo(tmp_path / "demo", quick=True).read_text()
    assert "Donor ratios</h2>" in page
    assert "IBA1" not in page
    assert not open_cohort(tmp_path / "demo" / "cohort.zarr").has(n.BUDGET_PATH)
    with pytest.raises(FintuneValueError, match="holds a demo with seed 0 quick, not 0"):
        demo(tmp_path / "demo")
    with pytest.raises(FintuneValueError, match="quick demo is made of cells alone"):
        demo(tmp_path / "other", quick=True, cohort="oct")


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(FintuneValueError, match="holds something else than a demo"):
        demo(tmp_path)
    (tmp_path / MARK).write_text("3")
    with pytest.raises(FintuneValueError, match="holds a demo with seed 3, not 0"):
        demo(tmp_path)
