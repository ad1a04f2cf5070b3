"""Who is who in a self-training: labelled and unlabelled micrographs, and those that judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.finetune.detection.settings import UnetTrainSettings
from fintune_xr.finetune.detection.tiles import ParticleTiles, Target
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.detection.selftrain.settings import SelfTrainSettings
from fintune_xr.pipelines.detection.training import annotated_micrographs, particle_tiles, with_diameter
from fintune_xr.pipelines.leak_check.pairs import copies_of_judges
from fintune_xr.seeds import stream
from fintune_xr.settings import validate
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import stored_by
from fintune_xr.tasks.detection import Points
from fintune_xr.text import text_array, texts

SUPERVISED: Final = "iteration_0_supervised"

# Particles of a micrograph that was not annotated; nothing is measured against them.
NOTHING: Final = Points(np.empty((0, 2)), np.empty(0))


@dataclass(frozen=True, eq=False)
class SelfTrainPlan:
    """What all stages share; `parts` are annotated micrographs that are only ever measured on."""

    cohort: Cohort
    name: str
    folder: Path
    settings: SelfTrainSettings
    train: UnetTrainSettings
    rounds: UnetTrainSettings
    labelled: ParticleTiles
    unlabelled: ParticleTiles
    parts: dict[str, ParticleTiles]
    split_digest: str

    def stage(self, number: int) -> str:
        """Name of a stage; the supervised one is number 0."""
        return f"iteration_{number}_selftrain" if number else SUPERVISED

    def pseudo(self, number: int) -> str:
        """Name of the pseudo-labels that round `number` learns from."""
        return f"{self.name}_{number}"

    def settings_of(self, number: int) -> UnetTrainSettings:
        """Settings of a stage; every stage draws patches of its own."""
        seed = int(stream(self.train.seed, "round", number).integers(2**31))
        return self.rounds.model_copy(update={"seed": seed}) if number else self.train

    def target(self, tiles: ParticleTiles, index: int) -> Target:
        """Labels (y, x) of one of `tiles`, which may be pseudo-labels."""
        return tiles.target(index, disc_fraction=self.train.disc_fraction, rim_px=self.train.rim_px)

    def hidden(self, index: int) -> Target | None:
        """Labels by the annotation of an unlabelled micrograph, which no training sees; None where there is none."""
        return None if self.unlabelled.truth[index] is NOTHING else self.target(self.unlabelled, index)


def plan_study(cohort: Cohort, name: str, out: Path, settings: SelfTrainSettings, digest: str) -> SelfTrainPlan:
    """Which micrographs are labelled, which are not, and which judge.

    Raises SplitError without tiles in train or val, UnknownNameError or FintuneValueError for labelled ones that cannot
    be had, SettingsError for settings of rounds.
    """
    annotated = annotated_micrographs(cohort, n.TRAIN)
    chosen = _chosen(settings, [str(tile) for tile in annotated.names])
    images = cohort.images(lazy=False)
    tiles = text_array(images[n.TILE])
    free = _free(cohort, chosen)
    if settings.positive and not free.sizes[n.TILE]:
        raise FintuneValueError(
            f"{cohort.url}: {len(chosen)} micrographs are labelled, and none is left for pseudo-labels. "
            "Add micrographs, or take fewer as labelled: labelled=2"
        )
    truth = {str(tile): points for tile, points in zip(annotated.names, annotated.truth, strict=True)}
    labelled_images = images.isel({n.TILE: [tiles.tolist().index(tile) for tile in chosen]})
    labelled = particle_tiles(labelled_images, [truth[tile] for tile in chosen])
    unlabelled = particle_tiles(free, [truth.get(tile, NOTHING) for tile in texts(free[n.TILE])])
    train = with_diameter(settings.train, labelled)
    rounds = validate(UnetTrainSettings, {**train.as_dict(), **settings.rounds}, where="rounds")
    return SelfTrainPlan(
        cohort, name, out / name, settings, train, rounds, labelled, unlabelled, _judges(cohort), digest
    )


def _free(cohort: Cohort, labelled: list[str]) -> xr.Dataset:
    """Images that pseudo-labels may be made of: none of a data set that judges, and no copy of one that does."""
    images = cohort.images(lazy=False)
    tiles, parts = text_array(images[n.TILE]), text_array(images[n.SPLIT])
    is_free = np.isin(parts, [n.TRAIN, n.UNASSIGNED]) & ~np.isin(tiles, labelled)
    if stored_by(cohort) == n.DONOR:
        # What was never annotated has no part, but its donor may be one that judges.
        donors = text_array(images[n.DONOR])
        is_free &= ~np.isin(donors, donors[np.isin(parts, [n.VAL, n.TEST])])
    copies = copies_of_judges(cohort, is_free)
    for why in copies.values():
        say(f"selftrain: left out, because it would be learnt from and judged by: {why}")
    return images.isel({n.TILE: np.flatnonzero(is_free & ~np.isin(tiles, list(copies)))})


def _chosen(settings: SelfTrainSettings, names: list[str]) -> list[str]:
    """Ids of the labelled micrographs.

    Raises UnknownNameError for an id without annotation in the train part, FintuneValueError for too many.
    """
    wanted = settings.labelled
    if isinstance(wanted, tuple):
        for tile in wanted:
            if tile not in names:
                raise unknown_name("annotated micrograph of the train part", tile, names)
        return list(wanted)
    if not 0 <= wanted <= len(names):
        raise FintuneValueError(f"labelled: expected 1 to {len(names)} annotated train micrographs, or 0; got {wanted}")
    order = stream(settings.train.seed, "labelled").permutation(sorted(names))
    return sorted(str(tile) for tile in order[: wanted or len(names)])


def _judges(cohort: Cohort) -> dict[str, ParticleTiles]:
    parts = {n.VAL: annotated_micrographs(cohort, n.VAL)}
    if (text_array(cohort.images(lazy=False)[n.SPLIT]) == n.TEST).any():
        parts[n.TEST] = annotated_micrographs(cohort, n.TEST)
    return parts
