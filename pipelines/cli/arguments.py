"""Arguments that verbs share, exit statuses, and how things are printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from fintune_xr.pipelines.cli import candidates

DONE = 0
WITH_QUARANTINE = 3

Store = Annotated[str, Parameter(completer=candidates.stores, help="Path or URL of the cohort store.")]
Run = Annotated[str, Parameter(completer=candidates.runs, help="Name of the run.")]
Runs = Annotated[
    tuple[str, ...],
    Parameter(
        completer=candidates.runs, name=["--run"], negative="", help="A run; give it several times. Default: all."
    ),
]
Config = Annotated[Path | None, Parameter(help="YAML file with settings, or the name of a shipped one.")]
Overrides = Annotated[
    str,
    Parameter(completer=candidates.settings, help="Settings as key=value; --settings lists them.", show_default=False),
]
Cluster = Annotated[
    str,
    Parameter(
        completer=candidates.profiles,
        help="Profile: threads, processes, cuda, slurm-cpu, slurm-cuda, slurm-l40s, or a YAML file.",
    ),
]
Where = Annotated[
    str,
    Parameter(
        completer=candidates.profiles,
        help="Train on a worker of this profile (processes, cuda, slurm-cuda, …); default: right here.",
    ),
]


Json = Annotated[
    bool, Parameter(name=["--json"], negative="", help="Print tables as JSON, one object, and nothing else.")
]


def keywords(*records: Any) -> dict[str, Any]:
    """The fields of `records` of options by name; of a record that is None there was nothing given."""
    return {field.name: getattr(one, field.name) for one in records if one is not None for field in fields(one)}


def show(*what: object) -> None:
    """Prints on standard output, as plain text."""
    console = Console(highlight=False, soft_wrap=True)
    for one in what:
        console.print(one, markup=False)


def show_tables(tables: Mapping[str, Any], *, as_json: bool, lines: Sequence[str] | None = None) -> None:
    """Prints data frames one below the other, then `lines`; or one JSON object with a list of rows for each.

    In JSON numbers keep all their digits, what is missing is null, and `said` holds the lines of a verb that has any.
    """
    if as_json:
        parts = {name: _rows(frame) for name, frame in tables.items()}
        parts |= {} if lines is None else {"said": json.dumps([line for line in lines if line])}
        # Printed as it is: a console would wrap lines and read brackets as colours.
        print("{" + ", ".join(f"{json.dumps(name)}: {rows}" for name, rows in parts.items()) + "}")  # noqa: T201
        return
    texts: list[object] = []
    for frame in tables.values():
        texts += [*([""] if texts else []), table(frame)]
    show(*texts, *(lines or ()))


def _rows(frame: Any) -> str:
    return str(frame.to_json(orient="records", double_precision=15, default_handler=str))


def table(frame: Any) -> str:
    """A data frame as text."""
    return str(frame.to_string(index=False)) if len(frame) else "(nothing)"
