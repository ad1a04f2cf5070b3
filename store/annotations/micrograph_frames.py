"""Micrographs of an EM cohort, and coordinates between a file's pixels and those of the store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import KDTree

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, TileReadError, unknown_name
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.tiles import stored_binning
from fintune_xr.store.raw.binning import counts_from_bottom, in_larger_pixels
from fintune_xr.store.raw.coordinates import Frame, Particles
from fintune_xr.store.raw.length_units import UNITS, Unit, agreed_um, px_per_unit
from fintune_xr.store.raw.readers.pixel_side import A_IN_UM
from fintune_xr.tasks.detection import Points
from fintune_xr.text import texts

# Sizes of pixels that were measured anew differ by some per cent, those of a binned copy by a factor.
_OTHER_SIZE: Final = 1.1
# Binning leaves out rows and columns that fill no block, so that ratios of sides may differ by so much.
_SAME_RATIO: Final = 0.02


@dataclass(frozen=True, slots=True)
class Reading:
    """How numbers in a file are meant: `frame` None is the one usual for its format (`coordinates.FRAME_OF`).

    `scale` is how many pixels of the micrograph's file one pixel of the coordinates is; `diameter`, in the `unit` of
    the coordinates, is that of particles whose file tells none. With `drop_outside`, points outside the micrograph are
    left away. `unit` None is px, which is refused where it can hardly be. Of points closer together than
    `merge_closer`, in the same unit, one is kept.
    """

    frame: Frame | None = None
    scale: float = 1.0
    diameter: float | None = None
    unit: Unit | None = None
    drop_outside: bool = False
    merge_closer: float | None = None


# Centres that are closer than this share of a diameter are hardly those of two particles.
CLOSE: Final = 0.5

AS_USUAL: Final = Reading()


@dataclass(frozen=True, slots=True)
class Micrograph:
    """A stored tile: its size in px, that of its file, how many of whose pixels are one here, and where row 0 is.

    `pixel_size_a` is the side of a pixel of the file in angstrom, 0 where it is not known.
    """

    tile: str
    donor: str
    marker: str
    height: int
    width: int
    source_height: int
    source_width: int
    is_turned: bool
    binning: int
    pixel_size_a: float = 0.0


def stored_micrographs(cohort: Cohort) -> dict[str, Micrograph]:
    """The tiles of an EM cohort by id, in stored order."""
    images, binning = cohort.images(lazy=False), stored_binning(cohort)
    sources = [str(row) for row in images[n.SOURCE].values[:, 0]]
    found = {}
    for i, tile in enumerate(texts(images[n.TILE])):
        height, width = int(images[n.HEIGHT].values[i]), int(images[n.WIDTH].values[i])
        found[tile] = Micrograph(
            tile, str(images[n.DONOR].values[i]), str(images[n.MARKER].values[i]), height, width,
            int(_recorded(images, n.SOURCE_HEIGHT, i)) or height * binning,
            int(_recorded(images, n.SOURCE_WIDTH, i)) or width * binning,
            counts_from_bottom(sources[i]), binning, _recorded(images, n.PIXEL_SIZE_A, i) / binning,
        )  # fmt: skip
    return found


def to_stored(particles: Particles, micrograph: Micrograph, reading: Reading, frame: Frame) -> Points:
    """Particles of a file in px of the stored tile; a diameter that is not known stays NaN.

    Raises TileReadError for angstrom where the micrograph does not tell how many of them a pixel is, and for fractions
    of a picture of another shape.
    """
    scale = reading.scale
    _check_scale(particles, micrograph, reading)
    yx = in_larger_pixels(_in_px(particles, micrograph, reading), 1 / scale)
    if frame == "file":
        yx = _turned(yx, micrograph)
    told = particles.diameter
    usual = np.nan if reading.diameter is None else reading.diameter
    diameter = np.where(np.isnan(told), usual, told) * _stored_px(particles, micrograph, reading)
    return Points(in_larger_pixels(yx, micrograph.binning), diameter)


def _stored_px(particles: Particles, micrograph: Micrograph, reading: Reading) -> float:
    """How many stored px a length of 1 in the unit of the coordinates is."""
    return reading.scale * _px_per_unit(particles, micrograph, reading) / micrograph.binning


def _px_per_unit(particles: Particles, micrograph: Micrograph, reading: Reading) -> float:
    """How many px of the picture that the coordinates count in a length of 1 in their unit is."""
    um = agreed_um(reading.unit, particles.unit)
    if um and not micrograph.pixel_size_a:
        unit = reading.unit or particles.unit
        raise TileReadError(f"--unit {unit}: {micrograph.tile} does not tell the size of its pixels")
    return px_per_unit(um, micrograph.pixel_size_a / A_IN_UM)


def _check_scale(particles: Particles, micrograph: Micrograph, reading: Reading) -> None:
    """Raises TileReadError where the file counts in pixels of another size than the micrograph's, and nobody said what
    becomes of that.
    """
    own, theirs = micrograph.pixel_size_a, particles.pixel_size_a
    if not own or not theirs or reading.unit is not None or reading.scale != 1:
        return
    if max(own, theirs) > _OTHER_SIZE * min(own, theirs):
        raise TileReadError(
            f"pixels of another size: the file counts in pixels of {theirs:g} A, those of {micrograph.tile} are of "
            f"{own:g} A. Were the particles picked on a binned micrograph? --scale {theirs / own:.4g} reads them so; "
            "--unit px takes them as they are"
        )


def merge_limit(particles: Particles, micrograph: Micrograph, reading: Reading) -> float:
    """`merge_closer` in stored px, 0 where nothing is to be merged."""
    return 0.0 if reading.merge_closer is None else reading.merge_closer * _stored_px(particles, micrograph, reading)


def first_of_close(points: Points, limit_px: float) -> Points:
    """`points` without those that lie closer than `limit_px` to one before them that is kept; in their order."""
    if not limit_px or len(points) < 2:
        return points
    tree, kept = KDTree(points.yx), np.ones(len(points), bool)
    for at in np.flatnonzero(tree.query(points.yx, k=2)[0][:, 1] < limit_px):
        if kept[at]:
            near = np.array(tree.query_ball_point(points.yx[at], limit_px))
            apart = np.linalg.norm(points.yx[near] - points.yx[at], axis=1)
            kept[near[(near > at) & (apart < limit_px)]] = False
    return Points(points.yx[kept], points.diameter_px[kept])


def close_together(points: Points) -> tuple[int, float]:
    """How many points lie closer to another than half their diameter, and the least distance of two, in diameters.

    Two particles do not lie so; two picks of one particle do.
    """
    if len(points) < 2:
        return 0, math.inf
    apart = KDTree(points.yx).query(points.yx, k=2)[0][:, 1] / points.diameter_px
    return int(np.count_nonzero(apart < CLOSE)), float(apart.min())


def _in_px(particles: Particles, micrograph: Micrograph, reading: Reading) -> NDArray[np.float64]:
    """Positions in px of the picture that they were made in, out of fractions, angstrom or px."""
    if particles.is_fraction:
        _check_picture(particles.picture, micrograph)
        return particles.yx * [micrograph.source_height, micrograph.source_width]
    return particles.yx * _px_per_unit(particles, micrograph, reading)


def _check_picture(picture: tuple[int, int] | None, micrograph: Micrograph) -> None:
    """Raises TileReadError where fractions are of a picture whose sides are of another ratio than the micrograph's."""
    if picture is None:
        return
    (height, width), own = picture, (micrograph.source_height, micrograph.source_width)
    if abs(height * own[1] / (width * own[0]) - 1) > _SAME_RATIO:
        raise TileReadError(
            f"wrong shape: the fractions are of micrographs of {height} x {width} px, {micrograph.tile} is "
            f"{own[0]} x {own[1]}. Were its rows and columns swapped, or was it cropped since?"
        )


