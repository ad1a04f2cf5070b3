"""Class masks into the store, and what people must know of how they were read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.task_parts.requests import AnnotateRequest
from fintune_xr.store.annotations.micrograph_frames import Reading
from fintune_xr.store.annotations.semantic import ClassMasksReport, annotate_classes
from fintune_xr.store.annotations.semantic_layouts import choose_class_layout
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.legends import Legend, choose_legend, parse_legend


def annotate_tissue(cohort: Cohort, source: str | Path, request: AnnotateRequest) -> ClassMasksReport:
    """Stores class masks with the legend of their codes; says where nothing can be checked against a legend.

    Raises FintuneValueError for options about particles, SettingsError for a legend that cannot be read.
    """
    if request.reading != Reading():
        raise FintuneValueError("--diameter, --frame and --scale are about particles; this cohort has class masks")
    chosen = choose_class_layout(request.layout or "classes", pattern=request.pattern)
    legend = _legend(request, chosen.legend)
    report = annotate_classes(cohort, source, chosen.names, legend=legend, restart=request.restart)
    if report.legend is not None and not report.legend.is_named:
        codes = ", ".join(str(code) for code, _ in report.legend.rows)
        say(f"annotate: no legend, so classes cannot be checked by name; codes: {codes}. Give one: --legend FILE.tsv")
    if report.from_palette:
        say(f"annotate: of {len(report.from_palette)} masks with a palette its numbers are the codes, not its colours")
    return report


def _legend(request: AnnotateRequest, built_in: str) -> Legend | None:
    if request.legend is not None:
        path = request.legend
        if not path.is_file():
            raise SettingsError(f"no legend at {path}. Give --legend an existing table (label, tab, code).")
        return parse_legend(
            path.read_text(encoding="utf-8"), name=path.stem, source=path.name, ignored=request.ignore or ()
        )
    if not built_in:
        if request.ignore:
            raise SettingsError("--ignore names codes of a legend, and there is none. Give one: --legend FILE.tsv")
        return None
    legend = choose_legend(built_in)
    return legend if request.ignore is None else replace(legend, ignored=tuple(request.ignore))
