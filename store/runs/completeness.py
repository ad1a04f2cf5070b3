"""Whether a run has been at the tiles that it is to be judged by."""

from __future__ import annotations

import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.text import texts


def require_done(name: str, run: xr.Dataset, tiles: xr.Dataset) -> None:
    """Raises FintuneValueError where the run has no result for one of `tiles`."""
    states = dict(zip(texts(run[n.TILE]), run[n.STATE].values, strict=True))
    wanted = texts(tiles[n.TILE])
    # A tile that the run has never heard of was added to the cohort after it.
    undone = [tile for tile in wanted if states.get(tile) != n.DONE]
    if undone:
        listed = ", ".join(undone[:5])
        raise FintuneValueError(
            f"run {name!r} has no result for {len(undone)} of {len(wanted)} annotated tiles ({listed}). Finish it with "
            f"`fintune-xr infer`; quarantined tiles are tried again with --retry-quarantined."
        )
