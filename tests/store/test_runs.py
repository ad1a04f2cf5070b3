"""Runs on disk: order of a commit, resuming, refusing, locking, and the table of cells."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from stores import add_tiles, assert_same_run, make_store, run_values, tile_names

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunBusyError, RunMismatchError, StoreDamagedError, UnknownNameError
from fintune_xr.pipelines.steps.check import check
from fintune_xr.store.check import store as whole_store
from fintune_xr.store.check.problem import Problem
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs import columns as run_columns
from fintune_xr.store.runs import create
from fintune_xr.store.runs import writer as runs
from fintune_xr.store.runs.create import remove_run, tiles_per_shard
from fintune_xr.store.runs.run import (
    check_run_name,
    finish_command,
    quarantined_of_runs,
    require_done,
    run_creation,
    run_grid,
)
from fintune_xr.store.runs.run_shard import write_run_shard
from fintune_xr.store.runs.writer import RunWriter, mark_pending, write_positive, writing_run
from fintune_xr.store.zarr_io import groups as tables
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.locks import hold_lock
from fintune_xr.tasks.instance import CellTable
from fintune_xr.tasks.product import INSTANCES
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult
from fintune_xr.text import texts

IDENTITY = {"checkpoint_sha256": "ab" * 32, "settings_digest": "cd" * 32, "schema_version": 1}
PX = 16


def mask_of(tile: int) -> NDArray[np.uint32]:
    """Mask of tile number `tile`, with as many cells as the number says (tile 0 has none)."""
    mask = np.zeros((PX, PX), np.uint32)
    for cell in range(tile % 5):
        mask[3 * cell : 3 * cell + 2, : 2 + tile % 3] = cell + 1
    return mask


def cells_of(tile: int) -> CellTable:
    labels, areas = np.unique(mask_of(tile), return_counts=True)
    size = labels.size - 1
    place = np.arange(size, dtype=np.float32)
    return CellTable(
        label=labels[1:].astype(np.uint32),
        area_px=areas[1:].astype(np.int32),
        centroid_y=place + tile,
        centroid_x=place * 2 + tile,
        mean_intensity=np.stack([place + 100 * tile, place + 0.5], axis=1).astype(np.float32),
        background=np.array([tile, tile + 0.25], np.float32),
    )


def receipt_of(cohort: Cohort, run: str, plan: ShardPlan, failing: Sequence[int] = ()) -> ShardReceipt:
    """What a worker does: the mask shard first, then the receipt."""
    grid = run_grid(cohort.location, run)
    tiles = [plan.first + slot for slot in plan.todo]
    fresh = (shards.encode_tile(np.zeros((1, 1)) if t in failing else mask_of(t), grid) for t in tiles)
    write_run_shard(cohort.location, run, plan, fresh, creation=run_creation(cohort.location, run))
    results = [
        TileResult(n.QUARANTINED, 0.5, "ValueError: no")
        if tile in failing
        else TileResult(n.DONE, 0.25, values=cells_of(tile).of_tile, objects=cells_of(tile))
        for tile in tiles
    ]
    return ShardReceipt(plan, tuple(results))


def writing(cohort: Cohort, run: str = "r", **options: Any) -> Any:
    return writing_run(cohort, run, **{"identity": IDENTITY, "facts": {"checkpoint": "x"}, **options})


def do_all(cohort: Cohort, run: str = "r", failing: Sequence[int] = (), **options: Any) -> int:
    """Number of tiles that were pending."""
    with writing(cohort, run, **options) as writer:
        done = 0
        for plan in list(writer.plans()):
            writer.commit([receipt_of(cohort, run, plan, failing)])
            done += len(plan.todo)
        assert writer.finish()
    return done


@pytest.fixture(scope="module", autouse=True)
def three_tiles_a_task_and_no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "tiles_per_shard", lambda _: 3)
        # Only a crash of the machine, which no test brings about, tells a synced file from another.
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of 8 tiles, and a copy of it with a finished run `r`; tests work on copies of these."""
    folder = tmp_path_factory.mktemp("templates")
    make_store(folder / "bare.zarr", donors=2, tiles=4, px=PX)
    shutil.copytree(folder / "bare.zarr", folder / "done.zarr")
    do_all(open_cohort(folder / "done.zarr"))
    return folder / "bare.zarr", folder / "done.zarr"


