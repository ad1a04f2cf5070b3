"""What a report is made of: stored datasets going in, sections of tables and pictures coming out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from fintune_xr import names as n
from fintune_xr.analysis.report.detection.contents import ParticleContents
from fintune_xr.analysis.report.numbers import Format, shown

_HEADERS: Final = {
    n.RATIO: "positive share",
    n.N_POSITIVE: "positive cells",
    n.N_ALL: "all cells",
    n.N_TILES: "tiles",
    n.N: "donors",
}
_ON_ONE_LINE: Final = (n.RUN, n.MARKER, n.RULE, n.SPLIT, "mark", "comparison", "package", "fact", "model")


@dataclass(frozen=True, slots=True)
class Study:
    """A study that varied something: `key` is benchmark, budget, gate or sweep, `table` its stored numbers.

    `name` tells several studies of one key apart, e.g. the run that was gated. `page` replaces `table` on the page
    where both differ in shape; `parts` stand before it, `more` are further tables behind it, whose keys are their own.
    """

    key: str
    text: str
    table: pd.DataFrame
    figure: Figure | None = None
    name: str = ""
    page: pd.DataFrame | None = None
    more: tuple[Table, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Stale:
    """A stored result that is left out, because what it rests on is no longer what the store holds.

    `sections` are the keys of those in which it would stand, `command` is what makes it anew.
    """

    sections: tuple[str, ...]
    what: str
    reason: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContents:
    """Everything a report may show. A part that is None appears as the command that would make it.

    `remark` is what readers must know before all numbers.
    `images` has the coordinates of IMAGES along tile (its pixels are not read); `annotated_tiles` are the
    ids of the tiles with an annotation; `quarantine` follows QUARANTINE. `examples` holds a few tiles:
    image (tile, channel, y, x), mask (run, tile, y, x), annotated (tile, y, x), with the coordinates of
    IMAGES. `scores` comes from `scores_by_donor_bootstrap` with dims run and threshold,
    `scores_by_marker` has the dim marker as well, `n_scored_donors` says of how many donors both are, 0 unknown,
    `scored_part` of which part of the split; `baseline` is the run that others are compared to;
    `published` is (model, metric). `analysis` follows ANALYSIS, `clinical` CLINICAL (for the direction of
    outcomes), `bootstrap` BOOTSTRAP; `stability` and `comparisons` come from `comparison.summarise` and
    `comparison.compare_runs`. `rho_if_lost` has low and high (run, marker, outcome): rho if every cell of
    the quarantined tiles were negative, or positive. `positivity` follows POSITIVITY, by run, with
    `marker` along tile; `ratio_by_rule` is (run, rule, donor, marker), `rho_by_rule` (run, rule, marker,
    outcome), `active_rules` the rule of each run behind `analysis`. `provenance` holds the stored record
    of each run. With `particles` the report is that of an EM cohort: about them, and about no cells. `stale` names
    what the store holds and the report leaves out.
    """

    title: str
    subtitle: str = ""
    remark: str = ""
    images: xr.Dataset | None = None
    annotated_tiles: tuple[str, ...] = ()
    quarantine: xr.Dataset | None = None
    examples: xr.Dataset | None = None
    scores: xr.Dataset | None = None
    scores_by_marker: xr.Dataset | None = None
    n_scored_donors: int = 0
    scored_part: str = ""
    baseline: str = ""
    published: xr.DataArray | None = None
    studies: tuple[Study, ...] = ()
    analysis: xr.Dataset | None = None
    clinical: xr.Dataset | None = None
    bootstrap: xr.Dataset | None = None
    stability: xr.Dataset | None = None
    comparisons: tuple[xr.Dataset, ...] = ()
    rho_if_lost: xr.Dataset | None = None
    positivity: Mapping[str, xr.Dataset] = field(default_factory=dict)
    ratio_by_rule: xr.DataArray | None = None
    rho_by_rule: xr.DataArray | None = None
    active_rules: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    particles: ParticleContents | None = None
    stale: tuple[Stale, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table: `data` as it is stored and written to TSV, `formats` how its columns read on the page.

    `page` replaces `data` on the page where both differ in shape. `code` names columns set in a fixed width,
    `strong` is the rows, by position, that matter most.
    """

    key: str
    caption: str
    data: pd.DataFrame
    formats: Mapping[str, Format] = field(default_factory=dict)
    page: pd.DataFrame | None = None
    code: tuple[str, ...] = ()
    strong: frozenset[int] = frozenset()

    kind = "table"

    @property
    def header(self) -> list[tuple[str, str]]:
        """Heading and CSS class of every column."""
        frame = self._frame
        names = [str(name) for name in frame.columns]
        return [(_HEADERS.get(name, name.replace("_", " ")), self._class(frame, name)) for name in names]

    @property
    def rows(self) -> list[list[tuple[str, str]]]:
        """Text and CSS class of every cell."""
        frame = self._frame
        columns = [self._cells(frame, str(name)) for name in frame.columns]
        return [list(row) for row in zip(*columns, strict=True)]

    def _cells(self, frame: pd.DataFrame, name: str) -> list[tuple[str, str]]:
        kind, format_ = self._class(frame, name), self.formats.get(name)
        return [(shown(value, format_), kind) for value in frame[name]]

    @property
    def _frame(self) -> pd.DataFrame:
        return self.data if self.page is None else self.page

    def _class(self, frame: pd.DataFrame, name: str) -> str:
        if name in self.code:
            return "code"
        if name in _ON_ONE_LINE:
            return "name"
        is_number = pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name])
        return "number" if is_number or name in self.formats else "text"


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as a data URI, with the text that stands for it where it cannot be seen."""

    uri: str
    alt: str
    caption: str

    kind = "picture"


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph that may end with a command; `tone` is plain, good, doubtful or bad."""

    text: str
    tone: str = "plain"
    command: str = ""

    kind = "note"


Part = Table | Picture | Note


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the report; without parts it names the `command` that fills it."""

    key: str
    title: str
    parts: tuple[Part, ...] = ()
    command: str = ""
