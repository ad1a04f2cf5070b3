"""Scores of maps of classes against the annotated ones: confusion of pixels, and all that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import score_name
from fintune_xr.metrics.intervals import STUDENT_T, score_line, sum_over, with_donor_intervals
from fintune_xr.metrics.semantic import (
    confusion,
    dice_of_tiles,
    semantic_counts,
    semantic_scores,
    small_pieces,
    spread,
)
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.semantic.patches import patches_of, store_balance
from fintune_xr.pipelines.task_parts.requests import EvaluateRequest
from fintune_xr.pipelines.task_parts.seen_apart import Scored, seen_apart
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.store.lineage.depends_on import part_rests_on
from fintune_xr.store.lineage.training_exposure import require_unseen
from fintune_xr.store.runs.run import quarantined_of_runs, require_done, require_known_run
from fintune_xr.store.split import ALL, AnnotatedPart, part_to_score
from fintune_xr.tasks.class_map import IGNORED, ClassMap, check_class_map, stored_class_map
from fintune_xr.tasks.coarser import CoarserClasses, coarser_classes
from fintune_xr.tasks.product import CLASSES
from fintune_xr.tasks.semantic import SIZE_BIN_NAMES
from fintune_xr.text import texts

PRIMARY = score_name(f"{n.PERCLASS}_{n.DICE}", n.IMAGE_MEAN)
SHOWN = (PRIMARY, score_name(f"{n.PERCLASS}_{n.DICE}", n.POOLED), score_name(f"{n.PERCLASS}_{n.IOU}", n.IMAGE_MEAN))
FOREGROUND_DICE = score_name(f"{n.FOREGROUND}_{n.DICE}", n.IMAGE_MEAN)
DICE_OF_CLASS = score_name(n.DICE, n.IMAGE_MEAN)
DICE_OF_TILE = f"{n.DICE}_of_tile"


def evaluate_classes(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    """Scores (run, class) of maps of classes on the annotated tiles of a part, with the confusion of each tile.

    `perclass_dice_image_mean` is what runs are compared by. Only pixels that are not ignored count; tiles without any
    have no score, and their number is the attribute `n_ignored_tiles`; those that one of the runs has in quarantine are
    left out for all of them, and named in the attribute LEFT_OUT. The balance of classes is stored beside, but for
    scores under coarser classes: those hold in the attribute COARSER the codes of each, and runs of different classes
    may stand in them together.

    Raises UnknownNameError for a run that is not there, FintuneValueError where runs are of different classes, have not
    come to a tile yet, or have learnt from one; SettingsError where a finer class has no place among the coarser ones.
    """
    names = list(request.runs) or class_runs(cohort)
    if not names:
        raise FintuneValueError(
            f"{cohort.url} has no run of classes to evaluate. Run: fintune-xr infer {cohort.url} --run R --model M"
        )
    require_known_run(cohort, names)
    part = part_to_score(cohort, request.split)
    counting = _counting(cohort, names, request)
    class_map = counting.class_map
    left_out = quarantined_of_runs(cohort, names, part.names)
    scored = part.without(left_out)
    counted = _confusions(cohort, names, scored, counting)
    scores = _scores(counted[n.CONFUSION], request)
    apart = _apart(cohort, counted[n.CONFUSION], request) if part.part == ALL else xr.Dataset()
    if counting.coarser is None:
        store_balance(cohort, class_map)
    n_ignored = int((counted[n.CONFUSION].isel({n.RUN: 0}).sum([n.TRUTH, n.PREDICTED]) == 0).sum())
    if n_ignored:
        say(f"evaluate: {n_ignored} of {len(scored)} tiles have no pixel that counts, and no score")
    return xr.merge([counted, scores, apart]).assign_attrs(
        {
            n.INTERVAL_METHOD: STUDENT_T,
            n.CLASS_MAP: class_map.as_dict(),
            **({} if counting.coarser is None else {n.COARSER: counting.coarser.as_dict()}),
            "n_ignored_tiles": n_ignored,
            n.RESTS_ON: part_rests_on(cohort, part, names),
            n.LEFT_OUT: left_out,
            n.PROVENANCE: provenance(
                split=part.part, split_digest=part.digest, resamples=request.resamples, seed=request.seed
            ),
        }
    )


def _apart(cohort: Cohort, matrices: xr.DataArray, request: EvaluateRequest) -> xr.Dataset:
    def scores(run: str, at: NDArray[np.intp]) -> xr.Dataset:
        return _scores(matrices.sel({n.RUN: [run]}).isel({n.TILE: at}), request)

    tiles = texts(matrices[n.TILE])
    return seen_apart(cohort, texts(matrices[n.RUN]), Scored(tiles, tiles), scores)


def class_runs(cohort: Cohort) -> list[str]:
    """Names of the runs that hold maps of classes."""
    return [name for name in cohort.run_names() if cohort.run_product(name) is CLASSES]


def run_class_map(cohort: Cohort, run: str) -> ClassMap:
    """Classes of a run. Raises FintuneValueError for a run of anything else."""
    if cohort.run_product(run) is not CLASSES:
        raise FintuneValueError(f"run {run!r} of {cohort.url} holds no maps of classes; name others with --run")
    return stored_class_map(cohort.run(run, lazy=False)[n.CLASSES].attrs)


def shared_class_map(cohort: Cohort, runs: Sequence[str]) -> ClassMap:
    """The classes of `runs`, once all have the same and they fit the annotations.

    Raises FintuneValueError for runs of different classes, SettingsError where they do not fit the legend.
    """
    maps = {run: run_class_map(cohort, run) for run in runs}
    first = maps[runs[0]]
    other = [run for run, one in maps.items() if (one.classes, one.rest) != (first.classes, first.rest)]
    if other:
        raise FintuneValueError(
            f"runs of different classes cannot be compared: {runs[0]} has {', '.join(first.names)}, {other[0]} has "
            f"{', '.join(maps[other[0]].names)} or other codes. Evaluate them apart: --run; or under classes that both "
            "are made of: --coarser."
        )
    return check_class_map(first, annotated_legend(cohort))


def class_table(scores: xr.Dataset) -> pd.DataFrame:
    """One row per run: means over classes with 95 % intervals over donors, Dice of each class, foreground."""
    rows = []
    for run in texts(scores[n.RUN]):
        one = scores.sel({n.RUN: run})
        row = {n.RUN: run} | {name: with_interval(one, name) for name in SHOWN}
        row |= {f"{n.DICE} {c}": with_interval(one.sel({n.CLASS: c}), DICE_OF_CLASS) for c in texts(scores[n.CLASS])}
        rows.append(row | {FOREGROUND_DICE: with_interval(one, FOREGROUND_DICE)})
    return pd.DataFrame(rows)


def with_interval(one: xr.Dataset, name: str) -> str:
    """A score with its interval, as text; a dash where it is not known."""
    return "–" if np.isnan(float(one[name])) else score_line(one, name)


@dataclass(frozen=True, eq=False)
class _Counting:
    """How labels are counted: label of each code (256,) of the annotations, and of each label (256,) of a run."""

    class_map: ClassMap
    of_code: NDArray[np.uint8]
    of_run: Mapping[str, NDArray[np.uint8]]
    coarser: CoarserClasses | None = None


def _counting(cohort: Cohort, names: Sequence[str], request: EvaluateRequest) -> _Counting:
    """Each run under its own classes, which all share, or under the coarser ones that were stated."""
    legend = annotated_legend(cohort)
    if not request.coarser:
        shared = shared_class_map(cohort, names)
        same = np.arange(IGNORED + 1).astype(np.uint8)
        return _Counting(shared, shared.lookup(legend.ignored), dict.fromkeys(names, same))
    finer = {name: run_class_map(cohort, name) for name in names}
    coarser = coarser_classes(request.coarser, finer, legend)
    of_run = {name: coarser.run_lookup(one) for name, one in finer.items()}
    return _Counting(coarser.class_map, coarser.truth_lookup(legend.ignored), of_run, coarser)


def _confusions(cohort: Cohort, names: Sequence[str], part: AnnotatedPart, counting: _Counting) -> xr.Dataset:
    """Confusion (run, tile, truth, predicted) and small pieces (run, tile, class, size bin); a tile in memory."""
    runs = {name: cohort.run(name, lazy=False) for name in names}
    for name, run in runs.items():
        require_done(cohort, name, run, part.tiles)
    if part.part != ALL:
        require_unseen(cohort, names, part.names)
    patches = patches_of(cohort, part.tiles)
    places = {name: _places(run, patches.names) for name, run in runs.items()}
    n_classes, n_tiles = counting.class_map.n_classes, len(patches)
    matrices = np.zeros((len(names), n_tiles, n_classes + 1, n_classes + 1), np.int64)
    pieces, found = (np.zeros((len(names), n_classes, len(SIZE_BIN_NAMES)), np.int64) for _ in range(2))
    with progress("evaluate", n_tiles) as advance:
        for at in range(n_tiles):
            truth = counting.of_code[patches.read_codes(at)]
            for r, name in enumerate(names):
                predicted = counting.of_run[name][_predicted(runs[name], places[name][at], truth.shape)]
                matrices[r, at] = confusion(truth, predicted, n_classes)
                there, hit = small_pieces(truth, predicted, n_classes)
                pieces[r] += there
                found[r] += hit
            advance(1)
    labels = [n.REST, *counting.class_map.names]
    size_dims = (n.RUN, n.CLASS, n.SIZE_BIN)
    return xr.Dataset(
        {
            n.CONFUSION: ((n.RUN, n.TILE, n.TRUTH, n.PREDICTED), matrices),
            n.N_PIECES: (size_dims, pieces),
            n.N_FOUND: (size_dims, found),
        },
        {
            n.RUN: list(names), n.TRUTH: labels, n.PREDICTED: labels, n.CLASS: labels[1:],
            n.SIZE_BIN: list(SIZE_BIN_NAMES), n.PROTOCOL: (n.RUN, [n.AUTOMATIC] * len(names)),
            **part.labels,
        },
    )  # fmt: skip


def _places(run: xr.Dataset, tiles: Sequence[str]) -> list[int]:
    place: Mapping[str, int] = {name: i for i, name in enumerate(texts(run[n.TILE]))}
    return [place[tile] for tile in tiles]


def _predicted(run: xr.Dataset, at: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    height, width = shape
    return np.asarray(run[n.CLASSES][at, :height, :width].values, np.uint8)


def _scores(matrices: xr.DataArray, request: EvaluateRequest) -> xr.Dataset:
    """Scores with intervals over donors; without where there is a single donor."""
    donor = matrices[n.DONOR].reset_coords(drop=True)
    bare = matrices.drop_vars([n.DONOR, n.MARKER, n.SPLIT, n.PROTOCOL])
    counts = semantic_counts(bare)
    if len(set(texts(donor))) < 2:
        scored = semantic_scores(counts.drop_vars(n.TILE), sum_over(n.TILE))
    else:
        scored = with_donor_intervals(counts, donor, semantic_scores, n_flips=request.resamples, seed=request.seed)
        ends = [name for name in scored if str(name).endswith(n.INTERVAL) and n.DIFFERENCE not in str(name)]
        scored = scored.assign({name: scored[name].clip(0.0, 1.0) for name in ends})
    return xr.merge([scored, spread(counts), dice_of_tiles(counts).rename(DICE_OF_TILE)])
