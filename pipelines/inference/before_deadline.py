"""Blocks of a run in jobs that end: none begins that the worker cannot finish before its job is killed."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from distributed import Reschedule, get_worker

from fintune_xr.execution.job_deadline import seconds_left
from fintune_xr.pipelines.inference.block import BlockContext, infer_block
from fintune_xr.pipelines.inference.one_by_one import infer_shard_one_by_one
from fintune_xr.tasks.records import ShardPlan, ShardReceipt

LOGGER = logging.getLogger(__name__)

# A block may take so much longer than the slowest of the last ones.
_SLOWER: Final = 1.25
# Seconds per tile of the last blocks of this process; the first of them has the loading of the model in it.
_PACE: Final[deque[float]] = deque(maxlen=5)


def infer_block_in_time(plan: ShardPlan, context: BlockContext) -> ShardReceipt:
    """As `infer_block`, where there is time for it; otherwise the worker leaves and another one does it."""
    return _in_time(infer_block, plan, context)


def infer_shard_before_deadline(plan: ShardPlan, context: BlockContext) -> ShardReceipt:
    """As `infer_shard_one_by_one`, where there is time for it."""
    return _in_time(infer_shard_one_by_one, plan, context)


def _in_time(
    function: Callable[[ShardPlan, BlockContext], ShardReceipt], plan: ShardPlan, context: BlockContext
) -> ShardReceipt:
    if seconds_left() < _SLOWER * max(_PACE, default=0.0) * len(plan.todo):
        _leave()
        raise Reschedule
    began = time.monotonic()
    receipt = function(plan, context)
    _PACE.append((time.monotonic() - began) / max(len(plan.todo), 1))
    return receipt


def _leave() -> None:
    """Lets this worker go before its time: it takes no more blocks, and its job ends."""
    worker = get_worker()
    LOGGER.warning("%.0f s are too few for another block: worker %s leaves", seconds_left(), worker.name)
    worker.loop.add_callback(worker.close_gracefully, reason="too little time for another block")
