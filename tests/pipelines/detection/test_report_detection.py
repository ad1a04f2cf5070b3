"""The report of an EM cohort: pictures with circles, particle and pixel scores apart, and nothing about cells."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from micrographs import make_micrographs
from probability_runs import plausible_maps, store_run
from stores import filled

from fintune_xr import names as n
from fintune_xr.analysis.figures.detection import ShownPicks, micrograph_figure, precision_recall_curves
from fintune_xr.analysis.report.contents import Note
from fintune_xr.analysis.report.detection.contents import ExampleMicrograph, PickScores
from fintune_xr.analysis.report.detection.sections import picks_section
from fintune_xr.analysis.report.render import stale_sections
from fintune_xr.pipelines.report import detection as of_particles
from fintune_xr.pipelines.report.report import report, report_sections
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.pick import pick
from fintune_xr.pipelines.steps.split import split
from fintune_xr.store.cohort import Cohort, create_cohort, open_cohort
from fintune_xr.store.lineage.depends_on import rests_on, tiles_in
from fintune_xr.store.runs.picks import open_picks, picked_names
from fintune_xr.store.split import require_split
from fintune_xr.tasks import scores as schemas
from fintune_xr.tasks.detection import POINTS


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Four micrographs, a run, the baseline, their picks and scores, and a stored self-training."""
    made = make_micrographs(tmp_path_factory.mktemp("em") / "c.zarr", parts=(n.TRAIN, n.VAL, n.TEST, n.TEST), px=64)
    store_run(made, "unet", plausible_maps(made))
    pick(made.url, run="unet")
    pick(made.url, run="blobs", model="log")
    evaluate(made.url, resamples=20)
    scores = np.array([[0.5, 0.6], [0.7, 0.8]])
    stages = {name: ((n.STAGE, n.PART), scores + i / 100) for i, name in enumerate(("particle_f1", "pixel_f1"))}
    basis = rests_on(made, tiles=tiles_in(made, *n.SPLITS), split=require_split(made))
    attrs = {n.RESTS_ON: basis, "provenance": {"labelled": tiles_in(made, n.TRAIN)}}
    names = {n.STAGE: ["iteration_0_supervised", "iteration_1_selftrain"], n.PART: ["val", "test"]}
    made.write(f"{n.SELFTRAIN}/em", filled(schemas.STAGES, xr.Dataset(stages, names, attrs)))
    return made


@pytest.fixture
def copy(cohort: Cohort, no_pictures: None, tmp_path: Path) -> Cohort:
    shutil.copytree(cohort.url, tmp_path / "c.zarr")
    return open_cohort(tmp_path / "c.zarr")


def test_the_report_tells_particles_from_pixels(cohort: Cohort, tmp_path: Path) -> None:
    page = report(cohort.url, out=tmp_path / "r.html").read_text()
    for text in (
        "Particle-level F1 of", "Example micrographs", "Particles, counted together", "Pixels of discs",
        "not comparable with them", "one to one", "iteration_1_selftrain",
    ):  # fmt: skip
        assert text in page
    for text in ("marker-positive", "Spearman", "Segmentation", "AP50"):
        assert text not in page
    tables = tmp_path / "r_tables"
    stored = cohort.metrics(n.TEST).load()
    written = pd.read_csv(tables / "particle_scores.tsv", sep="\t").set_index("run")
    for run in ("unet", "blobs"):
        np.testing.assert_allclose(
            written.loc[run, "particle_f1_pooled"], float(stored["particle_f1_pooled"].sel({n.RUN: run}))
        )
    by_tile = pd.read_csv(tables / "particle_scores_by_micrograph.tsv", sep="\t")
    assert by_tile["tp"].sum() == int(stored["particle_tp"].sum())
    assert len(pd.read_csv(tables / "selftrain_em.tsv", sep="\t")) == 4
    chosen = pd.read_csv(tables / "picks.tsv", sep="\t")
    assert set(chosen["chosen on"]) == {"val"}


def scored(cohort: Cohort) -> PickScores:
    """Scores of all picks, as the report shows them."""
    picks = {run: open_picks(cohort, run) for run in picked_names(cohort)}
    return of_particles.pick_scores(cohort, picks, 8.0)


def test_the_report_says_what_intervals_are_over_and_what_flatters(cohort: Cohort) -> None:
    particles = scored(cohort)
    told = [part.text for part in picks_section(particles).parts if isinstance(part, Note)]
    assert "Student's t over 2 micrographs, all of one donor (data set)" in told[0]
    assert "The intervals rest on 2 micrographs" in told[1]
    assert not any("flatters" in text for text in told)
    assert particles.scores is not None
    plain = particles.scores.drop_indexes(list(particles.scores.xindexes))
    scores = plain.assign_coords({n.DONOR: (n.TILE, ["a", "b"])}).assign_attrs(resampled=n.DONOR)
    facts = {"unet": {**particles.facts["unet"], "chosen_on": "test"}}
    other = picks_section(replace(particles, scores=scores, facts=facts))
    told = [part.text for part in other.parts if isinstance(part, Note)]
    assert "Student's t over 2 donors (data sets), each with all its micrographs" in told[0]
    assert "The intervals rest on 2 donors" in told[1]
    assert "The threshold of unet was chosen on micrographs that are scored here" in told[2]


