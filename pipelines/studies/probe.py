"""Heads fitted to the stored embeddings of runs, each stored as a run made of the one that it is on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.datasets import SCHEMA_VERSION
from fintune_xr.errors import FintuneValueError, StoreDamagedError
from fintune_xr.finetune.classification.features import (
    check_class_weights,
    folds_of,
    named_class,
    participants_balanced_accuracy,
    require_every_class,
)
from fintune_xr.finetune.classification.heads import Head, fit_head
from fintune_xr.finetune.classification.probe_settings import ProbeSettings
from fintune_xr.pipelines.classification.artefacts import RECORD, write_beside_run
from fintune_xr.pipelines.classification.probing import PROBE, fit_on_scans, labelled_vectors, usable_scans
from fintune_xr.pipelines.classification.scans import Scans, labelled_scans, require_column, with_vectors
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.studies.study import RunPart, Study, carry_out, make_run
from fintune_xr.provenance import provenance
from fintune_xr.settings import Config, load_settings
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.depends_on import require_sources, truth_digest
from fintune_xr.store.lineage.training_exposure import choice_exposure, training_exposure
from fintune_xr.store.runs.run import run_creation
from fintune_xr.store.runs.run_shard import write_run_shard
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.store.split import require_split
from fintune_xr.tasks.product import SCORES
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult
from fintune_xr.tasks.task import CLASSIFICATION

_LISTED: Final = ("head", "c", "k", "weight_decay")


@dataclass(frozen=True, slots=True)
class Probed:
    """A head that was fitted, or was there: its run, the run that it is on, its name and the score on val."""

    run: str
    source: str
    head: str
    val_balanced_accuracy: float
    is_new: bool


def probe(
    store: str | Path,
    *,
    runs: Sequence[str],
    config: Config = None,
    overrides: Sequence[str] = (),
    restart: bool = False,
    out: str | Path | None = None,
) -> list[Probed]:
    """Fits heads to the embeddings of `runs` on the train part; each becomes a run `<run>-<head>` with logits.

    No image is read. What a head is told (penalty, neighbours, decay) is chosen by folds inside train; val says when
    `linear` and `mlp` have learnt enough and is the part to compare heads on; test plays no part. With `folds` all
    heads are also fitted and scored in folds over train and val together, stored under `metrics/probe`. Every
    combination is validated before the first is fitted, and a head that is stored already is not fitted again. In the
    folder `out` each head has one of its name, with what `export --to artefacts` writes.

    Raises FintuneValueError for a run without embeddings, with pending scans or without an embedding of a class, or a
    class that train lacks, SplitError without a valid split, RunMismatchError where a run of that name was made
    otherwise, RunBusyError where another process fits the same head.
    """
    cohort = open_cohort(store).opened_once()
    cohort.require("probe", tasks=[CLASSIFICATION])
    settings = load_settings(ProbeSettings, config, overrides_as_lists(overrides))
    if not runs:
        raise FintuneValueError("probe: name the runs with embeddings that heads are fitted to, with --run")
    digest = require_split(cohort)
    require_sources(cohort, runs)
    for run in runs:
        require_column(cohort, run, n.EMBEDDING)
    scans = labelled_scans(cohort, n.TRAIN, n.VAL)
    _check_classes(scans)
    # Before the first head is fitted.
    check_class_weights(settings.class_weights, len(scans.classes), scans.classes)
    if settings.folds:
        folds_of(scans.label, scans.participant, settings.folds, settings.seed, scans.classes)
    work = _Work(cohort, settings, scans, digest, restart, None if out is None else Path(out))
    made = [_probed(work, run, head) for run in runs for head in settings.head]
    if settings.folds:
        study = Study(cohort=cohort, path=n.PROBE_PATH, lock=PROBE, what="scoring heads in folds")
        carry_out(study, lambda _: (_in_folds(cohort, runs, settings, scans),))
    return made


def overrides_as_lists(overrides: Sequence[str]) -> list[str]:
    """Overrides with the values of settings that take several as lists: `head=logistic,linear` is `head=[…]`."""
    written = []
    for override in overrides:
        key, equals, value = override.partition("=")
        is_list = key in _LISTED and equals and value and not value.startswith("[")
        written.append(f"{key}=[{value}]" if is_list else override)
    return written


def probed_name(run: str, head: str) -> str:
    """Name of the run of a head."""
    return f"{run}-{head}"


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What is the same for every head that is asked for."""

    cohort: Cohort
    settings: ProbeSettings
    scans: Scans
    digest: str
    restart: bool
    out: Path | None


