"""Haematoxylin and eosin made stronger or weaker at random, in the space of their optical densities.

Densities are natural logarithms, as in Beer and Lambert's law. scikit-image's `rgb2hed` divides them by 13.8, so that
the same numbers mean something else there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

WHITE: Final = 255.0
# Mean density of the three colours from which a pixel counts as stained; less of it is changed in proportion. A
# threshold instead leaves white specks in lumens.
STAINED: Final = 0.15

# Colours that haematoxylin and eosin absorb, as red, green, blue.
# Reference: Ruifrok & Johnston 2001, Analytical and Quantitative Cytology and Histology 23:291.
_HAEMATOXYLIN: Final = (0.65, 0.70, 0.29)
_EOSIN: Final = (0.07, 0.99, 0.11)


@dataclass(frozen=True, slots=True)
class StainJitter:
    """Factors `alpha` and summands `beta` of the densities of haematoxylin and eosin."""

    alpha: tuple[float, float]
    beta: tuple[float, float]


def stain_rows() -> NDArray[np.float64]:
    """Absorption (stain, colour) of haematoxylin, eosin and what neither explains; rows of length 1."""
    haematoxylin, eosin = (_unit(np.array(row)) for row in (_HAEMATOXYLIN, _EOSIN))
    return np.stack([haematoxylin, eosin, _unit(np.cross(haematoxylin, eosin))])


def draw_jitter(rng: np.random.Generator, *, alpha: float, beta: float) -> StainJitter:
    """Factors from 1 - alpha to 1 + alpha, summands from -beta to beta."""
    factors, summands = rng.uniform(1 - alpha, 1 + alpha, 2), rng.uniform(-beta, beta, 2)
    return StainJitter((float(factors[0]), float(factors[1])), (float(summands[0]), float(summands[1])))


def jittered(images: torch.Tensor, jitter: StainJitter) -> torch.Tensor:
    """`images` (..., colour, y, x) from 0 to 255 in other strengths of stain; white stays white.

    With factors of 1 and summands of 0 the result is `images`, to the last bit.
    """
    density = optical_density(images)
    stained = (density.mean(-3, keepdim=True) / STAINED).clamp(0, 1)
    rows = torch.as_tensor(stain_rows(), dtype=images.dtype, device=images.device)
    amounts = torch.einsum("...cyx,cs->...syx", density, torch.linalg.inv(rows)[:, :2])
    factors, summands = (
        torch.as_tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
        for values in (jitter.alpha, jitter.beta)
    )
    added = torch.einsum("...syx,sc->...cyx", stained * ((factors - 1) * amounts + summands), rows[:2])
    return (images * torch.exp(-added)).clamp(0, WHITE)


def optical_density(images: torch.Tensor) -> torch.Tensor:
    """Natural logarithm of how much darker than white `images` are; black counts as 1 of 255."""
    return -(images.clamp(1, WHITE) / WHITE).log()


def _unit(row: NDArray[np.float64]) -> NDArray[np.float64]:
    return row / float(np.linalg.norm(row))
