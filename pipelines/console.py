"""Progress of long work: a bar with rate and time left on a terminal, plain lines in a job log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0

Advance = Callable[[int], None]


def console() -> Console:
    """Where people read what happens: standard error, so that standard output stays clean.

    A notebook shows that in red, and what is made for notebooks as lines that end where the page does: there it is
    standard output, as plain text.
    """
    return Console(stderr=not Console().is_jupyter, highlight=False, force_jupyter=False)


def say(text: str) -> None:
    """One plain line for the person who runs the command."""
    _LISTENER.get()(text)


def _print(text: str) -> None:
    console().print(text, markup=False, soft_wrap=True)


# Work on another machine is heard where the command was given.
_LISTENER: ContextVar[Callable[[str], None]] = ContextVar("listener", default=_print)


@contextlib.contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """What this thread says goes to `listener` instead of standard error."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextlib.contextmanager
def progress(what: str, total: int, *, unit: str = "tiles") -> Iterator[Advance]:
    """A function that counts `total` pieces of work as they are done."""
    show = _bar(what, total, unit) if sys.stderr.isatty() else _lines(what, total, unit)
    with show as advance:
        yield advance


@contextlib.contextmanager
def _bar(what: str, total: int, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(what, total=total, rate="")
        began, done = time.monotonic(), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            rate = done / max(time.monotonic() - began, 1e-9)
            bar.update(task, advance=count, rate=f"{rate:.1f} {unit}/s")

        yield advance


@contextlib.contextmanager
def _lines(what: str, total: int, unit: str) -> Iterator[Advance]:
    began = last = time.monotonic()
    done = shown = 0

    def line() -> None:
        nonlocal shown
        shown = done
        elapsed = max(time.monotonic() - began, 1e-9)
        rate = done / elapsed
        left = f"{(total - done) / rate:.0f} s left" if rate and done < total else f"{elapsed:.1f} s"
        say(f"{what}: {done}/{total} {unit}, {rate:.1f} {unit}/s, {left}")

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            line()

    yield advance
    if done and done != shown:
        line()


@contextlib.contextmanager
def steps(what: str, *, unit: str = "tiles") -> Iterator[Callable[[int, int], None]]:
    """A function that takes `done of total` as readers report it; the total leaves out what was there."""
    with contextlib.ExitStack() as shown:
        advance: Advance | None = None
        before = 0

        def report(done: int, total: int) -> None:
            nonlocal advance, before
            if advance is None:
                advance = shown.enter_context(progress(what, total, unit=unit))
            advance(done - before)
            before = done

        yield report
