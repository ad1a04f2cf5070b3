"""A run made of others: for each marker the run that is best on the val part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.positivity.rules import PositivityRule
from fintune_xr.datasets import SCHEMA_VERSION
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.metrics.counts import AP50
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.positivity import apply_positivity, is_counted, last_rule, tells_positives
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.training_exposure import choice_exposure, weights_of_training
from fintune_xr.store.runs.run import finish_command, run_creation, run_grid
from fintune_xr.store.runs.run_shard import Encoded, ShardGrid, read_encoded, write_run_shard
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.store.split import require_split
from fintune_xr.tasks.instance import CellTable
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult
from fintune_xr.text import texts

_PER_TILE = (n.N_CELLS, n.BACKGROUND, n.STATE, n.REASON, n.SECONDS)
_PER_CELL = (n.LABEL, n.AREA_PX, n.CENTROID_Y, n.CENTROID_X, n.MEAN_INTENSITY)


def hybrid(
    store: str | Path, *, run_name: str, runs: Sequence[str], part: str = n.VAL, restart: bool = False
) -> dict[str, str]:
    """The run chosen for each marker; run `run_name` then holds, tile by tile, the masks of the chosen runs.

    The choice is the best AP50 (mean over images) on the annotated tiles of `part`, which must not be the
    test part; a marker without tiles there takes the run that is best over all markers. Masks and cells are
    copied as they are stored, nothing is segmented again. Positive cells are counted with the rule of the chosen runs,
    or with the rule that was chosen for `run_name` since. `restart` makes the run anew, from runs that have been.

    Raises FintuneValueError for fewer than two runs, for runs that are not finished or were counted with different
    rules; UnknownNameError for a run that is not there, and for another part.
    """
    if len(set(runs)) < 2:
        raise FintuneValueError(f"a hybrid of {list(runs)}: give two runs or more with --run")
    if part not in (n.VAL, n.TRAIN):
        remedy = "On test tiles it would be scored by what chose it."
        raise unknown_name("part that chooses a hybrid", part, (n.VAL, n.TRAIN), remedy)
    cohort = open_cohort(store).opened_once()
    cohort.require("hybrid")
    scores, markers = evaluate(store, runs=runs, split=part), texts(cohort.images(lazy=False)[n.MARKER])
    choice = choose_by_marker(scores, markers)
    for marker in markers_without_scores(scores, markers):
        say(f"no annotated tile of {marker} in part {part}: it takes the run that is best over all markers")
    sources = {name: _Source.open(cohort, name) for name in sorted(set(choice.values()))}
    rule = _rule(cohort, run_name, list(sources))
    identity = {
        n.HYBRID: choice,
        n.SOURCES: {name: cohort.run_attrs(name)[n.IDENTITY] for name in sources},
        "schema_version": SCHEMA_VERSION,
    }
    facts = provenance(hybrid=choice, candidates=list(runs), chosen_on=part, split_digest=require_split(cohort))
    facts[n.TRAINING] = {
        n.SEEN: choice_exposure(cohort, runs, texts(scores[n.TILE])),
        n.WEIGHTS_BEFORE: sorted(set[str]().union(*(weights_of_training(cohort, name) for name in sources))),
    }
    run_of_tile = [choice[marker] for marker in texts(cohort.images(lazy=False)[n.MARKER])]
    with writing_run(cohort, run_name, identity=identity, facts=facts, restart=restart) as writer:
        plans = list(writer.plans())
        with progress(f"hybrid {run_name}", sum(len(plan.todo) for plan in plans)) as advance:
            for plan in plans:
                writer.commit([_copy_shard(cohort, run_name, plan, [sources[r] for r in run_of_tile])])
                advance(len(plan.todo))
        writer.finish()
    if rule is not None and not is_counted(cohort, run_name, rule):
        apply_positivity(cohort, run_name, rule)
    return choice


def choose_by_marker(scores: xr.Dataset, markers: Sequence[str]) -> dict[str, str]:
    """The run with the best AP50 for each of `markers`; `scores` (group, run, threshold) as stored by `evaluate`.

    Of equal runs the first counts.
    """
    ap50 = scores[AP50].sel({n.THRESHOLD: 0.5})
    groups = texts(ap50[n.GROUP])
    best = {}
    for marker in sorted(set(markers)):
        row = ap50.sel({n.GROUP: marker if marker in groups else n.ALL_MARKERS})
        best[marker] = texts(ap50[n.RUN])[int(np.argmax(row.fillna(-1).values))]
    return best


def markers_without_scores(scored: xr.Dataset, markers: Sequence[str]) -> list[str]:
    """Those of `markers` of which no tile was scored, so that all markers together decide for them.

    `scored` has the marker along its tiles, as stored by `evaluate`.
    """
    return sorted(set(markers) - set(texts(scored[n.MARKER])))


def _rule(cohort: Cohort, run_name: str, sources: Sequence[str]) -> PositivityRule | None:
    """The rule that the hybrid was counted with last, else that of all its sources; None without a marker's plane."""
    if not tells_positives(cohort):
        return None
    chosen = last_rule(cohort, run_name)
    if chosen is not None:
        return chosen
    rules = {name: last_rule(cohort, name) for name in sources}
    first, *others = rules.values()
    if first is None or any(rule != first for rule in others):
        listed = ", ".join(f"{name}: {_told(rule)}" for name, rule in rules.items())
        raise FintuneValueError(
            f"the runs of the hybrid have no positivity rule in common ({listed}), and ratios by different rules "
            f"cannot be compared. Count them by one: fintune-xr positivity {cohort.url} --run {sources[0]} --rule NAME"
        )
    return first


