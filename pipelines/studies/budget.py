"""Label budget: the same training on more and more annotated tiles, each fit recorded as it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.learning_curve import budget_spread, learning_curve
from fintune_xr.analysis.report.studies.budget import curve_of, curve_score
from fintune_xr.cluster.profile import Profile
from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.whole_file import remove_folder
from fintune_xr.finetune.engine import hold_folder
from fintune_xr.finetune.engine import train as fit
from fintune_xr.finetune.registry import train_settings
from fintune_xr.models.checkpoints import RECORD_FILE, Checkpoint
from fintune_xr.models.flow_unet.kind import FLOW_UNET
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.instance.learning import learning_of_masks
from fintune_xr.pipelines.semantic.learning import learning_of_classes
from fintune_xr.pipelines.steps.train import cluster_training, model_to_train, require_annotations_for
from fintune_xr.pipelines.studies.study import Study, carry_out
from fintune_xr.pipelines.task_parts.learning import Learning
from fintune_xr.pipelines.workers.devices import HERE, profile_and_rest
from fintune_xr.pipelines.workers.remote_calls import results_from_workers, shared_path
from fintune_xr.provenance import provenance
from fintune_xr.settings import Config, load_settings
from fintune_xr.splits.nested_subsets import nested_order
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.depends_on import tiles_in, truth_digest
from fintune_xr.store.lineage.training_exposure import require_unseen_by, training_exposure
from fintune_xr.store.split import annotated_tiles, require_split
from fintune_xr.tasks.task import INSTANCE, SEMANTIC
from fintune_xr.text import texts

DEFAULT_BUDGETS: Final = (2, 5, 10, 20, 30)
RESAMPLES: Final = 200

_FIT: Final = (n.BUDGET, n.SEED)
_UNKNOWN: Final = -1

LEARNING: Final[Mapping[str, Callable[[Cohort, Any, Checkpoint | None], Learning]]] = {
    INSTANCE: learning_of_masks,
    SEMANTIC: learning_of_classes,
}
"""By task: what fits of a budget learn from, and how they are measured."""


@gives_named_labels
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
    which markers, or the rarest classes of tiles, take turns. By default the budgets are 2, 5, 10, 20 and 30, as far
    as there are tiles. `seeds` trainings per budget start from the `seed` of the settings; every one picks its best
    epoch on the whole val part. Each fit is stored under `metrics/budget` as it ends, its checkpoint in a folder of
    `out`; stored fits are skipped, or thrown away without `skip_existing`. At the end, a learning curve per group of
    tiles is added. `cluster` is the profile of workers that do the fits, several at once; by default this process does.

    Raises SplitError without a split, FintuneValueError for a budget larger than the train part, or whose tiles
    lack a class, RunMismatchError where stored fits were made with other settings, tiles or weights, RunBusyError where
    another process is at it.
    """
    cohort = open_cohort(store).opened_once()
    cohort.require("budget")
    profile, said, there = _where(cluster, model=model, config=config, overrides=overrides)
    plan = _plan(cohort, out=Path(out), **said)
    sizes = _sizes(plan, budgets)
    if seeds < 1:
        raise FintuneValueError(f"seeds: expected 1 or more, got {seeds}")
    chosen = [plan.learning.settings.seed + i for i in range(seeds)]
    study = Study(
        cohort=cohort, path=n.BUDGET_PATH, lock=n.BUDGET, what="training for a label budget", identity=plan.identity,
        remedy="Repeat the settings of the stored fits, or give --restart to throw them away.",
    )  # fmt: skip

    def grown(stored: xr.Dataset | None) -> Iterator[xr.Dataset]:
        done = _with_stored(plan, _blank(plan, sizes, chosen), stored)
        wanted = _missing(done, sizes, chosen)
        _require_learnable(plan, wanted)
        if not skip_existing:
            _remove(plan, wanted)
        for size, seed, fitted in _fits(plan, wanted, profile, {**there, "store": shared_path(store)}):
            done = _with_fit(done, size, seed, fitted)
            yield _told(plan, done)
        yield _told(plan, done.merge(_curves(done), join="exact", combine_attrs="drop_conflicts"))

    return carry_out(study, grown, restart=not skip_existing)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What all fits share; `marker` names the marker of each test tile."""

    learning: Learning
    marker: dict[str, str]
    start: Checkpoint | None
    model: str
    out: Path
    identity: dict[str, Any]
    seen: dict[str, list[str]]

    @property
    def groups(self) -> list[str]:
        """All test tiles, and each marker of them where there are several."""
        markers = sorted({self.marker[name] for name in self.learning.test.names})
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
    profile, there = cluster_training(cluster, **said)
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


def _require_learnable(plan: _Plan, fits: Sequence[tuple[int, int]]) -> None:
    """Raises FintuneValueError for a fit whose tiles cannot teach all that is learnt, before any is made."""
    for size, seed in fits:
        try:
            plan.learning.settings_on(_taken(plan, size, seed))
        except FintuneValueError as error:
            raise FintuneValueError(f"budget {size}, seed {seed}: {error}") from error


def _taken(plan: _Plan, size: int, seed: int) -> Any:
    """The first `size` tiles of the seed's order."""
    names = [str(name) for name in plan.learning.train.names]
    order = nested_order(names, [plan.learning.turns[name] for name in names], seed=seed)[:size]
    return plan.learning.train.chosen([names.index(name) for name in order])


