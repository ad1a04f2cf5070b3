"""What a report of cells is made of: examples, scores, studies, and the statistics of the donors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.bootstrap import DONORS_THRESHOLD, OF_DONORS
from fintune_xr.analysis.comparison import HIGH, LOW, compare_runs, summarise, without_few
from fintune_xr.analysis.reference_figures import STUDY_MARKERS, published_segmentation
from fintune_xr.analysis.report.contents import Section, Stale, Study
from fintune_xr.analysis.report.instance.scores import RunScores, segmentation_section, study_sections
from fintune_xr.analysis.report.sections.associations import (
    association_section,
    bootstrap_section,
    comparison_section,
    ratio_section,
)
from fintune_xr.analysis.report.sections.cohort import examples_section
from fintune_xr.analysis.report.sections.group_tests import group_section
from fintune_xr.analysis.report.sections.positivity import positivity_section
from fintune_xr.analysis.report.sections.quality import quality_section
from fintune_xr.analysis.report.sections.readouts import readout_section
from fintune_xr.analysis.report.sections.statistics import Statistics
from fintune_xr.errors import AnswerError
from fintune_xr.metrics.donor_tests import MIN_DONORS
from fintune_xr.pipelines.instance.validation import stored_validation
from fintune_xr.pipelines.report.signals import judged_tiles, run_signals, shown_runs
from fintune_xr.pipelines.report.stale import evaluated_part, stale_scores
from fintune_xr.pipelines.report.stored_studies import stored_studies
from fintune_xr.pipelines.steps.associate import association_doubt
from fintune_xr.pipelines.steps.clinical_table import associate_command
from fintune_xr.pipelines.steps.group_tests import group_doubt
from fintune_xr.pipelines.steps.positivity import tells_positives
from fintune_xr.pipelines.steps.qc import labelled_quality
from fintune_xr.pipelines.steps.readout import readout_doubt
from fintune_xr.schema import DatasetSchema
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import doubt, runs_doubt, tiles_in
from fintune_xr.store.lineage.tile_counts import active_rule
from fintune_xr.tasks.instance import POSITIVITY
from fintune_xr.tasks.quality import QUALITY
from fintune_xr.text import text_array, texts

N_EXAMPLES: Final = 3


def cell_sections(cohort: Cohort, baseline: str) -> tuple[Section, ...]:
    """Examples, scores of masks, studies, and the statistics of the donors, held against the run `baseline`."""
    annotated = tuple(cohort.annotated_tiles()) if cohort.has(n.ANNOTATIONS) else ()
    studies = stored_studies(cohort)
    scores, old_scores = run_scores(cohort, baseline)
    if not any(isinstance(study, Study) for study in studies["benchmark"]):
        scores = replace(scores, published=_published(cohort))
    return (
        examples_section(_examples(cohort, annotated)),
        replace(segmentation_section(scores), stale=old_scores),
        *study_sections(studies),
        tiles_section(cohort),
        *statistics_sections(cohort, baseline),
        readouts_section(cohort),
        groups_section(cohort),
    )


def tiles_section(cohort: Cohort) -> Section:
    """How tiles were taken; where tiles have come in since, or its run is another one now, it is out of date."""
    if not cohort.has(n.QC):
        return quality_section(None, None)
    stored = cohort.read(n.QC, QUALITY).load()
    same = texts(stored[n.TILE]) == texts(cohort.images(lazy=False)[n.TILE])
    reason = "tiles have come in since" if not same else runs_doubt(cohort, stored.attrs[n.RESTS_ON]["runs"])
    if reason:
        stale = Stale("how tiles were taken", reason, "fintune-xr qc STORE")
        return replace(quality_section(None, None), stale=(stale,))
    analysis = cohort.analysis().load() if cohort.has(n.ANALYSIS) else None
    shown = None if analysis is None or association_doubt(cohort, analysis) else analysis
    return quality_section(labelled_quality(cohort, stored), shown)


def readouts_section(cohort: Cohort) -> Section:
    """Readouts that are of the store as it is now; the others are out of date, each with its own reason."""
    current, stale = _current(cohort, _StoredOf(n.READOUTS, datasets.READOUTS, readout_doubt, "the readout"))
    return replace(readout_section(current), stale=stale)


def groups_section(cohort: Cohort) -> Section:
    """Tests of groups that are of the store as it is now; the others are out of date, each with its own reason."""
    kind = _StoredOf(n.GROUP_TESTS, datasets.GROUP_TESTS, group_doubt, "the groups of donors by the readout")
    current, stale = _current(cohort, kind)
    return replace(group_section(current), stale=stale)


@dataclass(frozen=True, slots=True)
class _StoredOf:
    """Results under `path`, one for each readout: what doubts them, and what they are called."""

    path: str
    schema: DatasetSchema
    doubt: Callable[[Cohort, xr.Dataset], str]
    what: str


def _current(cohort: Cohort, kind: _StoredOf) -> tuple[dict[str, xr.Dataset], tuple[Stale, ...]]:
    """What is of the store as it is now, by readout, and what is not."""
    current, stale = {}, []
    for name in cohort.names_under(kind.path):
        stored = cohort.read(f"{kind.path}/{name}", kind.schema).load()
        asked, reason = str(stored.attrs[n.READOUT]), kind.doubt(cohort, stored)
        if reason:
            stale.append(Stale(f"{kind.what} {asked}", reason, associate_command(stored)))
        else:
            current[asked] = stored
    return current, tuple(stale)


def statistics_sections(cohort: Cohort, baseline: str) -> tuple[Section, ...]:
    """Positivity, ratios, associations and their stability; all of them are out of date where the associations are."""
    statistics, stale = _statistics(cohort, baseline)
    made = (positivity_section, ratio_section, association_section, bootstrap_section, comparison_section)
    return tuple(replace(section, stale=stale.get(section.key, ())) for section in (one(statistics) for one in made))


def _published(cohort: Cohort) -> xr.DataArray | None:
    markers = set(texts(cohort.images(lazy=False)[n.MARKER]))
    return published_segmentation() if STUDY_MARKERS & markers else None


def run_scores(cohort: Cohort, baseline: str) -> tuple[RunScores, tuple[Stale, ...]]:
    """Scores of the test part, or of the first part that was evaluated."""
    part, nothing = evaluated_part(cohort), RunScores(baseline=baseline)
    if not part:
        return nothing, ()
    stored = cohort.metrics(part).load()
    reason = doubt(cohort, stored, tiles_in(cohort, part))
    if reason:
        return nothing, (stale_scores(cohort, part, stored, reason),)
    by_tile = [name for name, array in stored.variables.items() if n.TILE in array.dims]
    scores = stored.drop_vars([str(name) for name in by_tile])
    groups = texts(scores[n.GROUP])
    markers = scores.sel({n.GROUP: [g for g in groups if g not in _NO_MARKERS]}).rename({n.GROUP: n.MARKER})
    found = RunScores(
        scores=scores.sel({n.GROUP: n.ALL_MARKERS}, drop=True),
        scores_by_marker=markers if markers.sizes[n.MARKER] else None,
        n_scored_donors=len(set(texts(stored[n.DONOR]))),
        scored_part=part,
        baseline=baseline,
    )
    return found, ()


# Groups of scores that are none of one marker; older scores have those of seen tiles among them.
_NO_MARKERS: Final = (n.ALL_MARKERS, n.SEEN_TILES, n.NEW_TILES)
_OF_DONORS: Final = ("positivity", "ratios", "associations", "bootstrap", "comparison")
_StaleBySection = dict[str, tuple[Stale, ...]]


def _statistics(cohort: Cohort, baseline: str) -> tuple[Statistics, _StaleBySection]:
    """What is stored of the donors, and what of it is out of date, by section."""
    if not cohort.has(n.ANALYSIS):
        return _counted_alone(cohort)
    analysis = cohort.analysis().load()
    reason = association_doubt(cohort, analysis)
    if reason:
        what = "donor ratios, their associations with outcomes, and their stability"
        stale = Stale(what, reason, associate_command(analysis))
        return Statistics(), dict.fromkeys(_OF_DONORS, (stale,))
    runs = texts(analysis[n.RUN])
    stability, old = _stability(cohort, analysis, baseline)
    rules = {run: active_rule(cohort, run) for run in runs}
    shown = shown_runs(runs, baseline)
    found = Statistics(
        analysis=analysis,
        baseline=baseline,
        clinical=cohort.read(n.CLINICAL, datasets.CLINICAL).load(),
        rho_if_lost=xr.Dataset({LOW: analysis[n.RHO_IF_LOST_NEGATIVE], HIGH: analysis[n.RHO_IF_LOST_POSITIVE]}),
        positivity={run: _positivity(cohort, run) for run in runs},
        ratio_by_rule=analysis[n.RATIO_BY_RULE],
        rho_by_rule=analysis[n.RHO_BY_RULE],
        active_rules=rules,
        signals={run: run_signals(cohort, run) for run in shown},
        judged={run: judged_tiles(cohort, run, rules[run]) for run in shown},
        validation=_validations(cohort, runs),
        **stability,
    )
    return found, old


def _counted_alone(cohort: Cohort) -> tuple[Statistics, _StaleBySection]:
    """Positive cells of the runs that have them, before any outcome was looked at."""
    rules: dict[str, str] = {}
    stale: list[Stale] = []
    for run in cohort.names_under(n.POSITIVITY):
        try:
            rules[run] = active_rule(cohort, run)
        except AnswerError as error:
            command = f"fintune-xr positivity STORE --run {run}"
            stale.append(Stale(f"the positive cells of run {run}", str(error), command))
    shown = shown_runs(list(rules), "")
    found = Statistics(
        positivity={run: _positivity(cohort, run) for run in rules},
        active_rules=rules,
        signals={run: run_signals(cohort, run) for run in shown},
        judged={run: judged_tiles(cohort, run, rules[run]) for run in shown},
        validation=_validations(cohort, list(rules)),
        has_marker=tells_positives(cohort) or bool(rules),
    )
    return found, {"positivity": tuple(stale)}


def _validations(cohort: Cohort, runs: Sequence[str]) -> dict[str, xr.Dataset]:
    """What annotations say of runs, where it is stored and of the store as it is now."""
    found = {run: stored_validation(cohort, run) for run in runs}
    return {run: one for run, one in found.items() if one is not None}


def _stability(cohort: Cohort, analysis: xr.Dataset, baseline: str) -> tuple[dict[str, Any], _StaleBySection]:
    """Resamples, their summary and the runs compared on them; nothing of it where they are of other inputs."""
    schemes = cohort.names_under(n.BOOTSTRAP)
    if not schemes:
        return {}, {}
    scheme = OF_DONORS if OF_DONORS in schemes else schemes[0]
    resampled = cohort.bootstrap(scheme)
    if resampled.attrs[n.INPUTS_SHA256] != analysis.attrs[n.INPUTS_SHA256]:
        command = f"fintune-xr bootstrap STORE --scheme {scheme} --resamples {resampled.sizes[n.RESAMPLE]} --restart"
        stale = Stale(f"the resamples {scheme}", "they were drawn from other counts or outcomes", command)
        return {}, dict.fromkeys(("bootstrap", "comparison"), (stale,))
    enough = (analysis[n.N] >= MIN_DONORS).all(n.RUN)
    stability = without_few(summarise(resampled).compute(), analysis[n.N] >= MIN_DONORS)
    compared = tuple(without_few(one, enough) for one in _comparisons(resampled, baseline))
    found = {"bootstrap": resampled.compute(), "stability": stability, "comparisons": compared}
    if scheme == OF_DONORS and DONORS_THRESHOLD in schemes:
        anew = cohort.bootstrap(DONORS_THRESHOLD)
        if anew.attrs[n.INPUTS_SHA256] == analysis.attrs[n.INPUTS_SHA256]:
            found["redrawn"] = without_few(summarise(anew).compute(), analysis[n.N] >= MIN_DONORS)
    return found, {}


def _comparisons(resampled: xr.Dataset, baseline: str) -> tuple[xr.Dataset, ...]:
    runs = texts(resampled[n.RUN])
    if baseline not in runs:
        return ()
    return tuple(compare_runs(resampled, baseline=baseline, other=run).compute() for run in runs if run != baseline)


def _positivity(cohort: Cohort, run: str) -> xr.Dataset:
    markers = text_array(cohort.images(lazy=False)[n.MARKER])
    return cohort.read(f"{n.POSITIVITY}/{run}", POSITIVITY).load().assign_coords({n.MARKER: (n.TILE, markers)})


def _examples(cohort: Cohort, annotated: Sequence[str]) -> xr.Dataset | None:
    """A few tiles with the masks of every run that has ended; one per marker where there are several.

    Runs on parts of the cohort, as studies leave them, are shown where there is no other.
    """
    images = cohort.images(lazy=False)
    runs = {name: cohort.run(name, lazy=False) for name in cohort.run_names()}
    ended = {name: run for name, run in runs.items() if _has_ended(run, images.sizes[n.TILE])}
    runs = ended or runs
    names = list(runs)
    done = np.ones(images.sizes[n.TILE], bool)
    for run in runs.values():
        state = np.zeros(done.size, bool)
        state[: run.sizes[n.TILE]] = run[n.STATE].values == n.DONE
        done &= state
    where = _chosen(images, done, annotated)
    if not where or not names:
        return None
    tiles = images.isel({n.TILE: where}).load()
    masks = [run[n.MASK].isel({n.TILE: where}).load() for run in runs.values()]
    masks = [mask.drop_vars(mask.coords) for mask in masks]
    found = tiles.assign({n.MASK: xr.concat(masks, n.RUN, join="exact").assign_coords({n.RUN: names})})
    if set(texts(tiles[n.TILE])) <= set(annotated):
        truth = cohort.annotations(lazy=False)
        place = {name: i for i, name in enumerate(texts(truth[n.TILE]))}
        order = [place[name] for name in texts(tiles[n.TILE])]
        mask = truth[n.MASK].isel({n.TILE: order}).load().reset_coords(drop=True)
        found = found.assign({n.ANNOTATED: (mask.dims, mask.values)})
    return found


def _has_ended(run: xr.Dataset, n_tiles: int) -> bool:
    return run.sizes[n.TILE] == n_tiles and not bool((run[n.STATE] == n.PENDING).any())


def _chosen(images: xr.Dataset, done: np.ndarray[Any, Any], annotated: Sequence[str]) -> list[int]:
    """Positions of example tiles: annotated test tiles first, then annotated ones, then any; markers in turn."""
    tiles, markers, splits = (text_array(images[name]) for name in (n.TILE, n.MARKER, n.SPLIT))
    known = np.isin(tiles, list(annotated))
    preference = np.where(known & (splits == n.TEST), 0, np.where(known, 1, 2))
    candidates = [int(i) for i in np.flatnonzero(done)]
    if known[candidates].any():
        candidates = [i for i in candidates if known[i]]
    seen: dict[str, int] = {}
    ranked = []
    for i in sorted(candidates, key=lambda i: (preference[i], i)):
        turn = seen.get(markers[i], 0)
        seen[markers[i]] = turn + 1
        ranked.append((turn, int(preference[i]), i))
    return [i for *_, i in sorted(ranked)[:N_EXAMPLES]]
