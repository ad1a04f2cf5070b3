"""A result of other runs, rules, annotations or another split than the store holds is named, and never shown."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import ReportContents, Study
from fintune_xr.analysis.report.render import render_report
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.report import stored_studies as studies
from fintune_xr.pipelines.report.report import report, report_contents
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
from fintune_xr.store.lineage.depends_on import RESTS_ON, rests_on, tiles_in
from fintune_xr.store.runs.writer import mark_pending, remove_run
from fintune_xr.store.split import require_split
from fintune_xr.store.tile_counts import tile_counts
from fintune_xr.store.zarr_io.groups import open_column

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
    shown = xr.Dataset(coords={n.MARKER: (n.TILE, ["GFAP"])})
    cohort.write("metrics/benchmark", shown.assign_attrs({RESTS_ON: basis, "provenance": facts}))
    identity = rests_on(cohort, tiles=tiles_in(cohort, *n.SPLITS), split=digest)
    cohort.write("metrics/budget", xr.Dataset(attrs={"identity": identity, "provenance": facts}))
    drawn = tiles_in(cohort, n.TEST)[:2]
    truth = cohort.annotations(lazy=False)[n.SHA256]
    digests = [str(truth.sel({n.TILE: tile}).values) for tile in drawn]
    cohort.write(
        "metrics/sweep",
        xr.Dataset(
            attrs={
                "identity": {
                    "tiles": drawn,
                    n.ANNOTATIONS: digests,
                    n.SPLIT: n.TEST,
                }
            }
        ),
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


def _left_out(contents: ReportContents) -> set[str]:
    return {key for one in contents.stale for key in one.sections} & EVERYTHING


def test_what_is_current_is_shown(cohort: Cohort) -> None:
    contents = report_contents(cohort)
    assert contents.stale == ()
    assert {study.key for study in contents.studies} == {"gate", "benchmark", "budget", "sweep"}
    assert contents.scores is not None
    assert contents.stability is not None


@pytest.mark.parametrize(("change", "stale", "reason"), CHANGES)
def test_what_is_not_is_named_with_the_reason_and_left_out(
    cohort: Cohort, change: Callable[[Cohort], None], stale: set[str], reason: str
) -> None:
    change(cohort)
    contents = report_contents(cohort)
    # A split that is drawn anew may give the drawn tiles of the sweep the same part again.
    assert _left_out(contents) - {"sweep"} == stale - {"sweep"}
    assert any(reason in one.reason for one in contents.stale)
    assert (contents.scores is None) == ("segmentation" in stale)
    assert (contents.analysis is None) == (contents.bootstrap is None) == ("associations" in stale)
    assert not {study.key for study in contents.studies} & stale
    page = render_report(ReportContents(title="Only what is stale", stale=contents.stale))
    for one in contents.stale:
        assert page.count(f"Out of date, left out: {one.what}") == 1 + len(one.sections)
        assert page.count(f"<code>{one.command}</code>") >= 1 + len(one.sections)


def test_the_command_makes_it_anew_and_old_tables_do_not_stay(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Figures are not what this is about, and take longest.
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    page, tables = tmp_path / "r.html", tmp_path / "r_tables"
    report(cohort.url, out=page)
    assert (tables / "scores.tsv").is_file()
    _another_model(cohort)
    report(cohort.url, out=page)
    assert not (tables / "scores.tsv").exists()
    assert "fintune-xr evaluate STORE --run cells --run mixed --run other --split test" in page.read_text()
    evaluate(cohort.url, runs=("cells", "other"), resamples=5)
    associate(cohort.url, clinical=tmp_path / "copy" / "clinical.csv", outcomes=("nft",), runs=("cells", "other"))
    bootstrap(cohort.url, resamples=3, restart=True)
    gate(cohort.url, run="cells", resamples=5)
    report(cohort.url, out=page)
    assert (tables / "scores.tsv").is_file()
    assert "Out of date" not in page.read_text()


def test_a_hybrid_of_masks_that_were_made_anew_is_named(cohort: Cohort) -> None:
    associate(cohort.url, clinical=Path(cohort.url).with_name("clinical.csv"), outcomes=("nft",), runs=("mixed",))
    evaluate(cohort.url, runs=("mixed",), resamples=5)
    assert _left_out(report_contents(cohort)) == {"bootstrap"}
    for run in ("cells", "other"):
        infer(cohort.url, run=run, model="threshold", overrides=("model.sigma_px=2",), restart=True)
    reasons = [one.reason for one in report_contents(cohort).stale]
    assert sum("run mixed holds masks of run" in reason for reason in reasons) == 2


def test_resamples_of_other_outcomes_are_left_out(cohort: Cohort) -> None:
    associate(cohort.url, clinical=Path(cohort.url).with_name("clinical.csv"), outcomes=("gpath",))
    contents = report_contents(cohort)
    (one,) = [one for one in contents.stale if "bootstrap" in one.sections]
    assert (one.reason, one.sections) == ("they were drawn from other counts or outcomes", ("bootstrap", "comparison"))
    assert contents.analysis is not None


def test_scores_that_do_not_say_what_they_rest_on_are_left_out(cohort: Cohort) -> None:
    stored = cohort.metrics(n.TEST).load()
    kept: dict[str, Any] = {key: value for key, value in stored.attrs.items() if key != RESTS_ON}
    cohort.write(f"{n.METRICS}/{n.TEST}", stored.drop_attrs(deep=False).assign_attrs(kept))
    (one,) = report_contents(cohort).stale
    assert "without a record of what they rest on" in one.reason


def test_positive_cells_by_nuclei_of_a_run_that_was_made_anew_are_refused(cohort: Cohort) -> None:
    positivity(cohort.url, run="other", rule="detected", nuclei_run="cells")
    before = tile_counts(cohort, ["other"])
    _another_model(cohort)
    with pytest.raises(FintuneValueError, match=r"'other' was counted with nuclei .* run cells has been made anew"):
        tile_counts(cohort, ["other"])
    infer(cohort.url, run="other")
    assert not tile_counts(cohort, ["other"]).equals(before)
