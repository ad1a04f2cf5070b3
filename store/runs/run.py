"""A stored run as it is asked: its identity, how it is cut, whether it is done, and what may be its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
import zarr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.store.cohort import Cohort, product_at
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.tasks.product import PRODUCTS
from fintune_xr.text import texts


def check_run_name(name: str) -> None:
    """Raises FintuneValueError unless `name` is a plain word that may name a folder."""
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name[0] in "._-":
        raise FintuneValueError(f"run name {name!r}: use letters, digits, '-', '_' and '.', e.g. generic-v1")


def require_known_run(cohort: Cohort, names: Sequence[str]) -> None:
    """Raises UnknownNameError for the first of `names` that is no run of the cohort."""
    known = cohort.run_names()
    for name in names:
        if name not in known:
            raise unknown_name("run", name, known)


def run_creation(location: Location, run: str) -> str:
    """What shards of this run are written with; another one after each `restart`."""
    group = zarr.open_group(location.zarr(), path=f"{n.RUNS}/{run}", mode="r")
    return str(group.attrs.get(n.CREATION, ""))


def run_grid(location: Location, run: str) -> shards.ShardGrid:
    """How the pixels of a run are cut. Raises FintuneValueError for a run without pixels."""
    path = f"{n.RUNS}/{run}"
    product = product_at(location, path)
    if product.array is None:
        raise FintuneValueError(f"run {run!r} of {location.url} stores no pixels, only columns ({product.name})")
    return shards.grid_of(zarr.open_array(location.zarr(), path=f"{path}/{product.array}", mode="r"))


def run_tiles_per_shard(location: Location, run: str) -> int:
    """Tiles in one task of a run: those of one shard of its pixels, or as many as were settled when it was made."""
    path = f"{n.RUNS}/{run}"
    if product_at(location, path).array is not None:
        return run_grid(location, run).tiles_per_shard
    return int(zarr.open_group(location.zarr(), path=path, mode="r").attrs[n.TILES_PER_SHARD])  # type: ignore[arg-type]


def run_attrs(cohort: Cohort, name: str) -> dict[str, Any]:
    """Identity and provenance of a run."""
    return cohort.run_attrs(name)


def is_state_of_run(path: str) -> bool:
    """Whether `path` is a column of a run that `mark_pending` can write anew."""
    group, _, name = path.rpartition("/")
    return group.startswith(f"{n.RUNS}/") and any(name in product.columns for product in PRODUCTS.values())


def quarantined_of_runs(cohort: Cohort, names: Sequence[str], tiles: Sequence[str]) -> dict[str, list[str]]:
    """Those of the annotated `tiles` that are in quarantine in each run, for the runs that have any.

    Raises FintuneValueError where a run has not come to one of them yet, or where no tile is left that all runs have.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        states = _states(cohort.run(name, lazy=False))
        lost = [tile for tile in tiles if states.get(tile) == n.QUARANTINED]
        _refuse_undone(name, [tile for tile in tiles if states.get(tile) not in (n.DONE, n.QUARANTINED)], len(tiles))
        found |= {name: lost} if lost else {}
    if tiles and set(tiles) == {tile for lost in found.values() for tile in lost}:
        raise FintuneValueError(
            f"each of the {len(tiles)} annotated tiles is in quarantine in one of the runs {', '.join(found)}, so that "
            "nothing is left to score. Try them again with `fintune-xr infer --retry-quarantined`, or name other runs."
        )
    return found


def require_done(name: str, run: xr.Dataset, tiles: xr.Dataset) -> None:
    """Raises FintuneValueError where the run has no result for one of `tiles`."""
    states, wanted = _states(run), texts(tiles[n.TILE])
    _refuse_undone(name, [tile for tile in wanted if states.get(tile) != n.DONE], len(wanted))


def _states(run: xr.Dataset) -> dict[str, int]:
    """The state of each tile of a run; one that it has never heard of was added to the cohort after it."""
    return dict(zip(texts(run[n.TILE]), run[n.STATE].values.tolist(), strict=True))


def _refuse_undone(name: str, undone: Sequence[str], n_wanted: int) -> None:
    if undone:
        listed = ", ".join(undone[:5])
        raise FintuneValueError(
            f"run {name!r} has no result for {len(undone)} of {n_wanted} annotated tiles ({listed}). Finish it with "
            f"`fintune-xr infer`; quarantined tiles are tried again with --retry-quarantined."
        )
