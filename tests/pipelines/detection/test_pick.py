"""Picking from runs: the threshold and what it is chosen on, stale picks, scores named apart, and the baseline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from micrographs import make_micrographs
from probability_runs import plausible_maps, store_run
from skimage.feature import peak_local_max

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError, UnknownNameError
from fintune_xr.metrics.detection import best_threshold, match_points, threshold_curve
from fintune_xr.pipelines.cli.app import run as run_cli
from fintune_xr.pipelines.detection.picking import pick_summary, threshold_doubt
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate, score_lines, score_table
from fintune_xr.pipelines.steps.pick import pick
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pixels.discs import disc_target
from fintune_xr.pixels.log_blobs import log_candidates
from fintune_xr.store.check.detection import check_picks, check_points
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs.create import remove_run
from fintune_xr.store.runs.picks import open_candidates, open_picks, peaks_of, picks_of
from fintune_xr.store.zarr_io.groups import open_column, remove_group
from fintune_xr.tasks.detection import CANDIDATES, POINTS, tile_points
from fintune_xr.text import texts

PARTS = (n.TRAIN, n.VAL, n.VAL, n.TEST, n.TEST, n.TEST, "")


@pytest.fixture(scope="module")
def picked(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Seven micrographs with two runs, a good and a poor one, and the baseline; all picked. Read only."""
    cohort = make_micrographs(tmp_path_factory.mktemp("em") / "c.zarr", parts=PARTS)
    store_run(cohort, "good", plausible_maps(cohort, noise=0.12))
    store_run(cohort, "poor", plausible_maps(cohort, noise=0.8, seed=1))
    for run in ("good", "poor"):
        pick(cohort.url, run=run)
    pick(cohort.url, run="blobs", model="log")
    return cohort


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four micrographs with a run, its picks and those of the baseline. To be copied."""
    cohort = make_micrographs(tmp_path_factory.mktemp("em") / "c.zarr", parts=PARTS[:4], px=64)
    store_run(cohort, "unet", plausible_maps(cohort))
    pick(cohort.url, run="blobs", model="log")
    pick(cohort.url, run="unet")
    return cohort.location.path


@pytest.fixture
def cohort(tmp_path: Path, made: Path) -> Cohort:
    """A copy of the small cohort, to be changed."""
    shutil.copytree(made, tmp_path / "c.zarr")
    return open_cohort(tmp_path / "c.zarr")


def truth(cohort: Cohort, at: int) -> Any:
    tile = str(cohort.images()[n.TILE].values[at])
    return tile_points(cohort.annotations(lazy=False).load(), tile)


@pytest.mark.parametrize("run", ["good", "poor", "blobs"])
def test_the_threshold_is_the_best_on_val_alone(picked: Cohort, run: str) -> None:
    picks, candidates = open_picks(picked, run), open_candidates(picked, run)
    val = [i for i, part in enumerate(PARTS) if part == n.VAL]
    true = {at: truth(picked, at).yx for at in val}

    def f1(threshold: float) -> float:
        tp = fp = fn = 0
        for at in val:
            peaks = peaks_of(candidates, at).above(threshold)
            found = match_points(true[at], peaks.yx, peaks.score, distance_px=6.0).counts()
            tp, fp, fn = tp + found[0], fp + found[1], fn + found[2]
        return 2 * tp / (2 * tp + fp + fn)

    threshold = picks.attrs["threshold"]
    assert picks.attrs["chosen_on"] == "val"
    assert picks.attrs["distance_px"] == 6.0
    assert picks.attrs["f1"] == f1(threshold)
    scores = np.sort(candidates[n.SCORE].values[np.isin(candidates[n.TILE_INDEX].values, val)])
    others = scores[np.linspace(0, scores.size - 1, 40).astype(int)]
    assert picks.attrs["f1"] >= max(f1(float(t)) for t in others)


@pytest.mark.parametrize("run", ["good", "blobs"])
def test_picks_are_the_candidates_above_the_threshold(picked: Cohort, run: str) -> None:
    picks, candidates = open_picks(picked, run), open_candidates(picked, run)
    for at in range(len(PARTS)):
        expected = peaks_of(candidates, at).above(picks.attrs["threshold"])
        found = picks_of(picks, at)
        for name in ("y", "x", "score"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_threshold_may_be_given_and_an_edge_left_out(cohort: Cohort) -> None:
    every = pick(cohort.url, run="unet", threshold=0.0)
    assert every.sizes[n.PICK] == open_candidates(cohort, "unet").sizes[n.CELL]
    assert every.attrs["chosen_on"] == "given"
    inner = pick(cohort.url, run="unet", threshold=0.0, border=10)
    assert 0 < inner.sizes[n.PICK] < every.sizes[n.PICK]
    for name in (n.Y, n.X):
        assert inner[name].values.min() >= 10
        assert inner[name].values.max() <= 53
    assert open_picks(cohort, "unet").attrs["border_px"] == 10


def test_picks_of_a_run_that_was_made_again_are_stale(cohort: Cohort) -> None:
    pick(cohort.url, run="unet")
    store_run(cohort, "unet", plausible_maps(cohort, seed=5), restart=True)
    with pytest.raises(FintuneValueError, match=r"made of other candidates than the run has now.*fintune-xr pick"):
        evaluate(cohort.url, runs=["unet"])
    (problem,) = check(cohort.url)
    assert problem.where == "picks/unet"
    assert "other candidates" in problem.what
    pick(cohort.url, run="unet")
    assert check(cohort.url) == []
    remove_run(cohort, "unet")
    with pytest.raises(FintuneValueError, match="the run is gone"):
        open_picks(cohort, "unet")


def test_names_and_parts_that_are_not_there(cohort: Cohort) -> None:
    with pytest.raises(UnknownNameError, match=r"no run with candidates 'unett'; .* Did you mean 'unet'"):
        pick(cohort.url, run="unett")
    with pytest.raises(UnknownNameError, match="no model that picks without inference 'dog'"):
        pick(cohort.url, run="x", model="dog")
    with pytest.raises(FintuneValueError, match=r"'unet' is a run .* a name of their own"):
        pick(cohort.url, run="unet", model="log")
    with pytest.raises(UnknownNameError, match=r"no part of the split 'tset'; .* Did you mean 'test'"):
        pick(cohort.url, run="unet", part="tset")
    with pytest.raises(FintuneValueError, match="--distance and --border"):
        pick(cohort.url, run="unet", distance=-1)
    with pytest.raises(FintuneValueError, match="--threshold: expected a number"):
        pick(cohort.url, run="unet", threshold=float("nan"))
    remove_group(cohort.location, n.PICKS)
    with pytest.raises(FintuneValueError, match=r"no picks to evaluate. Run: fintune-xr pick"):
        evaluate(cohort.url)
    with pytest.raises(FintuneValueError, match="run name 'a/b'"):
        pick(cohort.url, run="a/b", model="log")
    split(cohort.url, fractions=(0.5, 0.5, 0), by="tile", force=True)
    with pytest.raises(FintuneValueError, match="no annotated tile in part 'test'"):
        pick(cohort.url, run="unet", part="test")


def test_a_cohort_of_masks_has_no_particles(tmp_path: Path) -> None:
    from stores import make_store

    masks = make_store(tmp_path / "if.zarr", donors=1, tiles=1)
    with pytest.raises(FintuneValueError, match="pick: expected a cohort of micrographs"):
        pick(masks.url, run="r")


def test_annotations_of_micrographs_are_particles(cohort: Cohort) -> None:
    found = cohort.annotations(lazy=False)
    assert n.MASK not in found
    assert found[n.DIAMETER_PX].dims == (n.POINT,)


def test_scores_are_those_of_the_counts(picked: Cohort) -> None:
    scores = evaluate(picked.url, resamples=50)
    assert scores[n.RUN].values.tolist() == ["blobs", "good", "poor"]
    test = [i for i, part in enumerate(PARTS) if part == n.TEST]
    for run in ("blobs", "good", "poor"):
        one, picks = scores.sel({n.RUN: run}), open_picks(picked, run)
        counts = []
        for at in test:
            found = picks_of(picks, at)
            counts.append(match_points(truth(picked, at).yx, found.yx, found.score, distance_px=6.0).counts())
        stored = np.stack([one[f"particle_{name}"].values for name in ("tp", "fp", "fn")], axis=1)
        np.testing.assert_array_equal(stored, counts)
        tp, fp, fn = np.sum(counts, axis=0)
        assert one["particle_precision_pooled"] == tp / (tp + fp)
        assert one["particle_recall_pooled"] == tp / (tp + fn)
        assert one["particle_f1_pooled"] == 2 * tp / (2 * tp + fp + fn)
        single = [2 * t / (2 * t + f + m) for t, f, m in counts]
        np.testing.assert_allclose(one["particle_f1"].values, single)
        np.testing.assert_allclose(one["particle_f1_image_mean"], np.mean(single))
    assert scores["particle_f1_pooled"].sel({n.RUN: "good"}) > scores["particle_f1_pooled"].sel({n.RUN: "poor"})
    difference = scores["particle_f1_pooled_difference"].sel({n.RUN: "good", n.REFERENCE: "poor"})
    f1 = scores["particle_f1_pooled"]
    np.testing.assert_allclose(difference, f1.sel({n.RUN: "good"}) - f1.sel({n.RUN: "poor"}))


def by_hand(counts: np.ndarray, unit: list[str]) -> np.ndarray:
    """Pooled F1 of all micrographs, then of those without each unit in turn."""
    found = []
    for out in ("", *sorted(set(unit))):
        tp, fp, fn = np.sum([row for row, of in zip(counts, unit, strict=True) if of != out], axis=0)
        found.append(2 * tp / (2 * tp + fp + fn))
    return np.array(found)


def ends(values: np.ndarray) -> np.ndarray:
    """Ends of the interval of 95 %: Student's t with the spread that leaving units out gives."""
    m = values.size - 1
    half = scipy.stats.t(m - 1).ppf(0.975) * np.sqrt((m - 1) * values[1:].var())
    return np.array([values[0] - half, values[0] + half])


