"""Sections about what went in: the cohort, what was left out, example tiles, and where results come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.overlays import plane_names, tile_figure
from fintune_xr.analysis.figures.style import PICTURE_DPI, data_uri
from fintune_xr.analysis.report.contents import Fold, Note, Part, Picture, Section, Table, fold
from fintune_xr.analysis.report.numbers import count_text, whole
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.pixels.z_projection import projection_words

INGEST = "fintune-xr ingest SOURCE STORE --layout rosmap"
_PACKAGES = "packages"
_BEST_EPOCH = "best_epoch"
_LONGEST_LIST = 8
_ANGSTROM_PER_UM = 10_000
# What tiles, donors and markers are called, by a coordinate that only such tiles have.
_WORDS = (("tile", "tiles"), ("donor", "donors"), ("marker", "markers"))
_WORDS_OF: Final = {
    n.DEPTH: (("volume", "volumes"), ("participant", "participants"), ("device", "devices")),
    n.PIXEL_SIZE_A: (
        ("micrograph", "micrographs"),
        ("data set", "data sets"),
        ("kind of particle", "kinds of particle"),
    ),
}


def cohort_section(images: xr.Dataset | None, annotated: tuple[str, ...] = ()) -> Section:
    """Donors by markers, tiles by split, and how many tiles are annotated.

    `images` has the coordinates of IMAGES along tile (its pixels are not read); `annotated` are the ids of the tiles
    with an annotation.
    """
    if images is None or not images.sizes[n.TILE]:
        return Section("cohort", "Cohort", command=INGEST)
    tiles = tile_table(images, annotated)
    by_donor = tiles.groupby([n.DONOR, n.MARKER])[n.TILE].count().unstack(fill_value=0)
    by_donor = by_donor.assign(all=by_donor.sum(axis=1)).reset_index()
    by_donor.columns.name = None
    tables = (
        Table("tiles_by_marker", "Tiles and donors per marker and split", _by_marker(tiles)),
        Table("tiles_by_donor", "Tiles per donor and marker", by_donor, code=(n.DONOR,)),
    )
    parts = (Note(cohort_sentence(images, annotated)), Fold("Tiles of every marker, part and donor", tables))
    return Section("cohort", "Cohort", parts)


def tile_table(images: xr.Dataset, annotated: tuple[str, ...]) -> pd.DataFrame:
    """One row per tile: tile, donor, marker, split, height, width, is_annotated."""
    names = (n.TILE, n.DONOR, n.MARKER, n.SPLIT)
    table = pd.DataFrame({name: [str(value) for value in images[name].values] for name in names})
    for name in (n.HEIGHT, n.WIDTH):
        table[name] = images[name].values
    table["is_annotated"] = table[n.TILE].isin(annotated)
    return table


def quarantine_section(
    quarantine: xr.Dataset | None, passed_over: Mapping[str, Sequence[str]] | None = None
) -> Section:
    """What was left out, with its reason, as in QUARANTINE, and what was `passed_over`, by the verb that did it."""
    if quarantine is None:
        return Section("quarantine", "Left out", command=INGEST)
    others = [(verb, line) for verb, lines in (passed_over or {}).items() for line in lines]
    parts: list[Part] = []
    if quarantine.sizes[n.ITEM]:
        names = ("path", n.DONOR, n.MARKER, n.REASON)
        table = pd.DataFrame({name: [str(value) for value in quarantine[name].values] for name in names})
        count = count_text(len(table), "file or tile", "files or tiles")
        parts.append(Note(f"{count} could not be used; no result below counts any.", "doubtful"))
        parts.append(Table("quarantine", "Quarantine, with the reason", table, code=("path", n.DONOR)))
    elif not others:
        parts.append(Note("Every file that was found could be used.", "good"))
    if others:
        parts.append(Note("Beside these, the verbs below passed over what did not fit.", "doubtful"))
        frame = pd.DataFrame(others, columns=["verb", "passed over"])
        parts.append(Table("passed_over", "What verbs passed over", frame))
    return Section("quarantine", "Left out", tuple(parts))


def examples_section(examples: xr.Dataset | None) -> Section:
    """Pictures of some tiles with the outlines of every run.

    `examples` has image (tile, channel, y, x), mask (run, tile, y, x), annotated (tile, y, x), and the coordinates of
    IMAGES.
    """
    if examples is None or examples.sizes[n.TILE] == 0:
        return Section("examples", "Example tiles", command="fintune-xr infer STORE --run RUN --model MODEL")
    pictures = tuple(_example(examples, at) for at in range(examples.sizes[n.TILE]))
    first, others = pictures[:1], pictures[1:]
    return Section(
        "examples", "Example tiles", (*first, *fold(count_text(len(others), "tile", "tiles") + " more", others))
    )


def provenance_section(records: Mapping[str, Mapping[str, Any]]) -> Section:
    """Model, weights, settings, versions and time of every run, a column per run."""
    if not records:
        return Section("provenance", "Provenance", command="fintune-xr infer STORE --run RUN --model MODEL")
    rows: dict[str, dict[str, str]] = {}
    for run, record in records.items():
        for key, value in _flat(record):
            rows.setdefault(key, {})[run] = value
    packages = {key.partition(".")[2]: row for key, row in rows.items() if key.startswith(f"{_PACKAGES}.")}
    others = {key: row for key, row in rows.items() if not key.startswith(f"{_PACKAGES}.")}
    parts: list[Part] = [_facts("provenance", "What each run was made of", "fact", others)]
    if packages:
        parts.append(_facts("packages", "Package versions", "package", packages))
    return Section("provenance", "Provenance", fold("Model, weights, settings and versions of every run", parts))


def cohort_sentence(images: xr.Dataset, annotated: tuple[str, ...]) -> str:
    """How many tiles, donors and markers there are, of which size, and how many tiles are annotated."""
    if not images.sizes[n.TILE]:
        return "No tiles yet."
    tiles = tile_table(images, annotated)
    sides = [images[side].values for side in (n.DEPTH, n.HEIGHT, n.WIDTH) if side in images.coords]
    sizes = sorted({tuple(map(int, size)) for size in zip(*sides, strict=True)})
    smallest, largest = sizes[0], sizes[-1]
    size = _size(smallest)
    if smallest != largest:
        size = f"{size} to {_size(largest)}"
    tile, donor, marker = next((words for name, words in _WORDS_OF.items() if name in images.coords), _WORDS)
    n_tiles = count_text(len(tiles), *tile)
    n_donors = count_text(tiles[n.DONOR].nunique(), *donor)
    n_markers = count_text(tiles[n.MARKER].nunique(), *marker)
    n_annotated = whole(tiles["is_annotated"].sum())
    made = projection_words(images)
    what = f"{size}{_pixel_side(images)}{f', each {made}' if made else ''}"
    return f"{n_tiles} of {n_donors} with {n_markers}, {what}; {n_annotated} of them annotated."


def _pixel_side(images: xr.Dataset) -> str:
    """How long a pixel is, in words, where it is known."""
    unit, in_unit = ("Å", _ANGSTROM_PER_UM) if n.PIXEL_SIZE_A in images.coords else ("µm", 1)
    sides = sides_um(images) * in_unit
    known = sorted({float(f"{side:.4g}") for side in sides if side > 0})
    if not known:
        return ""
    told = f"{known[0]:g}" if len(known) == 1 else f"{known[0]:g} to {known[-1]:g}"
    unknown = int((sides == 0).sum())
    rest = f" (not known of {count_text(unknown, 'tile', 'tiles')})" if unknown else ""
    return f", {told} {unit} a pixel{rest}"


def _size(lengths: tuple[int, ...]) -> str:
    return " × ".join(map(str, lengths)) + " px"


def _by_marker(tiles: pd.DataFrame) -> pd.DataFrame:
    grouped = tiles.groupby([n.MARKER, n.SPLIT], sort=True)
    table = grouped.agg(
        donors=(n.DONOR, "nunique"), tiles=(n.TILE, "count"), annotated=("is_annotated", "sum")
    ).reset_index()
    place = table[n.SPLIT].map({split: place for place, split in enumerate(n.SPLITS)}).fillna(len(n.SPLITS))
    order = table.assign(place=place).sort_values([n.MARKER, "place"]).index
    return table.loc[order].reset_index(drop=True)


def _example(examples: xr.Dataset, at: int) -> Picture:
    tile = examples.isel({n.TILE: at})
    label = f"Tile {tile[n.TILE].item()}, donor {tile[n.DONOR].item()}, {tile[n.MARKER].item()}, {_part(tile)}"
    caption = f"{label}. {_colours(plane_names(tile))}."
    uri = data_uri(tile_figure(tile), "jpeg", dpi=PICTURE_DPI)
    return Picture(uri, f"{label}: composite and outlines of each run", caption)


def _part(tile: xr.Dataset) -> str:
    """Which part of the split a tile is in: what was learnt from is easy to segment."""
    part = str(tile[n.SPLIT].item()) if n.SPLIT in tile.coords else n.UNASSIGNED
    return n.UNASSIGNED if part == n.UNASSIGNED else f"part {part} of the split"


def _colours(planes: list[str]) -> str:
    if len(planes) == 1:
        return f"{planes[0]} in grey, stretched to its range"
    return f"{planes[0]} in blue, {planes[1]} in green, each stretched to its own range"


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a nested record as text, under a name with dots."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key == _BEST_EPOCH and isinstance(value, int):
            # Records count epochs from 0; people, the log of a training and other tables from 1.
            yield f"{prefix}{key}, counted from 1", str(value + 1)
        else:
            yield f"{prefix}{key}", "" if value is None else _short(value)


def _short(value: Any) -> str:
    """The value as text; of a long list, which nobody reads in a report, how long it is."""
    is_long = isinstance(value, (list, tuple)) and len(value) > _LONGEST_LIST
    return f"{len(value)} items" if is_long else str(value)


def _facts(key: str, caption: str, first: str, rows: Mapping[str, Mapping[str, str]]) -> Table:
    table = pd.DataFrame.from_dict(dict(rows), orient="index").replace(np.nan, None)
    table.insert(0, first, table.index)
    return Table(key, caption, table.reset_index(drop=True), code=tuple(map(str, table.columns[1:])))
