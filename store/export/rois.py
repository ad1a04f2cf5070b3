"""Instances as ImageJ regions of interest: a ZIP for each tile, as the ROI Manager opens it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from roifile import ROI_TYPE, ImagejRoi

from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.outlines import Outline, Ring, outlines
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.label_layers import Choice, labelled_tiles
from fintune_xr.store.raw.layouts import safe_name

SUFFIX: Final = "_rois.zip"
# Coordinates of a region are 16-bit numbers.
_MOST_PX: Final = 32_767
# Commands of a path of several rings.
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0
# The same file whenever it is made.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


def write_rois(cohort: Cohort, folder: Path, choice: Choice) -> Iterator[Path]:
    """`folder/<run or annotated>/<safe name of the tile>_rois.zip` of the chosen tiles, each as soon as it is written.

    Each instance is a region called by its label, whose line runs along the edges of its pixels as ImageJ's wand
    draws it; one with holes or in several pieces is a composite. A tile without instances has an empty ZIP.

    Raises UnknownNameError and FintuneValueError as `labelled_tiles` does; FintuneValueError for tiles too large.
    """
    for one in labelled_tiles(cohort, choice):
        if max(one.labels.shape) > _MOST_PX:
            raise FintuneValueError(f"--to rois: ImageJ's regions reach {_MOST_PX} px, tile {one.tile} is larger")
        path = folder / one.layer.name / f"{safe_name(one.tile)}{SUFFIX}"
        with whole_file(path) as place, zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            for outline in outlines(one.labels):
                entry = zipfile.ZipInfo(f"{outline.label}.roi", _DATE)
                archive.writestr(entry, region(outline).tobytes())
        yield path


def region(outline: Outline) -> ImagejRoi:
    """The region of one instance."""
    rings = [ring for piece in outline.pieces for ring in piece]
    if len(rings) == 1:
        roi = ImagejRoi.frompoints(rings[0].astype(np.int32), name=str(outline.label))
        roi.roitype = ROI_TYPE.TRACED
        # The corner that bounds the region lies on its edge, and not one further on as for points.
        roi.right, roi.bottom = int(rings[0][:, 0].max()), int(rings[0][:, 1].max())
        return roi
    corners = np.concatenate(rings)
    path = np.concatenate([_path(ring) for ring in rings])
    roi = ImagejRoi(roitype=ROI_TYPE.RECT, name=str(outline.label))
    roi.multi_coordinates, roi.shape_roi_size = path, path.size
    (roi.left, roi.top), (roi.right, roi.bottom) = corners.min(axis=0).astype(int), corners.max(axis=0).astype(int)
    return roi


def _path(ring: Ring) -> NDArray[np.float32]:
    commands = np.full((len(ring), 1), _LINE)
    commands[0] = _MOVE
    return np.append(np.concatenate([commands, ring], axis=1).ravel(), _CLOSE).astype(np.float32)
