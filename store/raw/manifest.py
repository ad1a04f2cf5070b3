"""A study's `manifest.tsv`: which file is whose, on which device, of which eye. It stands in place of a listing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from fintune_xr.errors import FintuneValueError, nearest
from fintune_xr.store.raw.fetching import table_bytes
from fintune_xr.store.raw.readers.volume_header import side_of
from fintune_xr.store.raw.sources import Place, is_url
from fintune_xr.text_tables import check_ids, text_table

FILE_NAME: Final = "manifest.tsv"
ID_COLUMNS: Final = ("participant_id", "person_id")
PATH_COLUMN: Final = "filepath"
DEVICE_COLUMNS: Final = ("device", "manufacturers_model_name")
PROTOCOL_COLUMNS: Final = ("protocol", "anatomic_region")
LATERALITY_COLUMN: Final = "laterality"


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One row: path relative to the source, participant, and what else is told, empty where it is not."""

    path: str
    donor: str
    device: str = ""
    laterality: str = ""
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The rows that are kept, where they were read, and how many lie elsewhere than under the source."""

    files: tuple[ListedFile, ...]
    place: str
    n_elsewhere: int = 0


def find_manifest(source: Place, where: Mapping[str, str]) -> Manifest | None:
    """The manifest in `source`, or right above it; None where there is none.

    `where` keeps the rows whose columns have these values.

    Raises FintuneValueError for a manifest without its columns, one that says different things of one file, or a column
    in `where` that it has not.
    """
    root = str(source).rstrip("/") if is_url(source) else str(Path(source).resolve())
    above, _, name = root.rpartition("/")
    # There is nothing above a bucket.
    folders = [(root, ""), (above, f"{name}/")] if is_url(above) or not is_url(source) else [(root, "")]
    for folder, prefix in folders:
        place = f"{folder}/{FILE_NAME}"
        content = table_bytes(place)
        if content is None:
            continue
        table = text_table(content, place, "manifest")
        return _manifest(_kept_rows(table, where, place), place, folder.rpartition("/")[2], prefix)
    if where:
        raise FintuneValueError(f"--where needs a {FILE_NAME} in {source} or right above it; there is none.")
    return None


def where_of(pairs: Iterable[str]) -> dict[str, str]:
    """`COLUMN=VALUE` of each pair; raises FintuneValueError for one that is no such pair."""
    found = {}
    for pair in pairs:
        column, equals, value = pair.partition("=")
        if not column or not equals:
            raise FintuneValueError(f"--where {pair!r}: expected COLUMN=VALUE, with a column of {FILE_NAME}")
        found[column] = value
    return found


def _manifest(table: pd.DataFrame, place: str, folder: str, prefix: str) -> Manifest:
    donor, device = _column(table, ID_COLUMNS), _column(table, DEVICE_COLUMNS)
    protocol, side = _column(table, PROTOCOL_COLUMNS), _column(table, (LATERALITY_COLUMN,))
    if not donor or PATH_COLUMN not in table:
        raise FintuneValueError(
            f"{place}: expected the columns {' or '.join(ID_COLUMNS)}, and {PATH_COLUMN}, found "
            f"{', '.join(map(str, table.columns))}"
        )
    check_ids(table[donor], donor, place)
    files = []
    for row in table.to_dict("records"):
        path = str(row[PATH_COLUMN]).strip().lstrip("/")
        # Paths count from the folder of the manifest, or from the one above and begin with its name then.
        relative = path.removeprefix(f"{folder}/")
        if prefix and not relative.startswith(prefix):
            continue
        told = [str(row[name]).strip() if name else "" for name in (donor, device, side, protocol)]
        files.append(ListedFile(relative.removeprefix(prefix), told[0], told[1], side_of(told[2]), told[3]))
    return Manifest(_each_once(files, place), place, len(table) - len(files))


def _each_once(files: Iterable[ListedFile], place: str) -> tuple[ListedFile, ...]:
    """The files in order, of which rows that say the same count once: whose a file is must not hang on their order."""
    told: dict[str, ListedFile] = {}
    for file in files:
        before = told.setdefault(file.path, file)
        if before != file:
            said = " and ".join(", ".join(filter(None, (x.donor, x.device, x.laterality))) for x in (before, file))
            raise FintuneValueError(
                f"{place}: expected one row of each file, found rows of {file.path} that differ: {said}. Keep the one "
                "that is right."
            )
    return tuple(told.values())


def _kept_rows(table: pd.DataFrame, where: Mapping[str, str], place: str) -> pd.DataFrame:
    for column, value in where.items():
        if column not in table:
            known = [str(name) for name in table.columns]
            raise FintuneValueError(
                f"--where {column}={value}: {place} has no such column; it has {', '.join(known)}."
                f"{nearest(column, known)}"
            )
        kept = table[table[column].str.strip() == value]
        if not len(kept):
            values = sorted(set(table[column].str.strip()))[:12]
            raise FintuneValueError(f"--where {column}={value}: no row left; values are {', '.join(values)}")
        table = kept
    return table


def _column(table: pd.DataFrame, names: Iterable[str]) -> str:
    return next((name for name in names if name in table), "")
