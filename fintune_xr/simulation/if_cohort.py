"""A whole simulated immunofluorescence cohort on disk, in the ROSMAP layout, with its truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.seeds import stream
from fintune_xr.settings import Settings
from fintune_xr.simulation.phantoms import Phantom, phantom_tile

LINKED_OUTCOME: Final = "nft"
"""The outcome that drives the linked marker; `gpath` follows in part, being a mean that contains it."""

OUTCOMES: Final = ("braaksc", "ceradsc", "cogdx", "dcfdx_lv", "plaq_d", "plaq_n", "nft", "gpath")
DONOR_COLUMN: Final = "projid"

_METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<Acquisition>
  <Instrument objective="20x" binning="1"/>
  <Channel index="0" name="DAPI"/>
  <Channel index="1" name="{marker}"/>
  <PixelSize unit="um">0.5</PixelSize>
</Acquisition>
"""


class CohortSettings(Settings):
    """Size and seed of a simulated cohort; the same settings give the same bytes on disk."""

    n_donors: int = Field(default=12, ge=3, description="Donors with images.")
    markers: tuple[str, ...] = Field(default=("GFAP", "IBA1", "OLIG2"), min_length=1)
    tiles_per_donor: tuple[int, int] = Field(default=(2, 5), description="Fewest and most tiles per marker.")
    tile_px: int = Field(default=256, ge=64, description="Height and width of a tile.")
    n_annotated: int = Field(default=30, ge=0, description="Tiles that come with an instance mask.")
    linked_marker: str = Field(default="GFAP", description="Marker whose ratio follows `nft`.")
    n_clinical_only: int = Field(default=2, ge=0, description="Donors of the clinical table without images.")
    damaged: bool = Field(default=True, description="Add a truncated file and a tile without its partner.")
    seed: int = Field(default=2024, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> CohortSettings:
        fewest, most = self.tiles_per_donor
        if not 1 <= fewest <= most:
            raise ValueError(f"tiles_per_donor: expected 1 <= fewest <= most, got {fewest} and {most}")
        if self.linked_marker not in self.markers:
            raise ValueError(f"linked_marker {self.linked_marker!r} is not among markers {self.markers}")
        return self


@dataclass(frozen=True, slots=True)
class SimulatedCohort:
    """Where the parts of a simulated cohort lie.

    `truth` is a CSV with the columns donor, marker, tile, n_all, n_positive, is_annotated, one row per
    readable tile; `damaged` lists the files that ingest has to leave out.
    """

    folder: Path
    source: Path
    annotations: Path
    clinical: Path
    truth: Path
    damaged: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Tile:
    donor: str
    marker: str
    number: int
    ratio: float
    gain: float

    @property
    def stem(self) -> str:
        return f"{self.donor}_{self.marker}_{self.number:02d}"


def simulate_cohort(folder: Path | str, *, settings: CohortSettings | None = None) -> SimulatedCohort:
    """A cohort written below `folder`, which must not hold one yet.

    `source/<donor>/<marker>/<donor>_<marker>_<nn>_b0c0.tif` is DAPI, `..._b0c1.tif` the marker, with an XML
    file of no use beside them; `annotations/<donor>/<marker>/<donor>_<marker>_<nn>_masks.tif` holds every
    nucleus of a subset of tiles; `clinical.csv` and `truth.csv` lie at the top. The true positive ratio of
    `linked_marker` rises with the rank of `nft`; every other pair of marker and outcome is independent
    (except through `gpath`, which contains `nft`).

    Raises FintuneValueError if there is a cohort in `folder` already.
    """
    settings = settings or CohortSettings()
    cohort = _places(Path(folder))
    if cohort.source.exists():
        raise FintuneValueError(
            f"{cohort.source} exists; a simulated cohort is never mixed with others. Name an empty folder."
        )
    clinical = clinical_table(settings)
    tiles = list(_planned_tiles(settings, clinical))
    annotated = _annotated(settings, tiles)
    rows = []
    for index, tile in enumerate(tiles):
        phantom = _phantom(settings, tile)
        _write_tile(cohort.source, tile, phantom.image)
        if index in annotated:
            _write_mask(cohort.annotations, tile, phantom)
        rows.append(_truth(tile, phantom, is_annotated=index in annotated))
    clinical.to_csv(cohort.clinical, index=False)
    pd.DataFrame(rows).to_csv(cohort.truth, index=False)
    damaged = _write_damaged(settings, cohort.source, tiles) if settings.damaged else ()
    return _places(Path(folder), damaged)


def clinical_table(settings: CohortSettings) -> pd.DataFrame:
    """One row per donor: `projid` as 8 digits in text, the outcomes with gaps, age at death (top-coded), sex,
    education and post-mortem interval in hours. The donors without images come last."""
    rng = stream(settings.seed, "clinical")
    size = settings.n_donors + settings.n_clinical_only
    ids = np.unique(10 ** rng.uniform(5.0, 8.0, size * 3)).astype(int)
    table = pd.DataFrame({DONOR_COLUMN: [f"{one:08d}" for one in rng.choice(ids, size, replace=False)]})
    table["braaksc"] = rng.choice(7, size, p=[0.02, 0.08, 0.1, 0.25, 0.3, 0.2, 0.05])
    table["ceradsc"] = rng.choice([1, 2, 3, 4], size, p=[0.3, 0.35, 0.1, 0.25])
    for name in ("cogdx", "dcfdx_lv"):
        table[name] = rng.choice([1, 2, 3, 4, 5, 6], size, p=[0.3, 0.24, 0.02, 0.36, 0.06, 0.02])
    for name, mean, shape in (("plaq_d", 0.6, 4.0), ("plaq_n", 0.7, 4.0), (LINKED_OUTCOME, 1.1, 1.6)):
        table[name] = rng.gamma(shape, mean / shape, size).round(4)
    _leave_gaps(table, rng)
    table["gpath"] = table[["plaq_d", "plaq_n", "nft"]].mean(axis=1, skipna=False).round(4)
    age = rng.normal(87.5, 5.5, size).clip(67.0, 104.0)
    table["age_death"] = [f"{one:.1f}" if one < 90 else "90+" for one in age]
    table["msex"] = rng.choice([0, 1], size, p=[0.64, 0.36])
    table["educ"] = rng.normal(16.3, 3.3, size).round().clip(6, 28).astype(int)
    table["pmi"] = rng.lognormal(np.log(6.5), 0.5, size).round(2)
    return table


def _leave_gaps(table: pd.DataFrame, rng: np.random.Generator) -> None:
    """About one value in twelve goes missing; the driving outcome stays complete."""
    for name in OUTCOMES:
        missing = rng.random(len(table)) < 1 / 12
        if name in table and name != LINKED_OUTCOME:
            table[name] = table[name].astype("Float64" if name.startswith("plaq") else "Int64").mask(missing)


def _planned_tiles(settings: CohortSettings, clinical: pd.DataFrame) -> Iterator[_Tile]:
    imaged = clinical.iloc[: settings.n_donors]
    place = (imaged[LINKED_OUTCOME].rank().to_numpy() - 0.5) / settings.n_donors
    for marker in settings.markers:
        rng = stream(settings.seed, "ratio", marker)
        free = _unlinked(rng, rng.uniform(0.15, 0.45, settings.n_donors), imaged)
        linked = 0.1 + 0.55 * place + rng.normal(0.0, 0.015, settings.n_donors)
        ratios = linked if marker == settings.linked_marker else free
        gains = rng.lognormal(0.0, 0.12, settings.n_donors)
        counts = rng.integers(*settings.tiles_per_donor, size=settings.n_donors, endpoint=True)
        for donor, ratio, gain, count in zip(imaged[DONOR_COLUMN], ratios, gains, counts, strict=True):
            for number in range(count):
                yield _Tile(donor, marker, number, float(np.clip(ratio, 0.02, 0.95)), float(gain))


def _unlinked(rng: np.random.Generator, ratios: NDArray[np.float64], imaged: pd.DataFrame) -> NDArray[np.float64]:
    """`ratios` in the one of 64 random orders whose strongest rank correlation with any outcome is weakest.

    With a dozen donors, chance alone often yields a strong correlation; the cohort should show its link only.
    """
    ranks = imaged[list(OUTCOMES)].astype(float).rank()
    orders = [rng.permutation(ratios) for _ in range(64)]
    strongest = [ranks.corrwith(pd.Series(order, ranks.index).rank()).abs().max() for order in orders]
    return orders[int(np.nanargmin(strongest))]


def _annotated(settings: CohortSettings, tiles: Sequence[_Tile]) -> frozenset[int]:
    """Positions of the tiles with a mask: in turn one of each donor and marker, so every split gets some."""
    rng = stream(settings.seed, "annotated")
    chance = rng.random(len(tiles))
    seen: dict[tuple[str, str], int] = {}
    turn = []
    for index in np.argsort(chance):
        key = (tiles[index].donor, tiles[index].marker)
        turn.append((seen.get(key, 0), chance[index], int(index)))
        seen[key] = seen.get(key, 0) + 1
    return frozenset(index for *_, index in sorted(turn)[: settings.n_annotated])


def _phantom(settings: CohortSettings, tile: _Tile) -> Phantom:
    rng = stream(settings.seed, "tile", tile.donor, tile.marker, tile.number)
    return phantom_tile(rng, marker=tile.marker, ratio=tile.ratio, tile_px=settings.tile_px, gain=tile.gain)


def _truth(tile: _Tile, phantom: Phantom, *, is_annotated: bool) -> dict[str, object]:
    return {
        n.DONOR: tile.donor,
        n.MARKER: tile.marker,
        n.TILE: tile.stem,
        n.N_ALL: int(phantom.is_positive.size),
        n.N_POSITIVE: int(phantom.is_positive.sum()),
        "is_annotated": is_annotated,
    }


def _write_tile(source: Path, tile: _Tile, image: NDArray[np.uint16]) -> None:
    folder = source / tile.donor / tile.marker
    folder.mkdir(parents=True, exist_ok=True)
    for channel, plane in enumerate(image):
        tifffile.imwrite(folder / f"{tile.stem}_b0c{channel}.tif", plane, photometric="minisblack")
    (folder / f"{tile.stem}_metadata.xml").write_text(_METADATA.format(marker=tile.marker))


def _write_mask(annotations: Path, tile: _Tile, phantom: Phantom) -> None:
    folder = annotations / tile.donor / tile.marker
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / f"{tile.stem}_masks.tif", phantom.mask, compression="zlib")


def _write_damaged(settings: CohortSettings, source: Path, tiles: Sequence[_Tile]) -> tuple[Path, ...]:
    """A tile whose marker file breaks off in the middle, and a tile whose marker file is missing."""
    first, last = tiles[0], tiles[-1]
    broken, lonely = (
        _Tile(tile.donor, tile.marker, number, tile.ratio, tile.gain) for number, tile in ((90, first), (91, last))
    )
    for tile in (broken, lonely):
        _write_tile(source, tile, _phantom(settings, tile).image)
    truncated = source / broken.donor / broken.marker / f"{broken.stem}_b0c1.tif"
    content = truncated.read_bytes()
    truncated.write_bytes(content[: len(content) // 2])
    unpaired = source / lonely.donor / lonely.marker / f"{lonely.stem}_b0c0.tif"
    unpaired.with_name(f"{lonely.stem}_b0c1.tif").unlink()
    return truncated, unpaired


def _places(folder: Path, damaged: tuple[Path, ...] = ()) -> SimulatedCohort:
    return SimulatedCohort(
        folder=folder,
        source=folder / "source",
        annotations=folder / "annotations",
        clinical=folder / "clinical.csv",
        truth=folder / "truth.csv",
        damaged=damaged,
    )