def _told(rule: PositivityRule | None) -> str:
    """A rule with its settings, as words."""
    return "none" if rule is None else " ".join(map(str, rule.as_dict().values()))


@dataclass(slots=True)
class _Source:
    """A finished run that tiles are copied from; the last shard that was read is kept."""

    cohort: Cohort
    name: str
    grid: ShardGrid
    small: Mapping[str, NDArray[Any]]
    cells: xr.Dataset
    first_cell: NDArray[np.int64]
    _shard: tuple[int, list[Encoded]] = field(default=(-1, []))

    @classmethod
    def open(cls, cohort: Cohort, name: str) -> _Source:
        run = cohort.run(name, lazy=False)
        n_tiles = cohort.images(lazy=False).sizes[n.TILE]
        if run.sizes[n.TILE] < n_tiles or (run[n.STATE] == n.PENDING).any():
            raise FintuneValueError(f"run {name!r} has pending tiles. Finish it: {finish_command(cohort, name)}")
        counts = np.maximum(run[n.N_CELLS].values, 0)
        cells = cohort.cells(name, lazy=False)
        small = {column: run[column].values for column in _PER_TILE}
        return cls(cohort, name, run_grid(cohort.location, name), small, cells, np.cumsum(counts) - counts)

    def encoded(self, tile: int) -> Encoded:
        """The stored chunks of a tile's mask."""
        shard, slot = divmod(tile, self.grid.tiles_per_shard)
        if self._shard[0] != shard:
            self._shard = (shard, read_encoded(self.cohort.location, self.grid, shard))
        return self._shard[1][slot]

    def result(self, tile: int) -> TileResult:
        """What became of a tile in this run."""
        seconds, state = float(self.small[n.SECONDS][tile]), int(self.small[n.STATE][tile])
        if state != n.DONE:
            return TileResult(state, seconds, str(self.small[n.REASON][tile]))
        first = int(self.first_cell[tile])
        rows = self.cells.isel({n.CELL: slice(first, first + int(self.small[n.N_CELLS][tile]))})
        columns: dict[str, Any] = {name: rows[name].values for name in _PER_CELL}
        cells = CellTable(background=self.small[n.BACKGROUND][tile], **columns)
        return TileResult(state, seconds, values=cells.of_tile, objects=cells)


def _copy_shard(cohort: Cohort, run_name: str, plan: ShardPlan, source_of_tile: Sequence[_Source]) -> ShardReceipt:
    tiles = [plan.first + slot for slot in plan.todo]

    def encoded() -> Iterator[Encoded]:
        for tile in tiles:
            yield source_of_tile[tile].encoded(tile)

    write_run_shard(cohort.location, run_name, plan, encoded(), creation=run_creation(cohort.location, run_name))
    return ShardReceipt(plan, tuple(source_of_tile[tile].result(tile) for tile in tiles))
