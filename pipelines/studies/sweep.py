"""Sweep of SAM's automatic mask generation over annotated tiles; every tile is stored as it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import CheckpointError
from fintune_xr.metrics.instance import IOU_THRESHOLDS, Matches, match_masks
from fintune_xr.metrics.intervals import instance_scores, scores_by_donor
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.devices import finish, peak_memory, resolve_device, start_measuring
from fintune_xr.models.protocol import Plane
from fintune_xr.models.registry import kind_named, resolve_checkpoint
from fintune_xr.models.sam.colours import composite, sam_channels
from fintune_xr.models.sam.masks import Candidates, Promptable, candidate_masks, paint, select
from fintune_xr.models.sam.settings import SamSweepSettings
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.studies.prompt_study import prompted_study
from fintune_xr.pipelines.studies.study import Study, carry_out
from fintune_xr.pixels.real_part import real_part, tile_pixels
from fintune_xr.provenance import provenance
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.split import part_to_score
from fintune_xr.tasks.instance import SWEEP
from fintune_xr.tasks.task import SEMANTIC
from fintune_xr.text import texts

RESAMPLES: Final = 1000
_COUNTS: Final = (n.TP, n.FP, n.FN)
_FILTERS: Final = (n.PRED_IOU_THRESH, n.STABILITY_SCORE_THRESH, n.BOX_NMS_THRESH)


@gives_named_labels
def sweep(
    store: str | Path,
    *,
    model: str,
    split: str = n.TEST,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    restart: bool = False,
) -> xr.Dataset:
    """Counts and scores of every setting on annotated tiles of `split`, as SWEEP declares, stored in `metrics/sweep`.

    At the end, scores have 95 % intervals over donors, where there are two.

    On stained tissue it is another study: masks for prompts that are drawn from the truth, see `prompted_study`.

    `model` is SAM or micro-SAM weights by path or name; settings are those of `SamSweepSettings`. A tile is embedded
    once and each grid of points decoded once, whatever the number of thresholds. Run it again to continue after an
    interruption; `restart` throws a stored sweep away.

    Raises CheckpointError for weights that are not SAM's, RunMismatchError where the stored sweep has other weights,
    settings or tiles, RunBusyError where another process is sweeping.
    """
    cohort = open_cohort(store).opened_once()
    cohort.require("sweep")
    if cohort.task.name == SEMANTIC:
        return prompted_study(
            cohort, model=model, split=split, config=config, overrides=overrides, device=device, restart=restart
        )
    settings = load_settings(SamSweepSettings, config, overrides)
    checkpoint, load = _promptable(model)
    tiles = drawn_tiles(part_to_score(cohort, split).tiles, settings)
    device = resolve_device(device)
    choice = sam_channels(texts(tiles[n.CHANNEL]), settings)
    work = _Work(load, checkpoint, settings, choice, device)
    study = Study(
        cohort=cohort, path=n.SWEEP_PATH, lock=n.SWEEP, what="sweeping", schema=SWEEP,
        identity=_identity(cohort, checkpoint, settings, split, tiles), labels=("model",),
        remedy="Repeat what it was started with to continue it, or throw it away with --restart.",
    )  # fmt: skip
    return carry_out(study, partial(_swept, cohort, work, tiles), restart=restart)


def drawn_tiles(tiles: xr.Dataset, settings: SamSweepSettings) -> xr.Dataset:
    """`n_tiles` of `tiles`, or all of them where there are fewer; the first ones drawn do not depend on `n_tiles`."""
    order = stream(settings.seed, "tiles of a sweep").permutation(tiles.sizes[n.TILE])
    if order.size < settings.n_tiles:
        say(f"sweep: {order.size} annotated tiles, not {settings.n_tiles}; all of them are taken")
    return tiles.isel({n.TILE: order[: settings.n_tiles]})


@dataclass(frozen=True)
class _Work:
    """What is done to every tile; the network is loaded for the first of them."""

    load: Callable[[Checkpoint, str], Promptable[Any]]
    checkpoint: Checkpoint
    settings: SamSweepSettings
    choice: ChannelChoice
    device: str

    @cached_property
    def network(self) -> Promptable[Any]:
        """What answers to points."""
        return self.load(self.checkpoint, self.device)


def _promptable(model: str) -> tuple[Checkpoint, Callable[[Checkpoint, str], Any]]:
    """The checkpoint, and how its network is loaded to be asked by points."""
    checkpoint = resolve_checkpoint(model)
    load = kind_named(checkpoint.kind).promptable
    if load is None:
        raise CheckpointError(
            f"{model} is a model of kind {checkpoint.kind}; a sweep varies SAM's automatic mask generation. "
            "Give weights of SAM or micro-SAM; `fintune-xr weights list` shows published ones."
        )
    return checkpoint, load


def _identity(
    cohort: Cohort, checkpoint: Checkpoint, settings: SamSweepSettings, split: str, tiles: xr.Dataset
) -> dict[str, Any]:
    """What results depend on. JSON values, to be compared with those that were stored."""
    drawn = texts(tiles[n.TILE])
    truth = cohort.annotations(lazy=False)
    digests = dict(zip(texts(truth[n.TILE]), texts(truth[n.SHA256]), strict=True))
    return {
        "model": checkpoint.name,
        "checkpoint_sha256": checkpoint.sha256,
        "settings": settings.as_dict(),
        n.SPLIT: split,
        "tiles": drawn,
        n.ANNOTATIONS: [digests[tile] for tile in drawn],
    }


def _swept(cohort: Cohort, work: _Work, tiles: xr.Dataset, stored: xr.Dataset | None) -> Iterator[xr.Dataset]:
    """Results of the tiles so far, each time by one tile more than what is `stored`."""
    done = _single_tiles(stored)
    n_tiles, n_before = tiles.sizes[n.TILE], len(done)
    facts = provenance(checkpoint=work.checkpoint.as_dict(), device=work.device)
    truth = cohort.annotations(lazy=False)[n.MASK]
    with progress("sweep", n_tiles - n_before) as advance:
        for i in range(n_before, n_tiles):
            name = texts(tiles[n.TILE])[i]
            true = truth.sel({n.TILE: name}).isel(real_part(tiles, truth.dims, i)).values
            one = _of_tile(work, tile_pixels(tiles, i), true).expand_dims({n.TILE: [name]})
            done = [*done, one.assign_coords({n.DEVICE: (n.TILE, [work.device])})]
            yield _scored(done, tiles, seed=work.settings.seed).assign_attrs({n.PROVENANCE: facts})
            advance(1)


def _single_tiles(stored: xr.Dataset | None) -> list[xr.Dataset]:
    """What was counted in each tile."""
    if stored is None:
        return []
    # Without what is said of each: scores of what was stored shall say what scores of what was just counted do.
    counted = stored[list(SWEEP.variables)].drop_vars([n.DONOR, n.MARKER]).drop_attrs()
    return [counted.isel({n.TILE: [i]}) for i in range(stored.sizes[n.TILE])]


def _scored(done: Sequence[xr.Dataset], tiles: xr.Dataset, *, seed: int) -> xr.Dataset:
    """The tiles done so far beside each other, with the scores over them."""
    plain = [one.assign_coords({n.TILE: texts(one[n.TILE]), n.DEVICE: (n.TILE, texts(one[n.DEVICE]))}) for one in done]
    counted = xr.concat(plain, n.TILE, join="exact")
    counted = counted.map(lambda array: array.transpose(*SWEEP[str(array.name)].dims), keep_attrs=True)
    labels = {name: (n.TILE, texts(tiles[name])[: len(done)]) for name in (n.DONOR, n.MARKER)}
    scores = _scores(counted[list(_COUNTS)].drop_vars(n.DEVICE), tiles, seed=seed)
    whole = xr.merge([counted, scores], join="exact").assign_coords(labels)
    for name in (*SWEEP.variables, *SWEEP.coords):
        whole[name].attrs.update(SWEEP[name].attrs)
    return whole


def _scores(counts: xr.Dataset, tiles: xr.Dataset, *, seed: int) -> xr.Dataset:
    """Scores over the tiles done so far; with intervals over donors once all are done, if there are two donors."""
    n_done = counts.sizes[n.TILE]
    donor = xr.DataArray(texts(tiles[n.DONOR])[:n_done], dims=n.TILE, coords={n.TILE: counts[n.TILE].values})
    if n_done < tiles.sizes[n.TILE] or len(set(texts(donor))) < 2:
        return instance_scores(counts, over=n.TILE)
    return scores_by_donor(counts, donor, n_flips=RESAMPLES, seed=seed)


def _of_tile(work: _Work, tile: Plane, true: NDArray[np.uint32]) -> xr.Dataset:
    """All settings on one tile (channel, y, x) and its annotation (y, x)."""
    settings = work.settings
    loosest = (min(settings.pred_iou_thresh), min(settings.stability_score_thresh))
    began = time.perf_counter()
    embedded = work.network.embed(composite(tile, work.choice, settings))
    finish(work.device)
    embedding = time.perf_counter() - began
    parts = []
    for side in settings.points_per_side:
        start_measuring(work.device)
        began = time.perf_counter()
        candidates = candidate_masks(work.network, embedded, points_per_side=side, loosest=loosest, options=settings)
        decoding = time.perf_counter() - began
        found = _filtered(candidates, true, settings)
        parts.append(found.assign({n.SECONDS_DECODING: decoding, n.PEAK_MEMORY: peak_memory(work.device)}))
    sides = xr.Variable((n.POINTS_PER_SIDE,), np.array(settings.points_per_side, np.int64))
    whole = xr.concat(parts, sides.to_index_variable(), join="exact")
    return whole.assign({n.SECONDS_EMBEDDING: embedding})


def _filtered(candidates: Candidates, true: NDArray[np.uint32], settings: SamSweepSettings) -> xr.Dataset:
    """Every filter on the masks of one grid of points: counts (…, threshold), instances and seconds (…)."""
    grid = {name: np.array(getattr(settings, name), np.float64) for name in _FILTERS}
    matched: list[Matches] = []
    seconds: list[float] = []
    for iou, stability, overlap in product(*(getattr(settings, name) for name in _FILTERS)):
        began = time.perf_counter()
        kept = select(candidates, (iou, stability), box_nms_thresh=overlap)
        matched.append(match_masks(true, paint(candidates, kept, settings)))
        seconds.append(time.perf_counter() - began)
    shape = tuple(values.size for values in grid.values())
    counts = {
        name: ((*_FILTERS, n.THRESHOLD), np.array([getattr(one, name) for one in matched]).reshape(*shape, -1))
        for name in _COUNTS
    }
    found = {
        n.N_CELLS: (_FILTERS, np.array([one.n_predicted for one in matched], np.int64).reshape(shape)),
        n.SECONDS: (_FILTERS, np.array(seconds).reshape(shape)),
    }
    return xr.Dataset(counts | found, coords={**grid, n.THRESHOLD: list(IOU_THRESHOLDS)})
