"""The verbs of the command line, in the order in which one meets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fintune_xr.pipelines.cli import classification, data, models, quality, statistics
from fintune_xr.pipelines.cli import detection as particles

GROUPS: Final = ("Data", "Models", "Studies", "Statistics", "Particles")
"""How `fintune-xr --help` groups them, in this order."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb: what reads its arguments, the module below `pipelines` with the function of its name, and its group.

    That function is what `fintune_xr` offers; its stub file `__init__.pyi` names it too.
    """

    call: Callable[..., int]
    module: str
    group: str

    @property
    def name(self) -> str:
        """What is typed."""
        return self.call.__name__


VERBS: Final = {
    verb.name: verb
    for verb in (
        Verb(data.demo, "demos.demo", group="Data"),
        Verb(data.ingest, "steps.ingest", group="Data"),
        Verb(data.annotate, "steps.annotate", group="Data"),
        Verb(data.split, "steps.split", group="Data"),
        Verb(models.train, "steps.train", group="Models"),
        Verb(models.selftrain, "studies.selftrain", group="Particles"),
        Verb(models.infer, "steps.infer", group="Models"),
        Verb(statistics.positivity, "steps.positivity", group="Statistics"),
        Verb(statistics.measure, "steps.measure", group="Statistics"),
        Verb(particles.pick, "steps.pick", group="Particles"),
        Verb(classification.probe, "studies.probe", group="Studies"),
        Verb(models.classify, "steps.classify", group="Models"),
        Verb(data.import_run, "steps.import_run", group="Data"),
        Verb(models.evaluate, "steps.evaluate", group="Models"),
        Verb(models.hybrid, "studies.hybrid", group="Studies"),
        Verb(models.benchmark, "studies.benchmark", group="Studies"),
        Verb(models.gate, "studies.gate", group="Studies"),
        Verb(models.sweep, "studies.sweep", group="Studies"),
        Verb(quality.suggest, "steps.suggest", group="Studies"),
        Verb(models.budget, "studies.budget", group="Studies"),
        Verb(quality.qc, "steps.qc", group="Statistics"),
        Verb(statistics.associate, "steps.associate", group="Statistics"),
        Verb(statistics.bootstrap, "steps.bootstrap", group="Statistics"),
        Verb(statistics.report, "report.report", group="Statistics"),
        Verb(data.check, "steps.check", group="Data"),
        Verb(data.doctor, "steps.doctor", group="Data"),
        Verb(data.export, "steps.export", group="Data"),
        Verb(data.view, "steps.view", group="Data"),
        Verb(models.weights, "steps.weights", group="Models"),
    )
}