def test_intervals_are_over_donors_where_there_are_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ("a", "b", "c", "d")
    cohort = make_micrographs(tmp_path / "c.zarr", parts=(n.TEST,) * 12, px=64, donors=sets)
    good, poor = (plausible_maps(cohort, noise=noise) for noise in (0.1, 0.9))
    # Micrographs of one data set are alike: `mixed` is poor on all of the fourth one.
    for run, maps in (("good", good), ("mixed", [(good, good, good, poor)[i % 4][i] for i in range(12)])):
        store_run(cohort, run, maps)
        pick(cohort.url, run=run, threshold=0.4, part=n.TEST)
    scores = evaluate(cohort.url, resamples=200, seed=3)
    assert scores.attrs["resampled"] == n.DONOR
    assert scores[n.DONOR].values.tolist() == list(sets) * 3
    widths = {}
    for prefix in ("particle", "pixel"):
        counts = {
            run: np.stack([scores[f"{prefix}_{k}"].sel({n.RUN: run}).values for k in ("tp", "fp", "fn")], axis=1)
            for run in ("good", "mixed")
        }
        expected = {run: by_hand(counts[run], scores[n.DONOR].values.tolist()) for run in counts}
        for run, values in expected.items():
            found = scores[f"{prefix}_f1_pooled_interval"].sel({n.RUN: run}).values
            np.testing.assert_allclose(found, ends(values).clip(0, 1))
        paired = scores[f"{prefix}_f1_pooled_difference_interval"].sel({n.RUN: "good", n.REFERENCE: "mixed"})
        np.testing.assert_allclose(paired.values, ends(expected["good"] - expected["mixed"]))
        tiles = ends(by_hand(counts["mixed"], scores[n.TILE].values.tolist()))
        widths[prefix] = float(np.diff(ends(expected["mixed"]))[0] / np.diff(tiles)[0])
    assert widths["particle"] > 1.5
    capsys.readouterr()
    assert run_cli(["evaluate", cohort.url, "--resamples", "20"]) == 0
    assert "Student's t over 4 donors (data sets), each with all its micrographs" in capsys.readouterr().out


