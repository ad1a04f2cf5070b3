"""A table of samples, `path, donor, marker, tile, channel`, in place of patterns: for folders that no pattern fits."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Final

from fintune_xr import names as n
from fintune_xr.cohort_kinds import OCT
from fintune_xr.errors import FintuneValueError, nearest
from fintune_xr.store.raw.conversions import conversion
from fintune_xr.store.raw.fetching import table_bytes
from fintune_xr.store.raw.layouts import (
    SERIES,
    TIFF_SUFFIXES,
    TILE_SUFFIXES,
    Layout,
    Listed,
    PlaneName,
    channel_token,
)
from fintune_xr.store.raw.readers.microscope import holds_fields
from fintune_xr.store.raw.sources import Place, is_url
from fintune_xr.text import one_spelling
from fintune_xr.text_tables import check_ids, text_table

NEEDED: Final = (n.PATH, n.DONOR)
# May be left out; where they are there, each row says something.
TOLD: Final = (n.MARKER, n.TILE, n.CHANNEL)
# May be empty in a row.
OPTIONAL: Final = (n.SPLIT, n.MPP, n.FIELD, SERIES)
COLUMNS: Final = (*NEEDED, *TOLD, *OPTIONAL)
# Parts of an id of a tile, between slashes.
_OF_ID: Final = (n.DONOR, n.MARKER)
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows of a table at `place`, by column; row 1 is that of the names."""

    place: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, str]]

    def refuse(self, at: Iterable[int], fault: str, remedy: str) -> None:
        """Raises FintuneValueError where there is a row in `at`."""
        rows = sorted(at)
        if rows:
            more = ", …" if len(rows) > _SHOWN else ""
            shown = ", ".join(str(row + 2) for row in rows[:_SHOWN])
            raise FintuneValueError(f"{self.place}, row {shown}{more}: {fault}. {remedy}")


def listed_layout(base: Layout, place: Place, source: Place) -> Layout:
    """`base` with the table of samples at `place` in place of its patterns.

    Columns are path and donor, and marker, tile, channel, split, mpp, field and series as needed. Relative paths count
    from the table's folder, and lie in `source`. Without the column tile, a tile is called as its file, and as the
    series that is meant of it.

    Raises FintuneValueError for a table that is not there, unknown or missing columns, values that are missing or no
    such values, a file or a series of it that is listed twice, and two files for the same tile and channel.
    """
    table, digest = _read(place)
    if base.kind == OCT.name:
        raise FintuneValueError(f"{table.place}: a table of samples is of images; volumes take a manifest.tsv")
    _check_columns(table)
    _check_values(table)
    base = _without_patterns(base, table)
    paths = _relative_paths(table, place, source)
    _check_suffixes(table, base)
    names = [base.named(_parts(row, path)) for row, path in zip(table.rows, paths, strict=True)]
    _check_twice(table, paths, names)
    own = _inside(str(place).rpartition("/")[2], place, source) or ""
    files: defaultdict[str, tuple[PlaneName, ...]] = defaultdict(tuple)
    for path, name in zip(paths, names, strict=True):
        files[path] += (name,)
    return replace(base, listed=Listed(dict(files), table.place, digest, own))


def _read(place: Place) -> tuple[_Table, str]:
    content = table_bytes(place)
    if content is None:
        raise FintuneValueError(f"--samples {place}: no such file. Give the path of an existing CSV or TSV file.")
    found = text_table(content, str(place), "table of samples")
    rows = [{str(name): str(value).strip() for name, value in row.items()} for row in found.to_dict("records")]
    where = str(place) if is_url(place) else str(Path(place).resolve())
    return _Table(where, tuple(map(str, found.columns)), rows), hashlib.sha256(content).hexdigest()


def _check_columns(table: _Table) -> None:
    for name in table.columns:
        if name not in COLUMNS:
            raise FintuneValueError(
                f"{table.place}: no column of samples is called {name!r}; known: {', '.join(COLUMNS)}."
                f"{nearest(name, COLUMNS)} What is known of donors belongs into the clinical table of `associate`."
            )
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise FintuneValueError(f"{table.place}: column {missing[0]!r} is missing; found: {', '.join(table.columns)}")
    if not table.rows:
        raise FintuneValueError(f"{table.place}: expected a row for each file, found none")


def _check_values(table: _Table) -> None:
    for name in (*NEEDED, *TOLD):
        if name in table.columns:
            table.refuse(_rows(table, name, lambda value: not value), f"no {name}", "Fill it in.")
    for name in (n.DONOR, n.TILE):
        check_ids([row.get(name, "") for row in table.rows], name, table.place)
    for name in _OF_ID:
        table.refuse(_rows(table, name, lambda value: "/" in value), f"a slash in the {name}", "Write another sign.")
    parts = ("", *n.SPLITS)
    table.refuse(
        _rows(table, n.SPLIT, lambda value: value not in parts), "an unknown split", f"Known: {', '.join(n.SPLITS)}."
    )
    table.refuse(
        (at for at, row in enumerate(table.rows) if row.get(SERIES) and not holds_fields(row[n.PATH])),
        "a series of a file that is no ND2 or LIF",
        "Leave it empty; save series of other files as files of their own: `bfconvert -series N FILE FILE_sN.ome.tif`.",
    )
    table.refuse(
        _rows(table, n.MPP, lambda value: not _is_side(value)),
        "mpp is no length in um",
        "Correct it, or leave it empty.",
    )


