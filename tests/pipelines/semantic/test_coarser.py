"""Runs of fine classes and of two alone, scored under the same coarser classes, apart from their own scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_runs import shaken_maps, small_store_with_runs, store_class_run, truth_maps
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import f1_score

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.evaluate import evaluate, score_lines
from fintune_xr.settings import load_settings
from fintune_xr.store.cohort import open_cohort
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.coarser import coarser_classes
from fintune_xr.tasks.legends import BCSS

TUMOR: dict[str, Any] = {"tumor": [1, 19, 20], "rest": ["stroma", "lymphocyte", "necrosis", "blood_vessel"]}
BINARY = load_settings(ClassMap, {"classes": {"tumor": [1, 19, 20]}})
# The published classes with their codes, stated apart from the code's own table.
CODES = {"tumor": 1, "stroma": 2, "lymphocyte": 3, "necrosis": 4, "blood_vessel": 18}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`good` and `poor` of five classes, and `binary` of tumour alone."""
    made = small_store_with_runs(tmp_path_factory.mktemp("he"))
    cohort = open_cohort(made)
    store_class_run(cohort, "binary", shaken_maps(cohort, BINARY, wrong=0.1), BINARY)
    return made


def test_scores_are_those_of_scikit_learn_on_labels_joined_by_hand(store: Path) -> None:
    scores = evaluate(store, split="all", resamples=20, coarser=TUMOR)
    assert scores[n.RUN].values.tolist() == ["binary", "good", "poor"]
    assert scores[n.CLASS].values.tolist() == ["tumor"]
    cohort = open_cohort(store)
    truth = truth_maps(cohort, BINARY)
    of_run = {
        "good": [one == 1 for one in shaken_maps(cohort, ClassMap(), wrong=0.05)],
        "binary": [one == 1 for one in shaken_maps(cohort, BINARY, wrong=0.1)],
    }
    for run, maps in of_run.items():
        each = [
            f1_score(true[true != 255] == 1, found[true != 255])
            for true, found in zip(truth, maps, strict=True)
            if (true == 1).any()
        ]
        assert_allclose(scores["dice_image_mean"].sel({n.RUN: run}), [np.mean(each)], rtol=1e-12)
        assert_allclose(scores["perclass_dice_image_mean"].sel({n.RUN: run}), np.mean(each), rtol=1e-12)


def test_the_binary_task_stands_beside_the_finer_one_and_changes_none_of_its_numbers(store: Path) -> None:
    fine = evaluate(store, runs=["good", "poor"], split="all", resamples=20)
    cohort = open_cohort(store)
    before, balance = cohort.metrics("all").load(), cohort.read(n.CLASS_BALANCE_PATH).load()
    coarse = evaluate(store, runs=["good", "poor"], split="all", resamples=20, coarser=TUMOR)
    assert cohort.metrics("all").identical(before)
    assert cohort.read(n.CLASS_BALANCE_PATH).identical(balance)
    stored = cohort.metrics("coarser_tumor_all")
    assert stored.attrs[n.COARSER] == {"tumor": [1, 19, 20], "rest": [2, 3, 4, 18]}
    assert stored[n.CONFUSION].equals(coarse[n.CONFUSION])
    # No tile of the simulation holds 19 or 20, so the coarser confusion is the finer one with rows and columns joined.
    joined = fine[n.CONFUSION].values
    other = [0, 2, 3, 4, 5]
    by_hand = [
        [joined[..., other, :][..., other].sum((-2, -1)), joined[..., other, 1].sum(-1)],
        [joined[..., 1, :][..., other].sum(-1), joined[..., 1, 1]],
    ]
    assert_array_equal(stored[n.CONFUSION], np.moveaxis(np.array(by_hand), (0, 1), (-2, -1)))
    assert score_lines(stored)[0] == (
        "under coarser classes, and no score of the finer ones: tumor is code 1,19,20; none of them is code 2,3,4,18"
    )


def test_any_class_against_none_is_the_foreground_of_the_finer_scores(store: Path) -> None:
    foreground = {"tissue": list(CODES)}
    coarse = evaluate(store, runs=["good", "poor"], split="all", resamples=20, coarser=foreground)
    fine = evaluate(store, runs=["good", "poor"], split="all", resamples=20)
    assert_allclose(coarse["perclass_dice_image_mean"], fine["foreground_dice_image_mean"], rtol=1e-12)


