"""The verbs of the command line, in the order in which one meets them. Each calls the public function of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fintune_xr.pipelines.cli import classification, data, models, statistics
from fintune_xr.pipelines.cli import detection as particles

VERBS: Mapping[str, Callable[..., int]] = {
    verb.__name__: verb
    for verb in (
        data.demo,
        data.ingest,
        data.annotate,
        data.split,
        models.train,
        models.selftrain,
        models.infer,
        statistics.positivity,
        particles.pick,
        classification.probe,
        models.evaluate,
        models.hybrid,
        models.benchmark,
        models.gate,
        models.sweep,
        models.budget,
        statistics.associate,
        statistics.bootstrap,
        statistics.report,
        data.check,
        data.export,
        models.weights,
    )
}
