"""Blocks of work as Dask `map_blocks`, a window of them at a time.

The scheduler never holds the graph of a whole cohort: blocks enter as others leave, in any order, and a
result is let go as soon as it has been handed on, because what stays in workers' memory dies with them.
A task costs some 15 ms around its work: blocks that take less than a moment go several to a task.
"""

from __future__ import annotations

import itertools
import math
import operator
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import dask.array as da
import numpy as np
from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker
from numpy.typing import NDArray

from fintune_xr.errors import WorkerLostError

P = TypeVar("P")
R = TypeVar("R")

TASKS_PER_WORKER_THREAD = 3
MAX_BLOCKS_PER_TASK = 16
# So long results may be gathered before they are stored; a kill costs no more than that.
GATHERING_S = 1.0
# So long may the blocks of one task take together, at the pace of the last ones; a kill costs those under way.
TASK_S = 1.0
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

    `context` must be small and picklable: it travels with every task. At most three tasks per worker
    thread are with the scheduler at once, so neither the graph nor memory grows with the number of plans. A task is one
    plan, and several where the last ones took so little time that a second is enough for them. An empty
    list says that nothing has come in for a moment: whoever gathers results to store them together stores them then.
    Each plan of a task over which workers died one after another is given to `rescue(plan, context)` instead.

    Raises what `function` raised, WorkerLostError where workers went on dying; blocks in flight are then given
    up, as they are when the caller stops asking for results.
    """
    waiting, pace = iter(plans), _Pace()
    pool = _Completed(with_results=True, raise_errors=False)
    in_flight: dict[Future, _Sent[P]] = {}

    def send(tasks: Sequence[_Sent[P]], work: Callable[..., R], task_name: str) -> None:
        futures = _submit(client, work, [task.plans for task in tasks], context, task_name)
        in_flight.update(zip(futures, tasks, strict=True))
        pool.update(futures)

    try:
        for number in itertools.count():
            n_threads = _n_threads(client)
            n_tasks = min(_room(n_threads, in_flight), _MAX_BATCH)
            batch = list(itertools.islice(_grouped(waiting, pace, n_threads), n_tasks))
            if batch:
                send([_Sent(group) for group in batch], function, f"{name}-{number}")
            elif not in_flight:
                return
            else:
                if not pool.has_some_within(GATHERING_S):
                    yield []
                results, lost = _collect(pool, in_flight, pace, rescues=_RESCUES if rescue else 0)
                if lost:
                    alone = [_Sent((plan,), sent.rescues + 1) for sent in lost for plan in sent.plans]
                    send(alone, rescue or function, f"{name}-{number}-rescue")
                if results:
                    yield results
    finally:
        if in_flight:
            client.cancel(list(in_flight))


def gather_batches(batches: Iterable[list[R]], *, seconds: float) -> Iterator[list[R]]:
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
    """The plans of a task that is with the scheduler, and how often they were sent there to be rescued."""

    plans: tuple[P, ...]
    rescues: int = 0


@dataclass(frozen=True, slots=True)
class _Done(Generic[R]):
    """What a task gives back: a result for each of its plans, and the seconds that they took together."""

    results: list[R]
    seconds: float


@dataclass(slots=True)
class _Pace:
    """Seconds a block of the last tasks, which tell how many go into the next one."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=4))

    def note(self, done: _Done[Any]) -> None:
        """Takes the time of a task into account."""
        self.seconds.append(done.seconds / len(done.results))

    def blocks_per_task(self) -> int:
        """One until the first is done; the slowest of the last tasks counts."""
        if not self.seconds:
            return 1
        return max(1, min(MAX_BLOCKS_PER_TASK, int(TASK_S / max(*self.seconds, 1e-6))))


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


def _grouped(plans: Iterator[P], pace: _Pace, n_threads: int) -> Iterator[tuple[P, ...]]:
    """Plans as they go to tasks; where it is known how many are left, every thread gets some of the last ones."""
    while True:
        share = math.ceil(operator.length_hint(plans, n_threads * MAX_BLOCKS_PER_TASK) / n_threads)
        group = tuple(itertools.islice(plans, min(pace.blocks_per_task(), max(1, share))))
        if not group:
            return
        yield group


def _n_threads(client: Client) -> int:
    """Threads of all workers, at least one; asked each time, because workers come and go."""
    return max(1, sum(int(count) for count in client.nthreads().values()))


def _room(n_threads: int, in_flight: Collection[Future]) -> int:
    """Tasks that go to the scheduler now, none before there is room for one of each thread.

    To send one costs as much as to send a few, and every thread has another one waiting until then.
    """
    room = TASKS_PER_WORKER_THREAD * n_threads - len(in_flight)
    return room if room >= min(n_threads, _MAX_BATCH) else 0


def _submit(
    client: Client, function: Callable[..., R], tasks: Sequence[tuple[P, ...]], context: Any, name: str
) -> list[Future]:
    groups = np.empty(len(tasks), object)
    for at, task in enumerate(tasks):
        groups[at] = task
    # Were the plans an array of Dask's, a second task would only pass the result of each on, and wait on its worker for
    # the end of the next one: what is done would be committed that much later, or be lost.
    done = da.map_blocks(  # type: ignore[no-untyped-call]
        # As one function, since Dask looks into arguments, and all that they hold, for arrays of its own.
        partial(_on_blocks, function=function, context=context), groups, chunks=((1,) * len(tasks),), dtype=object,
        meta=np.empty(0, object), name=name,
    )  # fmt: skip
    futures = client.persist(done, optimize_graph=False).__dask_graph__()
    return [futures[name, at] for at in range(len(tasks))]


def _on_blocks(
    groups: NDArray[Any], *, function: Callable[..., R], context: Any, block_id: tuple[int]
) -> NDArray[Any]:  # fmt: skip
    began = time.monotonic()
    results = [function(plan, context) for plan in groups[block_id[0]]]
    done = np.empty(1, object)
    done[0] = _Done(results, time.monotonic() - began)
    return done


def _collect(
    pool: as_completed, in_flight: dict[Future, _Sent[P]], pace: _Pace, *, rescues: int
) -> tuple[list[Any], list[_Sent[P]]]:
    """Results that are there, and tasks lost with their workers, at least one of either; futures are released."""
    results: list[Any] = []
    lost: list[_Sent[P]] = []
    for future, result in pool.next_batch(block=True):
        sent = in_flight.pop(future)
        future.release()
        # The status does not tell: it is pending again where the worker died after it had handed the result over.
        if isinstance(result, np.ndarray):
            results.extend(result[0].results)
            pace.note(result[0])
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