def _remove(plan: _Plan, fits: Sequence[tuple[int, int]]) -> None:
    """Throws earlier trainings of these fits away."""
    for size, seed in fits:
        folder = _folder(plan, size, seed)
        if (folder / RECORD_FILE).is_file():
            with hold_folder(folder):
                remove_folder(folder)


def _fits(
    plan: _Plan, wanted: Sequence[tuple[int, int]], profile: Profile | None, there: dict[str, Any]
) -> Iterator[tuple[int, int, xr.Dataset]]:
    """Budget, seed and scores of each fit as it ends: here one after another, or on the workers of `profile`."""
    if profile is None:
        yield from ((size, seed, _fitted(plan, size, seed)) for size, seed in wanted)
        return
    out = shared_path(plan.out.absolute())
    calls = [{**there, "out": out, "size": size, "seed": seed} for size, seed in wanted]
    if calls:
        for number, fitted in results_from_workers(profile, _fitted_there, calls):
            yield (*wanted[number], fitted)


def _fitted_there(*, store: str, out: str, size: int, seed: int, **said: Any) -> xr.Dataset:
    """As `_fitted`, from references alone."""
    return _fitted(_plan(open_cohort(store).opened_once(), out=Path(out), **said), size, seed)


def _plan(cohort: Cohort, *, model: str, out: Path, config: Config, overrides: Sequence[str]) -> _Plan:
    digest = require_split(cohort)
    kind, start = model_to_train(model)
    require_annotations_for(cohort, kind)
    learning = LEARNING[cohort.task.name](cohort, load_settings(train_settings(kind), config, overrides), start)
    train, val, test = (list(map(str, part.names)) for part in (learning.train, learning.val, learning.test))
    if start is not None:
        require_unseen_by(cohort, start, test)
    tiles = annotated_tiles(cohort)
    identity = {
        "model": kind if start is None else start.sha256,
        "settings": {key: value for key, value in learning.settings.as_dict().items() if key != n.SEED},
        n.SPLIT_DIGEST: digest,
        n.ANNOTATIONS_DIGEST: truth_digest(cohort, tiles_in(cohort, *n.SPLITS)),
        "train_tiles": sorted(train),
    }
    return _Plan(
        learning,
        marker=dict(zip(texts(tiles[n.TILE]), texts(tiles[n.MARKER]), strict=True)),
        start=start,
        model=kind if start is None else start.name,
        out=out,
        identity=identity,
        # A fit on few of the train tiles could have learned from any of them.
        seen=training_exposure(cohort, learned=train, judged=val, start=start),
    )


