"""What a report is made of: sections of tables, pictures and notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd
from matplotlib.figure import Figure

from fintune_xr import names as n
from fintune_xr.analysis.report.numbers import Format, value_text, whole

_HEADERS: Final = {
    n.RATIO: "positive share",
    n.N_POSITIVE: "positive cells",
    n.N_ALL: "all cells",
    n.N_TILES: "tiles",
    n.N: "donors",
    n.F1: "F1",
}
UNFINISHED_STUDY: Final = "The study is not finished; run the same command again."
ROWS_SHOWN: Final = 12
# Beyond this a page is no place to read them: the rest is in the TSV alone.
ROWS_FOLDED: Final = 150
_ON_ONE_LINE: Final = (n.RUN, n.MARKER, n.RULE, n.SPLIT, "mark", "comparison", "package", "fact", "model")


@dataclass(frozen=True, slots=True)
class Study:
    """A study that varied something: `key` is benchmark, budget, gate or sweep, `table` its stored numbers.

    `name` tells several studies of one key apart, e.g. the run that was gated. `page` replaces `table` on the page
    where both differ in shape; `parts` stand before it, `more` are further parts that are folded away with it.
    `finding` is the one line that the summary has of it.
    """

    key: str
    text: str
    table: pd.DataFrame
    figure: Figure | None = None
    name: str = ""
    page: pd.DataFrame | None = None
    more: tuple[Part, ...] = ()
    parts: tuple[Part, ...] = ()
    finding: Note | None = None


@dataclass(frozen=True, slots=True)
class Stale:
    """A stored result that is left out, because what it rests on is no longer what the store holds.

    `command` is what makes it anew.
    """

    what: str
    reason: str
    command: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table: `data` as it is stored and written to TSV, `formats` how its columns read on the page.

    `page` replaces `data` on the page where both differ in shape. `code` names columns set in a fixed width,
    `strong` is the rows, by position, that matter most. The page shows the first ROWS_SHOWN rows, folds the others
    away and says how many there are; beyond ROWS_FOLDED they are in the TSV alone.
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

    @property
    def n_shown(self) -> int:
        """How many rows are seen at once: all, where hardly any would be folded away."""
        return len(self._frame) if len(self._frame) <= ROWS_SHOWN + 3 else ROWS_SHOWN

    @property
    def n_folded(self) -> int:
        """How many rows stand under the fold."""
        rest = len(self._frame) - self.n_shown
        return rest if rest <= ROWS_FOLDED else 0

    @property
    def extent(self) -> str:
        """How many of its rows are seen, empty where all are."""
        n_rows = len(self._frame)
        return "" if self.n_shown == n_rows else f"{whole(self.n_shown)} of {whole(n_rows)} rows"

    def _cells(self, frame: pd.DataFrame, name: str) -> list[tuple[str, str]]:
        kind, format_ = self._class(frame, name), self.formats.get(name)
        return [(value_text(value, format_), kind) for value in frame[name]]

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
class Drawing:
    """A figure as SVG in the page itself, whose points can be named where they are pointed at.

    `svg` is markup that was made by `figures.points` from escaped text, `title` and `caption` are text.
    """

    svg: str
    title: str
    caption: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Drawings side by side, as many in a row as there is room for."""

    drawings: tuple[Drawing, ...]

    kind = "gallery"


@dataclass(frozen=True, slots=True)
class Fold:
    """Parts that the page hides under a line that says what they are, until somebody asks for them."""

    title: str
    parts: tuple[Part, ...]

    kind = "fold"


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph that may end with a command; `tone` is plain, good, doubtful or bad."""

    text: str
    tone: str = "plain"
    command: str = ""

    kind = "note"


Part = Table | Picture | Gallery | Note | Fold


def all_parts(parts: Iterable[Part]) -> Iterator[Part]:
    """All parts in reading order, those under folds among them, and no folds."""
    for part in parts:
        if isinstance(part, Fold):
            yield from all_parts(part.parts)
        else:
            yield part


def fold(title: str, parts: Iterable[Part]) -> tuple[Part, ...]:
    """`parts` under a fold; nothing where there are none."""
    hidden = tuple(parts)
    return (Fold(title, hidden),) if hidden else ()


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the report; without parts the report names the `command` that fills it.

    `findings` are what the summary says of it, `stale` what would stand in it and is left out; one that `leads` is
    read right behind the summary.
    """

    key: str
    title: str
    parts: tuple[Part, ...] = ()
    command: str = ""
    findings: tuple[Note, ...] = ()
    stale: tuple[Stale, ...] = ()
    leads: bool = False
