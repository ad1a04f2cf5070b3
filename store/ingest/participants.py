"""The table of a study's participants: who is in it, in which group and part, and of whom there are volumes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.raw.fetching import table_bytes
from fintune_xr.store.raw.sources import Place, place_in
from fintune_xr.store.split import annotated_tiles
from fintune_xr.tasks.classification import GROUP_ALIASES, PARTICIPANTS, STUDY_GROUPS
from fintune_xr.text import texts
from fintune_xr.text_tables import SEPARATORS, is_spreadsheet_number, text_table

FILE_NAME: Final = "participants.tsv"
ID_COLUMNS: Final = ("participant_id", "person_id")
SHA256_ATTR: Final = "sha256"
_TRUE: Final = ("true", "1", "yes", "t")
_FALSE: Final = ("false", "0", "no", "f", "")
_LISTED: Final = 8
# 1001.0, which was 1001.
_WITH_DECIMALS: Final = re.compile(r"\d+\.0+")


@dataclass(frozen=True, slots=True)
class Participant:
    """A person of the study; `age` is NaN and `clinical_site` empty where the table does not tell them."""

    id: str
    study_group: str
    recommended_split: str
    retinal_oct: bool
    age: float = float("nan")
    clinical_site: str = ""


@dataclass(frozen=True, slots=True)
class Participants:
    """All participants by id, in the order of the table at `source` with this SHA-256."""

    people: dict[str, Participant]
    source: str
    sha256: str


def read_participants(place: Place) -> Participants:
    """The table at `place`, a local file or one in a bucket; ids are text and keep their zeros.

    The id stands in `participant_id` or `person_id`; `insulin_controlled` is read as `insulin_dependent`.

    Raises FintuneValueError that names everything that is wrong: columns that are missing, ids with unequal rows,
    groups, parts or values of `retinal_oct` that are not known.
    """
    content = table_bytes(place)
    if content is None:
        raise FintuneValueError(
            f"no table of participants at {place}. Name it with --participants, or put {FILE_NAME} into SOURCE."
        )
    return _read(content, place)


def find_participants(source: Place) -> Participants | None:
    """The table in the folder or bucket `source`, or the one that `source` itself is; None where there is none."""
    if str(source).lower().endswith(tuple(SEPARATORS)):
        return read_participants(source)
    place = place_in(source, FILE_NAME)
    content = table_bytes(place)
    return None if content is None else _read(content, place)


def _read(content: bytes, place: Place) -> Participants:
    table = text_table(content, str(place), "table of participants")
    table.columns = [str(column).strip() for column in table.columns]
    return Participants(_people(table, str(place)), str(place), hashlib.sha256(content).hexdigest())


def participants_dataset(found: Participants) -> xr.Dataset:
    """What is stored of the table: nothing beside the columns of its schema."""
    people = list(found.people.values())

    def text(values: Iterable[str]) -> tuple[str, object]:
        return n.DONOR, np.array(list(values), np.dtypes.StringDType())

    return xr.Dataset(
        {
            n.STUDY_GROUP: text(one.study_group for one in people),
            n.RECOMMENDED_SPLIT: text(one.recommended_split for one in people),
            n.RETINAL_OCT: (n.DONOR, np.array([one.retinal_oct for one in people], bool)),
            n.AGE: (n.DONOR, np.array([one.age for one in people], np.float64)),
            n.CLINICAL_SITE: text(one.clinical_site for one in people),
        },
        coords={n.DONOR: text(one.id for one in people)},
        attrs={n.SOURCE: found.source, SHA256_ATTR: found.sha256},
    )


def store_participants(cohort: Cohort, found: Participants) -> None:
    """Puts the table in place of the one that is stored; nothing is written where it is the same."""
    if cohort.has(n.PARTICIPANTS) and cohort.read(n.PARTICIPANTS).attrs.get(SHA256_ATTR) == found.sha256:
        return
    cohort.write(n.PARTICIPANTS, participants_dataset(found), PARTICIPANTS)


def stored_participants(cohort: Cohort) -> Participants:
    """The table as it is stored.

    Raises StoreNotFoundError where none was stored.
    """
    found = cohort.read(n.PARTICIPANTS, PARTICIPANTS)
    columns = [texts(found[name]) for name in (n.DONOR, n.STUDY_GROUP, n.RECOMMENDED_SPLIT, n.CLINICAL_SITE)]
    people = [
        Participant(donor, group, part, bool(has), float(age), site)
        for donor, group, part, site, has, age in zip(
            *columns, found[n.RETINAL_OCT].values, found[n.AGE].values, strict=True
        )
    ]
    attrs = found.attrs
    return Participants({one.id: one for one in people}, str(attrs[n.SOURCE]), str(attrs[SHA256_ATTR]))


def study_groups(cohort: Cohort) -> dict[str, str]:
    """The study group of each participant that is stored; empty without a table."""
    if not cohort.has(n.PARTICIPANTS):
        return {}
    return {one.id: one.study_group for one in stored_participants(cohort).people.values()}


def recommended_parts(cohort: Cohort, tiles: xr.Dataset) -> list[str]:
    """The part that the study recommends for each of `tiles`, unassigned where it has none; empty without a table."""
    if not cohort.has(n.PARTICIPANTS):
        return []
    people = stored_participants(cohort).people
    told = {donor: one.recommended_split for donor, one in people.items()}
    return [told.get(donor) or n.UNASSIGNED for donor in texts(tiles[n.DONOR])]


def parts_not_recommended(cohort: Cohort) -> int:
    """How many annotated tiles of the stored split lie in another part than the study recommends; 0 without a table."""
    if not cohort.has(n.PARTICIPANTS) or not cohort.has(n.ANNOTATIONS):
        return 0
    tiles = annotated_tiles(cohort)
    pairs = zip(texts(tiles[n.SPLIT]), recommended_parts(cohort, tiles), strict=True)
    return sum(n.UNASSIGNED not in (part, told) and part != told for part, told in pairs)


def _people(table: pd.DataFrame, where: str) -> dict[str, Participant]:
    id_column = next((name for name in ID_COLUMNS if name in table), "")
    missing = [] if id_column else [" or ".join(ID_COLUMNS)]
    missing += [name for name in (n.STUDY_GROUP, n.RECOMMENDED_SPLIT, n.RETINAL_OCT) if name not in table]
    if missing:
        raise FintuneValueError(
            f"{where}: expected the columns {', '.join(missing)} in the table of participants, found "
            f"{', '.join(table.columns[:12])}"
        )
    problems = [
        *_duplicates(table, id_column),
        *_changed_ids(table, id_column),
        *_unknown(table, id_column, n.STUDY_GROUP, STUDY_GROUPS, _group),
        *_unknown(table, id_column, n.RECOMMENDED_SPLIT, n.SPLITS, str.strip),
        *_unknown(table, id_column, n.RETINAL_OCT, ("true", "false"), _truth),
    ]
    if problems:
        raise FintuneValueError("\n  ".join([f"{where}: the table of participants cannot be used:", *problems]))
    rows = table.drop_duplicates().to_dict("records")
    found = [_participant({str(key): str(value) for key, value in row.items()}, id_column) for row in rows]
    return {one.id: one for one in found}


def _participant(row: dict[str, str], id_column: str) -> Participant:
    age = pd.to_numeric(row.get(n.AGE, ""), errors="coerce")
    return Participant(
        row[id_column].strip(),
        _group(row[n.STUDY_GROUP]),
        row[n.RECOMMENDED_SPLIT].strip(),
        _truth(row[n.RETINAL_OCT]) == "true",
        float(age),
        row.get(n.CLINICAL_SITE, "").strip(),
    )


def _duplicates(table: pd.DataFrame, id_column: str) -> list[str]:
    """Ids that are empty, or stand in rows that differ."""
    ids = table.drop_duplicates()[id_column].str.strip()
    twice = sorted(set(ids[ids.duplicated()]))
    problems = [f"ids in rows that differ: {_some(twice)}. Keep one row of each."] if twice else []
    return problems + (["rows without an id. Remove them."] if (ids == "").any() else [])


def _changed_ids(table: pd.DataFrame, id_column: str) -> list[str]:
    """Ids that a spreadsheet has made numbers of, and two columns of ids that tell different people."""
    ids = table[id_column].str.strip()
    changed = ids[ids.map(lambda one: is_spreadsheet_number(one) or _WITH_DECIMALS.fullmatch(one) is not None)]
    problems = []
    if len(changed):
        problems.append(
            f"ids that a spreadsheet seems to have changed: {_some(changed)}. Take the table as it was downloaded, or "
            "save the column as text."
        )
    both = [name for name in ID_COLUMNS if name in table]
    if len(both) > 1 and (unequal := ids[ids != table[both[1]].str.strip()]).size:
        problems.append(f"{both[0]} and {both[1]} differ in {len(unequal)} row(s), e.g. {_some(unequal)}. Keep one.")
    return problems


def _unknown(
    table: pd.DataFrame, id_column: str, column: str, known: Iterable[str], read: Callable[[str], str]
) -> list[str]:
    """One line for each value of the column that cannot be read, with the ids that have it."""
    wrong: dict[str, list[str]] = {}
    for one, value in zip(table[id_column], table[column], strict=True):
        if read(value) not in known:
            wrong.setdefault(value.strip(), []).append(one.strip())
    return [
        f"{column} {value!r} of {len(ids)} participant(s) ({_some(ids)}): expected {', '.join(known)}"
        for value, ids in wrong.items()
    ]


def _group(value: str) -> str:
    return GROUP_ALIASES.get(value.strip(), value.strip())


def _truth(value: str) -> str:
    word = value.strip().lower()
    return "true" if word in _TRUE else "false" if word in _FALSE else word


def _some(ids: Iterable[str]) -> str:
    listed = list(ids)
    return ", ".join(listed[:_LISTED]) + (f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else "")
