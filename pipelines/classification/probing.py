"""Heads on the stored embeddings of a run, as often as they are asked for."""

from __future__ import annotations

from typing import Final

import numpy as np

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.classification.features import Labelled, first_scans, named_class
from fintune_xr.finetune.classification.heads import Head, fit_head
from fintune_xr.finetune.classification.probe_settings import ProbeSettings
from fintune_xr.pipelines.classification.scans import Scans, with_vectors
from fintune_xr.pipelines.console import say
from fintune_xr.store.cohort import Cohort

# What the identity of a head's run says of the head.
PROBE: Final = "probe"
# Features that differ by less, beside their size, differ by the rounding of float32.
_ROUNDING: Final = 1e-5


def fit_on_scans(
    cohort: Cohort, run: str, head: str, settings: ProbeSettings, scans: Scans, *, val: bool = True
) -> Head:  # fmt: skip
    """The head as it is fitted to the train scans of `scans`, the same each time."""
    train = labelled_vectors(cohort, run, scans.within(n.TRAIN), settings)
    held_out = labelled_vectors(cohort, run, scans.within(n.VAL), settings) if val and n.VAL in scans.part else None
    judges = held_out if held_out is not None and len(held_out) else None
    return fit_head(head, train, judges, settings, n_classes=len(scans.classes))


def labelled_vectors(cohort: Cohort, run: str, scans: Scans, settings: ProbeSettings) -> Labelled:
    """Embeddings of those of `scans` that are done in `run`, of all of a participant or of the first."""
    done, value = with_vectors(cohort, run, n.EMBEDDING, scans)
    if settings.scans == "first":
        chosen = first_scans(done.participant, done.tile)
        done, value = done.only(chosen), value[chosen]
    return done.with_values(value)


def usable_scans(cohort: Cohort, run: str, scans: Scans) -> Scans:
    """Those of `scans` of train and val that have an embedding in `run`; says how many have none, and where an encoder
    gives the same to all.

    Raises FintuneValueError where no train scan of a class is left.
    """
    done, value = with_vectors(cohort, run, n.EMBEDDING, scans)
    for part in (n.TRAIN, n.VAL):
        there, left = len(scans.within(part).tile), len(done.within(part).tile)
        if left < there:
            say(f"probe: {there - left} of {there} scans of {part} are in quarantine of run {run}, and play no part")
    learned = done.within(n.TRAIN).label
    gone = [named_class(label, scans.classes) for label in range(len(scans.classes)) if label not in learned]
    if gone:
        raise FintuneValueError(
            f"run {run!r} has an embedding of no train scan of {', '.join(gone)}: those there are, are in quarantine. "
            f"Its column {n.REASON!r} says why; try again: fintune-xr infer {cohort.url} --run {run} "
            "--retry-quarantined."
        )
    if (np.ptp(value, axis=0) <= _ROUNDING * np.abs(value).max(axis=0)).all():
        say(f"probe: run {run} has the same embedding for all scans, up to rounding: its encoder tells nothing apart")
    return done