def to_file(yx: NDArray[np.float64], micrograph: Micrograph, frame: Frame) -> NDArray[np.float64]:
    """Centres (point, 2) of the stored tile in px of the micrograph's file, rows counted as `frame` says."""
    found = in_larger_pixels(yx, 1 / micrograph.binning)
    return _turned(found, micrograph) if frame == "file" else found


def is_outside(points: Points, micrograph: Micrograph) -> NDArray[np.bool_]:
    """Which points lie outside of the micrograph's file."""
    size = np.array([micrograph.source_height, micrograph.source_width])
    yx = in_larger_pixels(points.yx, 1 / micrograph.binning)
    return np.asarray(np.any((yx < -0.5) | (yx > size - 0.5), axis=1))


def outside(points: Points, micrograph: Micrograph) -> str:
    """Why these points cannot be those of the micrograph, naming the first that lie outside of its file."""
    height, width = micrograph.source_height, micrograph.source_width
    yx = in_larger_pixels(points.yx, 1 / micrograph.binning)
    wrong = np.flatnonzero(is_outside(points, micrograph))
    if not wrong.size:
        return ""
    listed = ", ".join(f"(x {x:g}, y {y:g})" for y, x in yx[wrong[:5]]) + (", …" if wrong.size > 5 else "")
    return (
        f"{wrong.size} of {len(points)} points lie outside the micrograph of {height} x {width} px: {listed} as "
        "pixels of its file from the top; do the coordinates belong to it, and are --frame, --scale and --unit right? "
        "--drop-outside leaves such points away."
    )


def with_pixels(points: Points, micrograph: Micrograph) -> Points:
    """Those of `points` that lie on stored pixels, not on rows and columns that binning left out."""
    size = np.array([micrograph.height, micrograph.width])
    inside = np.all((points.yx >= -0.5) & (points.yx <= size - 0.5), axis=1)
    return Points(points.yx[inside], points.diameter_px[inside])


def check_reading(reading: Reading) -> None:
    """Raises FintuneValueError where a length or a factor is not above 0, or the frame is unknown."""
    if not 0 < reading.scale < np.inf:
        raise FintuneValueError(f"--scale: expected a number above 0, got {reading.scale}")
    if reading.diameter is not None and not 0 < reading.diameter < np.inf:
        raise FintuneValueError(f"--diameter: expected a length above 0 px, got {reading.diameter}")
    if reading.merge_closer is not None and not 0 < reading.merge_closer < np.inf:
        raise FintuneValueError(f"--merge-closer: expected a length above 0, got {reading.merge_closer}")
    if reading.unit not in (None, *UNITS):
        raise unknown_name("unit of lengths for --unit", reading.unit, UNITS)
    if reading.frame not in (None, "image", "file"):
        raise unknown_name("frame for --frame", reading.frame, ("image", "file"))


def _turned(yx: NDArray[np.float64], micrograph: Micrograph) -> NDArray[np.float64]:
    """Rows from the top of the picture as rows of the file, or the other way round: the same formula."""
    if not micrograph.is_turned:
        return yx
    return np.column_stack([micrograph.source_height - 1 - yx[:, 0], yx[:, 1]])


def _recorded(images: xr.Dataset, name: str, at: int) -> float:
    return float(images[name].values[at]) if name in images.coords else 0.0
