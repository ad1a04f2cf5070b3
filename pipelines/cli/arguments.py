"""Arguments that verbs share, exit statuses, and how things are printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

DONE = 0
WITH_QUARANTINE = 3

Store = Annotated[str, Parameter(help="Path or URL of the cohort store.")]
Run = Annotated[str, Parameter(help="Name of the run.")]
Runs = Annotated[
    tuple[str, ...],
    Parameter(name=["--run"], negative="", help="A run; give it several times. Default: all."),
]
Part = Annotated[str, Parameter(help="Part of the split: train, val, test, or all.")]
Config = Annotated[Path | None, Parameter(help="YAML file with settings, or the name of a shipped one.")]
Overrides = Annotated[str, Parameter(help="Settings as key=value, e.g. model.sigma_px=2.", show_default=False)]
Cluster = Annotated[
    str,
    Parameter(help="Profile: threads, processes, cuda, slurm-cpu, slurm-cuda, slurm-l40s, or a YAML file."),
]
Where = Annotated[
    str,
    Parameter(help="Train on a worker of this profile (processes, cuda, slurm-cuda, …); default: right here."),
]


def show(*what: object) -> None:
    """Prints on standard output, as plain text."""
    console = Console(highlight=False, soft_wrap=True)
    for one in what:
        console.print(one, markup=False)


def table(frame: Any) -> str:
    """A data frame as text."""
    return str(frame.to_string(index=False)) if len(frame) else "(nothing)"
