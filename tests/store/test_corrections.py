"""Masks of a run that somebody corrected: annotations that say where they came from, and no test of that run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError, UnknownNameError
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.evaluate import evaluate, score_lines
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pixels.corrections import Corrections, corrections
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.corrections import corrected_from, corrected_from_model, stored_corrections
from fintune_xr.store.lineage.training_exposure import require_unseen, require_unseen_by, seen_tiles, unseen_tiles
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.store.split import annotated_tiles
from fintune_xr.store.zarr_io.groups import open_writable, read_attrs
from fintune_xr.text import texts
from tests.support.exchange import MASKS, RUN, TILES, exchange_store, store_run


def slowly(before: NDArray[np.int64], after: NDArray[np.int64]) -> Corrections:
    """The oracle: objects as sets of pixels."""
    first, second = (
        {label: {*map(tuple, np.argwhere(mask == label).tolist())} for label in np.unique(mask[mask > 0]).tolist()}
        for mask in (before, after)
    )
    pairs = {
        (one, two): first[one] == second[two]
        for one in first
        for two in second
        if 2 * len(first[one] & second[two]) > len(first[one] | second[two])
    }
    partner = {two: one for one, two in pairs}
    n_px = sum((partner.get(after[at], -1) if after[at] else 0) != before[at] for at in np.ndindex(*before.shape))
    kept = sum(pairs.values())
    return Corrections(n_px, kept, len(pairs) - kept, len(second) - len(pairs), len(first) - len(pairs))


SMALL = arrays(np.int64, (4, 5), elements=st.integers(0, 3))


@given(SMALL, SMALL)
@settings(max_examples=200, deadline=None)
def test_what_was_changed_is_that_of_sets_of_pixels(before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
    assert corrections(before, after) == slowly(before, after)


def test_other_numbers_for_the_same_objects_are_no_change() -> None:
    mask = MASKS[0]
    found = corrections(mask, np.where(mask > 0, 77 - mask, 0))
    assert found.is_unchanged
    assert (found.n_kept, found.n_reshaped, found.n_added, found.n_removed) == (len(np.unique(mask)) - 1, 0, 0, 0)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """The store of the exchange tests."""
    return exchange_store(tmp_path / "c.zarr")


def corrected(at: int) -> NDArray[np.uint32]:
    """A mask of the run without its object 1, and with one that is new."""
    mask = MASKS[at].copy()
    mask[mask == 1] = 0
    free = np.argwhere(mask[:-6, :-6] == 0)
    y, x = next((y, x) for y, x in free if not mask[y : y + 6, x : x + 6].any())
    mask[y : y + 6, x : x + 6] = 500
    return mask


def saved_by_napari(folder: Path, *ats: int) -> Path:
    folder.mkdir()
    for at in ats:
        tifffile.imwrite(folder / f"{safe_name(TILES[at])}_masks.tif", corrected(at).astype(np.int32))
    return folder


def test_corrected_masks_come_back_with_their_provenance(cohort: Cohort, tmp_path: Path) -> None:
    folder = saved_by_napari(tmp_path / "fixed", 0, 2)
    report = annotate(folder, cohort.url, corrects=RUN, restart=True)
    assert (report.n_added, report.left_out) == (2, ())
    found = stored_corrections(cohort)
    assert set(found) == {TILES[0], TILES[2]}
    for at in (0, 2):
        expected = slowly(MASKS[at].astype(np.int64), corrected(at).astype(np.int64))
        record = found[TILES[at]]
        told = [record[name] for name in ("n_px", "n_kept", "n_reshaped", "n_added", "n_removed")]
        assert told == [expected.n_px, expected.n_kept, expected.n_reshaped, expected.n_added, expected.n_removed]
        assert record["run"] == RUN
        assert expected.n_added >= 1
    stored = cohort.annotations().sel(tile=TILES[2])[n.MASK].values
    np.testing.assert_array_equal(stored, corrected(2))
    # By a human: the tiles are annotated tiles like any other.
    assert {*annotated_tiles(cohort)[n.TILE].values.tolist()} == set(found)
    again = annotate(folder, cohort.url, corrects=RUN)
    assert (again.n_added, again.n_present, stored_corrections(cohort)) == (0, 2, found)


def test_a_record_that_a_kill_lost_is_written_by_the_same_command(cohort: Cohort, tmp_path: Path) -> None:
    folder = saved_by_napari(tmp_path / "fixed", 0)
    annotate(folder, cohort.url, corrects=RUN, restart=True)
    before = stored_corrections(cohort)
    del open_writable(cohort.location, n.ANNOTATIONS).attrs[n.CORRECTIONS]
    assert annotate(folder, cohort.url, corrects=RUN).n_present == 1
    assert stored_corrections(cohort) == before


def test_what_came_back_as_it_was_is_left_out_until_somebody_says_it_is_right(cohort: Cohort, tmp_path: Path) -> None:
    export(cohort.url, to="seg", out=tmp_path / "out", runs=[RUN])
    for extra in (tmp_path / f"out/{RUN}").glob("*.tif"):
        extra.unlink()
    report = annotate(tmp_path / f"out/{RUN}", cohort.url, corrects=RUN, restart=True)
    assert report.n_added == 0
    assert {one.reason.partition(":")[0] for one in report.left_out} == {"unchanged"}
    planned = annotate(tmp_path / f"out/{RUN}", cohort.url, corrects=RUN, dry_run=True)
    assert (planned.n_added, len(planned.left_out)) == (0, 3)
    report = annotate(tmp_path / f"out/{RUN}", cohort.url, corrects=RUN, accept_unchanged=True)
    assert (report.n_added, report.left_out) == (3, ())
    assert {one["n_px"] for one in stored_corrections(cohort).values()} == {0}
    assert annotate(tmp_path / f"out/{RUN}", cohort.url, corrects=RUN).n_present == 3


def test_wrong_runs_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    folder = saved_by_napari(tmp_path / "fixed", 0, 3)
    with pytest.raises(UnknownNameError, match="no run 'bas'"):
        annotate(folder, cohort.url, corrects="bas", restart=True)
    (left,) = annotate(folder, cohort.url, corrects=RUN, restart=True).left_out
    assert left.reason == f"no correction: run {RUN} has no mask of tile {TILES[3]}"
    with pytest.raises(FintuneValueError, match="name it with --corrects"):
        annotate(folder, cohort.url, accept_unchanged=True)


def in_test_part(cohort: Cohort) -> None:
    """Every tile is in the test part, as the leak guard reads it."""
    group = open_writable(cohort.location, n.IMAGES)
    group[n.SPLIT][:] = np.array([n.TEST] * len(TILES), object)


def test_a_run_is_not_scored_on_what_was_corrected_from_it(cohort: Cohort, tmp_path: Path) -> None:
    other = [np.roll(mask, 3, axis=0) for mask in MASKS]
    store_run(cohort, "other", other, identity={"checkpoint": "1"})
    mixed = {n.SOURCES: {RUN: cohort.run_attrs(RUN)[n.IDENTITY]}}
    store_run(cohort, "mixed", MASKS, identity=mixed)
    annotate(saved_by_napari(tmp_path / "fixed", 0), cohort.url, corrects=RUN, restart=True)
    in_test_part(cohort)
    require_unseen(cohort, ["other"], TILES)
    for run in (RUN, "mixed"):
        with pytest.raises(SplitError, match=f"run '{run}' would be scored against its own masks.*1 tiles"):
            require_unseen(cohort, [run], TILES)
        require_unseen(cohort, [run], TILES[1:])
        assert seen_tiles(cohort, run, TILES) == {TILES[0]: "corrected"}
        assert unseen_tiles(cohort, run, TILES) == list(TILES[1:])
    assert corrected_from(cohort, "other", TILES) == []
    lines = score_lines(evaluate(cohort.url, runs=[RUN, "other"], split="all"))
    assert [line for line in lines if "annotated by its own masks" in line] == [
        f"run {RUN}: 1 of these 1 tiles are annotated by its own masks, corrected ({TILES[0]}), and count as seen: "
        "scores of all of them flatter it"
    ]


def weights(sha256: str, path: Path | None = None) -> Checkpoint:
    return Checkpoint("flow_unet", "m", str(path or ""), sha256)


def test_a_model_that_was_trained_on_from_it_is_not_scored_on_it_either(cohort: Cohort, tmp_path: Path) -> None:
    """However many trainings lie between, and whether an earlier release recorded one of them or this one all."""
    store_run(cohort, "start", MASKS, identity={"checkpoint_sha256": "abc"})
    annotate(saved_by_napari(tmp_path / "fixed", 0), cohort.url, corrects="start", restart=True)
    in_test_part(cohort)
    records = {
        "child": {"start": {"sha256": "abc"}},
        "grandchild": {"start": {"sha256": "2"}, "weights_before": ["2", "abc"]},
    }
    for run, record in {**records, "stranger": {"start": {"sha256": "3"}}, "scratch": {"start": None}}.items():
        store_run(cohort, run, MASKS, identity={"checkpoint_sha256": run}, training=record)
        (tmp_path / f"{run}.training.json").write_text(json.dumps(record))
        model = weights(run, tmp_path / f"{run}.pt")
        if run not in records:
            require_unseen(cohort, [run], TILES)
            require_unseen_by(cohort, model, TILES)
            continue
        with pytest.raises(
            SplitError, match=f"run '{run}' would be scored against .* weights that it was trained from"
        ):
            require_unseen(cohort, [run], TILES)
        with pytest.raises(SplitError, match="model 'm' would be scored against"):
            require_unseen_by(cohort, model, TILES)
        assert seen_tiles(cohort, run, TILES) == {TILES[0]: "corrected"}


def test_the_run_that_a_corrected_hybrid_took_a_tile_from_is_not_scored_on_it(cohort: Cohort, tmp_path: Path) -> None:
    choice = dict(zip(sorted(set(texts(cohort.images(lazy=False)[n.MARKER]))), ("taken", "other"), strict=True))
    identities = {run: {"checkpoint_sha256": run} for run in ("taken", "other")}
    for run, identity in identities.items():
        store_run(cohort, run, MASKS, identity=identity)
    store_run(cohort, "best", MASKS, identity={n.HYBRID: choice, n.SOURCES: identities})
    annotate(saved_by_napari(tmp_path / "fixed", 0), cohort.url, corrects="best", restart=True)
    assert corrected_from(cohort, "taken", TILES) == corrected_from(cohort, "best", TILES) == [TILES[0]]
    assert corrected_from_model(cohort, weights("taken"), TILES) == [TILES[0]]
    assert corrected_from(cohort, "other", TILES) == []


def test_other_settings_of_the_same_weights_are_the_same_model(cohort: Cohort, tmp_path: Path) -> None:
    for run, threshold in (("first", 1), ("second", 2)):
        store_run(cohort, run, MASKS, identity={"checkpoint_sha256": "abc", "settings": threshold})
    annotate(saved_by_napari(tmp_path / "fixed", 0), cohort.url, corrects="first", restart=True)
    assert corrected_from(cohort, "second", TILES) == [TILES[0]]
    assert corrected_from(cohort, RUN, TILES) == []
    assert corrected_from_model(cohort, weights("abc"), TILES) == [TILES[0]]
    assert corrected_from_model(cohort, weights(""), TILES) == []
    assert n.CORRECTIONS in read_attrs(cohort.location, n.ANNOTATIONS)
