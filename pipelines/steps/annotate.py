"""Ground truth into a cohort store, in the form of its task."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, Unpack

from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.instance.annotate_regions import annotate_tissue_regions
from fintune_xr.pipelines.task_parts.requests import Annotated, AnnotateRequest, CodeReading, MaskReading
from fintune_xr.pipelines.tasks import steps_of
from fintune_xr.store.annotations.instance_labels import Pieces
from fintune_xr.store.annotations.micrograph_frames import Reading
from fintune_xr.store.annotations.unused_files import empty_lines, note_unused, unused_lines
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.ingest.tiles import root_of
from fintune_xr.store.lineage.same_annotations import same_annotations
from fintune_xr.store.raw.coordinates import Frame
from fintune_xr.store.raw.extra_files import extra_lines
from fintune_xr.store.raw.length_units import Unit
from fintune_xr.store.raw.readers.drawings.painting import Overlap
from fintune_xr.store.split import without_part_lines
from fintune_xr.tasks.task import DETECTION, INSTANCE, SEMANTIC

_RECORDS: Final[Mapping[str, tuple[type[Any], str, str]]] = {
    "masks": (MaskReading, INSTANCE, "masks of cells"),
    "particles": (Reading, DETECTION, "particles"),
    "codes": (CodeReading, SEMANTIC, "class masks of stained tissue"),
}
"""The records that options of `annotate` make up, the task that knows each, and what it is about."""


class AnnotateOptions(TypedDict, total=False):
    """Keywords of `annotate` that a single task knows.

    Masks of cells: labels in several pieces are refused unless `pieces` says that they are kept, or split into one
    instance for each piece. What other tools draw is painted; pixels of two objects are refused, or belong to the
    `overlap` first or last. With `join` each file, or each page of one, is one cell, and those of one tile are its mask
    together. `marks` says whether the masks outline all cells of a tile or its marker-positive cells alone, without
    which no share is held against them. They are masks of the run that it `corrects`, corrected by somebody: the store
    records what was changed, and such tiles are no test of that run; those that came back as they were are left out,
    unless `accept_unchanged`. Of drawn objects those of `classes` are cells, which must be said where there are several
    of them; `unit` and `scale` say what their coordinates are.

    Particles: `diameter` in the `unit` of the coordinates where they tell none, `frame` image or file where rows are
    not counted as usual for the format, `scale` pixels of the micrograph's file per pixel of the coordinates; with
    `drop_outside` points outside a micrograph are left away, otherwise its file is left out. Of points closer together
    than `merge_closer`, in the same unit, the first is kept; those closer than half a diameter are named.

    Class masks: `legend` is a table or JSON of what their codes mean (label, code; built in for the layouts bcss and
    ebhi), or their colours (label, colour, and code or not), and `ignore` lists the codes of pixels of which nothing is
    known.
    """

    pieces: Pieces | None
    overlap: Overlap | None
    join: bool
    marks: Literal["all", "positive"] | None
    corrects: str | None
    accept_unchanged: bool
    classes: Sequence[str] | None
    diameter: float | None
    frame: Frame | None
    scale: float
    unit: Unit | None
    drop_outside: bool
    merge_closer: float | None
    legend: str | Path | None
    ignore: Sequence[int] | None


def annotate(
    source: str | Path,
    store: str | Path,
    *,
    layout: str | None = None,
    pattern: str | None = None,
    restart: bool = False,
    dry_run: bool = False,
    kind: Literal["truth", "regions"] = "truth",
    **options: Unpack[AnnotateOptions],
) -> Annotated:
    """Stores the masks under `source` as annotations of the tiles that they are named after; particles of micrographs.

    `options` are the keywords of `AnnotateOptions`, each of which one task knows. Binary masks become instances by
    8-connected components, which the store records. In a cohort of micrographs `source` is a folder or file of particle
    coordinates (CSV, STAR, BOX, JSON, CS), in one of stained tissue it holds class masks, and what other tools draw
    (layouts seg, rois, geojson, labelme, coco) is painted. With `dry_run` everything is read and nothing is written.
    `restart` throws stored annotations away first. With the `kind` regions the files are no ground truth: each of
    their codes is a region of tissue that `legend` names, and they are stored beside the annotations of a cohort of
    cells.

    Raises UnknownNameError for a layout, FintuneValueError where nothing fits it, a diameter is missing, or an option
    is not known for the cohort's task; TypeError for a keyword that is none.
    """
    records = _records(options)
    cohort = open_cohort(store)
    if kind == "regions":
        asked = AnnotateRequest(layout=layout, pattern=pattern, restart=restart, dry_run=dry_run, **records)
        return annotate_tissue_regions(cohort, source, asked)
    _check_options(cohort, records, dry_run=dry_run)
    request = AnnotateRequest(layout=layout, pattern=pattern, restart=restart, dry_run=dry_run, **records)
    request = replace(request, command=typed_command(source, cohort, request))
    report = steps_of(cohort).annotate(cohort, source, request)
    # Not every task looks through a folder: labels of scans come from a table.
    ignored = getattr(report, "ignored", {})
    empty = empty_lines(getattr(report, "empty", ()), report.n_added + report.n_present)
    for line in [*extra_lines(ignored, products=True), *empty]:
        say(f"annotate: {line}")
    if not dry_run:
        twins = same_annotations(cohort)
        for line in [*twins, *without_part_lines(cohort)]:
            say(f"annotate: {line}")
        told = [*getattr(report, "told", ()), *empty, *twins]
        note_unused(cohort, source, [*unused_lines(ignored, report.left_out), *told])
    return report


def typed_command(source: str | Path, cohort: Cohort, request: AnnotateRequest) -> str:
    """The command line that asks for the same, with whole paths."""
    said: dict[str, Any] = {"layout": request.layout, "pattern": request.pattern, "restart": request.restart}
    for name, (kind, *_) in _RECORDS.items():
        given, usual = getattr(request, name), kind()
        words = [field.name for field in fields(kind)]
        said |= {word: getattr(given, word) for word in words if getattr(given, word) != getattr(usual, word)}
    tokens = ["fintune-xr", "annotate", root_of(str(source)), cohort.url]
    for word, value in said.items():
        if value is None or value is False:
            continue
        values = () if value is True else value if isinstance(value, (tuple, list)) else (value,)
        tokens += [_option(word), *map(str, values)]
    return shlex.join(tokens)


def _option(word: str) -> str:
    """The option of the command line that is the keyword `word`."""
    return f"--{word.replace('_', '-')}"


def _records(options: Mapping[str, Any]) -> dict[str, Any]:
    """The records that `options` make up, by the name that a request has for each."""
    words = {name: [field.name for field in fields(kind)] for name, (kind, *_) in _RECORDS.items()}
    known = [word for own in words.values() for word in own]
    for word in options.keys() - set(known):
        near = get_close_matches(word, known, 1)
        hint = f". Did you mean {near[0]!r}?" if near else f"; it knows {', '.join(known)}"
        raise TypeError(f"annotate() got an unexpected keyword argument {word!r}{hint}")
    return {
        name: kind(**{word: options[word] for word in words[name] if word in options})
        for name, (kind, *_) in _RECORDS.items()
    }


def _check_options(cohort: Cohort, records: Mapping[str, Any], *, dry_run: bool) -> None:
    """Refuses options that the cohort's task does not know, rather than leave them without effect."""
    task = cohort.task.name
    # Some words are about annotations of two tasks.
    known = {field.name for kind, own, _ in _RECORDS.values() for field in fields(kind) if own == task}
    for name, (kind, _, about) in _RECORDS.items():
        words = [field.name for field in fields(kind) if field.name not in known]
        if any(getattr(records[name], word) != getattr(kind(), word) for word in words):
            words = [_option(word) for word in words]
            raise FintuneValueError(
                f"{', '.join(words[:-1])} and {words[-1]} are about {about}; this cohort is of the task {task!r}"
            )
    if dry_run and task not in (INSTANCE, DETECTION):
        raise FintuneValueError(f"--dry-run is not known for the task {task!r}. Annotate a copy of the store.")
