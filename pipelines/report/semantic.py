"""What a report of stained tissue is made of: balance of classes, examples, scores, confusion, spread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Section, Stale, Study
from fintune_xr.analysis.report.instance.scores import study_sections
from fintune_xr.analysis.report.semantic.benchmark import class_benchmark_study
from fintune_xr.analysis.report.semantic.coarser import COMMAND, coarser_section
from fintune_xr.analysis.report.semantic.details import (
    balance_section,
    confusion_section,
    examples_section,
    spread_section,
)
from fintune_xr.analysis.report.semantic.prompts import prompted_section, regions_section
from fintune_xr.analysis.report.semantic.scores import ClassScores, scores_section
from fintune_xr.models.checkpoints import COLLAPSED_EPOCHS
from fintune_xr.pipelines.report.stale import evaluated_part, stale_scores
from fintune_xr.pipelines.report.stored_studies import budget_studies
from fintune_xr.pipelines.semantic.evaluate import class_runs
from fintune_xr.pipelines.semantic.patches import patches_of
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.store.lineage.depends_on import doubt, tiles_in
from fintune_xr.store.split import part_to_score
from fintune_xr.tasks.class_map import confirmed_clashes, joined_codes, stored_class_map
from fintune_xr.tasks.semantic import CLASS_BALANCE
from fintune_xr.text import texts

N_EXAMPLES: Final = 3


def tissue_sections(cohort: Cohort, baseline: str) -> tuple[Section, ...]:
    """All sections between what went in and where the runs come from; runs are held against the run `baseline`."""
    contents, stale = _scores(cohort, baseline)
    balance, old_balance = _balance(cohort)
    return (
        replace(balance_section(balance), stale=old_balance),
        examples_section(_examples(cohort, contents)),
        replace(scores_section(contents), stale=stale),
        confusion_section(contents.scores),
        spread_section(contents.scores),
        _coarser(cohort, baseline),
        _prompted(cohort),
        _regions(cohort),
        *_studies(cohort),
    )


def _studies(cohort: Cohort) -> list[Section]:
    """The comparison of models and the label budget."""
    stored = {n.BENCHMARK: tuple(_benchmark(cohort)), n.BUDGET: tuple(budget_studies(cohort))}
    return [one for one in study_sections(stored) if one.key in stored]


def _benchmark(cohort: Cohort) -> Iterator[Study | Stale]:
    if not cohort.has(n.BENCHMARK_PATH):
        return
    found = cohort.read(n.BENCHMARK_PATH).load()
    path = f"{n.BENCHMARK_PATH}_{n.COARSER}"
    # Where the study has no coarser classes any more, those of an earlier one lie there yet.
    has_coarser = bool(found.attrs[n.PROVENANCE]["settings"][n.COARSER]) and cohort.has(path)
    coarser = cohort.read(path).load() if has_coarser else None
    reasons = [doubt(cohort, one, tiles_in(cohort, n.TEST)) for one in (found, coarser) if one is not None]
    if any(reasons):
        yield Stale(f"the ways to train, {n.BENCHMARK_PATH}", max(reasons), "fintune-xr benchmark STORE prefix=NEW-")
        return
    yield class_benchmark_study(found, coarser)


def _coarser(cohort: Cohort, baseline: str) -> Section:
    """Scores under coarser classes that are those of the store as it is; the others are named."""
    shown, stale = [], []
    for name in cohort.names_under(n.METRICS):
        if not name.startswith(n.COARSER_PREFIX):
            continue
        part = name.rpartition("_")[2]
        stored = cohort.metrics(name).load()
        reason = doubt(cohort, stored, tiles_in(cohort, part))
        if reason:
            stale.append(Stale(f"coarser classes, {name}", reason, f"{COMMAND} --split {part}"))
        else:
            shown.append(_contents(cohort, stored, part, baseline))
    return replace(coarser_section(shown), stale=tuple(stale))


def _prompted(cohort: Cohort) -> Section:
    path, command = f"{n.METRICS}/{n.PROMPTS}", "fintune-xr sweep STORE --model WEIGHTS --restart"
    stored = cohort.read(path).load() if cohort.has(path) else None
    reason = doubt(cohort, stored, texts(stored[n.TILE])) if stored is not None else ""
    if reason:
        return replace(prompted_section(None), stale=(Stale("prompted masks", reason, command),))
    return prompted_section(stored)


def _regions(cohort: Cohort) -> Section:
    found, stale = {}, []
    for name in cohort.names_under(n.REGIONS):
        stored = cohort.read(f"{n.REGIONS}/{name}").load()
        reason = doubt(cohort, stored, tiles_in(cohort, "all"))
        if reason:
            stale.append(Stale(f"regions {name}", reason, f"fintune-xr classify STORE --name {name}"))
        else:
            found[name] = stored
    return replace(regions_section(found), stale=tuple(stale))


def _scores(cohort: Cohort, baseline: str) -> tuple[ClassScores, tuple[Stale, ...]]:
    """Scores of the test part, or of the first part that was evaluated; nothing where they are out of date."""
    part = evaluated_part(cohort)
    nothing = ClassScores(baseline=baseline)
    if not part:
        return nothing, ()
    stored = cohort.metrics(part).load()
    reason = doubt(cohort, stored, tiles_in(cohort, part))
    if reason:
        return nothing, (stale_scores(cohort, part, stored, reason),)
    return _contents(cohort, stored, part, baseline), ()


def _contents(cohort: Cohort, stored: xr.Dataset, part: str, baseline: str) -> ClassScores:
    """Scores of runs of the store with what must be known to read them."""
    known = texts(stored[n.RUN])
    class_map, legend = stored_class_map(stored.attrs), annotated_legend(cohort)
    return ClassScores(
        scores=stored,
        part=part,
        baseline=baseline if baseline in known else known[0],
        n_donors=len(set(texts(stored[n.DONOR]))),
        clashes=(*confirmed_clashes(class_map, legend), *joined_codes(class_map, legend)),
        collapsed={run: told for run in known if (told := _collapse(cohort, run))},
    )


def _collapse(cohort: Cohort, run: str) -> str:
    """What the record of the training behind a run says of its collapse; empty where it did not, or nothing is told."""
    record = cohort.run_attrs(run)[n.PROVENANCE].get("training", {})
    epochs = record.get(COLLAPSED_EPOCHS, [])
    if not epochs:
        return ""
    return (
        f"in {len(epochs)} of its {record['n_epochs']} epochs, the first of them epoch {epochs[0] + 1}, its score on "
        f"val had been below half of its best for three validations. The weights of epoch {record['best_epoch'] + 1} "
        "stand"
    )


def _balance(cohort: Cohort) -> tuple[xr.Dataset | None, tuple[Stale, ...]]:
    if not cohort.has(n.CLASS_BALANCE_PATH):
        return None, ()
    stored = cohort.read(n.CLASS_BALANCE_PATH, CLASS_BALANCE).load()
    reason = doubt(cohort, stored, tiles_in(cohort, "all"))
    if reason:
        return None, (Stale("balance of classes", reason, "fintune-xr evaluate STORE"),)
    return stored, ()


def _examples(cohort: Cohort, contents: ClassScores) -> list[dict[str, Any]]:
    """Patches of the scored part, of different donors: best, middle and worst by Dice of the baseline."""
    scores = contents.scores
    if scores is None:
        return []
    class_map = stored_class_map(scores.attrs)
    # Positions of scores are those of the tiles that were scored.
    scored = part_to_score(cohort, contents.part).without(scores.attrs.get(n.LEFT_OUT, {}))
    patches = patches_of(cohort, scored.tiles)
    runs = {run: cohort.run(run, lazy=False) for run in texts(scores[n.RUN]) if run in class_runs(cohort)}
    images = cohort.images(lazy=False)
    facts = zip(texts(images[n.TILE]), texts(images[n.SPLIT]), sides_um(images).tolist(), strict=True)
    of_tile = {tile: {n.TILE: tile, n.SPLIT: split, "side_um": side} for tile, split, side in facts}
    found: list[dict[str, Any]] = []
    for at in _chosen(scores, contents.baseline):
        image, _ = patches.read(at)
        truth = patches.labels(at, class_map)
        maps = {"annotated": truth} | {run: _map(stored, patches.names[at], truth) for run, stored in runs.items()}
        found.append({**of_tile[patches.names[at]], "image": image, "maps": maps, "classes": class_map.names})
    return found


def _chosen(scores: xr.Dataset, baseline: str) -> list[int]:
    dice = scores[f"{n.DICE}_of_tile"].sel({n.RUN: baseline}).values
    order = np.argsort(np.where(np.isnan(dice), np.inf, dice))[: int(np.isfinite(dice).sum())]
    if not order.size:
        return []
    places = np.unique(np.linspace(0, order.size - 1, min(N_EXAMPLES, order.size)).round().astype(int))
    return [int(order[place]) for place in places[::-1]]


def _map(run: xr.Dataset, tile: str, truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    at = texts(run[n.TILE]).index(tile)
    return np.asarray(run[n.CLASSES][at, : truth.shape[0], : truth.shape[1]].values, np.uint8)