def _rows(table: _Table, name: str, is_wrong: Callable[[str], bool]) -> list[int]:
    return [at for at, row in enumerate(table.rows) if is_wrong(row.get(name, ""))]


def _is_side(value: str) -> bool:
    try:
        return not value or 0 < float(value) < float("inf")
    except ValueError:
        return False


def _without_patterns(base: Layout, table: _Table) -> Layout:
    """`base` for the files of a table, with the table's channels, in the layout's order where it knows them."""
    found = list(dict.fromkeys(row.get(n.CHANNEL, "") for row in table.rows))
    if base.planes and n.CHANNEL in table.columns:
        raise FintuneValueError(
            f"{table.place}: a file of layout {base.name!r} holds all channels of its tile. Leave the column channel "
            "out, or choose a layout whose files hold one channel each."
        )
    if n.TILE not in table.columns and len(found) > 1:
        raise FintuneValueError(
            f"{table.place}: several channels ({', '.join(found)}) and no column tile, which says whose files belong "
            "together. Add it."
        )
    suffixes = TILE_SUFFIXES if base.suffixes == TIFF_SUFFIXES else base.suffixes
    never = r"(?!)"
    channels = base.channels if base.planes else _channels(base, table, found)
    return replace(base, patterns=(), channels=channels, suffixes=suffixes, ignore=never, beside=never, quoted=False)


def _channels(base: Layout, table: _Table, found: Sequence[str]) -> Mapping[str, str]:
    if found == [""]:
        return base.channels if list(base.channels) == [""] else {"": n.MARKER_CHANNEL}
    known = {channel_token(one) for one in found} & set(base.channels)
    unknown = [one for one in found if channel_token(one) not in known]
    if known and unknown:
        table.refuse(
            (at for at, row in enumerate(table.rows) if row[n.CHANNEL] in unknown),
            f"channel {unknown[0]!r} is none of {', '.join(base.channels)}",
            "Name all of them with --channels, e.g. 405=DAPI 488=marker.",
        )
    if known:
        return base.channels
    usual = [name for name in base.channels.values() if name in found]
    return {name: name for name in (*usual, *(one for one in found if one not in usual))}


def _relative_paths(table: _Table, place: Place, source: Place) -> list[str]:
    inside = [_inside(row[n.PATH], place, source) for row in table.rows]
    table.refuse(
        (at for at, path in enumerate(inside) if path is None),
        f"the file is not under {source}",
        "Relative paths count from the table's folder; give a SOURCE that holds all files.",
    )
    return [one_spelling(path) for path in inside if path is not None]


def _inside(path: str, table: Place, source: Place) -> str | None:
    """`path` relative to the source, None where it lies elsewhere."""
    if is_url(source) or is_url(table) or is_url(path):
        root = str(source).rstrip("/") + "/"
        scheme, _, folder = str(table).rpartition("/")[0].partition("://")
        url = path if is_url(path) else f"{scheme}://{posixpath.normpath(posixpath.join(folder, path))}"
        return url.removeprefix(root) if url.startswith(root) else None
    local = PurePath(os.path.normpath(Path(table).resolve().parent / path))
    for above in (Path(source).resolve(), Path(source).absolute()):
        if local.is_relative_to(above):
            return local.relative_to(above).as_posix()
    return None


def _check_suffixes(table: _Table, layout: Layout) -> None:
    for at, row in enumerate(table.rows):
        suffix = PurePosixPath(row[n.PATH]).suffix.lower()
        if suffix not in layout.suffixes:
            remedy = conversion(suffix) or f"Layout {layout.name!r} takes {', '.join(layout.suffixes)}"
            table.refuse([at], f"{suffix or 'no suffix'} is not read ({row[n.PATH]})", f"{remedy}.")


def _parts(row: Mapping[str, str], path: str) -> dict[str, str]:
    series = row.get(SERIES, "")
    of_series = f"_p{series}" if series.isdecimal() else f"_{series}" if series else ""
    told = {name: value for name, value in row.items() if name != n.PATH}
    return {n.TILE: f"{PurePosixPath(path).stem}{of_series}", **told}


def _check_twice(table: _Table, paths: Sequence[str], names: Sequence[PlaneName]) -> None:
    tiles = [f"{name.tile_id}, channel {name.channel!r}" for name in names]
    series = [name.series for name in names]
    bare = {path for path, one in zip(paths, series, strict=True) if not one}
    table.refuse(
        (at for at, (path, one) in enumerate(zip(paths, series, strict=True)) if one and path in bare),
        "a series of a file that another row lists without one",
        "Give each row of the file its series, or list the file once, for all of them.",
    )
    same = [f"{path}, series {one}" if one else path for path, one in zip(paths, series, strict=True)]
    _refuse_equal(table, same, "file", "Take one of the rows out.")
    _refuse_equal(table, tiles, "tile and channel", "Tell them apart by the columns tile and channel.")


def _refuse_equal(table: _Table, keys: Sequence[str], what: str, remedy: str) -> None:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for at, key in enumerate(keys):
        rows[key].append(at)
    for key, same in rows.items():
        table.refuse(same if len(same) > 1 else (), f"the same {what} in each of these rows ({key})", remedy)
