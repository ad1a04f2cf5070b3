"""Pixels of a run that is not finished: reading those of a pending tile is an error, never background or old masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, StoreDamagedError


@dataclass(frozen=True, slots=True, eq=False)
class _Guarded:
    """Stored pixels (tile, …) as Dask takes arrays, that look at the state of a tile before they are read."""

    stored: xr.Variable
    pending: NDArray[np.bool_]
    what: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.stored.dtype
        return dtype

    @property
    def ndim(self) -> int:
        return self.stored.ndim

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        asked = np.arange(self.pending.size)[key[0]]
        wanted = asked[self.pending[asked]]
        if wanted.size:
            raise FintuneValueError(
                f"{self.what}: tile {int(wanted[0])} along `tile` is pending, so there are no pixels of it yet. "
                f"`state` says which are done ({n.DONE}): .isel(tile=run.state.values == {n.DONE})"
            )
        return np.asarray(self.stored[key].values)


def has_pending(run: xr.Dataset) -> bool:
    """Whether tiles of a run are pending; where states are damaged nobody can tell, and whoever reads them is told."""
    try:
        return bool((run[n.STATE].values == n.PENDING).any())
    except StoreDamagedError:
        return False


def guard_pending(run: xr.Dataset, array: str, what: str) -> xr.DataArray:
    """Pixels `array` of a run as Dask blocks of one tile, that raise FintuneValueError for pending tiles when read.

    `run` holds them, not in memory. `what` names the run in the message.
    """
    stored = run[array].variable
    guarded = _Guarded(stored, run[n.STATE].values == n.PENDING, what)
    chunks = (1, *stored.shape[1:])
    meta = np.empty((0,) * stored.ndim, stored.dtype)
    # Without a name Dask would read all pixels to make one of them.
    pixels = da.from_array(guarded, chunks=chunks, name=False, meta=meta)  # type: ignore[no-untyped-call]
    return xr.DataArray(pixels, dims=stored.dims, attrs=stored.attrs)
