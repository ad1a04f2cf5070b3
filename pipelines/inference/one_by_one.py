"""A block over which workers died: its tiles one by one in a child process, so that the one at fault is found."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from fintune_xr import names as n
from fintune_xr.errors import WorkerLostError
from fintune_xr.execution.native_faults import end_of, print_crashes
from fintune_xr.pipelines.inference.block import SECONDS_TO_START, Block, BlockContext
from fintune_xr.pipelines.inference.watchdog import Watch
from fintune_xr.store.runs.run_shard import Encoded, encode_empty, write_run_shard
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult

_GRACE_S = 30.0


def infer_shard_one_by_one(plan: ShardPlan, context: BlockContext) -> ShardReceipt:
    """Receipt of one shard of the run, once it is durable on disk, as `infer_block` gives it, only slower.

    A tile whose process dies, or gives no answer in time, `attempts` times is quarantined with that reason.
    """
    finished: list[TileResult] = []
    with contextlib.ExitStack() as children:
        encoded = _encoded_tiles(plan, context, finished, children)
        write_run_shard(context.location, context.run, plan, encoded, creation=context.creation)
    return ShardReceipt(plan, tuple(finished))


def _encoded_tiles(
    plan: ShardPlan, context: BlockContext, finished: list[TileResult], children: contextlib.ExitStack
) -> Iterator[Encoded]:
    child: _Child | None = None
    for slot in plan.todo:
        fault = ""
        for attempt in range(1, context.attempts + 1):
            child = child or children.enter_context(contextlib.closing(_Child(context)))
            answer = child.ask(replace(plan, todo=(slot,)))
            if not isinstance(answer, str):
                break
            fault = f"{answer}, {attempt} of {context.attempts} times"
            child.close()
            child = None
        result, encoded = answer if not isinstance(answer, str) else _given_up(fault, context)
        finished.append(result)
        yield encoded


def _given_up(fault: str, context: BlockContext) -> tuple[TileResult, Encoded]:
    grid = context.grid()
    return TileResult(n.QUARANTINED, 0.0, fault), () if grid is None else encode_empty(grid)


class _Child:
    """A process that segments tiles until it dies of one."""

    def __init__(self, context: BlockContext) -> None:
        self.limit_s = context.tile_timeout_s
        ours, theirs = Pipe()
        # Not multiprocessing: a Dask worker is a daemon, and those may have no such children.
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        self.pipe = ours
        self.context = context
        self._is_ready = False

    def ask(self, plan: ShardPlan) -> tuple[TileResult, Encoded] | str:
        """Result and mask of the one tile in `plan`, or what became of the process.

        Raises what is not the tile's fault.
        """
        if not self._is_ready:
            self._wait_until_ready()
        try:
            self.pipe.send(plan)
            if not self.pipe.poll(self.limit_s or None):
                return f"no answer within {self.limit_s:g} s (tile_timeout_s)"
            answer: Any = self.pipe.recv()
        except (EOFError, OSError):
            # An OSError where it dies in the middle of an answer.
            return self._cause_of_death()
        return _without_error(answer)  # type: ignore[no-any-return]

    def _wait_until_ready(self) -> None:
        """A process that does not come to its first tile speaks against none of them."""
        try:
            self.pipe.send(self.context)
            if not self.pipe.poll(SECONDS_TO_START):
                raise WorkerLostError(f"no process for tiles one by one was ready within {SECONDS_TO_START:g} s")
            answer: Any = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerLostError(
                f"no process for tiles one by one was ready: {self._cause_of_death()}. Most often memory is short: "
                "start fewer workers. What was committed stays."
            ) from error
        self._is_ready = _without_error(answer)

    def _cause_of_death(self) -> str:
        """What ended the process, which hangs up as its last deed."""
        try:
            return f"its process {end_of(self.process.wait(_GRACE_S))}"
        except subprocess.TimeoutExpired:
            return "its process hung up and did not end"

    def close(self) -> None:
        """Ends the process."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


def _without_error(answer: Any) -> Any:
    """The answer; raises it where it is an error, which then is not the tile's."""
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _serve(pipe: Connection) -> None:
    """Answers plans of one tile each with their result and encoded mask, until nobody asks any more."""
    print_crashes()
    context: BlockContext = pipe.recv()
    try:
        context.load()
    except Exception as error:  # noqa: BLE001 - the worker that asked raises it
        pipe.send(error)
        return
    pipe.send(True)
    # Should the worker that asks have died meanwhile, nobody else would end a process that hangs.
    limit_s = context.tile_timeout_s and context.tile_timeout_s + _GRACE_S
    while True:
        try:
            plan: ShardPlan = pipe.recv()
        except EOFError:
            return
        with Watch(limit_s, what="isolated tile"):
            pipe.send(_answer(plan, context))


def _answer(plan: ShardPlan, context: BlockContext) -> Any:
    try:
        results: list[TileResult] = []
        (encoded,) = Block(plan, context).encoded_one_by_one(results)
    except Exception as error:  # noqa: BLE001 - the worker that asked raises it
        return error
    # Views of memory do not travel.
    return results[0], tuple(bytes(chunk) for chunk in encoded)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
