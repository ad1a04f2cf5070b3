"""The window of blocks: never too many at once, any order, faults at once, nothing large in the graph."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

from fintune_xr.cluster.profile import Profile
from fintune_xr.cluster.session import session
from fintune_xr.errors import FintuneValueError, StoreDamagedError, StoreWriteError, WorkerLostError
from fintune_xr.execution import dask_blocks as blocks
from fintune_xr.execution.dask_blocks import TASKS_PER_WORKER_THREAD, gather_batches, map_plans
from fintune_xr.execution.read_ahead import ahead, batches
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.models.threshold.settings import ThresholdSettings
from fintune_xr.pipelines.inference.block import BlockContext
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.tasks.records import ShardPlan

THREADS = 2
FAILURES = "distributed.scheduler.allowed-failures"
WINDOW = TASKS_PER_WORKER_THREAD * THREADS


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with session(Profile(kind="threads", workers=THREADS, dashboard=False)) as started:
        yield started


class Counted:
    """Plans that remember how many were drawn."""

    def __init__(self, size: int) -> None:
        self.left = iter(range(size))
        self.drawn = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        plan = next(self.left)
        self.drawn += 1
        return plan


@dataclass
class Watch:
    """What the blocks of one test share with it; blocks find it by name, for only references travel to them."""

    plans: Counted = field(default_factory=lambda: Counted(0))
    held: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    calls: list[int] = field(default_factory=list)
    most: int = 0
    error: Exception = field(default_factory=Exception)


WATCHES: dict[str, Watch] = {}


def multiply(plan: int, factor: int) -> int:
    return plan * factor


def count(plan: int, name: str) -> int:
    watch = WATCHES[name]
    with watch.lock:
        watch.most = max(watch.most, watch.plans.drawn - len(watch.calls))
    time.sleep(0.002)
    with watch.lock:
        watch.calls.append(plan)
    return plan


def hold_first(plan: int, name: str) -> int:
    if plan == 0:
        WATCHES[name].held.wait(240)
    return plan


def is_first_heard(plan: int, name: str) -> bool:
    """Whether the first result was handed on while this block was at work."""
    watch = WATCHES[name]
    watch.calls.append(plan)
    return len(watch.calls) == 1 or watch.held.wait(60)


def fail_third(plan: int, name: str) -> int:
    if plan == 3:
        raise WATCHES[name].error
    WATCHES[name].held.wait(5)
    return plan


def flat(results: Iterator[list[Any]]) -> list[Any]:
    return [one for batch in results for one in batch]


def test_every_plan_gives_one_result(client: Client) -> None:
    found = flat(map_plans(client, multiply, range(50), context=3, name="all"))
    assert sorted(found) == [3 * plan for plan in range(50)]


def test_workers_do_not_look_at_their_own_stacks(client: Client) -> None:
    """Dask's statistical profiler took a third of the event loop's time of a run of short blocks."""
    looked = client.run(lambda dask_worker: "profile" in dask_worker.periodic_callbacks)
    assert not any(looked.values())


def test_no_plans_no_results(client: Client) -> None:
    assert flat(map_plans(client, multiply, [], context=1, name="none")) == []


def test_an_error_on_the_way_from_the_worker_ends_the_wait(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(self: Any, raiseit: bool = True) -> Any:
        raise StoreWriteError("computed again, and the disk is full by now")

    monkeypatch.setattr(blocks.Future, "_result", lost)
    with pytest.raises(StoreWriteError, match="full by now"):
        flat(map_plans(client, multiply, range(3), context=3, name="on-the-way"))


def test_no_more_blocks_than_the_window_are_under_way(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "TASK_S", 0)
    watch = WATCHES["window"] = Watch(plans=Counted(60))
    handed_on = 0
    for results in map_plans(client, count, watch.plans, context="window", name="window"):
        handed_on += len(results)
        assert watch.plans.drawn - handed_on <= WINDOW
    assert handed_on == 60
    assert 2 <= watch.most <= WINDOW


def test_blocks_that_take_no_time_go_several_to_a_task(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = WATCHES["quick"] = Watch(plans=Counted(400))
    sizes: list[int] = []
    submitted = blocks._submit

    def counted(client: Client, function: Any, tasks: Any, *rest: Any) -> Any:
        sizes.extend(map(len, tasks))
        return submitted(client, function, tasks, *rest)

    monkeypatch.setattr(blocks, "_submit", counted)
    found = flat(map_plans(client, count, watch.plans, context="quick", name="quick"))
    assert sorted(found) == list(range(400))
    assert sizes[:WINDOW] == [1] * WINDOW
    assert max(sizes) == blocks.MAX_BLOCKS_PER_TASK
    assert len(sizes) < 100


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([], 1),
        ([(1, 30.0)], 1),
        ([(1, 0.6)], 1),
        ([(1, 0.2)], 5),
        ([(1, 0.2), (5, 2.0)], 2),
        ([(1, 0.9), *[(2, 0.4)] * 4], 5),
        ([(1, 0.0)], blocks.MAX_BLOCKS_PER_TASK),
    ],
)
def test_blocks_of_a_task_take_a_moment_together(tasks: list[tuple[int, float]], expected: int) -> None:
    """As the slowest of the last four did."""
    pace = blocks._Pace()
    for n_blocks, seconds in tasks:
        pace.note(blocks._Done([None] * n_blocks, seconds))
    assert pace.blocks_per_task() == expected


@pytest.mark.parametrize(("n_left", "expected"), [(4, [1] * 4), (16, [4, 3, 3, 2, 1, 1, 1, 1]), (0, [])])
def test_the_last_blocks_are_shared_out_among_the_threads(n_left: int, expected: list[int]) -> None:
    pace = blocks._Pace()
    pace.note(blocks._Done([None], 0.0))
    found = [len(group) for group in blocks._grouped(iter(list(range(n_left))), pace, 4)]
    assert found == expected
    assert [len(group) for group in blocks._grouped((one for one in range(40)), pace, 4)] == [16, 16, 8]


def test_blocks_come_as_they_end_and_not_in_order(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "TASK_S", 0)
    watch = WATCHES["order"] = Watch()
    found: list[int] = []
    for results in map_plans(client, hold_first, range(20), context="order", name="order"):
        found += results
        if len(found) == 19:
            watch.held.set()
    assert found[-1] == 0
    assert sorted(found) == list(range(20))


def test_a_result_is_heard_before_its_worker_ends_the_next_block() -> None:
    """What is done must not wait on a worker, which may die over what it does next."""
    watch = WATCHES["heard"] = Watch()
    found = []
    with session(Profile(kind="threads", workers=1, dashboard=False)) as client:
        for results in map_plans(client, is_first_heard, range(3), context="heard", name="heard"):
            watch.held.set()
            found += results
    assert found == [True] * 3


def test_results_are_let_go_and_names_used_again_are_worked_again(client: Client) -> None:
    watch = WATCHES["twice"] = Watch()
    for _ in range(2):
        flat(map_plans(client, count, range(4), context="twice", name="twice"))
    assert sorted(watch.calls) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not client.futures


@pytest.mark.parametrize(
    "error", [StoreWriteError("disk full"), StoreDamagedError("gone"), FintuneValueError("no"), KeyError("k")]
)
def test_an_error_in_a_block_is_raised_as_it_was_and_the_others_are_given_up(client: Client, error: Exception) -> None:
    name = f"error-{type(error).__name__}"
    watch = WATCHES[name] = Watch(plans=Counted(1000), error=error)
    threading.Timer(0.3, watch.held.set).start()
    with pytest.raises(type(error)) as raised:
        flat(map_plans(client, fail_third, watch.plans, context=name, name=name))
    assert raised.value.args == error.args
    assert watch.plans.drawn < 1000
    assert not client.futures


def test_a_caller_who_stops_asking_leaves_nothing_behind(client: Client) -> None:
    with contextlib.closing(map_plans(client, multiply, range(100), context=1, name="stop")) as results:
        next(results)
    assert not client.futures


def test_a_failing_draw_of_plans_is_raised(client: Client) -> None:
    def plans() -> Iterator[int]:
        yield 1
        raise FintuneValueError("no more")

    with pytest.raises(FintuneValueError, match="no more"):
        flat(map_plans(client, multiply, plans(), context=1, name="draw"))


def _kill_once(plan: int, folder: str) -> int:
    mark = Path(folder) / str(plan)
    if plan % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return plan


def _kill_always(plan: int, _: str) -> int:
    if plan == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return plan


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_dying_workers_cost_their_blocks_only(tmp_path: Path) -> None:
    with session(Profile(kind="processes", workers=2, dashboard=False)) as client:
        found = flat(map_plans(client, _kill_once, range(6), context=str(tmp_path), name="kill"))
    assert sorted(found) == list(range(6))


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_block_that_kills_every_worker_ends_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules[Profile.__module__.replace("profile", "session")]._CONFIG, FAILURES, 1)
    with (
        session(Profile(kind="processes", workers=1, dashboard=False)) as client,
        pytest.raises(WorkerLostError, match="2 worker processes died one after another over the same block"),
    ):
        flat(map_plans(client, _kill_always, range(4), context="", name="kill"))


def _rescued(plan: int, _: str) -> int:
    return -plan


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_block_that_kills_every_worker_is_rescued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules[Profile.__module__.replace("profile", "session")]._CONFIG, FAILURES, 1)
    with session(Profile(kind="processes", workers=1, dashboard=False)) as client:
        found = flat(map_plans(client, _kill_always, range(4), context="", name="kill", rescue=_rescued))
    # Blocks that were under way in the same process may be taken for the one at fault, and are rescued as well.
    assert sorted(map(abs, found)) == [0, 1, 2, 3]
    assert -2 in found


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_of_a_task_that_kills_every_worker_each_block_is_rescued_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules[Profile.__module__.replace("profile", "session")]._CONFIG, FAILURES, 1)
    monkeypatch.setattr(blocks._Pace, "blocks_per_task", lambda _: 4)
    with session(Profile(kind="processes", workers=1, dashboard=False)) as client:
        found = flat(map_plans(client, _kill_always, range(4), context="", name="kill", rescue=_rescued))
    assert sorted(found) == [-3, -2, -1, 0]


class Gone:
    """A future whose worker died after its result had been fetched."""

    status = "pending"

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (np.array([blocks._Done([7], 0.1)], object), None),
        ((ValueError, ValueError("in the block"), None), ValueError),
        (CancelledError(), WorkerLostError),
    ],
)
def test_what_was_fetched_counts_whatever_became_of_the_worker(result: Any, error: type[Exception] | None) -> None:
    gone: Any = Gone()

    class Pool:
        def next_batch(self, block: bool) -> list[Any]:
            return [(gone, result)]

    pool: Any = Pool()
    with contextlib.nullcontext() if error is None else pytest.raises(error):
        assert blocks._collect(pool, {gone: blocks._Sent((0,))}, blocks._Pace(), rescues=0) == ([7], [])


def test_what_travels_with_a_block_is_small(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    context = BlockContext(
        location=Location.of("/somewhere/rather/deep/in/a/project/cohort.zarr"),
        run="generic-v1",
        checkpoint=resolve_checkpoint("threshold"),
        settings=ThresholdSettings(),
        channels=("DAPI", "marker"),
        device="cpu",
        batch_tiles=8,
        attempts=2,
    )
    plan = ShardPlan(1000, 256_000, 256, tuple(range(256)))
    assert len(pickle.dumps(context)) < 2000
    assert len(pickle.dumps(plan)) < 2000
    sizes = []
    persist = client.persist

    def weighed(tasks: Any, **options: Any) -> Any:
        sizes.append(len(pickle.dumps(dict(tasks.dask), protocol=5)) / tasks.npartitions)
        return persist(tasks, **options)

    monkeypatch.setattr(client, "persist", weighed)
    found = flat(map_plans(client, _slots, [plan] * 3, context=context, name="weighed"))
    assert found == [256, 256, 256]
    assert max(sizes) < 30_000


def _slots(plan: ShardPlan, _: BlockContext) -> int:
    return len(plan.todo)


def test_futures_are_those_of_their_tasks_in_order(client: Client) -> None:
    tasks = [(number,) for number in range(12)]
    futures = blocks._submit(client, multiply, tasks, 3, "ordered")
    assert [future.result()[0].results for future in futures] == [[3 * number] for number in range(12)]


@pytest.mark.parametrize(("n_in_flight", "room"), [(0, 6), (4, 2), (5, 0), (6, 0), (9, 0)])
def test_a_task_of_each_thread_goes_at_a_time(n_in_flight: int, room: int) -> None:
    assert blocks._room(THREADS, range(n_in_flight)) == room  # type: ignore[arg-type]


def test_of_a_thousand_threads_no_more_tasks_wait_to_be_sent_than_go_at_a_time() -> None:
    assert blocks._room(1000, range(2999 - blocks._MAX_BATCH)) == blocks._MAX_BATCH + 1  # type: ignore[arg-type]


def test_servers_that_have_nothing_to_do_do_little(client: Client) -> None:
    cluster: Any = client.cluster
    for server in (cluster.scheduler, *cluster.workers.values()):
        looks = {name: server.periodic_callbacks[name].callback_time for name in ("tick", "monitor")}
        assert looks["tick"] >= 500
        assert looks["monitor"] >= 5000


def test_more_workers_widen_the_window() -> None:
    class Fake:
        def __init__(self) -> None:
            self.threads = 0

        def nthreads(self) -> dict[str, int]:
            return {"w": self.threads} if self.threads else {}

    fake: Any = Fake()
    assert blocks._room(blocks._n_threads(fake), set()) == TASKS_PER_WORKER_THREAD
    fake.threads = 5
    in_flight: Any = {1, 2}
    assert blocks._room(blocks._n_threads(fake), in_flight) == 5 * TASKS_PER_WORKER_THREAD - 2


# ---- stages that overlap inside one block


def test_ahead_keeps_order_and_its_depth() -> None:
    items = Counted(30)
    with ThreadPoolExecutor(3) as pool:
        for expected, result in enumerate(ahead(pool, lambda x: x * x, items, depth=4)):
            assert result == expected * expected
            assert items.drawn <= expected + 1 + 4 + 1


def test_ahead_raises_at_the_item_that_failed() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = ahead(pool, lambda x: 1 // (x - 2), range(5), depth=2)
        assert [next(results), next(results)] == [-1, -1]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_batches() -> None:
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches([], 3)) == []


def test_results_are_gathered_until_time_is_up_or_nothing_comes_in() -> None:
    assert list(gather_batches([[1], [2], [], [3], [], [4]], seconds=60)) == [[1, 2], [3], [4]]
    assert list(gather_batches([[1], [2], []], seconds=0)) == [[1], [2]]
    assert list(gather_batches([], seconds=60)) == []


def test_what_was_gathered_is_handed_on_before_an_error() -> None:
    def broken() -> Iterator[list[int]]:
        yield [1]
        yield [2]
        raise RuntimeError("lost")

    found = []
    with pytest.raises(RuntimeError, match="lost"):
        for some in gather_batches(broken(), seconds=60):
            found.append(some)
    assert found == [[1, 2]]