def _probed(work: _Work, run: str, head: str) -> Probed:
    name, cohort, out = probed_name(run, head), work.cohort, work.out
    identity = _identity(work, run, head)
    made: list[Head] = []
    part = RunPart(
        cohort=cohort, run=name, identity=identity, remedy="Give --restart to fit it anew.",
        make=lambda: made.append(_fit_and_store(work, run, head, identity)),
        is_whole=lambda: _has_all_of(cohort, name, run),
    )  # fmt: skip
    is_new = make_run(part, restart=work.restart)
    if not is_new:
        say(f"probe: {name} is stored already")
    if out is not None and (is_new or not (out / name / RECORD).is_file()):
        write_beside_run(cohort, name, out, head=made[0] if made else None)
    return Probed(name, run, head, _val_score(cohort, name, work.scans), is_new)


def _identity(work: _Work, run: str, head: str) -> dict[str, Any]:
    """What the logits of a head on a run depend on."""
    return {
        PROBE: {"head": head, **_of_head(work.settings)},
        n.SOURCES: {run: work.cohort.run_attrs(run)[n.IDENTITY]},
        n.SPLIT_DIGEST: work.digest,
        n.ANNOTATIONS_DIGEST: truth_digest(work.cohort, work.scans.tile.tolist()),
        "schema_version": SCHEMA_VERSION,
    }


def _fit_and_store(work: _Work, run: str, head: str, identity: dict[str, Any]) -> Head:
    """The head, fitted to the embeddings of `run`, after its logits are stored."""
    cohort, settings = work.cohort, work.settings
    scans = usable_scans(cohort, run, work.scans)
    made = fit_on_scans(cohort, run, head, settings, scans)
    name, seen = probed_name(run, head), _seen(cohort, run, work.scans)
    facts = provenance(
        settings=settings.as_dict(), chosen=dict(made.chosen), n_scans=_counts(scans), **{n.TRAINING: {n.SEEN: seen}}
    )
    with writing_run(
        cohort, name, identity=identity, facts=facts, product=SCORES, sizes={n.CLASS: list(scans.classes)},
        restart=work.restart,
    ) as writer:  # fmt: skip
        source = _Source(cohort, run, made)
        # Numbers that are at hand are written at once, and not shard by shard.
        receipts = [source.receipt(name, plan) for plan in writer.plans(source.is_known)]
        if receipts:
            writer.commit(receipts)
        writer.finish()
    return made


def _of_head(settings: ProbeSettings) -> dict[str, Any]:
    """Settings that a single head is made with; which others were asked for plays no part."""
    return {key: value for key, value in settings.as_dict().items() if key not in ("head", "folds")}


def _seen(cohort: Cohort, run: str, scans: Scans) -> dict[str, list[str]]:
    """Scans that the head, or the encoder before it, has learned from, and those that judged them."""
    learned, judged = (scans.within(part).tile.tolist() for part in (n.TRAIN, n.VAL))
    own = training_exposure(cohort, learned=learned, judged=judged, start=None)
    before = choice_exposure(cohort, [run], judged)
    return {key: sorted({*own[key], *before.get(key, ())}) for key in own}


def _counts(scans: Scans) -> dict[str, int]:
    return {part: len(scans.within(part).tile) for part in (n.TRAIN, n.VAL)}


def _has_all_of(cohort: Cohort, name: str, source: str) -> bool:
    """Whether the run of a head has what its source has."""
    before = cohort.run(source, lazy=False)[n.STATE].values
    try:
        states = cohort.run(name, lazy=False)[n.STATE].values
    except StoreDamagedError:
        # Killed while it was made: whoever writes it makes the rest, or says what else is wrong with it.
        return False
    return states.size == before.size and bool(((states != n.PENDING) == (before != n.PENDING)).all())