@pytest.fixture
def cohort(tmp_path: Path, templates: tuple[Path, Path]) -> Cohort:
    shutil.copytree(templates[0], tmp_path / "a.zarr")
    return open_cohort(tmp_path / "a.zarr")


@pytest.fixture
def done(tmp_path: Path, templates: tuple[Path, Path]) -> Cohort:
    shutil.copytree(templates[1], tmp_path / "a.zarr")
    return open_cohort(tmp_path / "a.zarr")


# ---- done once, in any order


def assert_complete(cohort: Cohort, n_tiles: int, run: str = "r") -> None:
    stored = open_cohort(cohort.url).run(run, lazy=False)
    assert stored[n.STATE].values.tolist() == [n.DONE] * n_tiles
    assert stored[n.N_CELLS].values.tolist() == [t % 5 for t in range(n_tiles)]
    np.testing.assert_array_equal(stored[n.MASK].values, [mask_of(t) for t in range(n_tiles)])
    np.testing.assert_array_equal(stored[n.BACKGROUND].values, [[t, t + 0.25] for t in range(n_tiles)])
    cells = cohort.cells(run, lazy=False)
    tables_ = [cells_of(t) for t in range(n_tiles)]
    np.testing.assert_array_equal(cells[n.TILE_INDEX], np.repeat(np.arange(n_tiles), [t.n_cells for t in tables_]))
    for name in (n.LABEL, n.AREA_PX, n.CENTROID_Y, n.CENTROID_X, n.MEAN_INTENSITY):
        np.testing.assert_array_equal(cells[name], np.concatenate([getattr(t, name) for t in tables_]), err_msg=name)
    assert check(cohort.url) == []


def test_a_run_from_nothing_to_its_end(cohort: Cohort) -> None:
    assert do_all(cohort) == 8
    assert_complete(cohort, 8)
    assert do_all(cohort) == 0
    assert cohort.run_attrs("r")["provenance"] == {"checkpoint": "x"}
    assert cohort.run("r").sel({n.DONOR: "d1"}).sizes[n.TILE] == 4


@st.composite
def arrivals(draw: st.DrawFn) -> list[list[int]]:
    """Numbers of the three shards in any order and any grouping."""
    order = draw(st.permutations(range(3)))
    cuts = sorted(draw(st.sets(st.integers(1, 2))))
    return [list(order[a:b]) for a, b in zip([0, *cuts], [*cuts, 3], strict=True)]


@examples(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=arrivals(), stop_after=st.integers(0, 3))
def test_any_order_of_receipts_gives_the_same_run(done: Cohort, groups: list[list[int]], stop_after: int) -> None:
    cohort, whole = done, run_values(done, "r")
    with writing(cohort, restart=True) as writer:
        plans = list(writer.plans())
        for group in groups[:stop_after]:
            writer.commit([receipt_of(cohort, "r", plans[i]) for i in group])
    with writing(cohort) as writer:
        left = {plan.shard: plan for plan in writer.plans()}
        assert set(left) == {i for group in groups[stop_after:] for i in group}
        for group in groups[stop_after:]:
            writer.commit([receipt_of(cohort, "r", left[i]) for i in group])
        assert writer.finish()
    assert_same_run(whole, run_values(cohort, "r"))


def test_a_run_is_not_finished_while_tiles_are_pending(cohort: Cohort) -> None:
    with writing(cohort) as writer:
        writer.commit([receipt_of(cohort, "r", next(writer.plans()))])
        assert not writer.finish()
    assert not cohort.has(f"{n.CELLS}/r")
    assert cohort.run("r")[n.STATE].values.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert check(cohort.url) == []


