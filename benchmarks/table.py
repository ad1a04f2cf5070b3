"""Timing side by side in one process, and the table that shows it.

Every benchmark module has `rows()`, a list of `Row` and `Fact`, and prints them when run as a script:
`python benchmarks/matching.py`. Compare ratios, not seconds: machines differ and are shared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

COLUMNS = ("what", "ours", "peer (name)", "times faster", "limit", "to reach", "reached")


@dataclass(frozen=True, slots=True)
class Reach:
    """What a row should reach: at least `faster` times the peer, at most `of_limit` times the limit's seconds."""

    faster: float | None = None
    of_limit: float | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        parts = [
            f">= {self.faster:g}x peer" if self.faster is not None else "",
            f"<= {self.of_limit:.3g}x limit" if self.of_limit is not None else "",
            f"< {self.seconds:g} s" if self.seconds is not None else "",
        ]
        return ", ".join(part for part in parts if part)

    def holds(self, row: Row) -> bool | None:
        """Whether `row` reaches all that was asked; None where nothing was."""
        asked = []
        if self.faster is not None:
            asked.append(row["ratio"] >= self.faster)
        if self.of_limit is not None and row["limit_s"] is not None:
            asked.append(row["ours_s"] <= self.of_limit * row["limit_s"])
        if self.seconds is not None:
            asked.append(row["ours_s"] < self.seconds)
        return all(asked) if asked else None


class Row(TypedDict):
    """One comparison; times in seconds, `ratio` = peer_s / ours_s, `limit_s` None where none was measured."""

    what: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    limit_s: float | None
    reach: Reach


class Fact(TypedDict):
    """One number that is not a time against a peer's time, such as memory; its texts are shown as they are."""

    what: str
    ours: str
    reach: str
    reached: bool | None
    peer: NotRequired[str]
    limit: NotRequired[str]


def medians(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int = 5,
    *,
    before: Callable[[], Any] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each function, called in turn so that all meet the same load.

    The first call of each is not measured: it compiles, and fills caches. `before` runs unmeasured before each call.
    With `time.process_time` as `clock` they are those of all processors that the process has had.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(1 + repeats):
        for name, function in functions.items():
            before()
            times[name].append(seconds(function, clock))
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds on the clock that one call takes."""
    start = clock()
    function()
    return clock() - start


def compared(
    what: str,
    ours: Callable[[], Any],
    peer: tuple[str, Callable[[], Any]],
    *,
    limit: Callable[[], Any] | None = None,
    reach: Reach = Reach(),
    repeats: int = 5,
) -> Row:
    """A row that compares `ours` with the named peer and, where given, with what no way can undercut."""
    name, theirs = peer
    functions = {"ours": ours, "peer": theirs} | ({"limit": limit} if limit is not None else {})
    found = medians(functions, repeats)
    return row(what, found["ours"], (name, found["peer"]), limit_s=found.get("limit"), reach=reach)


def row(
    what: str,
    ours_s: float,
    peer: tuple[str, float],
    *,
    limit_s: float | None = None,
    reach: Reach = Reach(),
) -> Row:
    """A row of measured seconds; `peer` is a name and its seconds."""
    name, peer_s = peer
    return Row(what=what, ours_s=ours_s, peer=name, peer_s=peer_s, ratio=peer_s / ours_s, limit_s=limit_s, reach=reach)


def print_table(rows: Sequence[Row | Fact]) -> None:
    """Prints `rows` as an aligned Markdown table."""
    cells = [COLUMNS, *(_cells(line) for line in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    for index, line in enumerate(cells):
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def _cells(line: Row | Fact) -> tuple[str, ...]:
    if "ours_s" not in line:
        reached = _answer(line["reached"])
        return line["what"], line["ours"], line.get("peer", ""), "", line.get("limit", ""), line["reach"], reached
    limit = ""
    if line["limit_s"] is not None:
        limit = f"{_time(line['limit_s'])} (ours {line['ours_s'] / line['limit_s']:.1f}x)"
    peer = f"{_time(line['peer_s'])} ({line['peer']})"
    reach = line["reach"]
    return (
        line["what"], _time(line["ours_s"]), peer, f"{line['ratio']:.1f}", limit, str(reach),
        _answer(reach.holds(line)),
    )  # fmt: skip


def _answer(reached: bool | None) -> str:
    return "" if reached is None else "yes" if reached else "no"


def _time(duration_s: float) -> str:
    return f"{duration_s * 1e3:.1f} ms" if duration_s < 1 else f"{duration_s:.2f} s"
