"""The log of a training on Weights & Biases, where that is asked for. Nothing is sent but settings and the log's rows.

Key and address are those of wandb's own environment (`WANDB_API_KEY`, `wandb login`), never settings.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fintune_xr.errors import MissingPackageError
from fintune_xr.finetune.progress import EpochRecord, Report
from fintune_xr.finetune.settings import FitSettings


def require_wandb(settings: FitSettings) -> Any:
    """The package, where `settings` ask for it. Raises MissingPackageError where it is not installed."""
    if not settings.wandb:
        return None
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise MissingPackageError(
            "wandb=true needs the package wandb: install the extra 'wandb' (pip install 'fintune-xr[wandb]'), or leave "
            "the setting out; the log is in the folder of the training all the same"
        ) from error


@contextlib.contextmanager
def with_wandb(settings: FitSettings, facts: Mapping[str, Any], out: Path, report: Report | None) -> Iterator[Report]:
    """What is told of each epoch: `report`, and wandb where it is asked for.

    The run there has the name of the folder `out`, the group of what the training starts from, and an id that follows
    from `facts`, so that a training that was killed goes on in the same one.
    """
    wandb = require_wandb(settings)
    run = None
    if wandb is not None:
        start = facts.get("start") or {}
        run = wandb.init(
            project=settings.wandb_project, entity=settings.wandb_entity, group=start.get("name", "new"),
            name=out.name, id=f"{out.name}-{facts['digest'][:16]}", resume="allow", dir=str(out),
            config=settings.as_dict(), save_code=False,
        )  # fmt: skip

    def both(record: EpochRecord) -> None:
        if run is not None:
            run.log(record.row(), step=record.epoch)
        if report is not None:
            report(record)

    try:
        yield both
    finally:
        if run is not None:
            run.finish()
