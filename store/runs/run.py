"""A stored run as it is asked: its identity, how it is cut, whether it is done, and what may be its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.store.cohort import Cohort, product_at
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import read_attrs
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.tasks.product import PRODUCTS
from fintune_xr.text import texts

# Names stand in those of files, which may have 255 bytes, beside others.
_LONGEST: Final = 100
_RETRY: Final = " --retry-quarantined"


def check_run_name(name: str) -> None:
    """Raises FintuneValueError unless `name` is a plain word that may name a folder."""
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name[0] in "._-" or len(name) > _LONGEST:
        raise FintuneValueError(
            f"run name {name!r}: use letters, digits, '-', '_' and '.', up to {_LONGEST}, e.g. generic-v1"
        )


def require_once(names: Sequence[str]) -> None:
    """Raises FintuneValueError for a run that stands twice among `names`: it would be counted as two."""
    if twice := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
        raise FintuneValueError(f"run {twice[0]!r} was asked for more than once. Name each once.")


def require_known_run(cohort: Cohort, names: Sequence[str]) -> None:
    """Raises UnknownNameError for the first of `names` that is no run of the cohort, and as `require_once`."""
    require_once(names)
    known = cohort.run_names()
    for name in names:
        if name not in known:
            raise unknown_name("run", name, known)


def run_creation(location: Location, run: str) -> str:
    """What shards of this run are written with; another one after each `restart`."""
    return str(read_attrs(location, f"{n.RUNS}/{run}").get(n.CREATION, ""))


def run_grid(location: Location, run: str) -> shards.ShardGrid:
    """How the pixels of a run are cut. Raises FintuneValueError for a run without pixels."""
    path = f"{n.RUNS}/{run}"
    product = product_at(location, path)
    if product.array is None:
        raise FintuneValueError(f"run {run!r} of {location.url} stores no pixels, only columns ({product.name})")
    return shards.grid_of(location.array(f"{path}/{product.array}"))


def run_tiles_per_shard(location: Location, run: str) -> int:
    """Tiles in one task of a run: those of one shard of its pixels, or as many as were settled when it was made."""
    path = f"{n.RUNS}/{run}"
    if product_at(location, path).array is not None:
        return run_grid(location, run).tiles_per_shard
    return int(read_attrs(location, path)[n.TILES_PER_SHARD])


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
        undone = [tile for tile in tiles if states.get(tile) not in (n.DONE, n.QUARANTINED)]
        _refuse_undone(cohort, name, undone, len(tiles))
        found |= {name: lost} if lost else {}
    if tiles and set(tiles) == {tile for lost in found.values() for tile in lost}:
        raise FintuneValueError(
            f"each of the {len(tiles)} annotated tiles is in quarantine in one of the runs {', '.join(found)}, so that "
            "nothing is left to score. Try them again, where a model made them, with `fintune-xr infer "
            "--retry-quarantined`, or name other runs."
        )
    return found


def finish_command(cohort: Cohort, name: str, *, option: str = "") -> str:
    """What is typed to make the tiles of a run that are pending, by what made the others; `option` is for `infer`."""
    identity = cohort.run_attrs(name)[n.IDENTITY]
    how = {
        n.IMPORTED: f"import-run MASKS {cohort.url} --run {name} --made-by … (as before)",
        n.HYBRID: f"hybrid {cohort.url} --name {name} --run … (as before)",
        n.REGIONS_OF: f"classify {cohort.url} --as-run {name} --regions {identity.get(n.REGIONS_OF)} … (as before)",
        n.PROBE: f"probe {cohort.url} --run {' --run '.join(identity.get(n.SOURCES, ()))}",
    }
    made_by = next((verb for verb in how if verb in identity), "")
    return f"fintune-xr {how[made_by] if made_by else f'infer {cohort.url} --run {name}{option}'}"


def require_done(cohort: Cohort, name: str, run: xr.Dataset, tiles: xr.Dataset) -> None:
    """Raises FintuneValueError where `run`, the run `name`, has no result for one of `tiles`."""
    states, wanted = _states(run), texts(tiles[n.TILE])
    _refuse_undone(cohort, name, [tile for tile in wanted if states.get(tile) != n.DONE], len(wanted))


def _states(run: xr.Dataset) -> dict[str, int]:
    """The state of each tile of a run; one that it has never heard of was added to the cohort after it."""
    return dict(zip(texts(run[n.TILE]), run[n.STATE].values.tolist(), strict=True))


def _refuse_undone(cohort: Cohort, name: str, undone: Sequence[str], n_wanted: int) -> None:
    if undone:
        listed = ", ".join(undone[:5])
        raise FintuneValueError(
            f"run {name!r} has no result for {len(undone)} of {n_wanted} annotated tiles ({listed}). "
            f"Finish it: {finish_command(cohort, name, option=_RETRY)}"
        )
