"""Blocks of work as Dask `map_blocks`, a window of them at a time.

The scheduler never holds the graph of a whole cohort: blocks enter as others leave, in any order, and a
result is let go as soon as it has been handed on, because what stays in workers' memory dies with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import dask.array as da
import numpy as np
from distributed import Client, Future, as_completed
from numpy.typing import NDArray

P = TypeVar("P")
R = TypeVar("R")

BLOCKS_PER_WORKER_THREAD = 3
_MAX_BATCH = 16


def map_plans(
    client: Client, function: Callable[..., R], plans: Iterable[P], *, context: Any, name: str
) -> Iterator[list[R]]:
    """Results of `function(plan, context)` for every plan, as lists of those that came in together.

    `context` must be small and picklable: it travels with every block. At most three blocks per worker
    thread are with the scheduler at once, so neither the graph nor memory grows with the number of plans.

    Raises what `function` raised; blocks in flight are then given up.
    """
    waiting = iter(plans)
    numbers = itertools.count()
    window = BLOCKS_PER_WORKER_THREAD * max(1, sum(client.nthreads().values()))
    pool = as_completed(with_results=True)
    in_flight: set[Future] = set()
    while True:
        room = window - len(in_flight)
        batch = list(itertools.islice(waiting, min(room, _MAX_BATCH))) if room > 0 else []
        if batch:
            futures = _submit(client, function, batch, context, f"{name}-{next(numbers)}")
            in_flight.update(futures)
            pool.update(futures)
            if len(in_flight) < window:
                continue
        if not in_flight:
            return
        yield _collect(pool, in_flight)


def _submit(
    client: Client, function: Callable[..., R], batch: Sequence[P], context: Any, name: str
) -> list[Future]:
    blocks = np.empty(len(batch), object)
    blocks[:] = list(batch)
    planned = da.from_array(  # type: ignore[no-untyped-call]
        blocks, chunks=1, name=f"plan-{name}", inline_array=True
    )
    done = da.map_blocks(  # type: ignore[no-untyped-call]
        _on_block, planned, function, context, dtype=object, meta=np.empty(0, object), name=f"{name}"
    )
    return list(client.compute(list(done.to_delayed().ravel()), optimize_graph=False))


def _on_block(block: NDArray[Any], function: Callable[..., R], context: Any) -> NDArray[Any]:
    result = np.empty(block.shape, object)
    result[:] = [function(plan, context) for plan in block]
    return result


def _collect(pool: as_completed, in_flight: set[Future]) -> list[Any]:
    """Results that are there, at least one; their futures are released."""
    results: list[Any] = []
    for future, result in pool.next_batch(block=True):
        in_flight.discard(future)
        if future.status == "error":
            raise result[1] if isinstance(result, tuple) else result
        results.extend(result)
        future.release()
    return results
