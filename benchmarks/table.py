"""Timing side by side in one process, and the table that shows it.

Every benchmark module has `rows()`, a list of dicts with the keys of `Row`, and prints them when run as a
script: `python benchmarks/matching.py`. Compare ratios, not seconds: machines differ and are shared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

COLUMNS = ("what", "ours", "peer (name)", "times faster", "limit", "to reach")


class Row(TypedDict):
    """One comparison; times in seconds, `ratio` = peer_s / ours_s, `limit_s` None where none was measured."""

    what: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    limit_s: float | None
    reach: str


def medians(functions: Mapping[str, Callable[[], Any]], repeats: int = 5) -> dict[str, float]:
    """Median seconds of each function, called in turn so that all meet the same load.

    The first call of each is not measured: it compiles, and fills caches.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def compared(
    what: str,
    ours: Callable[[], Any],
    peer: tuple[str, Callable[[], Any]],
    *,
    limit: Callable[[], Any] | None = None,
    reach: str = "",
    repeats: int = 5,
) -> Row:
    """A row that compares `ours` with the named peer and, where given, with what no way can undercut."""
    name, theirs = peer
    functions = {"ours": ours, "peer": theirs} | ({"limit": limit} if limit is not None else {})
    found = medians(functions, repeats)
    return Row(
        what=what, ours_s=found["ours"], peer=name, peer_s=found["peer"],
        ratio=found["peer"] / found["ours"], limit_s=found.get("limit"), reach=reach,
    )


def print_table(rows: Sequence[Row]) -> None:
    """Prints `rows` as an aligned Markdown table."""
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    for index, line in enumerate(cells):
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def _cells(row: Row) -> tuple[str, ...]:
    limit = ""
    if row["limit_s"] is not None:
        limit = f"{_time(row['limit_s'])} (ours {row['ours_s'] / row['limit_s']:.1f}x)"
    peer = f"{_time(row['peer_s'])} ({row['peer']})"
    return row["what"], _time(row["ours_s"]), peer, f"{row['ratio']:.1f}", limit, row["reach"]


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
