"""Label budget: the same training on more and more annotated tiles, each fit recorded as it ends."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.learning_curve import budget_spread, learning_curve
from fintune_xr.analysis.report.studies.budget import CURVE_SCORE
from fintune_xr.cluster.profile import Profile
from fintune_xr.errors import FintuneValueError, RunMismatchError, SplitError
from fintune_xr.finetune.engine import train as fit
from fintune_xr.finetune.engine import training_in
from fintune_xr.finetune.instance.settings import TrainSettings
from fintune_xr.finetune.instance.tiles import AnnotatedTiles
from fintune_xr.finetune.registry import train_settings
from fintune_xr.metrics.counts import IOU
from fintune_xr.metrics.instance import IOU_THRESHOLDS, match_masks
from fintune_xr.metrics.intervals import instance_scores
from fintune_xr.models.channels import with_planes
from fintune_xr.models.checkpoints import RECORD_FILE, Checkpoint
from fintune_xr.models.flow_unet.kind import FLOW_UNET
from fintune_xr.models.protocol import segment
from fintune_xr.models.registry import kind_named, load_segmenter
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.instance.training import tiles_for_training
from fintune_xr.pipelines.steps.train import model_to_train, trained_on
from fintune_xr.pipelines.workers.devices import HERE, profile_and_rest
from fintune_xr.pipelines.workers.remote_calls import results_from_workers, seen_everywhere
from fintune_xr.provenance import provenance
from fintune_xr.settings import Config, load_settings, validated
from fintune_xr.splits.nested_subsets import nested_order
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.annotations_digest import truth_digest
from fintune_xr.store.lineage.depends_on import tiles_in
from fintune_xr.store.lineage.training_exposure import require_unseen_by, seen_in_training
from fintune_xr.store.split import annotated_tiles, require_split
from fintune_xr.store.zarr_io.locks import holding
from fintune_xr.text import texts

DEFAULT_BUDGETS: Final = (2, 5, 10, 20, 30)
RESAMPLES: Final = 200

_COUNTS: Final = (n.TP, n.FP, n.FN)
_FIT: Final = (n.BUDGET, n.SEED)
_UNKNOWN: Final = -1


def budget(
    store: str | Path,
    *,
    budgets: Sequence[int] = (),
    seeds: int = 3,
    model: str = FLOW_UNET.name,
    out: str | Path = "models",
    config: Config = None,
    overrides: Sequence[str] = (),
    skip_existing: bool = True,
    cluster: str = HERE,
) -> xr.Dataset:
    """Scores (budget, seed, group, threshold) on the test tiles of models trained on `budgets` tiles each.

    The subsets of a seed are nested: the smaller budget is the beginning of the larger one's tiles, in an order in
    which markers take turns. By default the budgets are 2, 5, 10, 20 and 30, as far as there are tiles. `seeds`
    trainings per budget start from the `seed` of the settings; every one picks its best epoch on the whole val part.
    Each fit is stored under `metrics/budget` as it ends, its checkpoint in a folder of `out`; stored fits are
    skipped, or thrown away without `skip_existing`. At the end, a learning curve per group of tiles is added.
    `cluster` is the profile of workers that do the fits, several at once; by default this process does.

    Raises SplitError without a split, FintuneValueError for a budget larger than the train part, RunMismatchError
    where stored fits were made with other settings, tiles or weights, RunBusyError where another process is at it.
    """
    cohort = open_cohort(store)
    cohort.require("budget")
    profile, said, there = _where(cluster, model=model, config=config, overrides=overrides)
    plan = _plan(cohort, out=Path(out), **said)
    sizes = _sizes(plan, budgets)
    if seeds < 1:
        raise FintuneValueError(f"seeds: expected 1 or more, got {seeds}")
    chosen = [plan.settings.seed + i for i in range(seeds)]
    with holding(cohort.location, n.BUDGET, what="training for a label budget"):
        done = _blank(plan, sizes, chosen)
        if skip_existing:
            done = _with_stored(cohort, plan, done)
        wanted = _missing(done, sizes, chosen)
        if not skip_existing:
            _remove(plan, wanted)
        for size, seed, fitted in _fits(plan, wanted, profile, {**there, "store": seen_everywhere(store)}):
            done = _with_fit(done, size, seed, fitted)
            _write(cohort, plan, done)
        result = done.merge(_curves(done), join="exact", combine_attrs="drop_conflicts")
        _write(cohort, plan, result)
    return cohort.read(n.BUDGET_PATH)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What all fits share; `marker` names the marker of each train and test tile."""

    train: AnnotatedTiles
    val: AnnotatedTiles
    test: AnnotatedTiles
    marker: dict[str, str]
    settings: TrainSettings
    start: Checkpoint | None
    model: str
    out: Path
    identity: dict[str, Any]
    seen: dict[str, list[str]]

    @property
    def groups(self) -> list[str]:
        """All test tiles, and each marker of them where there are several."""
        markers = sorted({self.marker[name] for name in self.test.names})
        return [n.ALL_MARKERS, *(markers if len(markers) > 1 else [])]

    def members(self, names: Sequence[str], group: str) -> list[int]:
        """Positions of those of `names` that belong to a group."""
        return [i for i, name in enumerate(names) if group in (n.ALL_MARKERS, self.marker[name])]