def test_intervals_are_over_micrographs_where_all_are_of_one_donor(picked: Cohort) -> None:
    scores = evaluate(picked.url, resamples=100, seed=5)
    assert scores.attrs["resampled"] == n.TILE
    assert scores["particle_f1_pooled_interval"].isnull().all(), "three micrographs are too few"
    told = score_lines(scores)[0]
    assert "3 micrographs, all of one donor" in told
    assert "There are none below 4." in told
    single = scores.isel({n.TILE: [0]}).assign_attrs(resampled="")
    assert score_lines(single) == ["No intervals: they need 4 micrographs or more."]
    older = scores.drop_attrs(deep=False).assign_attrs(resampled=n.DONOR)
    assert "percentiles of a bootstrap, as older stores hold them, too narrow" in score_lines(older)[0]


def test_a_given_threshold_says_nothing_about_pixels(cohort: Cohort) -> None:
    chosen = pick(cohort.url, run="unet").attrs
    given = pick(cohort.url, run="unet", threshold=0.3).attrs
    assert given["pixel_threshold"] == chosen["pixel_threshold"]
    assert (given["chosen_on"], given["pixel_chosen_on"]) == ("given", n.VAL)
    told = pick_summary(pick(cohort.url, run="unet", threshold=0.3), 4)[1]
    assert "that of single pixels: chosen on part val" in told
    assert "pixel_f1_pooled" in evaluate(cohort.url, runs=["unet"], resamples=5)
    none = pick(cohort.url, run="unet", threshold=0.3, part="nobody")
    assert "pixel_threshold" not in none.attrs
    assert "none, so no pixel scores" in pick_summary(none, 4)[1]
    scores = evaluate(cohort.url, runs=["unet"], resamples=5)
    assert not any(str(name).startswith("pixel") for name in scores)
    assert "nan" in score_table(scores)["pixel f1"].tolist()


