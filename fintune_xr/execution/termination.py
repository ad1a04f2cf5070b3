"""SIGTERM, which Slurm sends before it ends a job, as an exception that lets go of what is held."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import Any


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end by SIGTERM: whatever goes on after errors does not after this one."""


def end_on_sigterm() -> None:
    """From now on SIGTERM raises TerminatedError in the main thread; a second one ends the process at once.

    Nothing changes in the processes that this one forks, nor where another thread than the main one calls.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, partial(_end, os.getpid()))


def _end(process: int, number: int, _: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.getpid() != process:
        os.kill(os.getpid(), number)
    raise TerminatedError
