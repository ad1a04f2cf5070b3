"""Fine-tuning on the annotated tiles of the train part, judged on the val part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import SplitError, unknown_name
from fintune_xr.finetune.data import AnnotatedTiles
from fintune_xr.finetune.engine import train as fit
from fintune_xr.finetune.progress import EpochRecord
from fintune_xr.finetune.settings import train_settings
from fintune_xr.models.checkpoints import FLOW_UNET_KIND, resolve_checkpoint
from fintune_xr.pipelines.progress import say
from fintune_xr.pipelines.split import annotated_tiles, require_split
from fintune_xr.settings import Config, load_settings
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs import check_run_name
from fintune_xr.text import text_array, texts


def train(
    store: str | Path,
    *,
    run_name: str,
    model: str = FLOW_UNET_KIND,
    out: str | Path = "models",
    config: Config = None,
    markers: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Path:
    """Folder `out/run_name` with the checkpoint whose AP50 on the val part is best.

    `model` is flow_unet (a small network from random weights) or a checkpoint to fine-tune. `markers` limits
    training and validation to tiles of these markers. Run it again to continue after an interruption.

    Raises SplitError without a valid split or without tiles in a part, UnknownNameError for a marker.
    """
    cohort = open_cohort(store)
    check_run_name(run_name)
    digest = require_split(cohort)
    start = None if model == FLOW_UNET_KIND else resolve_checkpoint(model)
    kind = FLOW_UNET_KIND if start is None else start.kind
    settings = load_settings(train_settings(kind), config, overrides)
    parts = {part: tiles_for_training(cohort, part, markers) for part in (n.TRAIN, n.VAL)}
    folder = Path(out) / run_name
    say(f"train {run_name}: {len(parts[n.TRAIN].names)} tiles, {len(parts[n.VAL].names)} for validation")
    made = fit(
        parts[n.TRAIN],
        parts[n.VAL],
        settings=settings,
        out=folder,
        start=start,
        facts={"split_digest": digest},
        report=_line,
    )
    return Path(made.path).parent


def _line(epoch: EpochRecord) -> None:
    score = "" if math.isnan(epoch.ap50) else f", AP50 {epoch.ap50:.3f}{' (best so far)' if epoch.is_best else ''}"
    say(f"epoch {epoch.epoch + 1}: loss {epoch.loss:.3f}{score}, {epoch.seconds:.1f} s")


def tiles_for_training(cohort: Cohort, part: str, markers: Sequence[str] = ()) -> AnnotatedTiles:
    """Annotated tiles of one part of the split, read one at a time.

    Raises UnknownNameError for a marker without annotated tiles, SplitError where none is left.
    """
    tiles = annotated_tiles(cohort)
    known = sorted(set(texts(tiles[n.MARKER])))
    for marker in markers:
        if marker not in known:
            raise unknown_name("marker with annotations", marker, known)
    chosen = text_array(tiles[n.SPLIT]) == part
    if markers:
        chosen &= np.isin(text_array(tiles[n.MARKER]), list(markers))
    if not chosen.any():
        raise SplitError(f"{cohort.url}: no annotated tile of {', '.join(markers) or 'any marker'} in part {part!r}")
    tiles = tiles.isel({n.TILE: np.flatnonzero(chosen)})
    return AnnotatedTiles(
        names=texts(tiles[n.TILE]),
        channels=tuple(texts(tiles[n.CHANNEL])),
        image=tiles[n.IMAGE],
        mask=_masks_of(cohort, tiles),
        height=tiles[n.HEIGHT].values.tolist(),
        width=tiles[n.WIDTH].values.tolist(),
    )


def _masks_of(cohort: Cohort, tiles: xr.Dataset) -> xr.DataArray:
    truth = cohort.annotations(lazy=False)
    place = {name: i for i, name in enumerate(texts(truth[n.TILE]))}
    return truth[n.MASK].isel({n.TILE: [place[name] for name in texts(tiles[n.TILE])]})