def test_without_val_there_is_no_pixel_threshold(cohort: Cohort) -> None:
    split(cohort.url, fractions=(0.5, 0, 0.5), by="tile", force=True)
    assert "pixel_threshold" not in pick(cohort.url, run="unet", threshold=0.3).attrs
    split(cohort.url, fractions=(0.5, 0.5, 0), by="tile", force=True)
    at = cohort.images()[n.SPLIT].values.tolist().index(n.VAL)
    open_column(cohort.location, f"{n.RUNS}/unet/{n.STATE}")[at] = n.PENDING
    assert "pixel_threshold" not in pick(cohort.url, run="unet", threshold=0.3).attrs


def test_a_pixel_threshold_of_other_annotations_is_refused(cohort: Cohort) -> None:
    pick(cohort.url, run="unet", threshold=0.3)
    points = cohort.annotations(lazy=False).load()
    cohort.write(n.ANNOTATIONS, points.assign(x=points[n.X] + 1), POINTS)
    with pytest.raises(FintuneValueError, match="annotations have changed"):
        evaluate(cohort.url, runs=["unet"], resamples=5)


def test_pixels_are_scored_apart_and_only_where_there_are_probabilities(picked: Cohort) -> None:
    scores = evaluate(picked.url, resamples=10)
    assert np.isnan(scores["pixel_f1_pooled"].sel({n.RUN: "blobs"}))
    stored = picked.run("good", lazy=False)
    threshold = open_picks(picked, "good").attrs["pixel_threshold"]
    predicted, target, values = [], [], []
    for at in [i for i, part in enumerate(PARTS) if part == n.TEST]:
        probability = stored[n.PROBABILITY].values[at] / 65535
        known = truth(picked, at)
        predicted.append(probability >= threshold)
        values.append(probability)
        target.append(disc_target(known.yx, known.diameter_px, probability.shape) == 1)
    p, t = np.array(predicted), np.array(target)
    one = scores.sel({n.RUN: "good"})
    assert one["pixel_iou_pooled"] == (p & t).sum() / (p | t).sum()
    assert one["pixel_precision_pooled"] == (p & t).sum() / p.sum()
    assert one["pixel_recall_pooled"] == (p & t).sum() / t.sum()
    ranks = np.concatenate([np.array(values)[~t][:3000], np.array(values)[t][:3000]])
    assert 0.5 < one["pixel_auc"] < 1
    assert ranks.size == 6000
    table = score_table(scores)
    assert table.columns.tolist()[:4] == ["run", "particle precision", "particle recall", "particle f1"]
    assert not any(str(name).startswith(("precision", "f1")) for name in scores.data_vars)


