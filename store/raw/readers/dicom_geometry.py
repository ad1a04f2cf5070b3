"""What a DICOM tells about where its frames lie: distances, positions, and the side of the body."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.volume_header import checked_spacing, orientation_of, side_of

# Positions are written with few digits; steps that differ by more are gaps, or another kind of scan.
_EVEN: Final = 0.1


def spacing_of(dataset: Any) -> tuple[float, float, float]:
    """Distances z, y, x in mm: of B-scans by their positions where these are told, else by what the file says.

    Raises TileReadError where positions do not ascend or descend evenly.
    """
    measures = first_item(shared_groups(dataset), "PixelMeasuresSequence") or dataset
    y, x = getattr(measures, "PixelSpacing", None) or (0.0, 0.0)
    told = getattr(measures, "SpacingBetweenSlices", None) or getattr(measures, "SliceThickness", None) or 0.0
    step = _even_step(_positions(dataset))
    return checked_spacing((float(step or told), float(y), float(x)))


def orientation(dataset: Any) -> str:
    """Where frames, rows and columns go to, in letters; empty where not all three are told of the patient.

    Ascending rows are y, ascending columns x, and DICOM counts towards left, posterior and superior.
    """
    frames = getattr(dataset, "PerFrameFunctionalGroupsSequence", None) or (None,)
    told = [first_item(groups, "PlaneOrientationSequence") for groups in (shared_groups(dataset), frames[0])]
    cosines = next((one.ImageOrientationPatient for one in told if getattr(one, "ImageOrientationPatient", None)), None)
    positions = _positions(dataset)
    if cosines is None or len(cosines) != 6 or len(positions) < 2:
        return ""
    x, y = np.array([float(value) for value in cosines], np.float64).reshape(2, 3)
    return orientation_of(np.array([positions[-1] - positions[0], y, x]) * [-1.0, -1.0, 1.0])


def _positions(dataset: Any) -> NDArray[np.float64]:
    """Positions (frame, 3) in mm; empty where not every frame has one."""
    found = []
    for frame in getattr(dataset, "PerFrameFunctionalGroupsSequence", None) or ():
        plane = first_item(frame, "PlanePositionSequence")
        position = getattr(plane, "ImagePositionPatient", None)
        if position is None:
            return np.empty((0, 3))
        found.append([float(value) for value in position])
    return np.array(found, np.float64).reshape(-1, 3)


def _even_step(positions: NDArray[np.float64]) -> float:
    """Distance in mm of neighbouring frames, which must ascend or descend evenly; 0 where nothing tells it."""
    if len(positions) < 2:
        return 0.0
    whole = positions[-1] - positions[0]
    length = float(np.linalg.norm(whole))
    if not np.ptp(positions, axis=0).any():
        return 0.0
    mean = length / (len(positions) - 1)
    along = np.array([np.dot(b - a, whole) for a, b in pairwise(positions)]) / (length or 1.0)
    if not length or np.abs(along - mean).max() > _EVEN * mean:
        raise TileReadError(
            f"wrong positions: expected frames at even distances, found steps from {along.min():.4g} to "
            f"{along.max():.4g} mm"
        )
    return mean


def laterality(dataset: Any) -> str:
    """R, L or empty."""
    anatomy = first_item(shared_groups(dataset), "FrameAnatomySequence")
    told = (getattr(dataset, "ImageLaterality", ""), getattr(anatomy, "FrameLaterality", ""))
    return next((side for side in map(side_of, map(str, (*told, getattr(dataset, "Laterality", "")))) if side), "")


def shared_groups(dataset: Any) -> Any:
    """What is told of all frames at once, or None."""
    return first_item(dataset, "SharedFunctionalGroupsSequence")


def first_item(dataset: Any, sequence: str) -> Any:
    """The first item of a sequence, or None."""
    items = getattr(dataset, sequence, None)
    return items[0] if items else None
