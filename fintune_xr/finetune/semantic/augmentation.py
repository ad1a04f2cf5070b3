"""Patches of stained tissue that differ from the tiles that they are cut from: bent, stained otherwise, out of focus.

Processes that load patches import this module; what starts slowly is imported where it is used.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fintune_xr.finetune.augmentation import Geometry, Planes, cut_labels, draw_geometry
from fintune_xr.finetune.semantic.settings import ColourAugmentationSettings
from fintune_xr.finetune.semantic.stain import draw_jitter, jitter_stain
from fintune_xr.finetune.settings import AugmentationSettings
from fintune_xr.models.colours import WHITE, standardised_colours

# A kernel of a blur reaches this many standard deviations.
_REACH: Final = 3


def draw_bent(
    rng: np.random.Generator, shape: tuple[int, int], patch_px: int, settings: AugmentationSettings
) -> Geometry:
    """A random patch of a tile of this `shape`, bent where the settings say so."""
    geometry = draw_geometry(rng, shape, patch_px, settings)
    if not isinstance(settings, ColourAugmentationSettings) or settings.elastic == 0:
        return geometry
    return replace(geometry, bend=drawn_bend(rng, patch_px, settings.elastic, settings.elastic_sigma))


def drawn_bend(rng: np.random.Generator, patch_px: int, height: float, sigma: float) -> NDArray[np.float64]:
    """Displacements (y, x, 2) in px: uniform noise from -1 to 1, smoothed by `sigma` px and times `height`.

    Reference: Simard et al. 2003, Best practices for convolutional neural networks, ICDAR.
    """
    noise = rng.uniform(-1, 1, (2, patch_px, patch_px))
    smooth = [gaussian_filter(one, sigma, mode="reflect") for one in noise]
    return height * np.stack(smooth, axis=-1)


def cut_colours(planes: Planes, labels: Planes, geometry: Geometry, patch_px: int) -> tuple[Planes, Planes]:
    """What `geometry` shows of a colour image from 0 to 255 and its labels; white and unknown beyond the tile."""
    return cut_labels(planes, labels, geometry, patch_px, outside=WHITE)


def vary_colours(rng: np.random.Generator, image: Planes, settings: AugmentationSettings) -> Planes:
    """Network input of `image` (colour, y, x) from 0 to 255: stained, coloured and focused otherwise, standardised."""
    if isinstance(settings, ColourAugmentationSettings):
        image = _varied(rng, image, settings)
    return standardised_colours(image)


def _varied(rng: np.random.Generator, image: Planes, settings: ColourAugmentationSettings) -> Planes:
    patch = torch.from_numpy(image)
    if settings.stain_alpha or settings.stain_beta:
        patch = jitter_stain(patch, draw_jitter(rng, alpha=settings.stain_alpha, beta=settings.stain_beta))
    if settings.colour:
        patch = _coloured(patch, rng.uniform(1 - settings.colour, 1 + settings.colour, 3))
    if rng.random() < settings.blur_probability:
        patch = _blurred(patch, float(rng.uniform(*settings.blur)))
    return np.asarray(patch.numpy(), np.float32)


def _coloured(patch: torch.Tensor, factors: NDArray[np.float64]) -> torch.Tensor:
    """`patch` with brightness, contrast and saturation times `factors`, in this order."""
    from torchvision.transforms.v2 import functional

    # torchvision takes colours of floating point from 0 to 1, and cuts them off there.
    scaled = patch / WHITE
    scaled = functional.adjust_brightness(scaled, float(factors[0]))
    scaled = functional.adjust_contrast(scaled, float(factors[1]))
    saturated: torch.Tensor = functional.adjust_saturation(scaled, float(factors[2]))
    return saturated * WHITE


def _blurred(patch: torch.Tensor, sigma: float) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    # Reflection at the edge needs a kernel that fits into the patch.
    reach = min(int(np.ceil(_REACH * sigma)), min(patch.shape[-2:]) - 1)
    blurred: torch.Tensor = functional.gaussian_blur(patch, [2 * reach + 1] * 2, [sigma] * 2)
    return blurred