def _where(cluster: str, **said: Any) -> tuple[Profile | None, dict[str, Any], dict[str, Any]]:
    """The profile that does the fits, None for this process; what is given to a plan here, and there.

    Only there does the device have the name that workers know it by: where a fit was made is not what it is.
    """
    if not cluster:
        return None, said, said
    profile, there = trained_on(cluster, **said)
    return profile, {**said, "overrides": profile_and_rest(cluster, said["overrides"])[1]}, there


def _missing(done: xr.Dataset, sizes: Sequence[int], seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Budget and seed of the fits that are not stored."""
    found = []
    for seed in seeds:
        for size in sizes:
            if int(done[n.N_TRAIN].sel({n.BUDGET: size, n.SEED: seed, n.GROUP: n.ALL_MARKERS})) != _UNKNOWN:
                say(f"budget {size}, seed {seed}: stored already")
            else:
                found.append((size, seed))
    return found


def _remove(plan: _Plan, fits: Sequence[tuple[int, int]]) -> None:
    """Throws earlier trainings of these fits away."""
    for size, seed in fits:
        folder = _folder(plan, size, seed)
        if (folder / RECORD_FILE).is_file():
            with training_in(folder):
                shutil.rmtree(folder)


def _fits(
    plan: _Plan, wanted: Sequence[tuple[int, int]], profile: Profile | None, there: dict[str, Any]
) -> Iterator[tuple[int, int, xr.Dataset]]:
    """Budget, seed and scores of each fit as it ends: here one after another, or on the workers of `profile`."""
    if profile is None:
        yield from ((size, seed, _fitted(plan, size, seed)) for size, seed in wanted)
        return
    out = seen_everywhere(plan.out.absolute())
    calls = [{**there, "out": out, "size": size, "seed": seed} for size, seed in wanted]
    if calls:
        for number, fitted in results_from_workers(profile, _fitted_there, calls):
            yield (*wanted[number], fitted)


def _fitted_there(*, store: str, out: str, size: int, seed: int, **said: Any) -> xr.Dataset:
    """As `_fitted`, from references alone."""
    return _fitted(_plan(open_cohort(store), out=Path(out), **said), size, seed)


def _plan(cohort: Cohort, *, model: str, out: Path, config: Config, overrides: Sequence[str]) -> _Plan:
    digest = require_split(cohort)
    kind, start = model_to_train(model)
    settings = load_settings(train_settings(kind), config, overrides)
    if not isinstance(settings, TrainSettings):
        raise FintuneValueError(f"budget: expected a model that learns masks, e.g. {FLOW_UNET.name}; got kind {kind}")
    train, val, test = (tiles_for_training(cohort, part) for part in n.SPLITS)
    trained, zeroed = (start.channels, start.zeroed) if start is not None else ((), ())
    settings = with_planes(settings, train.channels, trained=trained, zeroed=zeroed)
    tiles = annotated_tiles(cohort)
    if start is not None:
        require_unseen_by(cohort, start, map(str, test.names))
    marker = dict(zip(texts(tiles[n.TILE]), texts(tiles[n.MARKER]), strict=True))
    train = _with_cells(train, settings.min_cells)
    identity = {
        "model": kind if start is None else start.sha256,
        "settings": {key: value for key, value in settings.as_dict().items() if key != n.SEED},
        n.SPLIT_DIGEST: digest,
        n.ANNOTATIONS_DIGEST: truth_digest(cohort, tiles_in(cohort, *n.SPLITS)),
        "train_tiles": sorted(train.names),
    }
    name = kind if start is None else start.name
    # A fit on few of the train tiles could have learned from any of them.
    seen = seen_in_training(cohort, learned=train.names, judged=val.names, start=start)
    return _Plan(train, val, test, marker, settings, start, name, out, identity, seen)


def _with_cells(tiles: AnnotatedTiles, min_cells: int) -> AnnotatedTiles:
    """The tiles that a training takes: a budget of n tiles must be n tiles that teach something."""
    enough = [i for i in range(len(tiles)) if int(tiles.read(i)[1].max(initial=0)) >= min_cells]
    if not enough:
        raise SplitError(f"none of {len(tiles)} train tiles has {min_cells} or more cells; lower min_cells")
    if len(enough) < len(tiles):
        say(f"{len(tiles) - len(enough)} of {len(tiles)} train tiles have fewer than {min_cells} cells: left out")
    return _chosen(tiles, enough)


def _chosen(tiles: AnnotatedTiles, positions: Sequence[int]) -> AnnotatedTiles:
    where = list(positions)
    return replace(
        tiles,
        names=[tiles.names[i] for i in where],
        image=tiles.image[where],
        mask=tiles.mask[where],
        height=[tiles.height[i] for i in where],
        width=[tiles.width[i] for i in where],
    )


def _sizes(plan: _Plan, budgets: Sequence[int]) -> list[int]:
    """Budgets in ascending order; those that were asked for must all be possible."""
    most = len(plan.train)
    if not budgets:
        return sorted({min(size, most) for size in DEFAULT_BUDGETS})
    if min(budgets) < 1 or max(budgets) > most:
        raise FintuneValueError(
            f"budgets {list(budgets)}: expected 1 to {most}, the annotated tiles of the train part. "
            "Leave the larger ones out, or annotate more tiles."
        )
    return sorted(set(budgets))


def _folder(plan: _Plan, size: int, seed: int) -> Path:
    return plan.out / f"budget-{plan.model}-{size:03d}-seed{seed}"


def _fitted(plan: _Plan, size: int, seed: int) -> xr.Dataset:
    """One training on the first `size` tiles of the seed's order, and its scores on the test tiles."""
    names = [str(name) for name in plan.train.names]
    order = nested_order(names, [plan.marker[name] for name in names], seed=seed)[:size]
    folder = _folder(plan, size, seed)
    say(f"budget {size}, seed {seed}: training in {folder}")
    began = time.perf_counter()
    checkpoint = fit(
        _chosen(plan.train, [names.index(name) for name in order]),
        plan.val,
        settings=plan.settings.model_copy(update={n.SEED: seed}),
        out=folder,
        start=plan.start,
        facts={n.ANNOTATIONS_DIGEST: plan.identity[n.ANNOTATIONS_DIGEST], n.SEEN: plan.seen},
    )
    counts = _test_counts(plan, checkpoint)
    members = [plan.members(plan.test.names, group) for group in plan.groups]
    scores = [instance_scores(counts.isel({n.TILE: tiles}), over=n.TILE) for tiles in members]
    facts = {
        n.N_TRAIN: (n.GROUP, np.array([len(plan.members(order, group)) for group in plan.groups], np.int32)),
        n.CHECKPOINT_SHA256: checkpoint.sha256,
        n.SECONDS: time.perf_counter() - began,
    }
    scored = xr.concat(scores, n.GROUP).assign_coords({n.GROUP: plan.groups})
    made = xr.merge([counts, scored, xr.Dataset(facts)], join="exact")
    ap50 = float(made[CURVE_SCORE].sel({n.GROUP: n.ALL_MARKERS}).sel({n.THRESHOLD: IOU}, method="nearest"))
    say(f"budget {size}, seed {seed}: AP50 {ap50:.3f}")
    return made


def _test_counts(plan: _Plan, checkpoint: Checkpoint) -> xr.Dataset:
    """tp, fp, fn (tile, threshold) of the test tiles, segmented one at a time."""
    kind = kind_named(checkpoint.kind).settings
    settings = validated(kind, {"dynamics": plan.settings.dynamics.as_dict()}, where=f"settings of {checkpoint.kind}")
    segmenter = load_segmenter(
        checkpoint, channels=plan.test.channels, settings=settings, device=plan.settings.device, keep=False
    )
    found = []
    for index in range(len(plan.test)):
        image, mask = plan.test.read(index)
        found.append(match_masks(mask, segment(segmenter, [image])[0]))
    counts = {name: ((n.TILE, n.THRESHOLD), np.array([getattr(one, name) for one in found])) for name in _COUNTS}
    return xr.Dataset(counts, coords={n.TILE: list(plan.test.names), n.THRESHOLD: list(IOU_THRESHOLDS)})


def _blank(plan: _Plan, sizes: Sequence[int], seeds: Sequence[int]) -> xr.Dataset:
    """A study without fits: counts and tiles -1, scores NaN."""
    coords: dict[str, list[Any]] = {
        n.BUDGET: list(sizes),
        n.SEED: list(seeds),
        n.GROUP: plan.groups,
        n.TILE: list(plan.test.names),
        n.THRESHOLD: list(IOU_THRESHOLDS),
    }
    lengths = {name: len(values) for name, values in coords.items()}
    nothing = xr.DataArray(np.zeros((lengths[n.TILE], lengths[n.THRESHOLD]), int), dims=(n.TILE, n.THRESHOLD))
    scores = instance_scores(xr.Dataset(dict.fromkeys(_COUNTS, nothing)), over=n.TILE)
    dims: dict[str, tuple[tuple[str, ...], Any]] = dict.fromkeys(_COUNTS, ((n.TILE, n.THRESHOLD), _UNKNOWN))
    dims |= {str(name): ((n.GROUP, *map(str, array.dims)), np.nan) for name, array in scores.items()}
    dims |= {n.N_TRAIN: ((n.GROUP,), _UNKNOWN), n.SECONDS: ((), np.nan), n.CHECKPOINT_SHA256: ((), "")}
    filled = {
        name: ((*_FIT, *own), np.full([lengths[dim] for dim in (*_FIT, *own)], value, "U64" if value == "" else None))
        for name, (own, value) in dims.items()
    }
    made = xr.Dataset(filled, coords=coords)
    made[n.BUDGET].attrs["long_name"] = "annotated tiles trained on"
    return made


def _with_stored(cohort: Cohort, plan: _Plan, blank: xr.Dataset) -> xr.Dataset:
    """`blank` with the stored fits in it, its budgets and seeds being those of both."""
    if not cohort.has(n.BUDGET_PATH):
        return blank
    stored = cohort.read(n.BUDGET_PATH).load()
    differing = sorted(k for k in plan.identity if stored.attrs[n.IDENTITY].get(k) != plan.identity[k])
    if differing:
        raise RunMismatchError(
            f"{n.BUDGET_PATH} of {cohort.url} holds fits made with another {', '.join(differing)}. Repeat the settings "
            "of the stored fits, or give --no-skip-existing to throw them away."
        )
    sizes, seeds = (sorted({*blank[dim].values.tolist(), *stored[dim].values.tolist()}) for dim in _FIT)
    whole = _blank(plan, sizes, seeds)
    there = {dim: stored[dim].values for dim in _FIT}
    for name in whole:
        whole[name].loc[there] = stored[name].values.astype(whole[name].dtype)
    return whole


def _with_fit(done: xr.Dataset, size: int, seed: int, made: xr.Dataset) -> xr.Dataset:
    filled = done.copy(deep=True)
    for name in filled:
        filled[name].loc[{n.BUDGET: size, n.SEED: seed}] = made[name].values
    return filled


def _curves(done: xr.Dataset) -> xr.Dataset:
    """Mean and spread (budget, group) and the learning curve (group) of AP50, over tiles of the group's marker."""
    score = done[CURVE_SCORE].sel({n.THRESHOLD: IOU}, method="nearest").reset_coords(drop=True)
    n_tiles = done[n.N_TRAIN].where(done[n.N_TRAIN] > 0, 0)
    curve = learning_curve(score, n_tiles, n_resamples=RESAMPLES)
    return xr.merge([budget_spread(score), curve], join="exact", combine_attrs="drop").assign_attrs(curve=curve.attrs)


def _write(cohort: Cohort, plan: _Plan, study: xr.Dataset) -> None:
    facts = provenance(model=plan.model, settings=plan.settings.as_dict(), val_tiles=list(map(str, plan.val.names)))
    cohort.write(n.BUDGET_PATH, study.assign_attrs({n.IDENTITY: plan.identity, n.PROVENANCE: facts}))
