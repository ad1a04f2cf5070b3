"""Class masks into the store, and what people must know of how they were read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fintune_xr import names as n
from fintune_xr.errors import SettingsError
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.semantic.class_placement import class_placement_lines
from fintune_xr.pipelines.task_parts.requests import AnnotateRequest, CodeReading
from fintune_xr.store.annotations.semantic import ClassMasksReport, annotate_classes
from fintune_xr.store.annotations.semantic_layouts import choose_class_layout
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.legend_files import parse_legend
from fintune_xr.tasks.legends import Legend, choose_legend, doubtful_codes, outside_codes


def annotate_tissue(cohort: Cohort, source: str | Path, request: AnnotateRequest) -> ClassMasksReport:
    """Stores class masks with the legend of their codes; says where nothing can be checked against a legend.

    Raises SettingsError for a legend that cannot be read.
    """
    chosen = choose_class_layout(request.layout or "classes", pattern=request.pattern)
    legend = _legend(request.codes, chosen.legend)
    report = annotate_classes(
        cohort, source, chosen.names, legend=legend, restart=request.restart, command=request.command
    )
    if report.legend is not None and not report.legend.is_named:
        codes = ", ".join(str(code) for code, _ in report.legend.rows)
        say(f"annotate: no legend, so classes cannot be checked by name; codes: {codes}. Give one: --legend FILE.tsv")
    placed = class_placement_lines(cohort) if cohort.has(n.ANNOTATIONS) else []
    report = replace(report, told=(*report.told, *placed))
    for line in [*report.told, *_doubts(report.legend)]:
        say(f"annotate: {line}")
    if report.from_palette:
        say(f"annotate: of {len(report.from_palette)} masks with a palette its numbers are the codes, not its colours")
    return report


def _doubts(legend: Legend | None) -> list[str]:
    """What must be known of codes that are ignored although nobody said so, or that are not."""
    if legend is None:
        return []
    return [
        f"code {code} is {legend.meanings[code]!r} and counts as none of the classes. If nothing is known of its "
        f"pixels, annotate again with --restart --ignore {code}"
        for code in doubtful_codes(legend)
    ]


def _legend(codes: CodeReading, built_in: str) -> Legend | None:
    if codes.legend is not None:
        path = Path(codes.legend)
        if not path.is_file():
            raise SettingsError(f"no legend at {path}. Give --legend an existing table (label, code, colour) or JSON.")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is no text in UTF-8 ({error.reason}); save the legend so") from error
        legend = parse_legend(text, name=path.stem, source=path.name, ignored=tuple(codes.ignore or ()))
        return legend if codes.ignore is not None else replace(legend, ignored=outside_codes(legend))
    if not built_in:
        if codes.ignore:
            raise SettingsError("--ignore names codes of a legend, and there is none. Give one: --legend FILE.tsv")
        return None
    legend = choose_legend(built_in)
    return legend if codes.ignore is None else replace(legend, ignored=tuple(codes.ignore))