def test_the_stored_curve_goes_through_all_thresholds(picked: Cohort) -> None:
    evaluate(picked.url, resamples=10)
    one = picked.metrics(n.TEST).load().sel({n.RUN: "good"})
    found = []
    for at in [i for i, part in enumerate(PARTS) if part == n.TEST]:
        peaks = peaks_of(open_candidates(picked, "good"), at)
        found.append(match_points(truth(picked, at).yx, peaks.yx, peaks.score, distance_px=6.0))
    curve = threshold_curve(found)
    kept = one["particle_curve_threshold"].values
    kept = kept[~np.isnan(kept)]
    assert set(kept.astype(np.float32)) <= set(curve.threshold)
    assert kept[0] == curve.threshold[0]
    assert kept[-1] == curve.threshold[-1]
    assert one["particle_curve_f1"].max() <= curve.f1.max()


def test_runs_for_different_distances_are_not_compared(cohort: Cohort) -> None:
    pick(cohort.url, run="unet", distance=3)
    with pytest.raises(FintuneValueError, match=r"different distances in px \(blobs 6, unet 3\)"):
        evaluate(cohort.url, split=n.TEST)
    assert evaluate(cohort.url, runs=["unet"], resamples=5).attrs["distance_px"] == 3


def test_a_single_micrograph_has_scores_without_intervals(cohort: Cohort) -> None:
    pick(cohort.url, run="unet")
    scores = evaluate(cohort.url, runs=["unet"], split=n.TEST, resamples=5)
    assert "particle_f1_pooled_interval" not in scores
    assert 0 < float(scores["particle_f1_pooled"].squeeze()) <= 1


def test_an_edited_split_is_refused(cohort: Cohort) -> None:
    column = open_column(cohort.location, f"{n.IMAGES}/{n.SPLIT}")
    column[0] = n.VAL
    with pytest.raises(SplitError, match="not the one whose leaks were checked"):
        pick(cohort.url, run="unet")