@pytest.mark.parametrize(
    ("coarser", "said"),
    [
        ({"tumor": [1, 19, 20]}, "stroma of good: code 2 is in none, and not in rest"),
        ({"tumour": ["tumr"], "rest": [2, 3, 4, 18]}, "no class 'tumr'; there are tumor, stroma"),
        ({"tumor": [1], "rest": [1, 2, 3, 4, 18]}, "code 1 is in a coarser class and in rest"),
        ({"tumor": [1, 99], "rest": [2, 3, 4, 18]}, "tumor: no code 99 in the legend"),
        ({"tumor": [1], "rest": [2, 3, 4, 18, 99]}, "rest: no code 99 in the legend"),
        ({"tumor": [1], "warm": [1, 2], "rest": [3, 4, 18]}, "code 1 is in tumor and in warm"),
        ({"tumor": [0, 1], "rest": [2, 3, 4, 18]}, "code 0 is ignored in these annotations"),
        ({"stroma": [1], "rest": [2, 3, 4, 18]}, "code 2 is 'stroma' in these annotations, and not among those"),
    ],
)
def test_what_has_no_place_or_several_is_refused_and_nothing_is_stored(
    store: Path, tmp_path: Path, coarser: dict[str, Any], said: str
) -> None:
    copy = shutil.copytree(store, tmp_path / "he.zarr")
    before = open_cohort(copy).names_under(n.METRICS)
    with pytest.raises(SettingsError, match=said):
        evaluate(copy, runs=["good"], split="all", coarser=coarser)
    assert open_cohort(copy).names_under(n.METRICS) == before


def test_a_class_whose_codes_have_several_places_cannot_be_told_apart() -> None:
    with pytest.raises(SettingsError, match="tumor of r is in several: code 1 in tumor, 19 in rest, 20 in rest"):
        coarser_classes({"tumor": [1], "rest": [19, 20]}, {"r": BINARY}, BCSS)


def test_a_word_that_means_other_codes_in_another_run_is_asked_for() -> None:
    finer = {"five": ClassMap(), "two": BINARY}
    with pytest.raises(SettingsError, match=r"tumor is code 1 in five, 1,19,20 in two; say which .* e\.g\. 1,19,20"):
        coarser_classes({**TUMOR, "tumor": ["tumor"]}, finer, BCSS)
    made = coarser_classes(TUMOR, finer, BCSS)
    assert made.run_lookup(finer["five"])[:6].tolist() == [0, 1, 0, 0, 0, 0]
    assert made.run_lookup(finer["two"])[[0, 1, 255]].tolist() == [0, 1, 255]


def test_codes_that_are_unknown_in_the_finer_classes_stay_unknown() -> None:
    unknown = load_settings(ClassMap, {"classes": CODES, "rest": "ignore"})
    made = coarser_classes({"tumor": ["tumor"], "rest": [2, 3, 4, 18]}, {"r": unknown}, BCSS)
    assert made.truth_lookup((0,))[[0, 1, 2, 18, 19, 7]].tolist() == [255, 1, 0, 0, 255, 255]


def test_the_command_line_and_the_report_name_the_classes(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(store, runs=["good", "poor"], split="all", resamples=20)
    told = ["--coarser", "tumor=[1,19,20]", "--coarser", "rest=[stroma, lymphocyte, necrosis, blood_vessel]"]
    assert cli.run(["evaluate", str(store), "--split", "all", *told]) == 0
    said = capsys.readouterr().out
    assert "binary" in said
    assert "under coarser classes, and no score of the finer ones: tumor is code 1,19,20" in said
    page = report(store, out=tmp_path / "page.html").read_text()
    assert "Coarser classes" in page
    assert "tumor is code 1,19,20; none of them is code 2,3,4,18" in page
    assert cli.run(["evaluate", str(store), "--split", "all", "--coarser", "tumor"]) == 2
    assert "expected name=[code or class, …], got 'tumor='" in capsys.readouterr().err


def test_other_cohorts_have_no_coarser_classes(tmp_path: Path) -> None:
    from stores import make_store

    cohort = make_store(tmp_path / "if.zarr", donors=1, tiles=1)
    with pytest.raises(FintuneValueError, match="evaluate --coarser: expected a cohort of patches of stained tissue"):
        evaluate(cohort.url, split="all", coarser=TUMOR)
