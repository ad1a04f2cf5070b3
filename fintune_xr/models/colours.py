"""Colour images as networks want them that learnt on photographs."""

from __future__ import annotations

from typing import Final

import numpy as np

from fintune_xr.models.protocol import Maps, Plane

# Mean and standard deviation of red, green and blue in ImageNet, from 0 to 1.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_SD: Final = (0.229, 0.224, 0.225)

# Red, green and blue.
N_COLOURS: Final = 3

# Glass without tissue: what lies beyond the edge of an image.
WHITE: Final = 255


def standardised_colours(image: Plane) -> Maps:
    """`image` (colour, y, x) from 0 to 255 in standard deviations from ImageNet's mean."""
    mean, sd = (
        np.array(values, np.float32)[:, None, None] * np.float32(255) for values in (IMAGENET_MEAN, IMAGENET_SD)
    )
    return np.asarray((image.astype(np.float32) - mean) / sd, np.float32)