def _sizes(plan: _Plan, budgets: Sequence[int]) -> list[int]:
    """Budgets in ascending order; those that were asked for must all be possible."""
    most = len(plan.learning.train)
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
    began, learning = time.perf_counter(), plan.learning
    taken = _taken(plan, size, seed)
    order = [str(name) for name in taken.names]
    folder = _folder(plan, size, seed)
    say(f"budget {size}, seed {seed}: training in {folder}")
    checkpoint = fit(
        taken,
        learning.val,
        settings=learning.settings_on(taken).model_copy(update={n.SEED: seed}),
        out=folder,
        start=plan.start,
        facts={n.ANNOTATIONS_DIGEST: plan.identity[n.ANNOTATIONS_DIGEST], n.SEEN: plan.seen},
    )
    facts = {
        n.N_TRAIN: (n.GROUP, np.array([len(plan.members(order, group)) for group in plan.groups], np.int32)),
        n.CHECKPOINT_SHA256: checkpoint.sha256,
        n.SECONDS: time.perf_counter() - began,
    }
    made = _scored(plan, learning.counts(checkpoint)).assign(facts)
    reached = float(curve_score(made).sel({n.GROUP: n.ALL_MARKERS}))
    say(f"budget {size}, seed {seed}: {curve_of(made).name} {reached:.3f}")
    return made


def _scored(plan: _Plan, counts: xr.Dataset) -> xr.Dataset:
    """Counts of the test tiles with their scores (group, …)."""
    members = [plan.members(plan.learning.test.names, group) for group in plan.groups]
    scores = [plan.learning.scores(counts.isel({n.TILE: tiles})) for tiles in members]
    return xr.merge([counts, xr.concat(scores, n.GROUP).assign_coords({n.GROUP: plan.groups})], join="exact")


def _blank(plan: _Plan, sizes: Sequence[int], seeds: Sequence[int]) -> xr.Dataset:
    """A study without fits: counts and tiles -1, scores NaN."""
    form = _scored(plan, plan.learning.nothing)
    values: dict[str, tuple[tuple[str, ...], Any]] = {
        str(name): (tuple(map(str, array.dims)), _UNKNOWN if name in plan.learning.nothing else np.nan)
        for name, array in form.items()
    }
    values |= {n.N_TRAIN: ((n.GROUP,), _UNKNOWN), n.SECONDS: ((), np.nan), n.CHECKPOINT_SHA256: ((), "")}
    lengths = {n.BUDGET: len(sizes), n.SEED: len(seeds), **form.sizes}
    filled = {
        name: ((*_FIT, *own), np.full([lengths[dim] for dim in (*_FIT, *own)], value, "U64" if value == "" else None))
        for name, (own, value) in values.items()
    }
    made = xr.Dataset(filled, coords={n.BUDGET: list(sizes), n.SEED: list(seeds), **form.coords})
    made[n.BUDGET].attrs["long_name"] = "annotated tiles trained on"
    return made


def _with_stored(plan: _Plan, blank: xr.Dataset, stored: xr.Dataset | None) -> xr.Dataset:
    """`blank` with the stored fits in it, its budgets and seeds being those of both."""
    if stored is None:
        return blank
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
    """Mean and spread (budget, group) and the learning curve (group) of the score, over tiles of the group's marker."""
    score = curve_score(done)
    n_tiles = done[n.N_TRAIN].where(done[n.N_TRAIN] > 0, 0)
    curve = learning_curve(score, n_tiles, n_resamples=RESAMPLES)
    merged = xr.merge([budget_spread(score), curve], join="exact", combine_attrs="drop_conflicts")
    return merged.drop_attrs(deep=False).assign_attrs(curve=curve.attrs)


def _told(plan: _Plan, study: xr.Dataset) -> xr.Dataset:
    """The study with how it was made."""
    val = list(map(str, plan.learning.val.names))
    facts = provenance(model=plan.model, settings=plan.learning.settings.as_dict(), val_tiles=val)
    return study.assign_attrs({n.PROVENANCE: facts})
