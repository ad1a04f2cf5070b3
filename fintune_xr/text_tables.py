"""Tables of text, as people save them: every value as it was written, so that ids keep their zeros."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath
from typing import Final

import pandas as pd

from fintune_xr.errors import FintuneValueError

SEPARATORS: Final = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}


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
    try:
        table = pd.read_csv(io.BytesIO(content), sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise FintuneValueError(f"{name}: cannot be read as a table of text: {error}") from error
    if table.shape[1] < 2:
        raise FintuneValueError(
            f"{name}: expected several columns separated by {separator!r}, found one: {table.columns[0]!r}. "
            "Save the table with that separator, or correct the suffix."
        )
    return table


def separator_of(name: str, what: str) -> str:
    """What separates the columns of a file of this name; raises FintuneValueError for an unknown suffix."""
    suffix = PurePosixPath(name).suffix
    separator = SEPARATORS.get(suffix.lower())
    if separator is None:
        raise FintuneValueError(f"{name}: expected a {what} ending in {', '.join(SEPARATORS)}, got {suffix!r}")
    return separator
