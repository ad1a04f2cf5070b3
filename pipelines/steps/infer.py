"""Masks, counts and measurements of every tile that a run has not done yet."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.positivity.rules import PositivityRule
from fintune_xr.cluster.profile import Profile
from fintune_xr.cluster.session import session
from fintune_xr.execution.dask_blocks import GATHERING_S, gather_batches, map_plans
from fintune_xr.models.checkpoints import training_facts
from fintune_xr.models.registry import kind_named
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.inference.before_deadline import infer_block_in_time, infer_shard_before_deadline
from fintune_xr.pipelines.inference.block import BlockContext
from fintune_xr.pipelines.inference.request import (
    InferSettings,
    infer_settings,
    pretraining_facts,
    resolve_request,
    run_array_attrs,
    run_context,
    run_identity,
    run_sizes,
)
from fintune_xr.pipelines.steps.positivity import apply_positivity, is_counted, last_rule, parse_rule, tells_positives
from fintune_xr.pipelines.workers.devices import profile_and_rest
from fintune_xr.provenance import provenance
from fintune_xr.settings import Config
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs.run import run_creation
from fintune_xr.store.runs.writer import RunWriter, writing_run
from fintune_xr.store.split import check_part, require_split
from fintune_xr.tasks.product import INSTANCES
from fintune_xr.text import text_array


@dataclass(frozen=True, slots=True)
class RunSummary:
    """State of a run after `infer`: numbers of tiles, and how many of them this call did."""

    run: str
    n_tiles: int
    n_done: int
    n_quarantined: int
    n_new: int


def infer(
    store: str | Path,
    *,
    run: str,
    model: str | None = None,
    cluster: str = "threads",
    config: Config = None,
    overrides: Sequence[str] = (),
    restart: bool = False,
    retry_quarantined: bool = False,
    parts: Sequence[str] = (),
) -> RunSummary:
    """Masks, or probabilities, of every pending tile of `store` under the name `run`; continues where a kill left off.

    `model` is a registered name or a checkpoint, and needed for a run that is not there yet or is made anew; a stored
    run is continued with its own model and settings when neither is given. `cluster` is a profile's name or a YAML
    file. With `parts` (train, val, test) only tiles of these parts of the split are segmented; the others stay
    pending for a later call.

    Raises UnknownNameError where a run would be made and no model is named, RunMismatchError where the stored run
    has another checkpoint, other settings or other planes, DeviceError where a GPU was asked for that is not there,
    RunBusyError where another process writes the run.
    """
    cohort = open_cohort(store).opened_once()
    profile, rest = profile_and_rest(cluster, overrides)
    settings = infer_settings(config, rest)
    checkpoint, settings = resolve_request(cohort, run, model, settings, restart=restart)
    context = run_context(cohort, run, checkpoint, settings, profile)
    identity = run_identity(checkpoint, context.settings)
    training = training_facts(checkpoint)
    facts = provenance(
        settings={**settings.as_dict(), "model": context.settings.as_dict()},
        checkpoint=checkpoint.as_dict(),
        device=context.device,
        **({"training": training} if training else {}),
        **pretraining_facts(context.settings),
    )
    rule = _rule(cohort, run, settings, restart=restart)
    # Before a run is made or thrown away: nothing is left behind by a word that is no part.
    wanted = in_parts(cohort, parts)
    kind = kind_named(checkpoint.kind)
    with writing_run(
        cohort, run, identity=identity, facts=facts, product=kind.product, restart=restart, retry=retry_quarantined,
        sizes=run_sizes(cohort, checkpoint, context.settings), attrs=run_array_attrs(checkpoint),
    ) as writer:  # fmt: skip
        n_new = _segment_pending(writer, context, profile, wanted)
        has_ended = writer.finish()
        summary = _summary(run, writer.states(), n_new)
    has_cells = kind_named(checkpoint.kind).product is INSTANCES and tells_positives(cohort)
    if has_cells and (has_ended or not parts) and not is_counted(cohort, run, rule):
        apply_positivity(cohort, run, rule)
    return summary


def quarantined_of(store: str | Path, run: str) -> list[tuple[str, str]]:
    """Tile id and reason of every quarantined tile of a run."""
    found = open_cohort(store).run(run, lazy=False)
    where = np.flatnonzero(found[n.STATE].values == n.QUARANTINED)
    return [(str(found[n.TILE].values[i]), str(found[n.REASON].values[i])) for i in where]


def _rule(cohort: Cohort, run: str, settings: InferSettings, *, restart: bool) -> PositivityRule:
    """The rule asked for, or the one that the stored run was counted with where nothing was said."""
    asked = parse_rule(settings.positivity)
    if restart or "positivity" in settings.model_fields_set:
        return asked
    return last_rule(cohort, run) or asked


def in_parts(cohort: Cohort, parts: Sequence[str]) -> NDArray[np.bool_] | None:
    """Tiles (tile,) that lie in `parts` of the split; None where all are meant.

    Raises UnknownNameError for a part that no split has, SplitError without a valid split.
    """
    if not parts:
        return None
    for part in parts:
        check_part(part)
    require_split(cohort)
    return np.isin(text_array(cohort.images(lazy=False)[n.SPLIT]), list(parts))


def _segment_pending(
    writer: RunWriter, context: BlockContext, profile: Profile, wanted: NDArray[np.bool_] | None
) -> int:
    plans = list(writer.plans(wanted))
    pending = sum(len(plan.todo) for plan in plans)
    if not pending:
        return 0
    context = replace(context, creation=run_creation(context.location, context.run))
    left = {plan.shard for plan in plans}
    with (
        session(profile, left=lambda: len(left), report=say) as client,
        progress(f"infer {context.run}", pending) as advance,
    ):
        if profile.dashboard:
            say(f"dashboard: {client.dashboard_link}")
        finished = map_plans(
            client, infer_block_in_time, plans, context=context, name=f"infer-{context.run}",
            rescue=infer_shard_before_deadline,
        )  # fmt: skip
        with contextlib.closing(finished):
            for receipts in gather_batches(finished, seconds=GATHERING_S):
                writer.commit(receipts)
                left.difference_update(receipt.plan.shard for receipt in receipts)
                advance(sum(len(receipt.results) for receipt in receipts))
    return pending


def _summary(run: str, states: np.ndarray[Any, Any], n_new: int) -> RunSummary:
    return RunSummary(
        run=run,
        n_tiles=states.size,
        n_done=int((states == n.DONE).sum()),
        n_quarantined=int((states == n.QUARANTINED).sum()),
        n_new=n_new,
    )