def test_a_pending_tile_does_not_look_empty(cohort: Cohort) -> None:
    with writing(cohort) as writer:
        writer.commit([receipt_of(cohort, "r", next(writer.plans()))])
    run = cohort.run("r")
    assert run[n.MASK][2].values.dtype == np.uint32
    assert run[n.MASK].isel({n.TILE: run[n.STATE].values == n.DONE}).load().sizes[n.TILE] == 3
    for at in (slice(2, 4), 5):
        with pytest.raises(FintuneValueError, match=r"run 'r': tile [35] along `tile` is pending.*`state` says"):
            run[n.MASK][at].load()
    plain = xr.open_zarr(cohort.url, group=f"{n.RUNS}/r", consolidated=False)
    known = plain[n.N_CELLS].notnull().values
    assert known.tolist() == (run[n.STATE] == n.DONE).values.tolist(), "no number, not -1, to plain xarray"
    assert plain[n.N_CELLS].values[known].tolist() == run[n.N_CELLS].values[known].tolist()


def test_a_mask_that_is_to_be_made_again_is_not_read(cohort: Cohort) -> None:
    do_all(cohort)
    mark_pending(cohort, "r", [4])
    with pytest.raises(FintuneValueError, match="tile 4 along `tile` is pending"):
        cohort.run("r")[n.MASK].load()
    assert cohort.run("r")[n.MASK][:4].load().sizes[n.TILE] == 4


# ---- killed at any point


class Stopped(BaseException):
    pass


def every_write(monkeypatch: pytest.MonkeyPatch, survives: int) -> None:
    """Stops before write number `survives` to any small array or attribute."""
    opened, left = tables.open_column, [survives]

    def stopping(location: Any, path: str) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        return opened(location, path)

    for module in (tables, runs, create, sys.modules["fintune_xr.store.runs.object_log"]):
        if hasattr(module, "open_column"):
            monkeypatch.setattr(module, "open_column", stopping)


def test_a_run_stopped_before_any_of_its_writes_ends_the_same(cohort: Cohort) -> None:
    """The place of the stop moves on by a few writes each time, through creation, commits and the ordering."""
    do_all(cohort, "whole")
    survives, stops, ended = 0, 0, False
    while not ended:
        try:
            with pytest.MonkeyPatch.context() as patch:
                every_write(patch, survives)
                do_all(cohort, restart=survives % 2 == 1 and stops < 6)
            ended = True
        except Stopped:
            stops += 1
            survives += 3
            with contextlib.suppress(UnknownNameError, StoreDamagedError):
                assert set(cohort.run("r")[n.STATE].values) <= {n.PENDING, n.DONE}
    assert stops > 8
    assert_same_run(run_values(cohort, "whole"), run_values(cohort, "r"))
    assert_complete(cohort, 8)


@pytest.mark.parametrize("column", [n.LABEL, n.AREA_PX, n.MEAN_INTENSITY])
def test_cells_stay_in_line_when_a_kill_leaves_columns_of_different_length(cohort: Cohort, column: str) -> None:
    written = tables.write_rows

    def stopping(location: Any, path: str, first: int, values: Any) -> None:
        if path.endswith(f"cells-r/{column}") and first:
            raise Stopped
        written(location, path, first, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["fintune_xr.store.runs.object_log"], "write_rows", stopping)
        with pytest.raises(Stopped):
            do_all(cohort)
    do_all(cohort)
    assert_complete(cohort, 8)


@pytest.mark.parametrize("column", list(INSTANCES.objects.variables))
@pytest.mark.parametrize("later", [False, True])
def test_a_kill_between_the_length_of_a_column_and_its_rows(cohort: Cohort, column: str, later: bool) -> None:
    written = tables.write_rows

    def stopping(location: Any, path: str, first: int, values: Any) -> None:
        if path.endswith(f"cells-r/{column}") and bool(first) is later:
            array = tables.open_column(location, path)
            array.resize((first + len(values), *array.shape[1:]))
            raise Stopped
        written(location, path, first, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["fintune_xr.store.runs.object_log"], "write_rows", stopping)
        with pytest.raises(Stopped):
            do_all(cohort)
    do_all(cohort, "whole")
    do_all(cohort)
    assert_same_run(run_values(cohort, "whole"), run_values(cohort, "r"))
    assert_complete(cohort, 8)


def test_a_chunk_of_the_log_that_is_lost_is_missed_by_its_tiles(cohort: Cohort) -> None:
    with writing(cohort) as writer:
        first, *_ = list(writer.plans())
        writer.commit([receipt_of(cohort, "r", first)])
    for chunk in (cohort.location.path / n.STAGING / "cells-r" / n.AREA_PX).glob("c.*"):
        chunk.unlink()
    with pytest.raises(StoreDamagedError, match=f"cells-r/{n.AREA_PX}/c.0 is missing"):
        do_all(cohort)


