"""Masks of cells in a study of trainings: the tiles that teach something, and matches on those that judge."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError
from fintune_xr.finetune.instance.settings import TrainSettings
from fintune_xr.finetune.instance.tiles import AnnotatedTiles
from fintune_xr.metrics.instance import IOU_THRESHOLDS, match_masks
from fintune_xr.metrics.intervals import instance_scores
from fintune_xr.models.channels import with_planes
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.flow_unet.kind import FLOW_UNET
from fintune_xr.models.protocol import segment
from fintune_xr.models.registry import kind_named, load_segmenter
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.instance.training import tiles_for_training
from fintune_xr.pipelines.task_parts.learning import Learning
from fintune_xr.settings import validate
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import annotated_tiles
from fintune_xr.text import texts

_COUNTS: Final = (n.TP, n.FP, n.FN)


def learning_of_masks(cohort: Cohort, settings: Any, start: Checkpoint | None) -> Learning:
    """Tiles with enough cells to learn from; markers take turns.

    Raises FintuneValueError for settings of a model that does not learn masks, SplitError where no tile is left.
    """
    if not isinstance(settings, TrainSettings):
        raise FintuneValueError(
            f"expected a model that learns masks, e.g. {FLOW_UNET.name}; got {type(settings).__name__}"
        )
    train, val, test = (tiles_for_training(cohort, part) for part in n.SPLITS)
    trained, zeroed = (start.channels, start.zeroed) if start is not None else ((), ())
    settings = with_planes(settings, train.channels, trained=trained, zeroed=zeroed)
    tiles = annotated_tiles(cohort)
    return Learning(
        train=_with_cells(train, settings.min_cells),
        val=val,
        test=test,
        turns=dict(zip(texts(tiles[n.TILE]), texts(tiles[n.MARKER]), strict=True)),
        settings=settings,
        settings_on=lambda _: settings,
        counts=partial(_counts, test, settings),
        nothing=_labelled(test, np.zeros((len(_COUNTS), len(test), len(IOU_THRESHOLDS)), np.int64)),
        scores=partial(instance_scores, over=n.TILE),
    )


def _with_cells(tiles: AnnotatedTiles, min_cells: int) -> AnnotatedTiles:
    """The tiles that a training takes: a budget of n tiles must be n tiles that teach something."""
    enough = [i for i in range(len(tiles)) if int(tiles.read(i)[1].max(initial=0)) >= min_cells]
    if not enough:
        raise SplitError(f"none of {len(tiles)} train tiles has {min_cells} or more cells; lower min_cells")
    if len(enough) < len(tiles):
        say(f"{len(tiles) - len(enough)} of {len(tiles)} train tiles have fewer than {min_cells} cells: left out")
    return tiles.chosen(enough)


def _counts(tiles: AnnotatedTiles, settings: TrainSettings, checkpoint: Checkpoint) -> xr.Dataset:
    """tp, fp, fn (tile, threshold) of `tiles`, segmented one at a time."""
    kind = kind_named(checkpoint.kind).settings
    dynamics = validate(kind, {"dynamics": settings.dynamics.as_dict()}, where=f"settings of {checkpoint.kind}")
    segmenter = load_segmenter(
        checkpoint, channels=tiles.channels, settings=dynamics, device=settings.device, keep=False
    )  # fmt: skip
    found = []
    for index in range(len(tiles)):
        image, mask = tiles.read(index)
        found.append(match_masks(mask, segment(segmenter, [image])[0]))
    return _labelled(tiles, np.array([[getattr(one, name) for one in found] for name in _COUNTS]))


def _labelled(tiles: AnnotatedTiles, values: Any) -> xr.Dataset:
    counts = {name: ((n.TILE, n.THRESHOLD), value) for name, value in zip(_COUNTS, values, strict=True)}
    return xr.Dataset(counts, coords={n.TILE: list(tiles.names), n.THRESHOLD: list(IOU_THRESHOLDS)})
