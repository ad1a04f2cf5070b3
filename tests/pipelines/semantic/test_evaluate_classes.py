"""Scores of maps of classes in a store: against scikit-learn, refused where they would mislead, and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from class_runs import shaken_maps, small_store_with_runs, store_class_run, truth_maps
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.metrics import f1_score

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.semantic.patches import (
    class_balance,
    patches_for_training,
    require_classes,
    stated_class_map,
)
from fintune_xr.pipelines.steps.evaluate import evaluate, score_lines, score_table
from fintune_xr.pipelines.steps.export import export
from fintune_xr.settings import load_settings
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.semantic import CLASS_BALANCE
from fintune_xr.text import texts


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store_with_runs(tmp_path_factory.mktemp("he"))


def test_scores_are_those_of_scikit_learn(store: Path) -> None:
    scores = evaluate(store, split="all", resamples=50)
    cohort, class_map = open_cohort(store), ClassMap()
    truth, found = truth_maps(cohort, class_map), shaken_maps(cohort, class_map, wrong=0.05)
    of_class = []
    for label in range(1, 6):
        values = [
            f1_score(true[true != 255] == label, one[true != 255] == label)
            for true, one in zip(truth, found, strict=True)
            if (true == label).any()
        ]
        of_class.append(np.mean(values))
    good = scores.sel({n.RUN: "good"})
    assert_allclose(good["dice_image_mean"], of_class, rtol=1e-12)
    assert_allclose(good["perclass_dice_image_mean"], np.mean(of_class), rtol=1e-12)
    everything = np.concatenate([one.ravel() for one in truth])
    predicted = np.concatenate([one.ravel() for one in found])
    valid = everything != 255
    pooled = f1_score(everything[valid], predicted[valid], labels=range(1, 6), average=None)
    assert_allclose(good["dice_pooled"], pooled, rtol=1e-12)
    assert_array_equal(
        scores[n.CONFUSION].sum([n.TRUTH, n.PREDICTED]).isel({n.RUN: 0}), [(t != 255).sum() for t in truth]
    )


def test_a_tile_in_quarantine_is_left_out_for_all_runs_and_named(
    store: Path, no_pictures: None, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "he.zarr")
    cohort = open_cohort(tmp_path / "he.zarr")
    whole = evaluate(cohort.url, split="all", resamples=20)
    tiles = texts(whole[n.TILE])
    open_column(cohort.location, f"{n.RUNS}/poor/{n.STATE}")[1] = n.QUARANTINED
    scores = evaluate(cohort.url, split="all", resamples=20)
    assert scores.attrs[n.LEFT_OUT] == {"poor": [tiles[1]]}
    assert texts(scores[n.TILE]) == [tiles[0], *tiles[2:]]
    assert_array_equal(scores[n.CONFUSION], whole[n.CONFUSION].sel({n.TILE: scores[n.TILE]}))
    said = f"run poor has 1 annotated tile(s) in quarantine: {tiles[1]}"
    assert score_lines(scores)[0] == said
    assert said in Path(report(cohort.url, out=tmp_path / "page.html")).read_text()


def test_runs_are_compared_donor_by_donor(store: Path) -> None:
    scores = evaluate(store, split="all", resamples=200)
    difference = scores["perclass_dice_image_mean_difference"].sel({n.RUN: "good", n.REFERENCE: "poor"})
    low, high = scores["perclass_dice_image_mean_difference_interval"].sel({n.RUN: "good", n.REFERENCE: "poor"}).values
    assert 0 < low <= float(difference) <= high
    table = score_table(scores)
    assert table[n.RUN].tolist() == ["good", "poor"]
    assert "(" in table["perclass_dice_image_mean"][0]
    assert score_lines(scores)
    assert set(texts(scores[n.PROTOCOL])) == {n.AUTOMATIC}


def test_stored_scores_and_balance_have_their_schema(store: Path) -> None:
    evaluate(store, resamples=20)
    cohort = open_cohort(store)
    assert cohort.metrics(n.TEST).attrs[n.CLASS_MAP] == ClassMap().as_dict()
    balance = cohort.read(n.CLASS_BALANCE_PATH, CLASS_BALANCE)
    maps = truth_maps(cohort, ClassMap())
    counts = np.bincount(np.concatenate([one.ravel() for one in maps]), minlength=256)[:6]
    assert_array_equal(balance[n.CLASS_PX].sel({n.PART: "all"}), counts)
    train = balance[n.SHARE].sel({n.PART: n.TRAIN}).values[1:]
    assert_allclose(balance["weight_auto"].values[1:], train.max() / train)
    assert_allclose(balance["weight_sqrt"] ** 2, balance["weight_auto"])


def test_runs_of_different_classes_are_not_compared(store: Path) -> None:
    cohort = open_cohort(store)
    other = load_settings(ClassMap, {"classes": {"tumor": [1]}})
    store_class_run(cohort, "binary", shaken_maps(cohort, other, wrong=0.1), other)
    try:
        with pytest.raises(FintuneValueError, match="runs of different classes"):
            evaluate(store, runs=["good", "binary"], resamples=20)
        assert evaluate(store, runs=["binary"], split="all", resamples=20).sizes[n.CLASS] == 1
    finally:
        from fintune_xr.store.runs.create import remove_run

        remove_run(cohort, "binary")


def test_maps_that_do_not_fit_the_legend(store: Path) -> None:
    cohort = open_cohort(store)
    wrong = load_settings(ClassMap, {"classes": {"tumor": [1], "blood_vessel": [9]}})
    with pytest.raises(SettingsError, match="blood_vessel is 18"):
        stated_class_map(cohort, wrong)
    assert stated_class_map(cohort, None) == ClassMap()


def test_a_class_without_a_pixel_in_train_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = open_cohort(store)
    parts = {part: patches_for_training(cohort, part) for part in (n.TRAIN, n.VAL)}
    with pytest.raises(SettingsError, match="part train has no pixel of fat"):
        require_classes(parts, load_settings(ClassMap, {"classes": {"tumor": [1], "fat": [9]}}))
    require_classes({n.VAL: parts[n.VAL]}, load_settings(ClassMap, {"classes": {"fat": [9]}}))
    assert "part val has no pixel of fat" in capsys.readouterr().err
    image, codes = parts[n.TRAIN].read(0)
    assert (image.dtype, image.shape) == (np.dtype(np.uint8), (3, *codes.shape))


def test_what_a_class_takes_in_is_said(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated_class_map(open_cohort(store), ClassMap(classes={"tumor": [1, 19]}))  # type: ignore[arg-type]
    assert "classes: tumor takes in code 19 (angioinvasion)" in capsys.readouterr().err
    stated_class_map(open_cohort(store), None)
    assert not capsys.readouterr().err


def test_balance_without_a_split(tmp_path: Path) -> None:
    from class_runs import tissue_store

    cohort = open_cohort(tissue_store(tmp_path))
    found = class_balance(cohort, ClassMap())
    assert texts(found[n.PART]) == ["all"]
    assert_allclose(found[n.SHARE].sum(n.CLASS), 1.0)


def test_exported_maps_have_the_codes_of_the_annotations(store: Path, tmp_path: Path) -> None:
    paths = export(store, to="masks", out=tmp_path, runs=["good"])
    cohort = open_cohort(store)
    maps = shaken_maps(cohort, ClassMap(), wrong=0.05)
    tiles = texts(cohort.images(lazy=False)[n.TILE])
    codes = np.array([21, 1, 2, 3, 4, 18], np.uint8)
    assert len(paths) == 2 * len(tiles)
    by_tile = {}
    for path in paths:
        with Image.open(path) as image:
            told = json.loads(image.info["fintune-xr"])
            if path.name.endswith("_pred.png"):
                by_tile[told[n.TILE]] = np.asarray(image)
                assert list(told["codes"].values()) == [*codes, 255]
            else:
                assert image.mode == "RGB"
    for tile, expected in zip(tiles, maps, strict=True):
        assert_array_equal(by_tile[tile], codes[expected])
