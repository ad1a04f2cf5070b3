"""Processes that a test starts, lets end, or kills at random moments."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import killing

from fintune_xr.seeds import stream


@contextlib.contextmanager
def started(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """A process that is gone, with all it started, when the block ends."""
    process = killing.FORKS.Process(target=target, args=arguments)
    process.start()
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def to_the_end(target: Callable[..., None], *arguments: Any) -> tuple[int, float]:
    began = time.monotonic()
    with started(target, *arguments) as process:
        process.join()
    return process.exitcode, time.monotonic() - began


def kill_at_random(
    target: Callable[..., None], *arguments: Any, seconds: float, kills: int, again: Callable[[], None]
) -> None:
    """Starts, kills and starts again until `kills` have hit work under way; `again` undoes work that has ended."""
    rng = stream(7, "kill", target.__name__)
    hits = 0
    while hits < kills:
        with started(target, *arguments) as process:
            process.join(timeout=float(rng.uniform(0.1, 1.05)) * seconds * rng.choice([0.25, 0.5, 1.0]))
            ended = process.exitcode is not None
        if ended:
            assert process.exitcode in (0, 3)
            again()
        else:
            hits += 1
