"""Memory goes to the next one only after everybody who could see it has let it go."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

from fintune_xr.execution import recycled_memory
from fintune_xr.execution.recycled_memory import release_idle, spare_bytes

SIZE = 3 << 20


@pytest.fixture(autouse=True)
def _nothing_idle() -> None:
    release_idle()


def test_memory_is_used_again_once_its_last_view_is_gone() -> None:
    lent = spare_bytes(SIZE)
    where, view = lent.ctypes.data, lent[5:].view(np.uint8)[::2]
    del lent
    assert spare_bytes(SIZE).ctypes.data != where
    release_idle()
    del view
    assert spare_bytes(SIZE - 1000).ctypes.data == where


def test_a_buffer_of_it_keeps_it() -> None:
    lent = spare_bytes(SIZE)
    where, buffer = lent.ctypes.data, lent.data
    del lent
    held = spare_bytes(SIZE)
    assert held.ctypes.data != where
    del buffer
    assert spare_bytes(SIZE).ctypes.data == where


def test_little_memory_is_not_taken_from_much() -> None:
    where = spare_bytes(20 * SIZE).ctypes.data
    small = spare_bytes(SIZE)
    assert small.nbytes == SIZE
    assert small.ctypes.data != where


def test_a_block_half_as_large_again_waits_for_those_that_need_it() -> None:
    where = spare_bytes(SIZE + SIZE // 2).ctypes.data
    assert spare_bytes(SIZE).ctypes.data != where
    assert spare_bytes(SIZE + SIZE // 2).ctypes.data == where


def test_what_lies_idle_goes_back() -> None:
    lent = spare_bytes(SIZE)
    block = weakref.ref(lent)
    del lent
    assert recycled_memory._returned
    release_idle()
    assert block() is None
    assert not recycled_memory._returned
    assert not recycled_memory._idle


def test_no_more_than_a_bound_lies_idle() -> None:
    lent = [spare_bytes(20 * SIZE) for _ in range(4)]
    lent.clear()
    spare_bytes(SIZE)
    assert sum(one.nbytes for one in recycled_memory._idle) <= 1 << 27


def test_threads_never_share_it() -> None:
    def fill(value: int) -> None:
        for _ in range(30):
            mine = spare_bytes(SIZE)
            mine[:] = value
            wrong.append(int(np.count_nonzero(mine != value)))

    wrong: list[int] = []
    threads = [threading.Thread(target=fill, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 120
