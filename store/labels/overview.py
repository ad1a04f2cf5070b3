"""A cohort at a glance, as a notebook shows it: tiles by donor and marker, runs and their state, what can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n

# A page shows so many donors; how many it does not show is said.
DONORS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class RunState:
    """A run with its number of tiles by state, or why it cannot be read."""

    name: str
    tiles: Mapping[str, int]
    fault: str = ""


def states_of(name: str, state: NDArray[np.uint8], n_tiles: int) -> RunState:
    """Tiles of a run by the meaning of `state` (tile,); those of the cohort that it does not reach are pending."""
    counts = {meaning: int((state == code).sum()) for code, meaning in n.STATE_MEANINGS.items()}
    counts[n.STATE_MEANINGS[n.PENDING]] += n_tiles - state.size
    return RunState(name, counts)


def overview_html(
    title: str, url: str, *, labels: Mapping[str, Sequence[str]], runs: Sequence[RunState], questions: Sequence[str],
    made: str = "",
) -> str:  # fmt: skip
    """HTML of a cohort: `labels` holds the donor and the marker of each tile, `questions` are lines of Python.

    `made` says how the tiles were made of what was read, where that is not plain.

    Whatever is named in the store is escaped.
    """
    n_tiles = len(labels[n.DONOR])
    parts = [
        f"<h4>{escape(title)}</h4><p><code>{escape(url)}</code>: {_count(n_tiles, 'tile')}"
        f"{f', each {escape(made)}' if made else ''}</p>",
        _donors(labels[n.DONOR], labels[n.MARKER]),
        _runs(runs),
        f"<p>Next:</p><pre>{escape(chr(10).join(questions))}</pre>",
    ]
    return f"<div class='fintune-xr-cohort'>{''.join(parts)}</div>"


def _donors(donors: Sequence[str], markers: Sequence[str]) -> str:
    if not donors:
        return "<p>No tiles yet.</p>"
    names, of_tile = np.unique(np.asarray(donors, dtype=str), return_inverse=True)
    stains, stain_of_tile = np.unique(np.asarray(markers, dtype=str), return_inverse=True)
    counts = np.zeros((names.size, stains.size), np.int64)
    np.add.at(counts, (of_tile, stain_of_tile), 1)
    rows = [(name, *counts[row].tolist()) for row, name in enumerate(names[:DONORS_SHOWN].tolist())]
    hidden = names.size - len(rows)
    rest = f"<p>{len(rows)} of {_count(names.size, 'donor')} shown.</p>" if hidden > 0 else ""
    return _table(("donor", *stains.tolist()), [*rows, ("all", *counts.sum(axis=0).tolist())]) + rest


def _runs(runs: Sequence[RunState]) -> str:
    if not runs:
        return "<p>No runs yet.</p>"
    meanings = list(n.STATE_MEANINGS.values())
    rows = [(run.name, *(run.tiles.get(meaning, "") for meaning in meanings), run.fault) for run in runs]
    return _table(("run", *meanings, ""), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    first = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
