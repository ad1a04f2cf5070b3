"""What a model has seen in training is scored apart from what is new to it, whatever the cohort is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from class_runs import small_store_with_runs
from labelled_volumes import make_volumes, participants
from micrographs import make_micrographs
from probability_runs import plausible_maps, store_run

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.pipelines.cli.app import run as run_cli
from fintune_xr.pipelines.steps.evaluate import evaluate, score_lines, score_numbers, score_table
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.pick import pick
from fintune_xr.pipelines.studies.probe import probe
from fintune_xr.pipelines.task_parts.seen_apart import of_exposures
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.training_exposure import training_exposure
from fintune_xr.store.split import annotated_tiles
from fintune_xr.text import texts

Teach = Callable[[Cohort, str, list[str], list[str]], None]


@pytest.fixture
def teach(monkeypatch: pytest.MonkeyPatch) -> Teach:
    """Says of a run that its model learned from some tiles and was chosen on others."""
    stored = Cohort.run_attrs

    def said(cohort: Cohort, run: str, learned: list[str], judged: list[str]) -> None:
        facts = {n.SEEN: training_exposure(cohort, learned=learned, judged=judged, start=None)}

        def attrs(self: Cohort, name: str) -> Any:
            found = dict(stored(self, name))
            return {**found, n.PROVENANCE: {**found[n.PROVENANCE], n.TRAINING: facts}} if name == run else found

        monkeypatch.setattr(Cohort, "run_attrs", attrs)

    return said


def particles(folder: Path) -> Path:
    cohort = make_micrographs(folder / "em.zarr", parts=(n.TRAIN, n.VAL, n.TEST, n.TEST, n.TRAIN, n.VAL), px=64)
    for run, noise in (("good", 0.12), ("poor", 0.8)):
        store_run(cohort, run, plausible_maps(cohort, noise=noise))
        pick(cohort.url, run=run)
    pick(cohort.url, run="blobs", model="log")
    return cohort.location.path


def f1_of_particles(scores: Any, run: str, tiles: list[str]) -> float:
    one = scores.sel({n.RUN: run, n.TILE: tiles})
    tp, fp, fn = (int(one[f"particle_{name}"].sum()) for name in (n.TP, n.FP, n.FN))
    return 2 * tp / (2 * tp + fp + fn)


def dice_of_foreground(scores: Any, run: str, tiles: list[str]) -> float:
    """Of any class against none, pooled over tiles."""
    counts = scores[n.CONFUSION].sel({n.RUN: run, n.TILE: tiles}).sum(n.TILE).values
    tp, fn, fp = counts[1:, 1:].sum(), counts[1:, 0].sum(), counts[0, 1:].sum()
    return float(2 * tp / (2 * tp + fp + fn))


KINDS = {
    "particles": (particles, f1_of_particles, "particle_f1_pooled"),
    "tissue": (small_store_with_runs, dice_of_foreground, "foreground_dice_pooled"),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def store(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the runs `good` and `poor`; only its scores are written."""
    return KINDS[kind][0](tmp_path_factory.mktemp(kind))


def test_tiles_that_taught_the_model_are_named_and_scored_apart(
    kind: str, store: Path, teach: Teach, capsys: pytest.CaptureFixture[str]
) -> None:
    _, expected, score = KINDS[kind]
    cohort = open_cohort(store)
    tiles = texts(annotated_tiles(cohort)[n.TILE])
    learned, judged, new = tiles[:2], tiles[2:3], tiles[3:]
    teach(cohort, "good", learned, judged)
    scores = evaluate(store, split="all", resamples=20)
    stored = cohort.metrics("all").load()
    meanings = str(stored[n.HOW_SEEN].attrs[n.FLAG_MEANINGS]).split()
    told = {
        str(tile): meanings[int(code)] for tile, code in zip(tiles, stored[n.HOW_SEEN].sel(run="good"), strict=True)
    }
    assert told == {**dict.fromkeys(learned, "learned"), **dict.fromkeys(judged, "judged"), **dict.fromkeys(new, "new")}
    apart = of_exposures(stored)
    for exposure, chosen in ((n.SEEN_TILES, [*learned, *judged]), (n.NEW_TILES, new)):
        found = apart[exposure].sel({n.RUN: "good"})
        np.testing.assert_allclose(found[score], expected(scores, "good", chosen), rtol=1e-12)
    assert texts(apart[n.SEEN_TILES][n.RUN]) == ["good"]
    np.testing.assert_allclose(
        apart[n.NEW_TILES][score].sel({n.RUN: "poor"}), scores[score].sel({n.RUN: "poor"}), rtol=1e-12
    )
    line = f"run good: its model learned from 2 of these {len(tiles)} tiles and was chosen on 1 more ("
    assert [one for one in score_lines(stored) if one.startswith(line)]
    assert not [one for one in score_lines(stored) if one.startswith("run poor: its model")]
    assert run_cli(["evaluate", str(store), "--split", "all", "--resamples", "20"]) == 0
    out = capsys.readouterr().out
    assert "new to the model" in out
    assert line in out


