"""The report of stained tissue: verdicts and marks from stored numbers, stale scores left out, sites as test parts."""

from __future__ import annotations

import html
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from class_runs import shaken_maps, store_class_run, tissue_store

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Section
from fintune_xr.analysis.report.semantic.marks import mark_notes, verdict
from fintune_xr.analysis.report.semantic.prompts import prompted_section, regions_section
from fintune_xr.analysis.report.semantic.verdicts import verdicts
from fintune_xr.errors import SplitError
from fintune_xr.pipelines.report.report import report, report_sections
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.split import _drawn, split
from fintune_xr.simulation.he_cohort import TEST_SITES, HeCohortSettings
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.text import texts

MANY = HeCohortSettings(n_donors=16, tiles_per_donor=(1, 1), tile_px=96, damaged=False, seed=3)
SITES = "TCGA-(OL|LL|E2|EW|GM|S3)-.*"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A store of 16 donors, most of them in the test part, with a poor and a good run."""
    store = tissue_store(tmp_path_factory.mktemp("he"), settings=MANY)
    split(store, fractions=(0.6, 0.4, 0), seed=1, test="TCGA-(A1|A2|BH|OL|LL)-.*")
    cohort, class_map = open_cohort(store), ClassMap()
    for name, wrong in (("baseline", 0.4), ("tuned", 0.05)):
        store_class_run(cohort, name, shaken_maps(cohort, class_map, wrong=wrong), class_map)
    evaluate(store)
    return cohort


def section(cohort: Cohort, key: str) -> Section:
    """The section of that key."""
    return next(one for one in report_sections(cohort, baseline="baseline") if one.key == key)


def test_the_report_says_whether_it_helped(cohort: Cohort) -> None:
    sections = {one.key: one for one in report_sections(cohort, baseline="baseline")}
    found = [note.text for note in sections["scores"].findings]
    assert any(text.startswith("Did it help? Yes: tuned is better than baseline") for text in found)
    assert any(text.startswith("Mark of 0.65 for per-class Dice (best run, tuned)") for text in found)
    for key in ("balance", "examples", "scores", "confusion", "spread"):
        assert sections[key].parts, key


def test_the_page_and_its_tables_hold_what_is_stored(cohort: Cohort) -> None:
    path = report(cohort.url, baseline="baseline")
    page = path.read_text()
    assert "Any class against none" in page
    tables = path.with_name(f"{path.stem}_tables")
    scores = pd.read_csv(tables / "scores.tsv", sep="\t").set_index("run")
    stored = cohort.metrics(n.TEST)
    for run in ("baseline", "tuned"):
        expected = float(stored["perclass_dice_image_mean"].sel({n.RUN: run}))
        assert scores.loc[run, "perclass_dice_image_mean"] == pytest.approx(expected)
    confusion = pd.read_csv(tables / "confusion.tsv", sep="\t")
    assert confusion[confusion.run == "tuned"].pixels.sum() == int(stored[n.CONFUSION].sel({n.RUN: "tuned"}).sum())


def test_the_page_names_codes_that_a_class_takes_in_besides_its_own(cohort: Cohort, tmp_path: Path) -> None:
    store = shutil.copytree(cohort.url, tmp_path / "he.zarr")
    joined = ClassMap(classes={"tumor": [1], "blood_vessel": [18, 9]})  # type: ignore[arg-type]
    copy = open_cohort(store)
    names = ("first-1", "second_2.x")
    for name, wrong in zip(names, (0.3, 0.1), strict=True):
        store_class_run(copy, name, shaken_maps(copy, joined, wrong=wrong), joined)
    evaluate(store, runs=names)
    page = html.unescape(report(store, baseline=names[0]).read_text())
    assert "blood_vessel takes in code 9 (fat)" in page
    assert "tumor takes in" not in page
    assert "second_2.x is better than first-1" in page


def test_scores_of_a_run_made_anew_are_left_out(cohort: Cohort) -> None:
    with_run = open_cohort(cohort.url)
    store_class_run(with_run, "third", shaken_maps(with_run, ClassMap(), wrong=0.2), ClassMap())
    evaluate(cohort.url, runs=["baseline", "third"])
    from fintune_xr.store.runs.create import remove_run

    remove_run(with_run, "third")
    found = section(cohort, "scores")
    assert [one.reason for one in found.stale] == ["run third is gone"]
    assert found.command == "fintune-xr evaluate STORE --run RUN --split test"
    evaluate(cohort.url)


@pytest.mark.parametrize(("value", "low", "high", "held"), [
    (0.7, 0.66, 0.74, "reached"), (0.65, 0.65, 0.7, "reached"), (0.7, 0.6, 0.8, "open"),
    (0.6, 0.5, 0.64, "not reached"), (0.9, np.nan, np.nan, "open"), (0.6, 0.55, 0.65, "open"),
])  # fmt: skip
def test_a_mark_is_reached_by_the_whole_interval(value: float, low: float, high: float, held: str) -> None:
    assert verdict(value, low, high, 0.65) == held


def scores(gain: float, low: float, high: float, p: float) -> xr.Dataset:
    """Stored scores of two runs, made up."""
    name = "perclass_dice_image_mean"
    pair = (n.RUN, n.REFERENCE)
    return xr.Dataset(
        {
            name: (n.RUN, [0.5, 0.5 + gain]),
            f"{name}_difference": (pair, [[0, -gain], [gain, 0]]),
            f"{name}_difference_interval": ((*pair, n.QUANTILE), [[[0, 0], [-high, -low]], [[low, high], [0, 0]]]),
            f"{name}_difference_p": (pair, [[np.nan, p], [p, np.nan]]),
            "dice_image_mean": ((n.RUN, n.CLASS), [[0.2], [0.5]]),
        },
        {n.RUN: ["base", "v3"], n.REFERENCE: ["base", "v3"], n.CLASS: ["blood_vessel"], n.QUANTILE: [0.025, 0.975]},
    )


@pytest.mark.parametrize(("numbers", "begins", "tone"), [
    ((0.1, 0.05, 0.15, 0.01), "Did it help? Yes: v3 is better", "good"),
    ((-0.1, -0.15, -0.05, 0.01), "Did it help? No: v3 is worse", "bad"),
    ((0.1, -0.05, 0.25, 0.3), "Did it help? Not shown", "doubtful"),
    ((0.1, 0.05, 0.15, 0.25), "Did it help? Open", "doubtful"),
    ((0.1, np.nan, np.nan, np.nan), "Did it help? Not known", "doubtful"),
])  # fmt: skip
def test_verdicts(numbers: tuple[float, ...], begins: str, tone: str) -> None:
    (note,) = verdicts(scores(*numbers), "base", 8)
    assert (note.text.startswith(begins), note.tone) == (True, tone)


def test_marks_are_of_the_best_run_and_open_without_intervals() -> None:
    notes: list[Note] = mark_notes(scores(0.1, 0.0, 0.2, 0.1))
    assert [note.tone for note in notes] == ["doubtful", "doubtful"]
    assert "best run, v3" in notes[0].text
    assert "blood vessels (v3): 0.50, open" in notes[1].text


def test_a_training_that_collapsed_is_said_at_the_top(cohort: Cohort) -> None:
    group = zarr.open_group(cohort.url, path=f"{n.RUNS}/tuned", mode="r+")
    before = group.attrs[n.PROVENANCE]
    told = {"training": {"collapsed_epochs": [7, 8, 9], "n_epochs": 12, "best_epoch": 3}}
    assert not any("collapsed" in note.text for note in section(cohort, "scores").findings)
    group.attrs[n.PROVENANCE] = {**before, **told}
    found = [note for note in section(cohort, "scores").findings if "collapsed" in note.text]
    group.attrs[n.PROVENANCE] = before
    assert [note.tone for note in found] == ["bad"]
    assert "The training of tuned collapsed: in 3 of its 12 epochs, the first of them epoch 8" in found[0].text
    assert "The weights of epoch 4 stand." in found[0].text


def test_sites_are_the_test_part(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = tissue_store(tmp_path_factory.mktemp("sites"))
    split(store, fractions=(0.8, 0.2, 0), seed=4, test=TEST_SITES)
    images = open_cohort(store).images(lazy=False)
    donors = dict(zip(texts(images[n.DONOR]), texts(images[n.SPLIT]), strict=True))
    assert sorted(donor for donor, part in donors.items() if part == n.TEST) == ["TCGA-LL-S007", "TCGA-OL-S006"]
    assert set(donors.values()) == {"train", "val", "test"}
    for test, fractions, told in (
        ("(", None, "not a regular expression"), ("nothing", None, "expected to fit some donors"),
        (".*", None, "expected to fit some donors"), ("TCGA-OL-.*", (0.6, 0.2, 0.2), "must be 0"),
    ):  # fmt: skip
        with pytest.raises(SplitError, match=told):
            split(store, fractions=fractions, force=True, test=test)


def test_the_published_regions_give_45_test_donors(real_data: object) -> None:
    rows = (real_data / "bcss/meta/roiBounds.csv").read_text().splitlines()[1:]  # type: ignore[operator]
    names = [choose_layout("bcss").parse(f"images/{row.split(',')[0]}_xmin1_ymin2_MPP-0.25.png") for row in rows]
    donors = [name.donor for name in names if name is not None]
    tiles = xr.Dataset(coords={n.DONOR: (n.TILE, donors), n.MARKER: (n.TILE, ["HE"] * len(donors))})
    parts = _drawn(tiles, donors, fractions=(0.8, 0.2, 0.0), seed=0, by="donor", test=SITES)
    counts = {part: list(parts.values()).count(part) for part in n.SPLITS}
    assert counts == {"train": 85, "val": 21, "test": 45}


def test_prompted_scores_stand_apart_and_say_so() -> None:
    name = "perclass_dice_image_mean"
    dims = (n.PROMPT, n.TTA, n.PROCESSING)
    values = np.full((1, 1, 1), 0.553)
    study = xr.Dataset(
        {name: (dims, values), "perclass_dice_pair_mean": (dims, values)},
        {n.PROMPT: ["box"], n.TTA: [0], n.PROCESSING: ["as they come"]},
    )
    found = prompted_section(study)
    assert "no number here may stand beside an automatic one" in found.parts[0].text  # type: ignore[union-attr]
    assert found.parts[1].rows[0][3][0] == "0.55"  # type: ignore[union-attr]
    assert prompted_section(None).command.startswith("fintune-xr sweep")


def test_regions_are_held_against_their_mark() -> None:
    study = xr.Dataset(
        {
            "accuracy": 0.7, "accuracy_interval": (n.QUANTILE, [0.62, 0.78]),
            "balanced_accuracy": 0.5, "label": (n.REGION, [1, 2]),
            "confusion": ((n.TRUTH, n.PREDICTED), [[3, 1], [0, 2]]), "f1": (n.CLASS, [0.86, 0.8]),
            "precision": (n.CLASS, [1.0, 2 / 3]), "recall": (n.CLASS, [0.75, 1.0]),
        },
        {n.CLASS: ["tumor", "stroma"], n.TRUTH: ["tumor", "stroma"], n.PREDICTED: ["tumor", "stroma"]},
        attrs={n.PROTOCOL: n.PROMPTED},
    )  # fmt: skip
    found = regions_section({"zero-shot": study})
    assert found.findings[0].text == "Mark of 0.60 for accuracy of zero-shot (prompted): 0.70 [0.62, 0.78], reached."
    table, picture = found.parts[2:]
    assert [row[5][0] for row in table.rows] == ["4", "2"]  # type: ignore[union-attr]
    assert "Confusion of classes of regions, zero-shot" in picture.alt  # type: ignore[union-attr]
    assert regions_section({}).command.startswith("fintune-xr classify")