class _Source:
    """The run that a head is on, and what the head says of its tiles."""

    def __init__(self, cohort: Cohort, run: str, head: Head) -> None:
        stored = cohort.run(run, lazy=False)
        self.cohort, self.head = cohort, head
        self.state, self.reason = stored[n.STATE].values, stored[n.REASON].values
        self.embedding = stored[n.EMBEDDING].values
        n_tiles = cohort.images(lazy=False).sizes[n.TILE]
        self.is_known = np.zeros(n_tiles, np.bool_)
        self.is_known[: self.state.size] = self.state != n.PENDING

    def receipt(self, name: str, plan: ShardPlan) -> ShardReceipt:
        """Logits of the tiles of a plan; tiles without an embedding keep their reason."""
        tiles = np.array([plan.first + slot for slot in plan.todo])
        done = self.state[tiles] == n.DONE
        logits = np.zeros((tiles.size, 0), np.float32)
        if done.any():
            found = self.head.logits(self.embedding[tiles[done]]).astype(np.float32)
            logits = np.zeros((tiles.size, found.shape[1]), np.float32)
            logits[done] = found
        results = tuple(
            TileResult(n.DONE, 0.0, values={n.LOGITS: logits[at]})
            if done[at]
            else TileResult(int(self.state[tile]), 0.0, str(self.reason[tile]))
            for at, tile in enumerate(tiles)
        )
        creation = run_creation(self.cohort.location, name)
        write_run_shard(self.cohort.location, name, plan, iter(() for _ in tiles), creation=creation)
        return ShardReceipt(plan, results)


def _val_score(cohort: Cohort, name: str, scans: Scans) -> float:
    """Balanced accuracy of val's participants; NaN where val has none."""
    held_out = scans.within(n.VAL)
    if not held_out.tile.size:
        return float("nan")
    done, logits = with_vectors(cohort, name, n.LOGITS, held_out)
    return participants_balanced_accuracy(logits, done.with_values(logits)) if done.tile.size else float("nan")


def _check_classes(scans: Scans) -> None:
    """A class that train lacks is an error, one that val lacks a sentence."""
    n_classes = len(scans.classes)
    require_every_class(scans.within(n.TRAIN).label, n_classes, scans.classes)
    held_out = set(scans.within(n.VAL).label.tolist())
    missing = [named_class(label, scans.classes) for label in range(n_classes) if label not in held_out]
    if missing:
        say(f"probe: val has no participant of class {', '.join(missing)}; its balanced accuracy is that of the others")


def _in_folds(cohort: Cohort, runs: Sequence[str], settings: ProbeSettings, scans: Scans) -> xr.Dataset:
    """Balanced accuracy (encoder, head, fold) of held-out participants of train and val together."""
    scores = np.full((len(runs), len(settings.head), settings.folds), np.nan)
    with progress("probe in folds", scores.size) as advance:
        for at, score in _fold_scores(cohort, runs, settings, scans):
            scores[at] = score
            advance(1)
    coords = {n.ENCODER: list(runs), n.HEAD: list(settings.head), n.FOLD: np.arange(settings.folds)}
    dims = (n.ENCODER, n.HEAD, n.FOLD)
    found = xr.Dataset({n.BALANCED_ACCURACY: (dims, scores)}, coords)
    for name, values in (("mean", scores.mean(-1)), ("sd", scores.std(-1, ddof=1))):
        found[f"{n.BALANCED_ACCURACY}_{name}"] = (dims[:2], values)
    facts = provenance(settings=settings.as_dict(), split_digest=require_split(cohort), parts=[n.TRAIN, n.VAL])
    return found.assign_attrs(provenance=facts)


def _fold_scores(
    cohort: Cohort, runs: Sequence[str], settings: ProbeSettings, scans: Scans
) -> Iterator[tuple[tuple[int, int, int], float]]:
    for encoder, run in enumerate(runs):
        data = labelled_vectors(cohort, run, scans, settings)
        fold = folds_of(data.label, data.participant, settings.folds, settings.seed, data.classes)
        for head, name in enumerate(settings.head):
            for one in range(settings.folds):
                made = fit_head(name, data.only(fold != one), None, settings, n_classes=len(scans.classes))
                held_out = data.only(fold == one)
                yield (encoder, head, one), participants_balanced_accuracy(made.logits(held_out.value), held_out)
