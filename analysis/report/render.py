"""One self-contained page, and the same tables as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import jinja2
import pandas as pd

from fintune_xr.analysis.report.contents import Note, ReportContents, Section, Stale, Table
from fintune_xr.analysis.report.detection.sections import (
    particle_notes,
    picks_section,
    picture_section,
    stages_section,
)
from fintune_xr.analysis.report.instance.scores import (
    score_notes,
    segmentation_section,
    study_sections,
    study_verdicts,
    verdicts,
)
from fintune_xr.analysis.report.sections.associations import (
    association_section,
    bootstrap_section,
    comparison_section,
    findings,
    ratio_section,
)
from fintune_xr.analysis.report.sections.cohort import (
    cohort_section,
    cohort_sentence,
    examples_section,
    provenance_section,
    quarantine_section,
)
from fintune_xr.analysis.report.sections.positivity import positivity_section

_TEMPLATE: Final = "report.html.jinja"


def render_report(contents: ReportContents) -> str:
    """A complete HTML page that needs no network and no other file.

    Every text is escaped; figures are embedded; sections without data name the command that fills them.
    """
    return _page(contents, report_sections(contents))


def report_tables(contents: ReportContents) -> dict[str, pd.DataFrame]:
    """Every table of the report by its key, unrounded, ready to be written as TSV."""
    return _tables(_data_sections(contents))


def page_and_tables(contents: ReportContents) -> tuple[str, dict[str, pd.DataFrame]]:
    """Both at once: figures, which take most of the time, are drawn once."""
    sections = report_sections(contents)
    return _page(contents, sections), _tables(sections)


def _page(contents: ReportContents, sections: Iterable[Section]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(_TEMPLATE)
    return template.render(title=contents.title, subtitle=contents.subtitle, sections=list(sections))


def _tables(sections: Iterable[Section]) -> dict[str, pd.DataFrame]:
    parts = (part for section in sections for part in section.parts)
    return {part.key: part.data for part in parts if isinstance(part, Table)}


def report_sections(contents: ReportContents) -> list[Section]:
    """The sections in reading order: first what was found, then what it rests on."""
    summary = [*score_notes(contents), *verdicts(contents), *study_verdicts(contents), *findings(contents)]
    if contents.particles is not None:
        summary = particle_notes(contents.particles)
    summary += [_out_of_date(one) for one in contents.stale]
    if not summary:
        summary = [Note("Nothing has been measured yet. The sections below name the commands that do it.")]
    if contents.images is not None:
        summary.insert(0, Note(cohort_sentence(contents.images, contents.annotated_tiles)))
    if contents.remark:
        summary.insert(0, Note(contents.remark, "doubtful"))
    return [Section("summary", "Summary", tuple(summary)), *_data_sections(contents)]


def _data_sections(contents: ReportContents) -> Iterator[Section]:
    """The sections with their data; each begins with what would stand in it and is out of date."""
    for section in _up_to_date_sections(contents):
        notes = tuple(_out_of_date(one) for one in contents.stale if section.key in one.sections)
        yield replace(section, parts=(*notes, *section.parts))


def _out_of_date(one: Stale) -> Note:
    reason = one.reason.rstrip(".")
    return Note(f"Out of date, left out: {one.what}, because {reason}. What makes it anew:", "bad", one.command)


def _up_to_date_sections(contents: ReportContents) -> Iterator[Section]:
    yield cohort_section(contents)
    yield quarantine_section(contents)
    if contents.particles is not None:
        yield picture_section(contents.particles)
        yield picks_section(contents.particles)
        yield stages_section(contents.particles)
        yield provenance_section(contents)
        return
    yield examples_section(contents)
    yield segmentation_section(contents)
    yield from study_sections(contents)
    yield positivity_section(contents)
    yield ratio_section(contents)
    yield association_section(contents)
    yield bootstrap_section(contents)
    yield comparison_section(contents)
    yield provenance_section(contents)
