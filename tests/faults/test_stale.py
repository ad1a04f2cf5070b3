"""A result of other runs, rules, annotations or another split than the store holds is named, and never shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from stores import filled

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Section, Study, Table, all_parts
from fintune_xr.analysis.report.render import page_of, stale_sections, with_summary
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.report import stored_studies as studies
from fintune_xr.pipelines.report.report import report, report_sections
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.associate import associate
from fintune_xr.pipelines.steps.bootstrap import bootstrap
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.studies.gate import gate
from fintune_xr.pipelines.studies.hybrid import hybrid
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.depends_on import rests_on, tiles_in
from fintune_xr.store.lineage.tile_counts import tile_counts
from fintune_xr.store.runs.create import remove_run
from fintune_xr.store.runs.writer import mark_pending
from fintune_xr.store.split import require_split
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.tasks.instance import SWEEP
from fintune_xr.tasks.scores import MASK_BUDGET, MASK_SCORES

pytestmark = pytest.mark.usefixtures("no_pictures")

SMALL = CohortSettings(
    n_donors=6, markers=("GFAP", "IBA1"), tiles_per_donor=(1, 1), tile_px=96, n_annotated=12, n_clinical_only=0,
    damaged=False, seed=11,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with results of every kind, beside the clinical table."""
    folder = tmp_path_factory.mktemp("stale")
    raw = simulate_cohort(folder / "raw", settings=SMALL)
    store = folder / "c.zarr"
    ingest(raw.source, store)
    annotate(raw.annotations, store)
    split(store, fractions=(0.34, 0.33, 0.33), seed=1)
    infer(store, run="cells", model="threshold")
    infer(store, run="other", model="threshold", overrides=("model.sigma_px=3",))
    hybrid(store, run_name="mixed", runs=("cells", "other"))
    evaluate(store, resamples=5)
    associate(store, clinical=raw.clinical, outcomes=("nft",))
    bootstrap(store, resamples=3)
    gate(store, run="cells", overrides=("q_ranges=[[0,100]]", "min_areas=[0,60]"), resamples=5)
    shutil.copy(raw.clinical, folder / "clinical.csv")
    _store_studies(open_cohort(store))
    return folder


def _store_studies(cohort: Cohort) -> None:
    """The expensive studies, as far as it matters here: what they say they rest on."""
    facts = {"model": "flow_unet", "settings": {}}
    tiles, digest = tiles_in(cohort, n.VAL, n.TEST), require_split(cohort)
    basis = rests_on(cohort, runs=["other"], tiles=tiles, split=digest)
    shown = filled(MASK_SCORES, xr.Dataset(coords={n.MARKER: (n.TILE, ["GFAP"])}))
    cohort.write("metrics/benchmark", shown.assign_attrs({n.RESTS_ON: basis, "provenance": facts}))
    identity = rests_on(cohort, tiles=tiles_in(cohort, *n.SPLITS), split=digest)
    cohort.write("metrics/budget", filled(MASK_BUDGET).assign_attrs({"identity": identity, "provenance": facts}))
    drawn = tiles_in(cohort, n.TEST)[:2]
    truth = cohort.annotations(lazy=False)[n.SHA256]
    digests = [str(truth.sel({n.TILE: tile}).values) for tile in drawn]
    cohort.write(
        "metrics/sweep",
        filled(SWEEP).assign_attrs({"identity": {"tiles": drawn, n.ANNOTATIONS: digests, n.SPLIT: n.TEST}}),
    )


@pytest.fixture(autouse=True)
def plain_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("benchmark", "budget", "sweep"):
        study = Study(name, "Shown.", pd.DataFrame({"score": [0.5]}))
        monkeypatch.setattr(studies, f"{name}_study", lambda *_, study=study, **__: study)
    monkeypatch.setattr(studies, "benchmark_gallery", lambda *_: None)


@pytest.fixture
def cohort(made: Path, tmp_path: Path) -> Cohort:
    shutil.copytree(made, tmp_path / "copy")
    return open_cohort(tmp_path / "copy" / "c.zarr")


def _another_model(cohort: Cohort) -> None:
    infer(cohort.url, run="cells", model="threshold", overrides=("model.sigma_px=2",), restart=True)


def _other_masks(cohort: Cohort) -> None:
    column = open_column(cohort.location, f"{n.ANNOTATIONS}/{n.SHA256}")
    column[:] = np.array([f"{one}x" for one in column[:]], np.dtypes.StringDType())


def _another_split(cohort: Cohort) -> None:
    before, seed = require_split(cohort), 2
    while require_split(cohort) == before:
        split(cohort.url, fractions=(0.34, 0.33, 0.33), seed=seed, force=True)
        seed += 1


def _another_rule(cohort: Cohort) -> None:
    positivity(cohort.url, run="cells", rule="fixed", threshold=50.0)


def _interrupted(cohort: Cohort) -> None:
    mark_pending(cohort, "cells", [0])


def _gone(cohort: Cohort) -> None:
    remove_run(cohort, "other")


