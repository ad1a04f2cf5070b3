"""One self-contained page, and the same tables as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import jinja2
import pandas as pd

from fintune_xr.analysis.report.contents import Note, Section, Stale, Table, all_parts
from fintune_xr.analysis.report.glossary import explain

_TEMPLATE: Final = "report.html.jinja"


def page_of(title: str, subtitle: str, sections: Iterable[Section], *, tables: str = "") -> str:
    """A complete HTML page that needs no network, no script and no other file.

    Every text is escaped, figures are embedded. `tables` is the folder beside the page in which whole tables lie as
    TSV, and to which it then leads.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(_TEMPLATE)
    return template.render(title=title, subtitle=subtitle, sections=list(sections), tables=tables)


def tables_of(sections: Iterable[Section]) -> dict[str, pd.DataFrame]:
    """Every table of the sections by its key, unrounded, ready to be written as TSV."""
    parts = (part for section in sections for part in all_parts(section.parts))
    return {part.key: part.data for part in parts if isinstance(part, Table)}


def with_summary(sections: Sequence[Section], *, foreword: Sequence[Note] = ()) -> list[Section]:
    """The sections in reading order behind a summary: `foreword`, their findings, and what is out of date.

    Sections that lead come first, those without anything stand together at the end with the commands that fill them.
    Each begins with what would stand in it and is out of date.
    """
    ordered = sorted(sections, key=lambda section: not section.leads)
    findings = explain(note for section in ordered for note in section.findings)
    findings += [_out_of_date(one) for one in dict.fromkeys(stale_sections(ordered))]
    if not findings:
        findings = [Note("Nothing has been measured yet. The end of this page names the commands that do it.")]
    filled = [replace(one, parts=(*map(_out_of_date, one.stale), *one.parts)) for one in ordered]
    empty = [Note(f"{one.title}:", command=one.command) for one in filled if not one.parts]
    missing = [Section("missing", "Not stored yet", tuple(empty))] if empty else []
    return [
        Section("summary", "Summary", (*foreword, *findings)),
        *(one for one in filled if one.parts),
        *missing,
    ]


def stale_sections(sections: Iterable[Section]) -> list[Stale]:
    """What is out of date, section by section; what would stand in several comes as often."""
    return [one for section in sections for one in section.stale]


def _out_of_date(one: Stale) -> Note:
    reason = one.reason.rstrip(".")
    return Note(f"Out of date, left out: {one.what}, because {reason}. What makes it anew:", "bad", one.command)
