"""Memory for whole files and tiles that is used again: new pages cost as much time as a look at all that they hold.

A block goes back once nobody holds it, or a view of it, any more, so that it is used as any other array is.
"""

from __future__ import annotations

import weakref
from collections import deque
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Below, the allocator does as well; above, and of more than so many idle bytes, memory goes back to the system.
_LEAST_BYTES: Final = 1 << 20
_MOST_BYTES: Final = 1 << 26
_MOST_IDLE_BYTES: Final = 1 << 27

_idle: Final[list[NDArray[np.uint8]]] = []
# What comes back is only laid down here: it does whenever the last view ends, be it in the middle of what follows.
_returned: Final[deque[NDArray[np.uint8]]] = deque()
_lock: Final = Lock()


def spare_bytes(n_bytes: int) -> NDArray[np.uint8]:
    """An array of `n_bytes` uint8 that hold anything, in memory that was used before where some lies idle."""
    if not _LEAST_BYTES <= n_bytes <= _MOST_BYTES:
        return np.empty(n_bytes, np.uint8)
    block = _taken(n_bytes)
    if block is None:
        block = np.empty(-(-n_bytes // _LEAST_BYTES) * _LEAST_BYTES, np.uint8)
    # Through a memoryview: views of a slice would hold the block itself, and nobody could tell when they end.
    lent = np.frombuffer(block.data[:n_bytes], np.uint8)
    weakref.finalize(lent, _returned.append, block).atexit = False
    return lent


def release_idle() -> None:
    """Gives the system back what lies idle."""
    with _lock:
        _idle.clear()
        _returned.clear()


def _taken(n_bytes: int) -> NDArray[np.uint8] | None:
    """The smallest idle block that holds `n_bytes` and little more.

    Files, tiles and packed tiles are of different sizes: were blocks of one lent to the next, all would be of the
    largest in the end.
    """
    with _lock:
        while _returned:
            _idle.append(_returned.popleft())
        while sum(one.nbytes for one in _idle) > _MOST_IDLE_BYTES:
            _idle.pop(0)
        fitting = [at for at, one in enumerate(_idle) if n_bytes <= one.nbytes <= n_bytes * 9 // 8 + _LEAST_BYTES]
        return _idle.pop(min(fitting, key=lambda at: _idle[at].nbytes)) if fitting else None
