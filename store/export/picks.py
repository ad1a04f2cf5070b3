"""Picks in the pixels of the micrographs' files, for RELION, cryoSPARC and EMAN, and as CryoPPP writes them.

RELION and EMAN count rows as they lie in the file, and cryoSPARC expects that of a STAR that it imports
(https://github.com/asarnow/pyem/issues/81). So STAR and BOX give the row in the array read from an MRC, which is
H - 1 - y of the row y in the picture; `counts_from_bottom` says of which formats. CSV counts rows from the top of the
picture, as CryoPPP's does. `annotate` reads each of them back with the same meaning.

What RELION 4 has for picks is a STAR for each micrograph and one that lists them: block `coordinate_files` with
`rlnMicrographName` and `rlnMicrographCoordinates`. Its Extract job pairs them by the names of its micrographs and
opens the files from the project's folder (https://github.com/3dem/relion, src/preprocessing.cpp, `coord_list`).
Optics groups: https://relion.readthedocs.io/en/release-4.0/Reference/Conventions.html.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import pandas as pd

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.peaks import Peaks
from fintune_xr.store.annotations.micrograph_frames import Micrograph, stored_micrographs, to_file
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.raw.coordinates import FRAME_OF, Frame
from fintune_xr.store.raw.coordinates.star import FILES, MICROGRAPH, X, Y
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.store.runs.picks import open_picks, picks_of

STAR: Final = "star"
RELION: Final = "relion"
BOX: Final = "box"
CSV: Final = "csv"
PARTICLE_FORMATS: Final = (STAR, RELION, BOX, CSV)

SCORE: Final = "rlnAutopickFigureOfMerit"
COORDINATES: Final = "rlnMicrographCoordinates"
OPTICS_GROUP: Final = "rlnOpticsGroup"
PIXEL_SIZE: Final = "rlnMicrographPixelSize"
BOX_IN_DIAMETERS: Final = 1.5
_DECIMALS: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Picked:
    """Picks of one micrograph: what its own files are called, its pixel size (0: not known), and the rows of a STAR."""

    stem: str
    source: str
    pixel_size_a: float
    binning: int
    table: pd.DataFrame


def write_particles(
    cohort: Cohort, run: str, folder: Path, *, to: str, frame: Frame | None = None, pixel_size_a: float | None = None
) -> Iterator[Path]:
    """Files of the picks of `run` in `folder`, each whole or not at all.

    `star`: one STAR of all particles, with a table of optics where the size of every micrograph's pixels is known.
    `relion`: a `NAME_autopick.star` for each micrograph, then `autopick.star`, which lists them by their paths as they
    were written: relative ones are those of RELION's project where this runs in it. `box`, `csv`: one for each.

    Coordinates are px of the micrographs' files, binning undone, to a hundredth of a pixel; the corner of a BOX is
    rounded to whole pixels. `frame` is the one of the format where it is not given: `image` for CSV, `file` for others.
    A micrograph without picks has a file without rows. `pixel_size_a` is that of the files in angstrom, for those
    which do not tell it.

    Raises UnknownNameError for another format or a run without picks, FintuneValueError where picks are out of date or
    `pixel_size_a` is not what the files say.
    """
    if to not in PARTICLE_FORMATS:
        raise unknown_name("format of particles", to, PARTICLE_FORMATS)
    diameter = float(open_picks(cohort, run).attrs[n.DIAMETER_PX])
    found = list(_picked(cohort, run, frame or FRAME_OF[".csv" if to == CSV else ".star"], pixel_size_a))
    if to == STAR:
        yield _star(_joint(found), folder / "particles.star")
    elif to == RELION:
        yield from _relion(found, folder)
    else:
        for one in found:
            yield _written(folder / f"{one.stem}.{to}", _text(one.table, to, diameter * one.binning))


def _picked(cohort: Cohort, run: str, frame: Frame, pixel_size_a: float | None) -> Iterator[_Picked]:
    picks, micrographs = open_picks(cohort, run), stored_micrographs(cohort)
    sources = [str(row) for row in cohort.images(lazy=False)[n.SOURCE].values[:, 0]]
    stems = Counter(PurePosixPath(source).stem for source in sources)
    for at, (source, micrograph) in enumerate(zip(sources, micrographs.values(), strict=True)):
        # Programs look for the micrograph's own name, which two sets may share.
        stem = PurePosixPath(source).stem
        stem = stem if stems[stem] == 1 else safe_name(micrograph.tile)
        size = _pixel_size(micrograph, pixel_size_a)
        table = _table(picks_of(picks, at), source, micrograph, frame)
        yield _Picked(stem, source, size, micrograph.binning, table)


def _pixel_size(micrograph: Micrograph, given: float | None) -> float:
    """Angstrom of a pixel of the micrograph's file, 0 where neither it nor the caller tells."""
    told = micrograph.pixel_size_a
    if given is None:
        return told
    if not 0 < given < math.inf:
        raise FintuneValueError(f"--pixel-size-a: expected angstrom above 0, got {given}")
    if told and not math.isclose(told, given, rel_tol=0.005):
        raise FintuneValueError(
            f"--pixel-size-a {given:g}: the file of {micrograph.tile} says {told:g} angstrom. Leave it out, or correct "
            "the header and ingest again."
        )
    return told or given


