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


def jitter_stain(images: torch.Tensor, jitter: StainJitter) -> torch.Tensor:
    """`images` (..., colour, y, x) from 0 to 255 in other strengths of stain; white stays white.

    With factors of 1 and summands of 0 the result is `images`, to the last bit.
    """
    turn, shift = _changes(jitter)
    logs = (images.clamp(1, WHITE) / WHITE).log_()
    red, green, blue = logs.unbind(-3)
    stained = (red + green).add_(blue).mul_(-1 / (3 * STAINED)).clamp_(0, 1)
    changed = torch.empty_like(logs)
    # Colour by colour and in place: products of matrices of three rows take longer than all else together.
    for colour, (of_red, of_green, of_blue) in enumerate(turn):
        one = changed.select(-3, colour)
        torch.mul(red, of_red, out=one)
        one.add_(green, alpha=of_green).add_(blue, alpha=of_blue).sub_(shift[colour]).mul_(stained)
    return changed.exp_().mul_(images).clamp_(0, WHITE)


def _changes(jitter: StainJitter) -> tuple[list[list[float]], list[float]]:
    """What is added to the densities of the colours: their product with a matrix (colour, colour), and a constant."""
    rows = stain_rows()
    factors, summands = np.array(jitter.alpha) - 1, np.array(jitter.beta)
    turn = np.einsum("sc,s,ks->ck", rows[:2], factors, np.linalg.inv(rows)[:, :2])
    return turn.tolist(), (rows[:2].T @ summands).tolist()


def _unit(row: NDArray[np.float64]) -> NDArray[np.float64]:
    return row / float(np.linalg.norm(row))
