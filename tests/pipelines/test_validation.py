"""What annotations say of shares, what one channel cannot say, and rules that were chosen after their rho was seen."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.analysis.report.sections.associations import association_section
from fintune_xr.analysis.report.sections.positivity import positivity_section
from fintune_xr.analysis.report.sections.statistics import Statistics
from fintune_xr.analysis.report.sections.validation import rule_scores, validation_parts
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.instance.validation import stored_validation, validate_rules
from fintune_xr.pixels.cell_measurement import measure_cells
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.annotations.instance import note_marks, stored_marks
from fintune_xr.store.cohort import Cohort, create_cohort
from fintune_xr.text import texts

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Seven annotated tiles of five donors, with a finished run `a` of which nobody knows what it was trained on."""
    with tarfile.open(DATA / "cells.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return fx.open_cohort(tmp_path / "a.zarr")


def clinical(cohort: Cohort) -> Path:
    return cohort.location.path.parent / "clinical.csv"


def test_without_a_word_on_what_masks_outline_nothing_is_held_against_them(cohort: Cohort) -> None:
    assert stored_marks(cohort) == ""
    assert validate_rules(cohort, "a") is None
    statistics = Statistics(positivity={"a": cohort.positivity("a")}, active_rules={"a": "otsu"})
    section = positivity_section(statistics)
    assert "unvalidated" in section.findings[0].text


def test_masks_of_all_cells_tell_the_share_at_the_threshold_of_the_rule(cohort: Cohort) -> None:
    note_marks(cohort, "all")
    found = validate_rules(cohort, "a")
    assert found is not None
    images, truth = cohort.images(lazy=False), cohort.annotations(lazy=False)
    limit = cohort.positivity("a")[n.THRESHOLD].sel({n.RULE: "fixed_50"}).values
    for tile in texts(found[n.TILE]):
        at = texts(images[n.TILE]).index(tile)
        mask = truth[n.MASK].isel({n.TILE: texts(truth[n.TILE]).index(tile)}).values
        cells = measure_cells(mask, tile_pixels(images, at))
        signal = cells.mean_intensity[:, 1] - cells.background[1]
        one = found.sel({n.RULE: "fixed_50"}).isel({n.TILE: texts(found[n.TILE]).index(tile)})
        assert int(one[n.TRUE_ALL]) == cells.n_cells
        assert int(one[n.TRUE_POSITIVE]) == int((signal > limit[at]).sum())
        assert int(one[n.TP]) == -1


def test_masks_of_positive_cells_score_the_rule(cohort: Cohort) -> None:
    """With the run's own positive cells as truth, every one is found and none is too much; with none, all are."""
    note_marks(cohort, "positive")
    found = validate_rules(cohort, "a")
    assert found is not None
    one = found.sel({n.RULE: "fixed_50"})
    true = one[n.TRUE_POSITIVE].values
    np.testing.assert_array_equal(one[n.TP].values + one[n.FN].values, true)
    np.testing.assert_array_equal(one[n.TP].values + one[n.FP].values, one[n.N_POSITIVE].values)
    np.testing.assert_array_equal(one[n.TRUE_ALL], one[n.N_ALL])
    table = rule_scores(found).set_index(n.RULE).loc["fixed_50"]
    assert table[n.PRECISION] == pytest.approx(one[n.TP].sum() / one[n.N_POSITIVE].sum())
    assert table[n.RECALL] == pytest.approx(one[n.TP].sum() / true.sum())
    assert table["bias"] == pytest.approx((one[n.N_POSITIVE].sum() - true.sum()) / one[n.N_ALL].sum())
    assert table["bias_low"] < table["bias"] < table["bias_high"]
    parts = validation_parts(Statistics(validation={"a": found}))
    assert "precision and recall" in parts[0].text


def test_what_is_stored_is_that_of_the_store_as_it_is_now(cohort: Cohort) -> None:
    note_marks(cohort, "all")
    first = validate_rules(cohort, "a")
    assert stored_validation(cohort, "a") is not None
    fx.positivity(cohort.url, run="a", rule="fixed", threshold=400)
    again = stored_validation(cohort, "a")
    assert again is not None
    assert "fixed_400" in texts(again[n.RULE])
    # The order of rules does not tell how often, or in which order, they were asked for.
    ordered = texts(fx.open_cohort(cohort.url).positivity("a")[n.RULE])
    fx.positivity(cohort.url, run="a", rule="fixed", threshold=400)
    assert texts(fx.open_cohort(cohort.url).positivity("a")[n.RULE]) == ordered
    assert first is not None
    note_marks(cohort, "positive")
    assert stored_validation(cohort, "a") is None


def test_masks_of_two_kinds_are_not_mixed(cohort: Cohort, tmp_path: Path) -> None:
    note_marks(cohort, "positive")
    with pytest.raises(FintuneValueError, match="outline positive cells"):
        fx.annotate(tmp_path, cohort.url, marks="all", dry_run=True)


def test_associations_are_corrected_by_tiles_that_are_new_to_the_model(cohort: Cohort) -> None:
    before = fx.associate(cohort.url, clinical=clinical(cohort), runs=["a"])
    assert n.RHO_CORRECTED not in before
    note_marks(cohort, "all")
    found = fx.associate(cohort.url, clinical=clinical(cohort), runs=["a"])
    assert int(found[n.N_ANNOTATED].item()) == 5
    np.testing.assert_allclose(
        (found[n.RATIO] + found[n.RECTIFIER]).clip(0, 1), found[n.RATIO_CORRECTED], rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(found[n.RHO], before[n.RHO])


def test_a_rule_chosen_after_its_rho_was_shown_is_marked_and_the_first_one_leads(cohort: Cohort) -> None:
    first = fx.associate(cohort.url, clinical=clinical(cohort), runs=["a"]).load()
    assert first.attrs[n.FIRST_RULES]["a"] == "fixed_50"
    fx.positivity(cohort.url, run="a", rule="otsu_donor")
    found = fx.associate(cohort.url, clinical=clinical(cohort), runs=["a"]).load()
    assert found.attrs["rules"]["a"] == "otsu_donor"
    assert found.attrs[n.FIRST_RULES]["a"] == "fixed_50"
    assert len(found.attrs[n.RULES_SHOWN]) == 2
    np.testing.assert_array_equal(found[n.FIRST_RHO], first[n.RHO])
    told = [note.text for note in association_section(Statistics(analysis=found)).findings]
    assert "otsu_donor was chosen after rho under it was shown" in told[0]
    assert told[1:] == [note.text for note in association_section(Statistics(analysis=first)).findings]
    assert any("exploratory" in part.text for part in positivity_section(Statistics(analysis=found)).parts)
    fx.positivity(cohort.url, run="a", rule="fixed", threshold=50)
    back = fx.associate(cohort.url, clinical=clinical(cohort), runs=["a"])
    assert n.FIRST_RHO not in back


def test_one_channel_has_no_positive_cells(tmp_path: Path) -> None:
    made = create_cohort(tmp_path / "b.zarr", kind="if", channels=("marker",), tile_shape=(8, 8), dtype="uint16")
    with pytest.raises(FintuneValueError, match="Of one channel there is none"):
        fx.positivity(made.url, run="a")
    section = positivity_section(Statistics(has_marker=False))
    assert "one channel" in section.parts[0].text


def test_thresholds_are_found_anew_in_stored_resamples(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.analysis.kernels.thresholds.MIN_CELLS", 2)
    fx.positivity(cohort.url, run="a", rule="otsu")
    fx.associate(cohort.url, clinical=clinical(cohort), runs=["a"])
    plain = fx.bootstrap(cohort.url, scheme="donors", resamples=20, seed=3)
    fx.bootstrap(cohort.url, scheme="donors_threshold", resamples=12, seed=3)
    anew = fx.bootstrap(cohort.url, scheme="donors_threshold", resamples=20, seed=3)
    np.testing.assert_array_equal(anew[n.N_DRAWN], plain[n.N_DRAWN])
    once = np.flatnonzero((plain[n.N_DRAWN].values == 1).all(axis=1))
    np.testing.assert_allclose(anew[n.RATIO_RESAMPLED].values[once], plain[n.RATIO_RESAMPLED].values[once])
