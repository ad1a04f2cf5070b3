"""Labels of volumes, from the study groups of their participants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.participants import FILE_NAME, Participants, find_participants, store_participants
from fintune_xr.store.lineage.unfinished_annotations import changing_annotations
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.tasks.classification import LABELS, GroupClasses, group_classes
from fintune_xr.text import texts

DEFAULT_CLASSES: Final = "oct_groups"


@dataclass(frozen=True, slots=True)
class LabelReport:
    """Tiles that have a label now and had none before, that had one, and those of which nobody tells it."""

    n_added: int
    n_present: int
    left_out: tuple[LeftOut, ...]


def label_tiles(
    cohort: Cohort, source: str | Path, classes: str = DEFAULT_CLASSES, *, restart: bool = False, command: str = ""
) -> LabelReport:
    """Stores the class of every tile whose participant is in the table at `source`, and the table itself.

    `source` is the table, or a folder or bucket with it. `classes` is the name of what study groups become. Killed, it
    leaves `command` in the store as what finishes it.

    Raises FintuneValueError where there is no table, or labels of other classes are stored and `restart` is not asked.
    """
    chosen = group_classes(classes)
    people = find_participants(source)
    if people is None:
        raise FintuneValueError(f"no {FILE_NAME} in {source}. Name the table of participants itself, or its folder.")
    before = _stored_labels(cohort, chosen, restart=restart)
    images = cohort.images(lazy=False)
    rows = list(zip(texts(images[n.TILE]), texts(images[n.DONOR]), strict=True))
    labels = {
        tile: chosen.label_of(people.people[donor].study_group) for tile, donor in rows if donor in people.people
    }  # fmt: skip
    left_out = tuple(
        LeftOut(donor, donor, "", f"participant {donor} is not in the table of participants", tile)
        for tile, donor in rows
        if donor not in people.people
    )
    with cohort.hold_tiles(), changing_annotations(cohort, source, command, restart=restart):
        store_participants(cohort, people)
        cohort.write(n.ANNOTATIONS, labels_dataset(labels, chosen, people), LABELS)
    return LabelReport(len(set(labels) - before), len(set(labels) & before), left_out)


def labels_dataset(labels: dict[str, int], classes: GroupClasses, people: Participants) -> xr.Dataset:
    """Labels (tile,) with what they mean as attributes, as CF has it."""
    attrs = {
        **LABELS[n.LABEL].attrs,
        n.FLAG_VALUES: list(range(len(classes.names))),
        n.FLAG_MEANINGS: " ".join(classes.names),
        n.STUDY_GROUPS: [" ".join(groups) for _, groups in classes.classes],
        n.CLASSES: classes.name,
    }
    return xr.Dataset(
        {n.LABEL: (n.TILE, np.array(list(labels.values()), np.int8), attrs)},
        coords={n.TILE: (n.TILE, np.array(list(labels), np.dtypes.StringDType()))},
        attrs={n.SOURCE: people.source, n.SHA256: people.sha256},
    )


def _stored_labels(cohort: Cohort, classes: GroupClasses, *, restart: bool) -> set[str]:
    if not cohort.has(n.ANNOTATIONS) or restart:
        return set()
    stored = cohort.annotations(lazy=False)
    name = stored[n.LABEL].attrs.get(n.CLASSES)
    if name != classes.name:
        raise FintuneValueError(
            f"{cohort.url} has labels of {name!r}, asked for are {classes.name!r}; models may have learned from them. "
            "Use --restart to replace them."
        )
    return set(texts(stored[n.TILE]))
