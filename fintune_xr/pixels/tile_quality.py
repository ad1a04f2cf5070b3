"""How a tile was taken, in numbers that need no segmentation: brightness, background, sharpness, clipping."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr import names as n

MEASURES: Final = (n.INTENSITY, n.BACKGROUND, n.FOCUS, n.SATURATION)
"""What `tile_quality` gives of each channel, in this order."""

BACKGROUND_PERCENTILE: Final = 5.0
SIGMA_PX: Final = 1.0


def tile_quality(image: NDArray[Any]) -> NDArray[np.float64]:
    """Measures (channel, measure) of the valid pixels (channel, y, x) of a tile, in the order of MEASURES.

    Intensity is the mean and background the 5th percentile, both in counts. Focus is the standard deviation of the
    Laplacian of Gaussian (1 px) over that of the pixels, so that neither gain nor offset changes it; NaN where all
    pixels are equal. Saturation is the share of pixels that hold the highest value of the plane: of clipped planes
    that is many whatever the detector's depth, else hardly more than one pixel.

    Reference: Pertuz, Puig & Garcia 2013, Pattern Recognit. 46:1415 (operators of the Laplacian).
    """
    return np.array([_of_plane(plane) for plane in image])


def _of_plane(plane: NDArray[Any]) -> list[float]:
    values = plane.astype(np.float32)
    spread = float(values.std())
    edges = float(ndimage.gaussian_laplace(values, SIGMA_PX).std())
    return [
        float(values.mean(dtype=np.float64)),
        float(np.percentile(plane, BACKGROUND_PERCENTILE)),
        edges / spread if spread > 0 else np.nan,
        float(np.mean(plane == plane.max())),
    ]
