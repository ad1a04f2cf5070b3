"""A whole simulated cohort of stained tissue on disk, named as the BCSS data set, with its class masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from pydantic import Field

from fintune_xr.errors import FintuneValueError
from fintune_xr.seeds import stream
from fintune_xr.settings import Settings
from fintune_xr.simulation.tissue import slide_stain, tissue_patch

SITES: Final = ("A1", "A2", "BH", "AR", "D8", "AO", "OL", "LL")
TEST_SITES: Final = r"TCGA-(OL|LL)-.*"
"""A pattern of the donors of two sites, as a test part by site has it."""


class HeCohortSettings(Settings):
    """Size and seed of a simulated cohort of patches; the same settings give the same bytes on disk."""

    n_donors: int = Field(default=8, ge=3, description="Donors, spread over the sites.")
    tiles_per_donor: tuple[int, int] = Field(default=(3, 4), description="Fewest and most patches of a donor.")
    tile_px: int = Field(default=256, ge=64, description="Height and width of a patch.")
    damaged: bool = Field(default=True, description="Add a truncated image and a mask of another size.")
    seed: int = Field(default=2024, ge=0)


@dataclass(frozen=True, slots=True)
class SimulatedPatches:
    """Where a simulated cohort lies: `source` holds `images/` and `masks/` of equal names.

    `damaged` lists the files that ingest and annotate have to leave out.
    """

    source: Path
    damaged: tuple[Path, ...]


def simulate_he_cohort(folder: Path | str, *, settings: HeCohortSettings | None = None) -> SimulatedPatches:
    """A cohort of patches written below `folder`, which must not hold one yet.

    `images/TCGA-<site>-S<nnn>-DX1_xmin<X>_ymin<Y>_MPP-0.2500.png` and `masks/` of the same names, in the codes of the
    BCSS legend; every donor has a stain of its own.

    Raises FintuneValueError if there is a cohort in `folder` already.
    """
    settings = settings or HeCohortSettings()
    source = Path(folder)
    if (source / "images").exists():
        raise FintuneValueError(
            f"{source / 'images'} exists; a simulated cohort is never mixed with others. Name an empty folder."
        )
    for name in ("images", "masks"):
        (source / name).mkdir(parents=True)
    for stem, image, codes in _patches(settings):
        Image.fromarray(image).save(source / "images" / f"{stem}.png")
        Image.fromarray(codes).save(source / "masks" / f"{stem}.png")
    return SimulatedPatches(source, _damage(settings, source) if settings.damaged else ())


def _patches(settings: HeCohortSettings) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    fewest, most = settings.tiles_per_donor
    for donor in range(settings.n_donors):
        stain = slide_stain(stream(settings.seed, "stain", donor))
        count = int(stream(settings.seed, "tiles", donor).integers(fewest, most, endpoint=True))
        for number in range(count):
            rng = stream(settings.seed, "patch", donor, number)
            image, codes = tissue_patch(rng, stain, tile_px=settings.tile_px, outside=number == 0)
            yield _stem(donor, number, settings), image, codes


def _stem(donor: int, number: int, settings: HeCohortSettings) -> str:
    site = SITES[donor % len(SITES)]
    return f"TCGA-{site}-S{donor:03d}-DX1_xmin{number * settings.tile_px}_ymin{1000 * donor}_MPP-0.2500"


def _damage(settings: HeCohortSettings, source: Path) -> tuple[Path, ...]:
    """A patch that breaks off in the middle, and one more whose mask is too small."""
    stain = slide_stain(stream(settings.seed, "stain", 0))
    paths = []
    for number in (90, 91):
        image, codes = tissue_patch(stream(settings.seed, "damaged", number), stain, tile_px=settings.tile_px)
        stem = _stem(0, number, settings)
        broken = source / "images" / f"{stem}.png"
        Image.fromarray(image).save(broken)
        if number == 90:
            content = broken.read_bytes()
            broken.write_bytes(content[: len(content) // 2])
            paths.append(broken)
        else:
            small = source / "masks" / f"{stem}.png"
            Image.fromarray(codes[: codes.shape[0] // 2]).save(small)
            paths.append(small)
    return tuple(paths)
