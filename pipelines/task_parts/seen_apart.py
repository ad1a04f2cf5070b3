"""Scores of all annotated tiles, told apart by what the model of each run has seen of them in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.training_exposure import CORRECTED, JUDGED, LEARNED, seen_tiles
from fintune_xr.text import texts

ScoresOfOne: TypeAlias = Callable[[str, NDArray[np.intp]], xr.Dataset]
"""From a run and positions of its tiles to its scores on those alone, which may have a dim `run` of that one run."""

_NEW: Final = "new"
_MEANINGS: Final = (_NEW, JUDGED, LEARNED, CORRECTED)
# From the weakest way in which a tile is no test of a run to the strongest.
_STRENGTHS: Final = (_NEW, CORRECTED, JUDGED, LEARNED)
_OF_EXPOSURE: Final = {n.SEEN_TILES: True, n.NEW_TILES: False}
_PREFIX: Final = f"{n.APART}_"
_ELSEWHERE: Final = {n.TILE, n.DONOR, n.REFERENCE}
_N_NAMED: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What was scored: ids of `tiles`, and what each is of along `dim` (itself, or its donor).

    A donor has been seen where one of its tiles was.
    """

    tiles: Sequence[str]
    of_tile: Sequence[str]
    dim: str = n.TILE

    @property
    def units(self) -> list[str]:
        """What lies along `dim`, each once."""
        return list(dict.fromkeys(self.of_tile))


def seen_apart(cohort: Cohort, runs: Sequence[str], scored: Scored, scores: ScoresOfOne) -> xr.Dataset:
    """`apart_<score>` (exposure, run, …) of what each run's model has seen in training, and of what is new to it.

    Runs have seen different tiles, so nothing is said of differences between them. NaN where a run has no such tile.
    `how_seen` (run, tile or donor) says how each was seen: it taught the model (`learned`), chose its epoch (`judged`),
    is annotated by corrected masks of the run (`corrected`), or none of these (`new`). Empty where all are new to all.
    """
    how = {run: _how_seen(cohort, run, scored) for run in runs}
    if not any(codes.any() for codes in how.values()):
        return xr.Dataset()
    places = {unit: at for at, unit in enumerate(scored.units)}
    unit_of_tile = np.array([places[unit] for unit in scored.of_tile])
    exposures = [
        xr.concat(
            [_of_run(run, np.flatnonzero((codes[unit_of_tile] > 0) == wanted), scores) for run, codes in how.items()],
            n.RUN, data_vars="all", join="outer", coords="minimal", compat="override",
        ).expand_dims({n.EXPOSURE: [exposure]})
        for exposure, wanted in _OF_EXPOSURE.items()
    ]  # fmt: skip
    apart = xr.concat(exposures, n.EXPOSURE, data_vars="all", join="outer", coords="minimal", compat="override")
    codes = xr.DataArray(
        np.stack(list(how.values())), {n.RUN: list(how), scored.dim: scored.units}, (n.RUN, scored.dim),
        attrs={n.FLAG_VALUES: list(range(len(_MEANINGS))), n.FLAG_MEANINGS: " ".join(_MEANINGS)},
    )  # fmt: skip
    return apart.assign({n.HOW_SEEN: codes})


def of_exposures(scores: xr.Dataset) -> dict[str, xr.Dataset]:
    """By exposure: stored scores of the tiles of that exposure alone, of runs that have any, as the whole's are.

    `exposure` is a coordinate of each. Empty where nothing was scored apart.
    """
    if n.HOW_SEEN not in scores:
        return {}
    apart = scores[[name for name in scores if str(name).startswith(_PREFIX)]]
    apart = apart.rename({name: str(name).removeprefix(_PREFIX) for name in apart})
    found = {}
    for exposure, wanted in _OF_EXPOSURE.items():
        codes = scores[n.HOW_SEEN]
        has_any = (codes > 0 if wanted else codes == 0).any(_unit(scores))
        runs = [run for run, one in zip(texts(scores[n.RUN]), has_any.values, strict=True) if one]
        if runs:
            found[exposure] = apart.sel({n.EXPOSURE: exposure, n.RUN: runs})
    return found


def seen_lines(scores: xr.Dataset) -> list[str]:
    """A line for each run whose model has seen some of what was scored, with a few of them."""
    units = texts(scores[_unit(scores)])
    what = "tiles" if _unit(scores) == n.TILE else "participants"
    lines = []
    for run, codes in zip(texts(scores[n.RUN]), scores[n.HOW_SEEN].values, strict=True):
        learned, judged, corrected = (
            [unit for unit, code in zip(units, codes, strict=True) if code == _MEANINGS.index(how)]
            for how in (LEARNED, JUDGED, CORRECTED)
        )
        seen, n_new = [*learned, *judged], int((codes == 0).sum())
        if seen:
            lines.append(
                f"run {run}: its model learned from {len(learned)} of these {len(units)} {what} and was chosen on "
                f"{len(judged)} more ({_some(seen)}): scores of all of them flatter it; {n_new} are new to it"
            )
        if corrected:
            lines.append(
                f"run {run}: {len(corrected)} of these {len(units)} {what} are annotated by its own masks, corrected "
                f"({_some(corrected)}), and count as seen: scores of all of them flatter it"
            )
    return lines


def _some(units: Sequence[str]) -> str:
    return ", ".join(units[:_N_NAMED]) + (", …" if len(units) > _N_NAMED else "")


def _unit(scores: xr.Dataset) -> str:
    return next(str(dim) for dim in scores[n.HOW_SEEN].dims if dim != n.RUN)


def _how_seen(cohort: Cohort, run: str, scored: Scored) -> NDArray[np.int8]:
    """Code (unit,) of each unit: the strongest way in which the model has seen one of its tiles."""
    # Picks of a plain filter stand on no run, and on no model that has seen anything.
    how = seen_tiles(cohort, run, scored.tiles) if run in cohort.run_names() else {}
    found = dict.fromkeys(scored.units, _NEW)
    for tile, unit in zip(scored.tiles, scored.of_tile, strict=True):
        found[unit] = max(found[unit], how.get(tile, _NEW), key=_STRENGTHS.index)
    return np.array([_MEANINGS.index(one) for one in found.values()], np.int8)


def _of_run(run: str, at: NDArray[np.intp], scores: ScoresOfOne) -> xr.Dataset:
    """Numbers of one run on the tiles at these positions, without those of single tiles and between runs."""
    if not at.size:
        return xr.Dataset(coords={n.RUN: [run]})
    made = scores(run, at)
    own = [name for name, one in made.items() if one.dtype.kind in "uif" and _ELSEWHERE.isdisjoint(one.dims)]
    bare = made[own].rename({name: f"{_PREFIX}{name}" for name in own}).drop_vars(n.REFERENCE, errors="ignore")
    return bare.assign_coords({n.RUN: [run]}) if n.RUN in bare.dims else bare.expand_dims({n.RUN: [run]})
