"""Verification of stores of stained tissue: damage is found where it was put, and set back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from class_runs import shaken_maps, small_store_with_runs, store_class_run

from fintune_xr import names as n
from fintune_xr.pipelines.steps.check import check
from fintune_xr.settings import load_settings
from fintune_xr.store.cohort import open_cohort
from fintune_xr.tasks.class_map import ClassMap


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store_with_runs(tmp_path_factory.mktemp("he"))


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "he.zarr"))


def test_a_sound_store_has_no_problem(store: Path) -> None:
    assert check(store) == []


def test_wrong_counts_and_labels_are_found_and_set_back(store: Path) -> None:
    group = zarr.open_group(store, path=f"{n.RUNS}/good", mode="r+")
    group[n.CLASS_PX][1, 0] = 5
    maps = shaken_maps(open_cohort(store), ClassMap(), wrong=0.05)
    beyond = [np.where(one == 1, 77, one).astype(np.uint8) if at == 2 else one for at, one in enumerate(maps)]
    store_class_run(open_cohort(store), "poor", beyond, ClassMap(), restart=True)
    told = {problem.where: problem for problem in check(store)}
    assert told[f"{n.RUNS}/good/{n.CLASS_PX}"].tiles == (1,)
    assert told[f"{n.RUNS}/poor/{n.CLASSES}"].tiles == (2,)
    assert len(told) == 2
    check(store, repair=True)
    states = open_cohort(store).run("good", lazy=False)[n.STATE].values
    assert np.flatnonzero(states == n.PENDING).tolist() == [1]


def test_codes_and_classes_that_the_legend_lacks(store: Path) -> None:
    array = zarr.open_group(store, path=n.ANNOTATIONS, mode="r+")[n.CLASSES]
    kept = [code for code in range(22) if code != 18]
    array.attrs["flag_values"] = kept
    array.attrs["flag_meanings"] = " ".join([*array.attrs["flag_meanings"].split()[:18], "angio", "dcis", "other"])
    told = [str(problem) for problem in check(store)]
    assert any("holds code 18, which legend 'bcss' lacks" in one for one in told)
    assert any("blood_vessel: no code 18 in the legend" in one for one in told)


def test_a_run_of_other_classes_than_its_map(store: Path) -> None:
    other = load_settings(ClassMap, {"classes": {"tumor": [1]}})
    array = zarr.open_group(store, path=f"{n.RUNS}/good", mode="r+")[n.CLASSES]
    array.attrs[n.CLASS_MAP] = other.as_dict()
    told = [str(problem) for problem in check(store)]
    assert any("its classes are not those of its class map" in one for one in told)
