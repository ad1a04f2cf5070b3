"""One self-contained page, and the same tables as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import jinja2
import pandas as pd

from fintune_xr.analysis.report.contents import Note, Section, Stale, Table

_TEMPLATE: Final = "report.html.jinja"


def page_of(title: str, subtitle: str, sections: Iterable[Section]) -> str:
    """A complete HTML page that needs no network and no other file.

    Every text is escaped; figures are embedded; sections without data name the command that fills them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(_TEMPLATE)
    return template.render(title=title, subtitle=subtitle, sections=list(sections))


def tables_of(sections: Iterable[Section]) -> dict[str, pd.DataFrame]:
    """Every table of the sections by its key, unrounded, ready to be written as TSV."""
    parts = (part for section in sections for part in section.parts)
    return {part.key: part.data for part in parts if isinstance(part, Table)}


def with_summary(sections: Sequence[Section], *, foreword: Sequence[Note] = ()) -> list[Section]:
    """The sections in reading order behind a summary: `foreword`, their findings, and what is out of date.

    Each section begins with what would stand in it and is out of date.
    """
    findings = [note for section in sections for note in section.findings]
    findings += [_out_of_date(one) for one in dict.fromkeys(left_out(sections))]
    if not findings:
        findings = [Note("Nothing has been measured yet. The sections below name the commands that do it.")]
    shown = [replace(one, parts=(*map(_out_of_date, one.stale), *one.parts)) for one in sections]
    return [Section("summary", "Summary", (*foreword, *findings)), *shown]


def left_out(sections: Iterable[Section]) -> list[Stale]:
    """What is out of date, section by section; what would stand in several comes as often."""
    return [one for section in sections for one in section.stale]


def _out_of_date(one: Stale) -> Note:
    reason = one.reason.rstrip(".")
    return Note(f"Out of date, left out: {one.what}, because {reason}. What makes it anew:", "bad", one.command)
