"""Classical segmentation without weights: the floor that every trained model must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import remove_small_holes
from skimage.segmentation import relabel_sequential, watershed

from fintune_xr.errors import unknown_name
from fintune_xr.models.protocol import Maps, Mask, Plane
from fintune_xr.models.threshold.settings import ThresholdSettings

# The background is estimated on means of squares of this many pixels: it varies slowly.
_COARSE_PX = 8
# Percentile of a normal distribution one standard deviation below its median.
_ONE_SIGMA_BELOW = 15.87
# Share of the variance between the two sides of a threshold from which on they are two populations.
_PARTED = 0.7


class ThresholdSegmenter:
    """Smoothing, background subtraction, a threshold of each tile's own, distance transform and watershed."""

    def __init__(self, settings: ThresholdSettings, *, channels: Sequence[str]) -> None:
        name = settings.channel or channels[0]
        if name not in channels:
            raise unknown_name("channel", name, channels)
        self.settings = settings
        self._index = list(channels).index(name)

    def normalise(self, tile: Plane) -> Maps:
        """Raw counts (1, y, x) of the chosen plane."""
        return np.asarray(tile[self._index : self._index + 1], dtype=np.float32)

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Background-subtracted smooth signal in units of its noise, (1, y, x)."""
        return [self._signal(one[0])[np.newaxis] for one in batch]

    def reconstruct(self, maps: Maps) -> Mask:
        """Instances above Otsu's threshold and above the background; none where nothing stands out of the noise."""
        signal = maps[0]
        foreground = _foreground(signal, self.settings)
        if not foreground.any():
            return np.zeros(signal.shape, dtype=np.uint32)
        return _instances(foreground, self.settings)

    def _signal(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        noise = _smoothed_noise(plane, self.settings.sigma_px)
        if noise == 0.0:
            noise = 1.0
        smooth = ndimage.gaussian_filter(plane, self.settings.sigma_px)
        if self.settings.background_px:
            smooth -= _background(smooth, self.settings)
        return np.asarray(smooth / np.float32(noise), dtype=np.float32)


def _smoothed_noise(plane: NDArray[np.float32], sigma_px: float) -> float:
    """Standard deviation of white noise left after smoothing, from differences of neighbouring pixels."""
    if plane.shape[1] < 2:
        return 0.0
    differences = np.abs(np.diff(plane, axis=1))
    raw = float(np.median(differences)) * 1.4826 / np.sqrt(2)
    return float(raw / (2 * np.sqrt(np.pi) * sigma_px))


def _background(smooth: NDArray[np.float32], settings: ThresholdSettings) -> NDArray[np.float32]:
    """Grey opening of a coarse copy, smoothed and brought back to the size of `smooth`."""
    height, width = smooth.shape
    padding = ((0, -height % _COARSE_PX), (0, -width % _COARSE_PX))
    padded = np.pad(smooth, padding, mode="edge")
    coarse = padded.reshape(padded.shape[0] // _COARSE_PX, _COARSE_PX, padded.shape[1] // _COARSE_PX, _COARSE_PX).mean(
        axis=(1, 3)
    )
    window = max(1, settings.background_px // _COARSE_PX)
    side = window | 1 if settings.odd_window else window
    opened = ndimage.gaussian_filter(ndimage.grey_opening(coarse, size=(side, side)), window / 2)
    fine = ndimage.zoom(opened, _COARSE_PX, order=1, grid_mode=True, mode="nearest")
    return np.asarray(fine[:height, :width], dtype=np.float32)


def _foreground(signal: NDArray[np.float32], settings: ThresholdSettings) -> NDArray[np.bool_]:
    if signal.min() == signal.max():
        return np.zeros(signal.shape, dtype=bool)
    above = np.asarray(signal > _level(signal, settings), dtype=bool)
    if not above.any():
        return above
    if float(signal[above].mean() - signal[~above].mean()) < settings.min_contrast:
        return np.zeros(signal.shape, dtype=bool)
    if settings.fill_holes_px:
        above = np.asarray(remove_small_holes(above, max_size=settings.fill_holes_px), dtype=bool)
    return above


def _level(signal: NDArray[np.float32], settings: ThresholdSettings) -> float:
    """Otsu's threshold where it parts two populations, else the level that the background hardly reaches.

    Where few pixels are foreground, Otsu's threshold falls into the background and cuts it in two; where most are, the
    median lies in the foreground and says nothing of the background. How much of the variance lies between the two
    sides tells them apart: a normal distribution cut at its mean reaches 2/pi.

    Reference: Otsu 1979, IEEE Trans. Syst. Man Cybern. 9:62.
    """
    otsu = float(threshold_otsu(signal))
    above = signal > otsu
    share, variance = float(above.mean()), float(signal.var())
    step = float(signal[above].mean() - signal[~above].mean()) if 0 < share < 1 else 0.0
    if settings.level == "auto" and share * (1 - share) * step**2 >= _PARTED * variance:
        return otsu
    return max(otsu, _background_level(signal, settings.min_contrast))


def _background_level(signal: NDArray[np.float32], n_spreads: float) -> float:
    """Median and `n_spreads` standard deviations, taken below the median, where bright instances do not widen them."""
    low, median = np.percentile(signal, (_ONE_SIGMA_BELOW, 50.0))
    return float(median + n_spreads * (median - low))


def _instances(foreground: NDArray[np.bool_], settings: ThresholdSettings) -> Mask:
    # Smoothing the distances merges the ridges of a ragged outline into one peak per nucleus.
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(foreground), 1.0)
    peaks = peak_local_max(
        distance, min_distance=round(settings.split_px), labels=label(foreground), exclude_border=False
    )
    seeds = np.zeros(foreground.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-distance, seeds, mask=foreground)
    areas = np.bincount(labels.ravel())
    labels[areas[labels] < settings.min_area_px] = 0
    return np.asarray(relabel_sequential(labels)[0], dtype=np.uint32)
