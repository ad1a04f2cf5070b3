"""Blocks that share a device: one at a time, the oldest first, and nobody is forgotten."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fintune_xr.execution.device_turns import Turns, turns_on


class Users:
    """Threads that wait while the device is taken, and the order in which they get it."""

    def __init__(self, ranks: list[int]) -> None:
        self.turns = Turns()
        self.order: list[int] = []
        self.inside = 0
        self.most_inside = 0
        self.threads = [threading.Thread(target=self.use, args=(rank,)) for rank in ranks]

    def use(self, rank: int) -> None:
        with self.turns.turn(rank, while_waiting=lambda: None):
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            self.order.append(rank)
            self.inside -= 1

    def run(self) -> list[int]:
        """Order of those that waited while somebody had the device."""
        with self.turns.turn(-1, while_waiting=lambda: None):
            for thread in self.threads:
                thread.start()
            while len(self.turns._waiting) < len(self.threads):
                threading.Event().wait(0.001)
        for thread in self.threads:
            thread.join(timeout=30)
        return self.order


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
@examples(max_examples=30, deadline=None)
def test_the_oldest_is_next(ranks: list[int]) -> None:
    users = Users(ranks)
    assert users.run() == sorted(ranks)
    assert users.most_inside == 1


def test_an_error_gives_the_device_back() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="no"), turns.turn(0, while_waiting=lambda: None):
        raise ValueError("no")
    with turns.turn(1, while_waiting=lambda: None):
        pass


def test_whoever_waits_says_that_it_is_alive() -> None:
    turns, alive = Turns(), threading.Event()

    def wait() -> None:
        with turns.turn(1, while_waiting=alive.set):
            pass

    thread = threading.Thread(target=wait)
    with turns.turn(0, while_waiting=lambda: None):
        thread.start()
        assert alive.wait(timeout=30)
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_one_queue_for_each_device() -> None:
    assert turns_on("cuda:0") is turns_on("cuda:0")
    assert turns_on("cuda:0") is not turns_on("cuda:1")
