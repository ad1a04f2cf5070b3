"""Verification of labels, participants and what runs say of volumes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np

from fintune_xr import names as n
from fintune_xr.errors import AnswerError, FintuneValueError
from fintune_xr.store.check.problem import Fault, TileFault, first_few
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.participants import parts_not_recommended, stored_participants
from fintune_xr.store.lineage.labelled_classes import require_labelled_classes
from fintune_xr.store.split import split_column
from fintune_xr.text import texts

_AGAIN: Final = "Annotate again with --restart"
_SPLIT: Final = "Split again: `fintune-xr split STORE --keep`"
ORIGIN: Final = "origin"


def check_labels(cohort: Cohort) -> Iterator[Fault]:
    """What is wrong with labels: strange tiles, values without a meaning, others than the table of participants says.

    Also participants in two parts, and parts that are said to be the recommended ones and are not.
    """
    found = cohort.annotations(lazy=False)
    tiles, labels = texts(found[n.TILE]), found[n.LABEL].values
    images = cohort.images(lazy=False)
    donor_of = dict(zip(texts(images[n.TILE]), texts(images[n.DONOR]), strict=True))
    strange = [tile for tile in tiles if tile not in donor_of]
    if strange:
        yield n.ANNOTATIONS, f"{len(strange)} labelled tile(s) are not among the images: {first_few(strange)}", _AGAIN
    if len(set(tiles)) < len(tiles):
        yield n.ANNOTATIONS, "a labelled tile is there twice", _AGAIN
    meanings = str(found[n.LABEL].attrs.get("flag_meanings", "")).split()
    beyond = [tile for tile, label in zip(tiles, labels, strict=True) if not -1 <= label < len(meanings)]
    if beyond:
        yield n.ANNOTATIONS, f"{len(beyond)} tile(s) have a label without a meaning: {first_few(beyond)}", _AGAIN
    groups = [str(listed) for listed in found[n.LABEL].attrs.get("study_groups", ())]
    yield from _against_the_table(cohort, groups, donor_of)
    yield from _parts(cohort)


def check_scores(cohort: Cohort, run: str) -> Iterator[TileFault]:
    """What is wrong with a run of vectors: other classes than the labels, values of finished tiles that are none."""
    stored = cohort.run(run, lazy=False)
    if n.CLASS in stored and cohort.has(n.ANNOTATIONS):
        try:
            require_labelled_classes(cohort, texts(stored[n.CLASS]), of=f"run {run!r}")
        except FintuneValueError as error:
            yield f"{n.RUNS}/{run}", str(error), f"Make run {run} again with --restart", ()
    done = stored[n.STATE].values == n.DONE
    for column in (n.LOGITS, n.EMBEDDING):
        if column not in stored:
            continue
        wrong = np.flatnonzero(done & ~np.isfinite(stored[column].values).all(axis=1))
        if wrong.size:
            remedy = f"Set the tiles back with `fintune-xr check --repair`, then `fintune-xr infer --run {run}`"
            what = f"{wrong.size} finished tile(s) hold values that are no numbers: {first_few(wrong.tolist())}"
            yield f"{n.RUNS}/{run}/{column}", what, remedy, tuple(int(at) for at in wrong)


def _against_the_table(cohort: Cohort, groups: list[str], donor_of: dict[str, str]) -> Iterator[Fault]:
    """Labels that are not those of the participants' study groups."""
    if not cohort.has(n.PARTICIPANTS):
        return
    try:
        people = stored_participants(cohort).people
    except AnswerError as error:
        yield n.PARTICIPANTS, str(error), "Annotate again"
        return
    found = cohort.annotations(lazy=False)
    label_of = {group: at for at, listed in enumerate(groups) for group in listed.split()}
    wrong = [
        tile
        for tile, label in zip(texts(found[n.TILE]), found[n.LABEL].values.tolist(), strict=True)
        if donor_of.get(tile) in people and label_of.get(people[donor_of[tile]].study_group, label) != label
    ]
    if wrong:
        yield n.ANNOTATIONS, f"{len(wrong)} label(s) differ from the table of participants: {first_few(wrong)}", _AGAIN


def _parts(cohort: Cohort) -> Iterator[Fault]:
    images = cohort.images(lazy=False)
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for donor, part in zip(texts(images[n.DONOR]), texts(images[n.SPLIT]), strict=True):
        if part != n.UNASSIGNED:
            parts[donor].add(part)
    torn = sorted(donor for donor, found in parts.items() if len(found) > 1)
    if torn:
        yield f"{n.IMAGES}/{n.SPLIT}", f"{len(torn)} participant(s) are in several parts: {first_few(torn)}", _SPLIT
    moved = parts_not_recommended(cohort)
    if moved and split_column(cohort).attrs.get(ORIGIN) == n.PARTICIPANTS:
        what = f"{moved} tile(s) are in another part than the study recommends, and the split says otherwise"
        yield f"{n.IMAGES}/{n.SPLIT}", what, _SPLIT
