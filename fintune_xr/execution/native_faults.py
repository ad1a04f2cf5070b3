"""Crashes in native code: where they happened in Python is printed, and what ended a process is told in words."""

from __future__ import annotations

import faulthandler
import signal
from typing import Final

# Signals that a process brings on itself: memory that is not its own, arithmetic, or its own `abort`.
_CRASHES: Final = tuple(
    getattr(signal, name) for name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT") if hasattr(signal, name)
)
_STANDARD_ERROR: Final = 2


def print_crashes() -> None:
    """From now on this process prints, on standard error, where in Python it was when native code crashes."""
    if not faulthandler.is_enabled():
        faulthandler.enable(file=_STANDARD_ERROR, all_threads=False)


def end_of(status: int) -> str:
    """How a process ended, to be said after its name, by its exit `status`: below 0 it is the signal that killed it."""
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"crashed in native code ({name})" if -status in _CRASHES else f"was killed by {name}"


def remedy_of(status: int) -> str:
    """What to look at where a process ended with that exit status; empty where nothing is known."""
    if status >= 0:
        return ""
    if -status in _CRASHES:
        return (
            "Where it was in Python stands above, or in the log of the worker, under `Fatal Python error`. Mostly a "
            "library does not fit this machine: fintune-xr doctor."
        )
    return "If it was the system: memory was short." if -status == signal.SIGKILL else ""