def _joint(found: Sequence[_Picked]) -> dict[str, pd.DataFrame]:
    """Blocks of a STAR of all particles; the optics say the size of a pixel and nothing else, which is all we know."""
    sizes = [round(one.pixel_size_a, 4) for one in found]
    particles = pd.concat([one.table for one in found], ignore_index=True)
    if not all(sizes):
        return {"particles": particles}
    groups = {size: number for number, size in enumerate(sorted(set(sizes)), start=1)}
    optics = pd.DataFrame({
        OPTICS_GROUP: list(groups.values()), "rlnOpticsGroupName": [f"opticsGroup{i}" for i in groups.values()],
        PIXEL_SIZE: list(groups),
    })  # fmt: skip
    of_rows = [groups[size] for size, one in zip(sizes, found, strict=True) for _ in range(len(one.table))]
    return {"optics": optics, "particles": particles.assign(**{OPTICS_GROUP: np.array(of_rows, np.int64)})}


def _relion(found: Sequence[_Picked], folder: Path) -> Iterator[Path]:
    paths = []
    for one in found:
        path = folder / f"{one.stem}_autopick.star"
        paths.append(_star({"": one.table.drop(columns=MICROGRAPH)}, path))
        yield path
    listed = {MICROGRAPH: [one.source for one in found], COORDINATES: [path.as_posix() for path in paths]}
    yield _star({FILES: pd.DataFrame(listed)}, folder / "autopick.star")


def _table(peaks: Peaks, source: str, micrograph: Micrograph, frame: Frame) -> pd.DataFrame:
    yx = to_file(peaks.yx, micrograph, frame)
    return pd.DataFrame({
        MICROGRAPH: pd.Series([source] * len(peaks), dtype=object), X: yx[:, 1].round(_DECIMALS),
        Y: yx[:, 0].round(_DECIMALS), SCORE: peaks.score.astype(np.float64).round(6),
    })  # fmt: skip


def _text(table: pd.DataFrame, to: str, diameter: float) -> str:
    if to == CSV:
        columns = {"X-Coordinate": table[X], "Y-Coordinate": table[Y], "Diameter": round(diameter, _DECIMALS)}
        return str(pd.DataFrame(columns).assign(Score=table[SCORE]).to_csv(index=False, lineterminator="\n"))
    side = 2 * math.ceil(BOX_IN_DIAMETERS * diameter / 2)
    rows = zip((table[X] - side / 2).round().astype(int), (table[Y] - side / 2).round().astype(int), strict=True)
    return "".join(f"{x}\t{y}\t{side}\t{side}\n" for x, y in rows)


def _written(path: Path, text: str) -> Path:
    with whole_file(path) as place:
        place.write_text(text, encoding="utf-8")
    return path


def _star(blocks: Mapping[str, pd.DataFrame], path: Path) -> Path:
    import starfile

    with whole_file(path) as place:
        starfile.write(dict(blocks), place, overwrite=True)
    return path