EVERYTHING = {"segmentation", "gate", "associations", "bootstrap", "benchmark", "budget", "sweep"}
CHANGES: list[tuple[Callable[[Cohort], None], set[str], str]] = [
    (_another_model, {"segmentation", "gate", "associations", "bootstrap"}, "run cells has been made anew"),
    (_other_masks, {"segmentation", "gate", "benchmark", "budget", "sweep"}, "annotations have changed since"),
    (_another_split, {"segmentation", "gate", "benchmark", "budget"}, "the store has another split now"),
    (_another_rule, {"gate", "associations", "bootstrap"}, "cells, donors or outcomes are others now"),
    (_interrupted, {"gate", "associations", "bootstrap"}, "pending"),
    (_gone, {"segmentation", "benchmark", "associations", "bootstrap"}, "run other is gone"),
]


def _left_out(sections: Sequence[Section]) -> set[str]:
    return {one.key for one in sections if one.stale} & EVERYTHING


def _shown(sections: Sequence[Section]) -> set[str]:
    """Keys of the sections that hold a table."""
    return {one.key for one in sections if any(isinstance(part, Table) for part in all_parts(one.parts))}


def test_what_is_current_is_shown(cohort: Cohort) -> None:
    sections = report_sections(cohort)
    assert stale_sections(sections) == []
    assert {"gate", "benchmark", "budget", "sweep", "segmentation", "associations", "bootstrap"} <= _shown(sections)


@pytest.mark.parametrize(("change", "stale", "reason"), CHANGES)
def test_what_is_not_is_named_with_the_reason_and_left_out(
    cohort: Cohort, change: Callable[[Cohort], None], stale: set[str], reason: str
) -> None:
    change(cohort)
    sections = report_sections(cohort)
    # A split that is drawn anew may give the drawn tiles of the sweep the same part again.
    assert _left_out(sections) - {"sweep"} == stale - {"sweep"}
    assert any(reason in one.reason for one in stale_sections(sections))
    assert not _shown(sections) & (stale - {"sweep"})
    assert EVERYTHING - stale - {"sweep"} <= _shown(sections)
    page = page_of("Stale", "", with_summary(sections))
    for one in set(stale_sections(sections)):
        wherever = sum(one in section.stale for section in sections)
        assert page.count(f"Out of date, left out: {one.what}") == 1 + wherever
        assert page.count(f"<code>{one.command}</code>") >= 1 + wherever


def test_the_command_makes_it_anew_and_old_tables_do_not_stay(cohort: Cohort, tmp_path: Path) -> None:
    page, tables = tmp_path / "r.html", tmp_path / "r_tables"
    report(cohort.url, out=page)
    assert (tables / "scores.tsv").is_file()
    _another_model(cohort)
    report(cohort.url, out=page)
    assert not (tables / "scores.tsv").exists()
    assert "fintune-xr evaluate STORE --run cells --run mixed --run other --split test" in page.read_text()
    evaluate(cohort.url, runs=("cells", "other"), resamples=5)
    clinical = tmp_path / "copy" / "clinical.csv"
    associate(cohort.url, clinical=clinical, outcomes=("nft",), runs=("cells", "other"), replace=True)
    bootstrap(cohort.url, resamples=3, restart=True)
    gate(cohort.url, run="cells", resamples=5)
    report(cohort.url, out=page)
    assert (tables / "scores.tsv").is_file()
    assert "Out of date" not in page.read_text()


def test_a_hybrid_of_masks_that_were_made_anew_is_named(cohort: Cohort) -> None:
    clinical = Path(cohort.url).with_name("clinical.csv")
    associate(cohort.url, clinical=clinical, outcomes=("nft",), runs=("mixed",), replace=True)
    evaluate(cohort.url, runs=("mixed",), resamples=5)
    assert _left_out(report_sections(cohort)) == {"bootstrap"}
    for run in ("cells", "other"):
        infer(cohort.url, run=run, model="threshold", overrides=("model.sigma_px=2",), restart=True)
    reasons = [one.reason for one in set(stale_sections(report_sections(cohort)))]
    assert sum("run mixed holds masks of run" in reason for reason in reasons) == 2


def test_resamples_of_other_outcomes_are_left_out(cohort: Cohort) -> None:
    associate(cohort.url, clinical=Path(cohort.url).with_name("clinical.csv"), outcomes=("gpath",), replace=True)
    sections = report_sections(cohort)
    (one,) = {one for section in sections if section.key == "bootstrap" for one in section.stale}
    assert one.reason == "they were drawn from other counts or outcomes"
    assert [section.key for section in sections if one in section.stale] == ["bootstrap", "comparison"]
    assert "associations" in _shown(sections)


def test_scores_that_do_not_say_what_they_rest_on_are_left_out(cohort: Cohort) -> None:
    stored = cohort.metrics(n.TEST).load()
    kept: dict[str, Any] = {key: value for key, value in stored.attrs.items() if key != n.RESTS_ON}
    cohort.write(f"{n.METRICS}/{n.TEST}", stored.drop_attrs(deep=False).assign_attrs(kept))
    (one,) = stale_sections(report_sections(cohort))
    assert "without a record of what they rest on" in one.reason


def test_positive_cells_by_nuclei_of_a_run_that_was_made_anew_are_refused(cohort: Cohort) -> None:
    positivity(cohort.url, run="other", rule="detected", nuclei_run="cells")
    before = tile_counts(cohort, ["other"])
    _another_model(cohort)
    with pytest.raises(FintuneValueError, match=r"'other' was counted with nuclei .* run cells has been made anew"):
        tile_counts(cohort, ["other"])
    infer(cohort.url, run="other")
    assert not tile_counts(cohort, ["other"]).equals(before)
