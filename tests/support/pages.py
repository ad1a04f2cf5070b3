"""Commands and snippets as they stand on the pages of the documentation."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^\s*```(\w*)\s*$")
_INLINE = re.compile(r"`(fintune-xr [^`]+)`")
LEFT_OUT = "…"
"""Stands on a page for arguments or lines that are not shown."""


@dataclass(frozen=True)
class Command:
    """One command line of a page, as it is typed, and the lines that follow it as its output."""

    page: Path
    line: int
    text: str
    output: tuple[str, ...] = ()

    @property
    def tokens(self) -> list[str]:
        """What a shell hands on, without `fintune-xr` itself, and without what is left out."""
        return [token for token in shlex.split(self.text, comments=True)[1:] if token != LEFT_OUT]

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it is left out."""
        return LEFT_OUT not in self.text

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"


def commands(page: Path) -> list[Command]:
    """All commands of the package on a page, in order: those in blocks, with their output, and those within lines."""
    found: list[Command] = []
    language, block = None, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if fence and language is None:
            language, block = fence[1], []
        elif fence:
            found += _of_block(page, block)
            language = None
        elif language is not None:
            block.append((number, line))
        else:
            # In a table of Markdown a bar is written with a backslash before it.
            found += [Command(page, number, text.replace(r"\|", "|")) for text in _INLINE.findall(line)]
    return found


def _of_block(page: Path, block: list[tuple[int, str]]) -> list[Command]:
    found: list[Command] = []
    lines = iter(block)
    for number, line in lines:
        text = line.strip().removeprefix("$ ")
        while text.endswith("\\"):
            text = text[:-1] + next(lines)[1].strip()
        if text.startswith("fintune-xr "):
            found.append(Command(page, number, text))
        elif found and text:
            last = found.pop()
            found.append(Command(page, last.line, last.text, (*last.output, line)))
    return found


def snippets(page: Path) -> list[str]:
    """Blocks of Python on a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
