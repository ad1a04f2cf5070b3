"""Particles as dark blobs: the Laplacian of a Gaussian, a classical picker without weights, on plain arrays.

It is the floor that a trained network must beat by far. On a micrograph the response is that of scikit-image's
`blob_log` at the one scale of the particle.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels.peaks import SEPARATION, Peaks, thin_peaks

FLOOR: Final = 0.02
"""Responses below are not kept as candidates: what noise of one standard deviation gives at a particle's scale."""

_MAD_OF_NORMAL: Final = 0.6745


def log_candidates(image: NDArray[Any], *, diameter_px: float, floor: float = FLOOR) -> Peaks:
    """Dark blobs of an image (y, x), the strongest first, none closer than 0.6 diameters to a stronger one.

    The image is brought to median 0 and a robust standard deviation of 1 and turned over; the score is the response of
    the scale-normalised Laplacian of a Gaussian of sigma = diameter / (2 sqrt 2), at which a disc responds most. It is
    no probability: it has no upper end.

    Raises FintuneValueError for an image that is not (y, x) or not finite, or a diameter that is not above 0.
    Reference: Lindeberg 1998, Feature detection with automatic scale selection, IJCV 30:79.
    """
    from scipy.ndimage import gaussian_laplace
    from skimage.feature import blob_log

    if image.ndim != 2 or not np.isfinite(image).all() or not 0 < diameter_px < np.inf:
        raise FintuneValueError(
            f"expected finite pixels (y, x) and a diameter above 0, got pixels {image.shape} and {diameter_px} px"
        )
    bright = _turned_over(image)
    sigma = diameter_px / (2 * np.sqrt(2))
    blobs = blob_log(bright, min_sigma=sigma, max_sigma=sigma, num_sigma=1, threshold=floor, overlap=1)
    at = blobs[:, :2].astype(np.int64)
    response = (-gaussian_laplace(bright, sigma) * sigma**2)[at[:, 0], at[:, 1]].astype(np.float32)
    order = np.lexsort((at[:, 1], at[:, 0], -response))
    y, x = at[order].T.astype(np.float32)
    return thin_peaks(Peaks(y, x, response[order]), distance_px=SEPARATION * diameter_px)


def _turned_over(image: NDArray[Any]) -> NDArray[np.float64]:
    values = image.astype(np.float64)
    middle = float(np.median(values))
    spread = float(np.median(np.abs(values - middle))) / _MAD_OF_NORMAL
    return (middle - values) / (spread if spread > 0 else 1.0)
