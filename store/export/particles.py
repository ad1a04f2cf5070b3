"""Picks in the pixels of the micrographs' files, for RELION, cryoSPARC and EMAN, and as CryoPPP writes them.

RELION and EMAN count rows as they lie in the file, and cryoSPARC expects that of a STAR that it imports
(https://github.com/asarnow/pyem/issues/81). So STAR and BOX give the row in the array read from an MRC, which is
H - 1 - y of the row y in the picture; for other formats both are the same. CSV counts rows from the top of the picture,
as CryoPPP's does. `annotate` reads each of them back with the same meaning.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import pandas as pd

from fintune_xr import names as n
from fintune_xr.errors import unknown_name
from fintune_xr.picking import Peaks
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.coordinates import FRAME_OF, Frame
from fintune_xr.store.coordinates.star import MICROGRAPH, X, Y
from fintune_xr.store.layouts import safe_name
from fintune_xr.store.micrographs import Micrograph, stored_micrographs, to_file
from fintune_xr.store.picks import open_picks, picks_of

from .files import whole_file

STAR: Final = "star"
BOX: Final = "box"
CSV: Final = "csv"
PARTICLE_FORMATS: Final = (STAR, BOX, CSV)

SCORE: Final = "rlnAutopickFigureOfMerit"
BOX_IN_DIAMETERS: Final = 1.5
_DECIMALS: Final = 2


def write_particles(cohort: Cohort, run: str, folder: Path, *, to: str, frame: Frame | None = None) -> Iterator[Path]:
    """Files of the picks of `run` in `folder`, whole or not at all: one STAR, or a BOX or CSV for each micrograph.

    Coordinates are px of the micrographs' files, binning undone, to a hundredth of a pixel; the corner of a BOX is
    rounded to whole pixels. `frame` is the one of the format where it is not given: `file` for STAR and BOX, `image`
    for CSV. A micrograph without picks has a CSV or BOX without rows.

    Raises UnknownNameError for another format or a run without picks, FintuneValueError where picks are out of date.
    """
    if to not in PARTICLE_FORMATS:
        raise unknown_name("format of particles", to, PARTICLE_FORMATS)
    picks = open_picks(cohort, run)
    chosen = frame or FRAME_OF[f".{to}"]
    sources = [str(row) for row in cohort.images(lazy=False)[n.SOURCE].values[:, 0]]
    diameter = float(picks.attrs[n.DIAMETER_PX])
    stems = Counter(PurePosixPath(source).stem for source in sources)
    tables = []
    for at, (source, micrograph) in enumerate(zip(sources, stored_micrographs(cohort).values(), strict=True)):
        table = _table(picks_of(picks, at), source, micrograph, chosen)
        if to == STAR:
            tables.append(table)
        else:
            size = diameter * micrograph.binning
            # Programs look for the micrograph's own name, which two sets may share.
            stem = PurePosixPath(source).stem
            name = stem if stems[stem] == 1 else safe_name(micrograph.tile)
            yield _written(folder / f"{name}.{to}", _text(table, to, size))
    if to == STAR:
        yield _star(pd.concat(tables, ignore_index=True), folder / "particles.star")


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


def _star(table: pd.DataFrame, path: Path) -> Path:
    import starfile

    with whole_file(path) as place:
        starfile.write({"particles": table}, place, overwrite=True)
    return path
