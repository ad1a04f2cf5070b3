"""Tables of text, as people save them: every value as it was written, so that ids keep their zeros."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import pandas as pd

from fintune_xr.errors import FintuneValueError

SEPARATORS: Final = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
_POWERS_OF_TEN: Final = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d+")


def read_text_table(path: Path | str, what: str) -> pd.DataFrame:
    """The table in the local file `path`, `what` being its name in messages, e.g. "clinical table".

    Raises FintuneValueError as `text_table` does, and where there is no such file.
    """
    path = Path(path)
    separator_of(str(path), what)
    if not path.is_file():
        raise FintuneValueError(f"no {what} {path}. Give the path of an existing CSV or TSV file.")
    return text_table(path.read_bytes(), str(path), what)


def text_table(content: bytes, name: str, what: str) -> pd.DataFrame:
    """The table in `content`, the bytes of a file called `name`; all values are text, and empty ones stay empty.

    `.csv` is read with commas, `.tsv`, `.tab` and `.txt` with tabs; a byte-order mark and any ends of lines are taken.

    Raises FintuneValueError for another suffix, or bytes that are no table of several columns.
    """
    separator = separator_of(name, what)
    text = _decoded(content, name)
    _check_quotes(text, separator, name)
    try:
        table = pd.read_csv(io.StringIO(text, newline=""), sep=separator, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise FintuneValueError(f"{name}: cannot be read as a table of text: {error}") from error
    if table.shape[1] < 2:
        raise FintuneValueError(
            f"{name}: expected several columns separated by {separator!r}, found one: {table.columns[0]!r}. "
            "Save the table with that separator, or correct the suffix."
        )
    _check_rows(text, separator, name)
    table.columns = [str(column).strip() for column in table.columns]
    return table


def is_spreadsheet_number(value: str) -> bool:
    """Whether an id is what spreadsheets make of long numbers: 100002 becomes 1.00002E+05, and digits are lost."""
    return _POWERS_OF_TEN.fullmatch(value.strip()) is not None


def check_ids(ids: Iterable[str], column: str, what: str) -> None:
    """Raises FintuneValueError for an id in `column` of `what` that a spreadsheet has written as a number."""
    changed = next(filter(is_spreadsheet_number, ids), None)
    if changed is not None:
        raise FintuneValueError(
            f"column {column!r} of {what}: {changed!r} is an id that a spreadsheet (such as Excel) wrote as a number "
            "in powers of ten, and digits may be lost. Format the column as text, and export it again."
        )


def _decoded(content: bytes, name: str) -> str:
    """The text of a table, once it is UTF-8."""
    found = ""
    if content.startswith(b"PK\x03\x04"):
        found = "an Excel workbook"
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        found = "UTF-16"
    elif b"\0" in content:
        found = "bytes of 0, as UTF-16 and binary files have them"
    try:
        text = "" if found else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at {error.start}, as other encodings have it"
    if found:
        fault = f"{name}: cannot be read as a table of text: expected UTF-8, found {found}"
        raise FintuneValueError(f"{fault}. Save the table as CSV in UTF-8 (Excel: CSV UTF-8).")
    return text


def _check_quotes(text: str, separator: str, name: str) -> None:
    """Refuses quotes that open and do not close where their cell ends: rows behind them would be one cell."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    fault, width, line = "", 0, 1
    try:
        for row in reader:
            width = width or len(row)
            if any(_holds_rows(row, at, separator, width) for at in range(len(row))):
                fault = f"a quote opens in line {line} and closes in line {reader.line_num}, with whole rows in it"
                break
            line = reader.line_num + 1
    except csv.Error as error:
        fault = f"line {line}: {error}"
    if fault:
        raise FintuneValueError(
            f"{name}: cannot be read as a table of text: {fault}. Quotes stand round whole cells, and twice within "
            'one: write "5"" long", or leave them out.'
        )


def _holds_rows(row: Sequence[str], at: int, separator: str, width: int) -> bool:
    """Whether a cell holds the end of its row and the beginning of another, rather than words in several lines."""
    lines = row[at].splitlines()
    if len(lines) < 2 or width < 3:
        return False
    first, *inner, last = (len(line.split(separator)) for line in lines)
    return width in inner or (at + first == width and last + len(row) - 1 - at == width)


def _check_rows(text: str, separator: str, name: str) -> None:
    """Refuses a column that is there twice, and rows whose fields stand under their neighbours' names."""
    try:
        header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    except csv.Error as error:
        raise FintuneValueError(f"{name}: cannot be read as a table of text: {error}") from error
    twice = [column for column, count in Counter(map(str.strip, header)).items() if count > 1 and column]
    if twice:
        raise FintuneValueError(f"{name}: column {twice[0]!r} is there more than once. Remove or rename all but one.")
    longer = [(at, row) for at, row in enumerate(rows, start=2) if len(row) > len(header)]
    # R writes names of rows without a name for their column: all rows are one longer then, and none ends empty.
    is_of_r = len(longer) == len(rows) and all(len(row) == len(header) + 1 and row[-1] for row in rows)
    if longer and not is_of_r:
        at, row = longer[0]
        raise FintuneValueError(
            f"{name}: row {at} has {len(row)} fields, the header {len(header)}: values stand under other columns' "
            "names. Remove separators at the ends of rows, or add the missing name."
        )
    shorter = [(at, row) for at, row in enumerate(rows, start=2) if len(row) < len(header) and any(map(str.strip, row))]
    if shorter:
        at, row = shorter[0]
        raise FintuneValueError(
            f"{name}: row {at} has {len(row)} fields, the header {len(header)}: nobody can tell which values are "
            "missing. Write all separators, also beside empty values."
        )


def separator_of(name: str, what: str) -> str:
    """What separates the columns of a file of this name; raises FintuneValueError for an unknown suffix."""
    suffix = PurePosixPath(name).suffix
    separator = SEPARATORS.get(suffix.lower())
    if separator is None:
        raise FintuneValueError(f"{name}: expected a {what} ending in {', '.join(SEPARATORS)}, got {suffix!r}")
    return separator
