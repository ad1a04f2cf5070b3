"""Words of the command line that have become others: still taken, with a note, until the next version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

NEW_WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "train": {"--run-name": "--name"},
    "selftrain": {"--run-name": "--name"},
    "hybrid": {"--run-name": "--name", "--part": "--split"},
    "infer": {"--part": "--split"},
    "pick": {"--part": "--split"},
    "split": {"--force": "--restart"},
    "budget": {"--no-skip-existing": "--restart"},
}
"""By verb: what is written now for what was written before."""


def notes(tokens: Sequence[str]) -> list[str]:
    """A line for each old word among the `tokens` of a command line."""
    if not tokens:
        return []
    known = NEW_WORDS.get(tokens[0], {})
    used = dict.fromkeys(token.partition("=")[0] for token in tokens[1:])
    return [
        f"note: {old} is now {known[old]}; the old word is taken until the next version" for old in used if old in known
    ]
