"""Cohort-scale biomedical vision in one labelled Zarr store, with statistics one can trust.

Every verb of the command line is a function here: `import fintune_xr as fx; fx.ingest("raw", "cohort.zarr")`.
Modules are imported when they are first used, so that importing the package costs little and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fintune_xr.pipelines.annotate import annotate
    from fintune_xr.pipelines.associate import associate
    from fintune_xr.pipelines.benchmark import benchmark
    from fintune_xr.pipelines.bootstrap import bootstrap
    from fintune_xr.pipelines.budget import budget
    from fintune_xr.pipelines.check import check
    from fintune_xr.pipelines.demo import demo
    from fintune_xr.pipelines.evaluate import evaluate
    from fintune_xr.pipelines.export import export
    from fintune_xr.pipelines.gate import gate
    from fintune_xr.pipelines.hybrid import hybrid
    from fintune_xr.pipelines.infer import infer
    from fintune_xr.pipelines.ingest import ingest
    from fintune_xr.pipelines.pick import pick
    from fintune_xr.pipelines.positivity import positivity
    from fintune_xr.pipelines.report import report
    from fintune_xr.pipelines.selftrain import selftrain
    from fintune_xr.pipelines.split import split
    from fintune_xr.pipelines.sweep import sweep
    from fintune_xr.pipelines.train import train
    from fintune_xr.store.cohort import open_cohort

__all__ = [
    "annotate",
    "associate",
    "benchmark",
    "bootstrap",
    "budget",
    "check",
    "demo",
    "evaluate",
    "export",
    "gate",
    "hybrid",
    "infer",
    "ingest",
    "open_cohort",
    "pick",
    "positivity",
    "report",
    "selftrain",
    "split",
    "sweep",
    "train",
]

_ELSEWHERE = {"open_cohort": "fintune_xr.store.cohort"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fintune_xr' has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, f"fintune_xr.pipelines.{name}")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
