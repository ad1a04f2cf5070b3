"""Blocks of work as Dask `map_blocks`, a window of them at a time.

The scheduler never holds the graph of a whole cohort: blocks enter as others leave, in any order, and a
result is let go as soon as it has been handed on, because what stays in workers' memory dies with them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import dask.array as da
import numpy as np
from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker
from numpy.typing import NDArray

from fintune_xr.errors import WorkerLostError

P = TypeVar("P")
R = TypeVar("R")

BLOCKS_PER_WORKER_THREAD = 3
# So long results may be gathered before they are stored; a kill costs no more than that.
GATHERING_S = 1.0
_MAX_BATCH = 16
# Clusters take workers away for reasons of their own, so that one loss too many proves nothing yet.
_RESCUES = 5


def map_plans(
    client: Client,
    function: Callable[..., R],
    plans: Iterable[P],
    *,
    context: Any,
    name: str,
    rescue: Callable[..., R] | None = None,
) -> Generator[list[R], None, None]:
    """Results of `function(plan, context)` for every plan, as lists of those that came in together.

    `context` must be small and picklable: it travels with every block. At most three blocks per worker
    thread are with the scheduler at once, so neither the graph nor memory grows with the number of plans. An empty list
    says that nothing has come in for a moment: whoever gathers results to store them together stores them then.
    A plan over which workers died one after another is given to `rescue(plan, context)` instead.

    Raises what `function` raised, WorkerLostError where workers went on dying; blocks in flight are then given
    up, as they are when the caller stops asking for results.
    """
    waiting = iter(plans)
    pool = _Completed(with_results=True, raise_errors=False)
    in_flight: dict[Future, _Sent[P]] = {}
    try:
        for number in itertools.count():
            batch = list(itertools.islice(waiting, min(_room(client, in_flight), _MAX_BATCH)))
            if batch:
                futures = _submit(client, function, batch, context, f"{name}-{number}")
                in_flight.update(zip(futures, map(_Sent, batch), strict=True))
                pool.update(futures)
            elif not in_flight:
                return
            else:
                if not pool.has_some_within(GATHERING_S):
                    yield []
                results, lost = _collect(pool, in_flight, rescues=_RESCUES if rescue else 0)
                if lost:
                    plans_lost = [sent.plan for sent in lost]
                    again = _submit(client, rescue or function, plans_lost, context, f"{name}-{number}-rescue")
                    in_flight.update(zip(again, (_Sent(sent.plan, sent.rescues + 1) for sent in lost), strict=True))
                    pool.update(again)
                if results:
                    yield results
    finally:
        if in_flight:
            client.cancel(list(in_flight))


def gathered(batches: Iterable[list[R]], *, seconds: float) -> Iterator[list[R]]:
    """The same results in fewer lists: those of so many seconds together, or until an empty list comes.

    To store a few results costs as much as to store many. What was gathered is given out, too, before an error of
    `batches` is raised.
    """
    held: list[R] = []
    began = time.monotonic()
    waiting = iter(batches)
    while True:
        try:
            batch = next(waiting, None)
        except BaseException:
            if held:
                yield held
            raise
        held.extend(batch or ())
        if held and (not batch or time.monotonic() - began >= seconds):
            yield held
            held, began = [], time.monotonic()
        if batch is None:
            return


@dataclass(frozen=True, slots=True)
class _Sent(Generic[P]):
    """A plan that is with the scheduler, and how often it was sent there to be rescued."""

    plan: P
    rescues: int = 0


class _Completed(as_completed):  # type: ignore[misc]
    """As Dask's, which never speaks of a future again whose result meets an error on its way from the worker."""

    def has_some_within(self, seconds: float) -> bool:
        """Whether a result is there, or comes in so many seconds."""
        with self.thread_condition:
            return bool(self.thread_condition.wait_for(lambda: not self.queue.empty(), timeout=seconds))

    async def _track_future(self, future: Future) -> None:
        try:
            await super()._track_future(future)
        except Exception as error:  # noqa: BLE001 - whoever waits for the future is told
            with self.lock:
                self.futures.pop(future, None)
                self.queue.put_nowait((future, error))


def _room(client: Client, in_flight: Collection[Future]) -> int:
    """Blocks that may still go to the scheduler; asked each time, because workers come and go."""
    n_threads = sum(int(count) for count in client.nthreads().values())
    return max(0, BLOCKS_PER_WORKER_THREAD * max(1, n_threads) - len(in_flight))


def _submit(client: Client, function: Callable[..., R], batch: Sequence[P], context: Any, name: str) -> list[Future]:
    plans = np.empty(len(batch), object)
    plans[:] = list(batch)
    # Each block is one task. Were the plans an array of Dask's, a second one would only pass its result on, and wait
    # on its worker for the end of the next block: what is done would be committed that much later, or be lost.
    done = da.map_blocks(  # type: ignore[no-untyped-call]
        _on_block, plans, function, context, chunks=((1,) * len(batch),), dtype=object, meta=np.empty(0, object),
        name=name,
    )  # fmt: skip
    return list(client.compute(list(done.to_delayed().ravel()), optimize_graph=False))


def _on_block(plans: NDArray[Any], function: Callable[..., R], context: Any, block_id: tuple[int]) -> NDArray[Any]:
    result = np.empty(1, object)
    result[0] = function(plans[block_id[0]], context)
    return result


def _collect(
    pool: as_completed, in_flight: dict[Future, _Sent[P]], *, rescues: int
) -> tuple[list[Any], list[_Sent[P]]]:
    """Results that are there, and plans lost with their workers, at least one of either; futures are released."""
    results: list[Any] = []
    lost: list[_Sent[P]] = []
    for future, result in pool.next_batch(block=True):
        sent = in_flight.pop(future)
        future.release()
        # The status does not tell: it is pending again where the worker died after it had handed the result over.
        if isinstance(result, np.ndarray):
            results.extend(result)
            continue
        error = result[1] if isinstance(result, tuple) else result
        if not isinstance(error, KilledWorker) or sent.rescues >= rescues:
            raise _fault(error)
        lost.append(sent)
    return results, lost


def _fault(error: BaseException) -> BaseException:
    """What went wrong with a block, in words where Dask only names a task."""
    if isinstance(error, KilledWorker):
        return WorkerLostError(
            f"{error.allowed_failures + 1} worker processes died one after another over the same block. Most often "
            "memory is short: start fewer workers or smaller batches; `dmesg` tells. What was committed stays."
        )
    if isinstance(error, CancelledError):
        return WorkerLostError("a block was taken from its worker before it ended; run the same command again")
    return error