def test_scores_are_as_they_were_where_no_model_has_seen_a_tile(store: Path) -> None:
    scores = evaluate(store, split="all", resamples=20)
    assert not [name for name in scores if str(name).startswith(n.APART)]
    assert n.SEEN not in scores.attrs
    assert "tiles" not in score_table(scores)


def test_a_part_that_the_model_has_seen_is_refused_as_before(store: Path, teach: Teach) -> None:
    cohort = open_cohort(store)
    annotated = annotated_tiles(cohort)
    test = [
        tile for tile, part in zip(texts(annotated[n.TILE]), texts(annotated[n.SPLIT]), strict=True) if part == n.TEST
    ]
    teach(cohort, "good", test[:1], [])
    with pytest.raises(SplitError, match="has seen in training 1 of the tiles"):
        evaluate(store, split="test", resamples=20)
    evaluate(store, split="all", resamples=20)


def test_participants_whose_scans_taught_a_head_are_scored_apart(tmp_path: Path) -> None:
    store = tmp_path / "oct.zarr"
    make_volumes(store, participants())
    infer(store, run="profile", model="volume_profile")
    probe(store, runs=["profile"], overrides=["c=1", "inner_folds=2"])
    scores = evaluate(store, split="all", resamples=20)
    images = open_cohort(store).images(lazy=False)
    part = dict(zip(texts(images[n.DONOR]), texts(images[n.SPLIT]), strict=True))
    people = texts(scores[n.DONOR])
    right = scores[n.PROBABILITY].sel({n.RUN: "profile-logistic"}).values.argmax(-1) == scores[n.LABEL].values
    apart = of_exposures(open_cohort(store).metrics("all").load())
    for exposure, parts in ((n.SEEN_TILES, (n.TRAIN, n.VAL)), (n.NEW_TILES, (n.TEST,))):
        mine = [part[who] in parts for who in people]
        assert 0 < sum(mine) < len(people)
        assert texts(apart[exposure][n.RUN]) == ["profile-logistic"]
        np.testing.assert_allclose(apart[exposure][n.ACCURACY], [right[mine].mean()], rtol=1e-12)
    n_learned = sum(part[who] == n.TRAIN for who in people)
    n_judged = sum(part[who] == n.VAL for who in people)
    (line,) = [one for one in score_lines(scores) if one.startswith("run profile-logistic: its model")]
    assert f"learned from {n_learned} of these {len(people)} participants and was chosen on {n_judged} more" in line
    table = score_table(scores)
    assert list(table.columns[:3]) == ["tiles", "rank", n.RUN]
    assert set(table["rank"][table["tiles"] == n.NEW_TILES]) == {""}


def test_scores_are_given_as_numbers_with_what_they_are_by_and_the_ends_of_their_intervals() -> None:
    by = {n.RUN: ["a", "b"], n.THRESHOLD: [0.5, 0.75], n.QUANTILE: [0.025, 0.975], n.TILE: ["t"]}
    scores = xr.Dataset(
        {
            "f1_pooled": ((n.RUN, n.THRESHOLD), [[0.7, 0.4], [0.9, 0.123456789012]]),
            "f1_pooled_interval": ((n.RUN, n.THRESHOLD, n.QUANTILE), np.arange(8).reshape(2, 2, 2) / 10),
            "accuracy": (n.RUN, [0.5, np.nan]),
            "tp": ((n.RUN, n.TILE, n.THRESHOLD), np.ones((2, 1, 2))),
        },
        by,
    )
    found = score_numbers(scores)
    assert found.columns.tolist() == ["score", n.RUN, n.THRESHOLD, "value", "low", "high"]
    assert found["score"].value_counts().to_dict() == {"f1_pooled": 4, "accuracy": 2}
    (last,) = found[(found[n.RUN] == "b") & (found[n.THRESHOLD] == 0.75)].to_dict("records")
    assert last == {
        "score": "f1_pooled", n.RUN: "b", n.THRESHOLD: 0.75, "value": 0.123456789012, "low": 0.6, "high": 0.7,
    }  # fmt: skip
    (alone,) = found[(found["score"] == "accuracy") & (found[n.RUN] == "a")].to_dict("records")
    assert alone["value"] == 0.5
    assert np.isnan([alone["low"], alone[n.THRESHOLD]]).all()
    assert score_numbers(scores[["tp"]]).empty
