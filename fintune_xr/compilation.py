"""Compilation of plain-array kernels to machine code, with their types kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., object])


def compile_kernel(function: F) -> F:
    """`function` compiled at its first call and cached on disk; it lets other threads run meanwhile.

    Where there is no place for a cache, as of a package on a read-only mount and a user without a home, it is compiled
    in every process; NUMBA_CACHE_DIR names a place.
    """
    try:
        made = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        made = numba.njit(nogil=True)(function)
    cache = getattr(made, "_cache", None)
    if isinstance(cache, FunctionCache):
        theirs = cache._cache_file
        base = f"{cache._impl.filename_base}_own"
        cache._cache_file = OwnFiles(cache._cache_path, base, theirs._source_stamp)
    return cast(F, made)


class OwnFiles(IndexDataCacheFile):  # type: ignore[misc]
    """numba's cache on disk, where each combination of types and each version of the source has a file of its own.

    numba numbers the files, and writes the list of numbers before the code. Where two processes compile a function for
    different types at the same time, both take the same number: one of them, and every later process, then finds the
    other's code under its types and computes wrong numbers without an error. Seen with numba 0.68.1.
    """

    def save(self, key: Any, data: Any) -> None:
        """Stores the code for these types, the file before the list that names it."""
        told = repr((self._version, self._source_stamp, key)).encode()
        name = self._data_name(int.from_bytes(hashlib.sha256(told).digest()[:8], "little"))
        self._save_data(name, data)
        # Read as late as can be; what another process adds meanwhile is lost from the list, and compiled once more.
        self._save_index({**self._load_index(), key: name})


@intrinsic  # type: ignore[untyped-decorator]
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """`a * b + c` of three floats of one type, rounded once; for use in compiled functions."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.fma(*values)

    return (a(a, b, c), generate) if a == b == c and a in numba.types.real_domain else None