def test_examples_are_test_micrographs_with_their_picks(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    examples: list[ExampleMicrograph] = []
    monkeypatch.setattr(of_particles, "picture_section", lambda shown, **_: examples.extend(shown))
    of_particles.particle_sections(cohort, "")
    assert [one.split for one in examples] == ["test", "test"]
    stored = cohort.metrics(n.TEST).load()
    for at, one in enumerate(examples):
        assert one.true is not None
        for shown in one.picks:
            counts = stored.sel({n.RUN: shown.run}).isel({n.TILE: at})
            assert int(shown.is_hit.sum()) == int(counts["particle_tp"])
            assert int((~shown.is_hit).sum()) == int(counts["particle_fp"])
            assert shown.n_missed == int(counts["particle_fn"])


def _stale(cohort: Cohort) -> dict[str, str]:
    return {one.what: one.reason for one in stale_sections(report_sections(cohort))}


SCORES, STAGES, UNET, BLOBS = "scores of part test", "stages of the self-training em", "picks of unet", "picks of blobs"


def test_scores_of_other_picks_are_left_out_and_said_to_be(copy: Cohort, tmp_path: Path) -> None:
    assert _stale(copy) == {}
    pick(copy.url, run="unet", threshold=0.01)
    assert scored(copy).scores is None
    (one,) = stale_sections(report_sections(copy))
    assert (one.what, one.reason) == (SCORES, "unet has other picks now, or none")
    assert one.command == "fintune-xr evaluate STORE --run blobs --run unet --split test"
    page = report(copy.url, out=tmp_path / "r.html").read_text()
    assert "Particle-level F1 of" not in page
    assert page.count("Out of date, left out: scores of part test") == 2
    evaluate(copy.url, resamples=5)
    assert _stale(copy) == {}


def test_picks_scores_and_stages_of_other_annotations_are_left_out(copy: Cohort) -> None:
    points = copy.annotations(lazy=False).load()
    copy.write(n.ANNOTATIONS, points.assign({n.X: points[n.X] + 3}), POINTS)
    found = _stale(copy)
    assert set(found) == {SCORES, STAGES, UNET, BLOBS}
    assert all("annotations have changed since" in reason for reason in found.values())
    for run in ("unet", "blobs"):
        pick(copy.url, run=run)
    evaluate(copy.url, resamples=5)
    assert set(_stale(copy)) == {STAGES}


def test_picks_scores_and_stages_of_another_split_are_left_out(copy: Cohort) -> None:
    before, seed = require_split(copy), 0
    while require_split(copy) == before:
        split(copy.url, fractions=(0.25, 0.25, 0.5), by="tile", force=True, seed=seed)
        seed += 1
    found = _stale(copy)
    assert set(found) == {SCORES, STAGES, UNET, BLOBS}
    assert all("the store has another split now" in reason for reason in found.values())


def test_a_run_that_is_being_made_anew_has_no_picks(copy: Cohort) -> None:
    maps = plausible_maps(copy, noise=0.3)
    with pytest.raises(KeyError, match="stop"):
        store_run(copy, "unet", Stopping(maps), restart=True)
    assert _stale(copy)[UNET] == "run 'unet' is being made anew"
    assert SCORES in _stale(copy)


class Stopping(list):
    """Maps of which there is none."""

    def __getitem__(self, _: object) -> NoReturn:
        raise KeyError("stop")


def test_a_new_cohort_has_a_report_that_says_what_to_do(tmp_path: Path) -> None:
    made = create_cohort(tmp_path / "c.zarr", kind="em", channels=["micrograph"], tile_shape=(32, 32), dtype="uint8")
    commands = {one.key: one.command for one in report_sections(made) if not one.parts}
    assert set(commands) == {"cohort", "examples", "picks", "selftrain", "provenance"}
    assert all(commands.values())


def test_figures_show_every_circle() -> None:
    image = np.random.default_rng(1).normal(size=(60, 80))
    true = np.array([[10.0, 20], [30, 40], [50, 70]])
    shown = ShownPicks("a", true[:2] + 1, np.array([True, False]), 2)
    figure = micrograph_figure(image, true, [shown], diameter_px=4)
    titles = [axes.get_title() or axes.get_title("left") for axes in figure.axes]
    assert "annotated: 3 particles" in titles
    assert "a: 1 found, 1 false, 2 missed" in titles
    circles = [len(one.get_offsets()) for axes in figure.axes for one in axes.collections]
    assert circles == [3, 1, 1]
    np.testing.assert_array_equal(figure.axes[1].collections[0].get_offsets(), true[:, ::-1])
    assert micrograph_figure(image, None, [], diameter_px=4).axes


def test_curves_stop_where_thresholds_do() -> None:
    run = {n.RUN: ["a", "b"]}
    precision = xr.DataArray([[1.0, 0.5, np.nan], [0.8, 0.7, 0.6]], dims=(n.RUN, n.LEVEL), coords=run)
    recall = xr.DataArray([[0.2, 0.4, np.nan], [0.1, 0.5, 0.9]], dims=(n.RUN, n.LEVEL), coords=run)
    chosen = xr.Dataset({n.PRECISION: (n.RUN, [0.5, 0.6]), n.RECALL: (n.RUN, [0.4, 0.9])}, run)
    figure = precision_recall_curves(precision, recall, chosen)
    first = figure.axes[0].lines[0]
    np.testing.assert_array_equal(first.get_xdata(), [0.2, 0.4])
    np.testing.assert_array_equal(first.get_ydata(), [1.0, 0.5])
    np.testing.assert_allclose(figure.axes[1].lines[0].get_xdata(), [0.2, 0.8])
