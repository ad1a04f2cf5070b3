"""The report of a cohort, from what its store holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Section
from fintune_xr.analysis.report.render import page_of, tables_of, with_summary
from fintune_xr.analysis.report.sections.cohort import (
    cohort_section,
    cohort_sentence,
    provenance_section,
    quarantine_section,
)
from fintune_xr.errors import StoreWriteError, unknown_name
from fintune_xr.execution.whole_file import whole_file, write_errors
from fintune_xr.pipelines.report.classification import volume_sections
from fintune_xr.pipelines.report.detection import particle_sections
from fintune_xr.pipelines.report.extra_files import lines_by_verb
from fintune_xr.pipelines.report.instance import cell_sections
from fintune_xr.pipelines.report.semantic import tissue_sections
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.tasks.task import CLASSIFICATION, DETECTION, INSTANCE, SEMANTIC

BASELINE: Final = "baseline"

SECTIONS: Final[Mapping[str, Callable[[Cohort, str], tuple[Section, ...]]]] = {
    INSTANCE: cell_sections,
    SEMANTIC: tissue_sections,
    DETECTION: particle_sections,
    CLASSIFICATION: volume_sections,
}
"""By task: the sections between what went in and where the runs come from, in reading order."""


def report(store: str | Path, *, out: str | Path | None = None, baseline: str | None = None) -> Path:
    """Path of a self-contained HTML report; its tables lie beside it as TSV in `<name>_tables/`, and no others.

    Results whose runs, picks, annotations or split have changed since are left out, and named with the command that
    makes them anew.
    `baseline` is the run that others are compared to: by default the run of that name, else the first.

    Raises UnknownNameError for a baseline that is no run, StoreWriteError where the file cannot be written or its
    folder does not exist.
    """
    cohort = open_cohort(store).opened_once(runs=True)
    path = Path(out) if out is not None else _default_path(cohort)
    if not path.parent.is_dir():
        raise StoreWriteError(f"--out {path}: there is no folder {path.parent}. Make it, or name another --out")
    sections = report_sections(cohort, baseline=_baseline(cohort, baseline))
    today = datetime.now(UTC).date().isoformat()
    subtitle = f"{cohort.kind.upper()} cohort, store schema {datasets.SCHEMA_VERSION}, report of {today}"
    tables = path.with_name(f"{path.stem}_tables")
    page = page_of(cohort.title, subtitle, with_summary(sections, foreword=_foreword(cohort)), tables=tables.name)
    with write_errors(str(path)):
        tables.mkdir(parents=True, exist_ok=True)
        for earlier in tables.glob("*.tsv"):
            earlier.unlink()
    for key, table in tables_of(sections).items():
        with whole_file(tables / f"{key}.tsv") as place:
            table.to_csv(place, sep="\t", index=False, lineterminator="\n")
    with whole_file(path) as place:
        place.write_text(page, encoding="utf-8")
    return path


def report_sections(cohort: Cohort, *, baseline: str = "") -> tuple[Section, ...]:
    """All that the store holds for a report; what has not been computed yet is a section that names its command."""
    cohort = cohort if cohort.keeps_runs else cohort.opened_once(runs=True)
    annotated = tuple(cohort.annotated_tiles()) if cohort.has(n.ANNOTATIONS) else ()
    return (
        cohort_section(cohort.images(lazy=False), annotated),
        quarantine_section(cohort.quarantine().load(), lines_by_verb(cohort)),
        *SECTIONS[cohort.task.name](cohort, baseline),
        provenance_section(_provenance(cohort)),
    )


def _foreword(cohort: Cohort) -> list[Note]:
    """What readers must know before all numbers, and what the cohort is."""
    annotated = tuple(cohort.annotated_tiles()) if cohort.has(n.ANNOTATIONS) else ()
    remark = [Note(cohort.remark, "doubtful")] if cohort.remark else []
    return [*remark, Note(cohort_sentence(cohort.images(lazy=False), annotated))]


def _default_path(cohort: Cohort) -> Path:
    if not cohort.location.is_local:
        return Path("report.html")
    return cohort.location.path.with_name(f"{cohort.location.path.stem}_report.html")


def _baseline(cohort: Cohort, asked: str | None) -> str:
    known = cohort.run_names()
    if asked is not None and asked not in known:
        raise unknown_name("run", asked, known)
    if asked is not None:
        return asked
    return BASELINE if BASELINE in known or not known else known[0]


def _provenance(cohort: Cohort) -> dict[str, dict[str, Any]]:
    return {name: cohort.run_attrs(name)[n.PROVENANCE] for name in cohort.run_names()}
