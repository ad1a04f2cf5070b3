"""Compilation of plain-array kernels to machine code, with their types kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` compiled at its first call and cached on disk; it lets other threads run meanwhile."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