def test_a_threshold_of_another_split_is_refused(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    pick(cohort.url, run="unet")
    evaluate(cohort.url, runs=["unet"], resamples=5, split=n.TEST)
    assert "flatters" not in capsys.readouterr().err
    evaluate(cohort.url, runs=["unet"], resamples=5, split=n.VAL)
    assert "the threshold of unet was chosen on micrographs that are scored here" in capsys.readouterr().err
    before = cohort.images()[n.SPLIT].values.tolist()
    seed = 0
    while cohort.images()[n.SPLIT].values.tolist() == before:
        split(cohort.url, fractions=(0.5, 0.25, 0.25), by="tile", force=True, seed=seed)
        seed += 1
    with pytest.raises(FintuneValueError, match=r"part 'val', but the store has another split now\. Pick again"):
        evaluate(cohort.url, runs=["unet"], resamples=5, split=n.TEST)
    pick(cohort.url, run="unet", threshold=0.5)
    evaluate(cohort.url, runs=["unet"], resamples=5, split=n.TEST)


def test_a_threshold_of_other_annotations_is_refused(cohort: Cohort) -> None:
    pick(cohort.url, run="unet")
    points = cohort.annotations(lazy=False).load()
    cohort.write(n.ANNOTATIONS, points.assign({n.X: points[n.X] + 3}), POINTS)
    with pytest.raises(FintuneValueError, match=r"part 'val', but annotations have changed since\. Pick again"):
        evaluate(cohort.url, runs=["unet"], resamples=5)
    pick(cohort.url, run="unet")
    evaluate(cohort.url, runs=["unet"], resamples=5)


def test_a_micrograph_that_was_not_looked_at_is_not_one_without_particles(cohort: Cohort) -> None:
    pick(cohort.url, run="unet")
    at = cohort.images()[n.SPLIT].values.tolist().index(n.TEST)
    open_column(cohort.location, f"{n.RUNS}/unet/{n.STATE}")[at] = n.PENDING
    with pytest.raises(FintuneValueError, match="run 'unet' has no result for 1 of"):
        evaluate(cohort.url, runs=["unet"], resamples=5)
    pick(cohort.url, run="blobs", model="log")
    path = f"{n.CANDIDATES}/blobs"
    table = cohort.read(path).load()
    cohort.write(path, table.assign_attrs(n_tiles=at), CANDIDATES)
    with pytest.raises(FintuneValueError, match=r"1 of \d+ annotated micrographs .* were added after"):
        evaluate(cohort.url, runs=["blobs"], resamples=5)


def test_a_micrograph_in_quarantine_is_left_out_for_all_runs_and_named(picked: Cohort, tmp_path: Path) -> None:
    shutil.copytree(picked.location.path, tmp_path / "c.zarr")
    copied = open_cohort(tmp_path / "c.zarr")
    whole = evaluate(copied.url, resamples=5)
    tiles = copied.images()[n.TILE].values.tolist()
    lost = PARTS.index(n.TEST)
    open_column(copied.location, f"{n.RUNS}/good/{n.STATE}")[lost] = n.QUARANTINED
    scores = evaluate(copied.url, resamples=5)
    assert scores.attrs[n.LEFT_OUT] == {"good": [tiles[lost]]}
    assert scores[n.TILE].values.tolist() == [tile for tile in whole[n.TILE].values if tile != tiles[lost]]
    for count in ("particle_tp", "pixel_tp"):
        np.testing.assert_array_equal(scores[count], whole[count].sel({n.TILE: scores[n.TILE]}))
    assert score_lines(scores)[0] == f"run good has 1 annotated tile(s) in quarantine: {tiles[lost]}"
    assert "the tiles that all of them have" in score_lines(scores)[1]


def test_a_threshold_is_chosen_without_micrographs_in_quarantine_which_are_named(
    picked: Cohort, tmp_path: Path
) -> None:
    shutil.copytree(picked.location.path, tmp_path / "c.zarr")
    copied = open_cohort(tmp_path / "c.zarr")
    tiles = texts(copied.images()[n.TILE])
    lost, left = (i for i, part in enumerate(PARTS) if part == n.VAL)
    state = open_column(copied.location, f"{n.RUNS}/good/{n.STATE}")
    state[lost] = n.QUARANTINED
    picks = pick(copied.url, run="good")
    assert picks.attrs[n.LEFT_OUT] == {"good": [tiles[lost]]}
    assert picks.attrs["n_micrographs"] == 1
    assert f"run good has 1 annotated tile(s) in quarantine: {tiles[lost]}" in pick_summary(picks, len(tiles))
    peaks = peaks_of(open_candidates(copied, "good"), left)
    found = match_points(truth(copied, left).yx, peaks.yx, peaks.score, distance_px=picks.attrs[n.DISTANCE_PX])
    assert picks.attrs[n.THRESHOLD] == best_threshold(threshold_curve([found]))
    given = pick(copied.url, run="good", threshold=0.5)
    assert (given.attrs[n.LEFT_OUT], n.PIXEL_THRESHOLD in given.attrs) == ({"good": [tiles[lost]]}, True)
    assert threshold_doubt(copied, "good", picks) == ""
    state[lost] = n.DONE
    assert "had in quarantine are not there any more" in threshold_doubt(copied, "good", picks)
    state[lost] = state[left] = n.QUARANTINED
    with pytest.raises(FintuneValueError, match="nothing is left to score"):
        pick(copied.url, run="good")


def test_blobs_are_local_maxima_of_the_response() -> None:
    from scipy.ndimage import gaussian_laplace

    rng = np.random.default_rng(2)
    centres = np.array([[20.0, 20], [20, 50], [45, 33]])
    image = rng.normal(50, 1, (64, 72)) - 10 * (disc_target(centres, np.full(3, 12.0), (64, 72)) == 1)
    found = log_candidates(image, diameter_px=12)
    strongest = found.yx[:3]
    assert np.linalg.norm(strongest[:, None] - centres[None], axis=2).min(axis=0).max() < 2
    middle = np.median(image)
    turned = (middle - image) / (np.median(np.abs(image - middle)) / 0.6745)
    sigma = 12 / (2 * np.sqrt(2))
    response = -gaussian_laplace(turned, sigma) * sigma**2
    maxima = {tuple(at) for at in peak_local_max(response, threshold_abs=0.02, exclude_border=False)}
    assert {tuple(at) for at in found.yx.astype(int)} <= maxima
    np.testing.assert_allclose(found.score[0], response.max(), rtol=1e-6)
    # Gain and offset of the camera change nothing.
    other = log_candidates((3 * image + 700).astype(np.float32), diameter_px=12)
    np.testing.assert_array_equal(other.yx[:10], found.yx[:10])
    np.testing.assert_allclose(other.score[:10], found.score[:10], rtol=1e-3)


@pytest.mark.parametrize(
    ("image", "diameter"), [(np.ones((3, 4, 5)), 3), (np.full((4, 4), np.nan), 3), (np.ones((4, 4)), 0)]
)
def test_what_has_no_blobs(image: np.ndarray, diameter: float) -> None:
    with pytest.raises(FintuneValueError, match="expected finite pixels"):
        log_candidates(image, diameter_px=diameter)


def test_a_level_image_has_no_blobs() -> None:
    assert len(log_candidates(np.full((30, 30), 7, np.uint8), diameter_px=6)) == 0


def test_the_table_says_how_it_was_made(picked: Cohort) -> None:
    stored = open_cohort(picked.url).read("picks/blobs")
    assert stored.attrs["provenance"]["model"] == "log"
    assert stored[n.SCORE].attrs["long_name"]
    assert stored[n.TILE_INDEX].values.max() == len(PARTS) - 1


@pytest.mark.parametrize(
    ("group", "name", "value", "what"),
    [
        ("picks/unet", "y", 64.6, "1 point(s) lie outside their tiles: grid/m0"),
        ("picks/unet", "tile_index", 99, "name a tile that is not there"),
        ("picks/unet", "score", 0.0, "1 pick(s) score less than the threshold"),
        ("annotations", "x", -2.0, "1 point(s) lie outside their tiles: grid/m0"),
        ("annotations", "tile_index", 2, "rows are not in order of tiles"),
        ("annotations", "diameter_px", 0.0, "expected diameters above 0 px"),
        ("annotations", "tile", "grid/other", "1 annotated tile(s) are not among the images: grid/other"),
        ("candidates/blobs", "centroid_x", 400.0, "1 point(s) lie outside their tiles"),
    ],
)
def test_check_finds_points_where_none_can_be(cohort: Cohort, group: str, name: str, value: Any, what: str) -> None:
    open_column(cohort.location, f"{group}/{name}")[0] = value
    assert any(what in found for _, found, _ in [*check_points(cohort), *check_picks(cohort)])


def test_a_run_of_probabilities_has_no_positive_cells(picked: Cohort) -> None:
    with pytest.raises(FintuneValueError, match="run 'good' holds probabilities of particles, not cells"):
        positivity(picked.url, run="good")