def test_state_is_written_after_all_else_is_on_the_disk(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order of the first commit: cells, then the columns, then their sync, then `state`, then its sync."""
    seen: list[str] = []
    log = sys.modules["fintune_xr.store.runs.object_log"]
    for module in (runs, log):
        monkeypatch.setattr(module, "sync_arrays", lambda _, chunks: seen.extend(f"sync {path}" for path in chunks))
    written = RunWriter._write_column
    monkeypatch.setattr(
        RunWriter, "_write_column", lambda self, name, r: (seen.append(f"write {name}"), written(self, name, r))
    )
    with writing(cohort) as writer:
        seen.clear()
        writer.commit([receipt_of(cohort, "r", next(writer.plans()))])
    assert seen[-2:] == [f"write {n.STATE}", f"sync runs/r/{n.STATE}"]
    before = seen[:-2]
    assert {f"sync staging/cells-r/{n.LABEL}", f"sync staging/cells-r/{n.FIRST_CELL}"} <= set(before)
    for name in (n.N_CELLS, n.REASON, n.BACKGROUND, n.SECONDS):
        assert before.index(f"write {name}") < before.index(f"sync runs/r/{name}")


def test_a_run_that_was_never_finished_being_made_is_made_anew(done: Cohort) -> None:
    tables.open_writable(done.location, f"{n.RUNS}/r").attrs[n.COMPLETE] = False
    assert do_all(done) == 8
    assert_complete(done, 8)


# ---- growing


def test_tiles_added_to_the_cohort_become_pending(done: Cohort) -> None:
    add_tiles(done, tile_names(4, 4)[8:], px=PX)
    assert do_all(done) == 8
    assert_complete(done, 16)


@pytest.mark.parametrize("column", [n.TILE, n.REASON, n.STATE])
def test_growing_broken_off_is_mended(done: Cohort, column: str) -> None:
    add_tiles(done, tile_names(4, 4)[8:], px=PX)
    written = tables.write_rows

    def stopping(location: Any, path: str, first: int, values: Any) -> None:
        if path == f"{n.RUNS}/r/{column}":
            raise Stopped
        written(location, path, first, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_columns, "write_rows", stopping)
        with pytest.raises(Stopped):
            do_all(done)
    assert do_all(done) == 8
    assert_complete(done, 16)


def test_columns_shorter_than_the_mask_are_grown_again(done: Cohort) -> None:
    """What a crash of the machine can leave: the mask's new length reached the disk, that of a column did not."""
    tables.open_column(done.location, f"{n.RUNS}/r/{n.STATE}").resize((6,))
    assert do_all(done) == 2
    assert_complete(done, 8)


# ---- what is refused


def test_other_weights_or_settings_are_refused_and_named(done: Cohort) -> None:
    before = run_values(done, "r")
    other = IDENTITY | {"settings_digest": "ef" * 32, "new": 1}
    said = r"run 'r' was made with something else:\n  new: stored None, now 1\nChoose another --run name, or --restart"
    with pytest.raises(RunMismatchError, match=said):
        do_all(done, identity=other)
    assert_same_run(before, run_values(done, "r"))
    assert do_all(done, identity=other, restart=True) == 8
    with pytest.raises(RunMismatchError, match="Choose another --run name"):
        do_all(done)


HOLDER = """
import sys
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.runs.writer import writing_run
with writing_run(open_cohort(sys.argv[1]), "r", identity={}, facts={}):
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_process(cohort: Cohort) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, cohort.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
        process.kill()


def test_one_writer_of_a_run_at_a_time(cohort: Cohort, other_process: subprocess.Popen[str]) -> None:
    for attempt in (lambda: do_all(cohort), lambda: mark_pending(cohort, "r", [0])):
        with pytest.raises(RunBusyError, match=r"another process is writing run 'r' in .*a\.zarr\. Wait for it, or"):
            attempt()
    assert do_all(cohort, "other") == 8
    with hold_lock(cohort.location, "ingest", what="adding tiles"):
        pass
    other_process.kill()
    other_process.wait()
    assert do_all(cohort, identity={}) == 8


def test_a_run_called_like_a_lock_or_a_folder_of_chunks_is_a_run_like_any_other(cohort: Cohort) -> None:
    with hold_lock(cohort.location, "ingest", what="adding tiles"):
        for name in ("ingest", "c", "c.1", "zarr.json1"):
            assert do_all(cohort, name) == 8
    assert check(cohort.url) == []
    assert cohort.run_names() == ["c", "c.1", "ingest", "zarr.json1"]


@pytest.mark.parametrize("name", ["", ".hidden", "_x", "-x", "a/b", "a b", "../x", "a+b"])
def test_names_that_cannot_be_folders_are_refused(cohort: Cohort, name: str) -> None:
    with pytest.raises(FintuneValueError, match="use letters, digits"):
        do_all(cohort, name)
    assert cohort.run_names() == []


def test_good_names() -> None:
    for name in ("generic-v1", "Größe_2", "a.b"):
        check_run_name(name)


def test_counts_of_another_length_are_refused(done: Cohort) -> None:
    with pytest.raises(FintuneValueError, match=r"n_positive: expected 8 tiles, got \(3,\)"):
        write_positive(done, "r", np.zeros(3, np.int32), rule="otsu")


def test_an_unknown_run_lists_the_known(cohort: Cohort) -> None:
    do_all(cohort, "generic")
    with pytest.raises(UnknownNameError, match=r"no run 'genric'; known: generic\. Did you mean 'generic'"):
        cohort.run("genric")


# ---- restart, retry, repair


def test_restart_throws_everything_of_the_run_away(done: Cohort) -> None:
    do_all(done, "other")
    with writing(done, restart=True) as writer:
        assert (writer.states() == n.PENDING).all()
        assert not done.has(f"{n.CELLS}/r")
    do_all(done)
    assert_complete(done, 8)
    assert_complete(done, 8, "other")
    remove_run(done, "r")
    assert done.run_names() == ["other"]


def test_quarantined_tiles_keep_their_reason_and_can_be_tried_again(cohort: Cohort) -> None:
    do_all(cohort, failing=[1, 7])
    stored = cohort.run("r")
    assert stored[n.STATE].values.tolist() == [1, 2, 1, 1, 1, 1, 1, 2]
    assert stored[n.REASON].values.tolist()[1] == "ValueError: no"
    assert stored[n.N_CELLS].values.tolist() == [0, -1, 2, 3, 4, 0, 1, -1]
    assert check(cohort.url) == []
    assert do_all(cohort) == 0
    assert do_all(cohort, retry=True) == 2
    assert set(cohort.run("r")[n.REASON].values.tolist()) == {""}
    assert_complete(cohort, 8)


def test_positive_counts_are_no_longer_those_of_the_run_once_tiles_are_pending(cohort: Cohort) -> None:
    do_all(cohort, failing=[1])
    write_positive(cohort, "r", np.arange(8, dtype=np.int32), rule="otsu")
    do_all(cohort)
    assert cohort.run("r")[n.N_POSITIVE].attrs[n.RULE] == "otsu"
    do_all(cohort, retry=True)
    assert cohort.run("r")[n.N_POSITIVE].attrs[n.RULE] == ""
    write_positive(cohort, "r", np.arange(8, dtype=np.int32), rule="otsu")
    mark_pending(cohort, "r", [3])
    assert cohort.run("r")[n.N_POSITIVE].attrs[n.RULE] == ""
    assert cohort.run("r")[n.N_POSITIVE].values.tolist() == [0, 1, 2, -1, 4, 5, 6, 7]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_damaged_masks_are_found_and_only_they_are_made_again(done: Cohort, damage: str) -> None:
    before = run_values(done, "r")
    grid = run_grid(done.location, "r")
    file = done.location.path / grid.key(1)
    content = file.read_bytes()
    index = shards.read_index(done.location, grid, 1)
    if damage == "flip":
        place = int(index[2, 0, 0]) + 20
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    hit = (5,) if damage == "flip" else (3, 4, 5)
    (problem,) = check(done.url)
    assert (problem.where, problem.tiles) == ("runs/r/mask/c.1.0.0", hit)
    assert "fintune-xr check --repair" in str(problem)
    assert check(done.url, repair=True) == [problem]
    assert done.run("r")[n.STATE].values.tolist() == [0 if t in hit else 1 for t in range(8)]
    assert do_all(done) == len(hit)
    assert_same_run(before, run_values(done, "r"))
    assert_complete(done, 8)


@pytest.mark.parametrize(
    ("column", "missing"),
    [(n.STATE, True), (n.STATE, False), (n.N_CELLS, True), (n.REASON, False), (n.BACKGROUND, False)],
)
def test_damaged_small_arrays_are_found_and_repaired(done: Cohort, column: str, missing: bool) -> None:
    (file,) = (done.location.path / n.RUNS / "r" / column).glob("c.*")
    if missing:
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    with pytest.raises(StoreDamagedError, match=rf"runs/r/{column}.*fintune-xr check"):
        do_all(done)
    problems = check(done.url, repair=True)
    assert [p.where for p in problems] == [f"runs/r/{column}"]
    assert "rows from 0 cannot be read" in problems[0].what
    assert do_all(done) == 8
    assert_complete(done, 8)


def test_a_table_of_cells_that_disagrees_with_the_masks_is_found(done: Cohort) -> None:
    column = tables.open_column(done.location, f"{n.CELLS}/r/{n.AREA_PX}")
    column[4] = column[4] + 1
    (problem,) = check(done.url)
    assert problem.tiles == (3,)
    assert "1 tile(s) have other cells than the table: 3" in problem.what
    tables.remove_group(done.location, f"{n.CELLS}/r")
    (problem,) = check(done.url)
    assert "there is no table of the" in problem.what


def test_counts_that_disagree_with_the_masks_are_found(done: Cohort) -> None:
    tables.open_column(done.location, f"{n.RUNS}/r/{n.N_CELLS}")[6] = 4
    found = check(done.url)
    assert {p.where for p in found} == {f"{n.CELLS}/r", f"{n.RUNS}/r/{n.N_CELLS}"}
    assert found[-1].tiles == (6,)


@pytest.mark.parametrize("what", ["runs/r/mask", "runs/r/state", "runs/r", "images/donor", "cells/r/label"])
def test_check_tells_of_broken_metadata_and_goes_on(done: Cohort, what: str) -> None:
    do_all(done, "s")
    (done.location.path / what / "zarr.json").write_text("{")
    (done.location.path / run_grid(done.location, "s").key(2)).unlink()
    found = check(done.url)
    assert any(p.where == "runs/s/mask/c.2.0.0" for p in found), [str(p) for p in found]
    assert any(p.where.startswith((what, what.rpartition("/")[0], "store")) for p in found)


def test_a_half_written_run_puts_no_blame_on_images_or_other_runs(done: Cohort) -> None:
    do_all(done, "s")
    tables.open_writable(done.location, f"{n.RUNS}/r").attrs[n.COMPLETE] = False
    grid = run_grid(done.location, "s")
    (done.location.path / grid.key(2)).unlink()
    found = check(done.url)
    assert {problem.where for problem in found} == {f"{n.RUNS}/r", f"{n.RUNS}/s/{n.MASK}/c.2.0.0"}
    assert not any("Ingest" in problem.remedy or ".." in str(problem) for problem in found), [str(p) for p in found]


def test_what_stops_a_check_is_told_though_a_run_of_a_longer_name_is_damaged(
    done: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_all(done, "r2")
    (done.location.path / run_grid(done.location, "r2").key(2)).unlink()

    def stopped(_: Cohort, run: str) -> Iterator[Problem]:
        if run == "r":
            raise StoreDamagedError("something else")
        yield from ()

    monkeypatch.setattr(whole_store, "_check_counts", stopped)
    assert f"{n.RUNS}/r: cannot be checked: something else" in " ".join(map(str, check(done.url)))


def test_check_names_damaged_images_and_does_not_promise_a_repair(cohort: Cohort) -> None:
    (cohort.location.path / n.IMAGES / n.IMAGE / "c.0.0.0.0").write_bytes(b"x" * 5000)
    (problem,) = check(cohort.url)
    assert problem.where == "images/image/c.0.0.0.0"
    assert "index fails its checksum" in problem.what
    assert "Ingest the raw files into a new store" in problem.remedy


def test_check_reports_leftovers_and_repeated_tiles(cohort: Cohort) -> None:
    left = cohort.location.path / n.IMAGES / n.IMAGE / "c.9.0.0.0.ab.partial"
    left.write_bytes(b"x")
    add_tiles(cohort, [tile_names(1, 1)[0]], px=PX)
    said = [str(problem) for problem in check(cohort.url)]
    assert any("1 unfinished file(s) or group(s), images/image/c.9.0.0.0.ab.partial among them" in one for one in said)
    assert any("tile d0/GFAP/000 is there 2 times" in one for one in said)
    assert not any("unfinished" in str(problem) for problem in check(cohort.url, repair=True))
    # While another process writes, they may be its own.
    with hold_lock(cohort.location, "ingest", what="adding tiles"):
        left.write_bytes(b"x")
        assert any("unfinished" in str(problem) for problem in check(cohort.url, repair=True))


# ---- sizes


def test_tasks_are_about_64_and_never_too_large() -> None:
    original = tiles_per_shard
    assert [original(size) for size in (0, 1, 64, 65, 1000, 100_000)] == [1, 1, 1, 2, 16, 256]


def test_slots_to_keep_come_from_the_stored_shard(done: Cohort) -> None:
    grid = run_grid(done.location, "r")
    before = shards.read_encoded(done.location, grid, 0)
    plan, creation = ShardPlan(0, 0, 3, (1,)), run_creation(done.location, "r")
    write_run_shard(done.location, "r", plan, iter([shards.encode_tile(mask_of(9), grid)]), creation=creation)
    after = shards.read_encoded(done.location, grid, 0)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    (done.location.path / grid.key(0)).unlink()
    with pytest.raises(StoreDamagedError, match="expected a shard, found nothing"):
        write_run_shard(done.location, "r", plan, iter([shards.encode_tile(mask_of(9), grid)]), creation=creation)


def test_a_worker_of_a_run_that_was_thrown_away_writes_nothing(done: Cohort) -> None:
    grid, creation = run_grid(done.location, "r"), run_creation(done.location, "r")
    with writing_run(done, "r", identity={}, facts={}, restart=True):
        pass
    assert run_creation(done.location, "r") != creation
    plan = ShardPlan(0, 0, 3, (0, 1, 2))
    late = iter([shards.encode_tile(mask_of(9), grid)] * 3)
    with pytest.raises(RunMismatchError, match=r"'r' of .* was restarted; shard 0 is given up"):
        write_run_shard(done.location, "r", plan, late, creation=creation)
    assert not list((done.location.path / grid.path).glob("c.*"))


@pytest.mark.parametrize(
    ("made", "command"),
    [
        ({}, "infer STORE --run a"),
        ({n.IMPORTED: "StarDist 0.9"}, "import-run MASKS STORE --run a --made-by … (as before)"),
        ({n.HYBRID: {"GFAP": "x"}, n.SOURCES: {"x": {}}}, "hybrid STORE --name a --run … (as before)"),
        ({n.REGIONS_OF: "masks"}, "classify STORE --as-run a --regions masks … (as before)"),
        ({n.PROBE: {"head": "knn"}, n.SOURCES: {"multi": {}}}, "probe STORE --run multi"),
    ],
)
def test_a_run_is_finished_by_the_verb_that_made_it(tmp_path: Path, made: dict[str, Any], command: str) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=1, tiles=1)
    with writing_run(cohort, "a", identity={**IDENTITY, **made}, facts={}):
        pass
    typed = f"fintune-xr {command.replace('STORE', cohort.url)}"
    assert finish_command(cohort, "a") == typed
    tiles = cohort.images(lazy=False)
    with pytest.raises(FintuneValueError, match=r"has no result for 1 of 1 annotated tiles") as caught:
        require_done(cohort, "a", cohort.run("a", lazy=False), tiles)
    with pytest.raises(FintuneValueError) as again:
        quarantined_of_runs(cohort, ["a"], texts(tiles[n.TILE]))
    # Only `infer` knows the option.
    assert str(caught.value).endswith(f"Finish it: {typed}{' --retry-quarantined' if not made else ''}")
    assert str(again.value) == str(caught.value)
