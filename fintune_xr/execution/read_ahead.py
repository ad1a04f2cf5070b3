"""Stages that run at the same time on different tiles, in order and with a bounded number under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(pool: Executor, function: Callable[[T], R], items: Iterable[T], *, depth: int) -> Iterator[R]:
    """`function` of each item, in order, computed on `pool` up to `depth` items before it is asked for.

    Items are drawn on the calling thread; drawing one may itself be work, such as a network's forward pass,
    which then runs while the pool is busy with the items before.
    """
    waiting = iter(items)
    under_way: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(waiting, depth))
    while under_way:
        first = under_way.popleft()
        if not first.done():
            # Keep the calling thread's own work going before waiting for the pool's.
            under_way.extend(pool.submit(function, item) for item in islice(waiting, 1))
        result = first.result()
        room = depth - len(under_way)
        under_way.extend(pool.submit(function, item) for item in islice(waiting, max(0, room)))
        yield result


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`, the last one shorter."""
    waiting = iter(items)
    while batch := list(islice(waiting, size)):
        yield batch
