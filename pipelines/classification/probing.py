"""Heads on the stored embeddings of a run, as often as they are asked for."""

from __future__ import annotations

from typing import Final

from fintune_xr import names as n
from fintune_xr.finetune.classification.features import Labelled, first_scans
from fintune_xr.finetune.classification.heads import Head, fit_head
from fintune_xr.finetune.classification.probe_settings import ProbeSettings
from fintune_xr.pipelines.classification.scans import Scans, with_vectors
from fintune_xr.store.cohort import Cohort

# What the identity of a head's run says of the head.
PROBE: Final = "probe"


def fitted(
    cohort: Cohort, run: str, head: str, settings: ProbeSettings, scans: Scans, *, val: bool = True
) -> Head:  # fmt: skip
    """The head as it is fitted to the train scans of `scans`, the same each time."""
    train = labelled_vectors(cohort, run, scans.within(n.TRAIN), settings)
    held_out = labelled_vectors(cohort, run, scans.within(n.VAL), settings) if val and n.VAL in scans.part else None
    return fit_head(head, train, held_out, settings, n_classes=len(scans.classes))


def labelled_vectors(cohort: Cohort, run: str, scans: Scans, settings: ProbeSettings) -> Labelled:
    """Embeddings of those of `scans` that are done in `run`, of all of a participant or of the first."""
    done, value = with_vectors(cohort, run, n.EMBEDDING, scans)
    if settings.scans == "first":
        chosen = first_scans(done.participant, done.tile)
        done, value = done.only(chosen), value[chosen]
    return done.with_values(value)
