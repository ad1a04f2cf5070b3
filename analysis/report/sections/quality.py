"""Section about how tiles were taken: what drifts, what a rule leaves out, and what difference it makes."""

from __future__ import annotations

from typing import Final

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.quality import quality_figure
from fintune_xr.analysis.figures.style import data_uri
from fintune_xr.analysis.quality import ALL_MEASURES, MIN_UNITS, SATURATED, UNUSUAL, long_table, unusual
from fintune_xr.analysis.report.contents import Note, Part, Picture, Section, Table
from fintune_xr.analysis.report.numbers import Format, count_text, decimals, whole
from fintune_xr.analysis.report.sections.associations import ASSOCIATE

_TITLE: Final = "How tiles were taken"
_COMMAND: Final = "fintune-xr qc STORE"
_RMO: Final = (n.RUN, n.MARKER, n.OUTCOME)


def quality_section(quality: xr.Dataset | None, analysis: xr.Dataset | None) -> Section:
    """Measures by donor and batch, what is unusual, the stored rule, and rho with and without drifting tiles.

    `quality` follows QUALITY, with `donor` and `marker` along tile; `analysis` ANALYSIS, None where it is missing or
    out of date.
    """
    if quality is None:
        return Section("quality", _TITLE, command=_COMMAND)
    tiles = unusual(quality)
    parts: list[Part] = [_told(quality, tiles), _rule(quality)]
    parts += [_picture(quality)] if quality.sizes[n.TILE] else []
    parts += [_unusual_table(quality, level) for level in (n.BATCH, n.DONOR)]
    parts += [_listed(tiles, "unusual_tiles", "Unusual tiles")] if len(tiles) else []
    parts += [_by_donor(quality)]
    parts += _side_by_side(analysis)
    return Section("quality", _TITLE, tuple(parts), findings=_findings(quality))


def _told(quality: xr.Dataset, tiles: pd.DataFrame) -> Note:
    text = (
        f"Unusual is a modified z-score beyond {UNUSUAL}, of logarithms, among the tiles, donors or batches of one "
        f"marker and channel where there are {MIN_UNITS} or more; of focus only what is blurred. More than "
        f"{SATURATED:.0%} of the pixels at the highest value of the plane is unusual by itself. "
        f"{count_text(tiles['unit'].nunique(), 'tile is', 'tiles are')} unusual of {whole(quality.sizes[n.TILE])}."
    )
    sizes = "" if quality.attrs[n.RUN] else " Sizes of cells were not measured: name a run with --run."
    return Note(text + sizes)


def _rule(quality: xr.Dataset) -> Note:
    rule = quality.attrs[n.EXCLUDED]
    if not rule:
        text = "No tile is left out for it: no rule is stored. To store one:"
        return Note(text, command=f"{_COMMAND} --exclude focus")
    text = f"{count_text(rule['n_tiles'], 'tile is', 'tiles are')} left out of ratios by a stored rule: {rule['text']}."
    return Note(f"{text} To take it back:", "doubtful", f"{_COMMAND} --exclude nothing")


def _findings(quality: xr.Dataset) -> tuple[Note, ...]:
    rule = quality.attrs[n.EXCLUDED]
    return (_rule(quality),) if rule else ()


def _picture(quality: xr.Dataset) -> Picture:
    has_batches = any(map(str, quality[n.BATCH].values.tolist()))
    over = n.BATCH if has_batches else n.DONOR
    alt = f"Measures of tiles by {over}, marker and channel"
    caption = (
        f"A point is a tile, by {over} in the order of names; ringed ones are unusual among the tiles of a marker."
    )
    return Picture(data_uri(quality_figure(long_table(quality), unusual(quality), over=over), "svg"), alt, caption)


def _unusual_table(quality: xr.Dataset, level: str) -> Part:
    found = unusual(quality, level)
    if level == n.BATCH and not any(map(str, quality[n.BATCH].values.tolist())):
        return Note("No batches are known. To look for drift between them:", command=f"{_COMMAND} --batches TABLE")
    if not len(found):
        return Note(f"No {level} is unusual.", "good")
    return _listed(found, f"unusual_{level}s", f"Unusual {level}{'es' if level == n.BATCH else 's'}")


def _listed(found: pd.DataFrame, key: str, caption: str) -> Table:
    ordered = found.reindex(found["z"].abs().sort_values(ascending=False, na_position="first").index)
    formats: dict[str, Format] = {"z": decimals(1, signed=True)}
    return Table(key, f"{caption}, the most unusual first", ordered.reset_index(drop=True), formats, code=("unit",))


def _by_donor(quality: xr.Dataset) -> Table:
    table = long_table(quality)
    by = [n.MARKER, n.DONOR, n.CHANNEL]
    wide = table.pivot_table(index=by, columns=n.MEASURE, values="value", aggfunc="median", sort=True).reset_index()
    wide.columns.name = None
    wide = wide[[*by, *(name for name in ALL_MEASURES if name in wide)]]
    return Table("quality_by_donor", "Medians over the tiles of each donor", wide, code=(n.DONOR,))


def _side_by_side(analysis: xr.Dataset | None) -> list[Part]:
    if analysis is None or n.RHO_WITHOUT_DRIFT not in analysis:
        return [Note("Rho with and without unusual tiles stands here after:", command=ASSOCIATE)]
    names = [n.RHO_OF_ALL_TILES, n.RHO_WITHOUT_DRIFT]
    data = analysis[names].reset_coords(drop=True).to_dataframe().reset_index()[[*_RMO, *names]]
    data["change"] = data[n.RHO_WITHOUT_DRIFT] - data[n.RHO_OF_ALL_TILES]
    data = data.reindex(data["change"].abs().sort_values(ascending=False).index).reset_index(drop=True)
    caption = (
        f"Rho of all tiles, and without the {whole(analysis.attrs[n.N_DRIFTING])} unusual ones; the largest change "
        "first. Brightness may be biology: a rule that leaves bright tiles out can leave the answer out"
    )
    formats = dict.fromkeys([*names, "change"], decimals(2, signed=True))
    return [Table("with_and_without_drift", caption, data, formats, code=(n.OUTCOME,))]
