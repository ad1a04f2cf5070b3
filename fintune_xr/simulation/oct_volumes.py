"""Simulated OCT volumes of the macula: ten layers with a foveal pit, speckle, and changes that go with a class.

The changes are strong, a fifth of the inner layers from one class to the next: fractions of a pixel, as early disease
shows them, are not learned from a few dozen volumes of this size. What is found on them says how the steps work, and
nothing about eyes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Shape = tuple[int, int, int]

N_CLASSES: Final = 4
N_LAYERS: Final = 10
# Thickness in rows of a B-scan of 64; the first four are the inner layers.
_THICKNESS: Final = (3.0, 4.0, 4.0, 3.5, 2.5, 7.0, 2.0, 3.0, 3.0, 8.0)
_N_INNER: Final = 4
_ROWS: Final = 64
# What is reflected by the vitreous, each layer, and what lies below.
_BRIGHTNESS: Final = (12.0, 165.0, 110.0, 125.0, 80.0, 115.0, 55.0, 140.0, 100.0, 190.0, 95.0, 45.0)
_FLUID: Final = 8.0
_THINNING: Final = 0.2
_LESIONS: Final = (0.0, 0.5, 2.0, 5.0)
_SPECKLE: Final = 4.0


@dataclass(frozen=True, slots=True)
class Device:
    """A scanner: its folder, the shape (z, y, x) of its volumes, how bright and with which gamma it shows them."""

    name: str
    shape: Shape
    gain: float
    gamma: float


@dataclass(frozen=True, slots=True)
class Eye:
    """What is simulated: class 0 to 3, the side (R or L), how thick the person's layers are (1: as usual)."""

    label: int
    side: str
    thickness: float = 1.0


DEVICES: Final = (
    Device("spectralis", (16, 64, 64), 1.0, 1.0),
    Device("maestro", (20, 64, 56), 0.85, 1.15),
    Device("triton", (18, 72, 64), 1.15, 0.9),
)


def oct_volume(eye: Eye, device: Device, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Voxels (z, y, x) of one scan."""
    depth, height, width = device.shape
    z, x = np.meshgrid(np.linspace(-1, 1, depth), np.linspace(-1, 1, width), indexing="ij")
    if eye.side == "L":
        x = -x
    surfaces = _surfaces(eye, z, x, rng) * (height / _ROWS)
    rows = np.arange(height)[None, :, None] + 0.5
    layer = np.zeros(device.shape, np.intp)
    for surface in surfaces:
        layer += rows > surface[:, None, :]
    light = np.array(_BRIGHTNESS)[layer]
    _add_fluid(light, surfaces, int(rng.poisson(_LESIONS[eye.label])), rng)
    return _seen(light, device, rng)


def inner_thickness(eye: Eye) -> float:
    """Rows of the inner layers away from the fovea, in B-scans of 64 rows."""
    return sum(_THICKNESS[:_N_INNER]) * (1 - _THINNING * eye.label) * eye.thickness


def _surfaces(eye: Eye, z: Floats, x: Floats, rng: np.random.Generator) -> Floats:
    """Upper surface of each layer and the lowest one (layer + 1, z, x), in rows of 64."""
    fovea = rng.normal(0, 0.08, 2)
    pit = np.exp(-((z - fovea[0]) ** 2 + (x - fovea[1]) ** 2) / 0.18)
    inner = (1 - _THINNING * eye.label) * eye.thickness * (1 - 0.8 * pit)
    thickness = [np.full(z.shape, base) for base in _THICKNESS]
    for at in range(_N_INNER):
        # Nerve fibres gather on the nasal side, which is where left and right eyes differ.
        nasal = 1 + 0.35 * x if at == 0 else 1.0
        thickness[at] = thickness[at] * inner * nasal * (1 + rng.normal(0, 0.05))
    for at in range(_N_INNER, N_LAYERS):
        thickness[at] = thickness[at] * (1 + rng.normal(0, 0.05))
    bottom = 46 + rng.normal(0, 2) + rng.normal(0, 1.5) * z + rng.normal(0, 1.5) * x + 1.5 * (z**2 + x**2)
    top = bottom - sum(thickness[:-1])
    return np.stack([top, *(top + np.cumsum(np.stack(thickness), axis=0))])


def _add_fluid(light: Floats, surfaces: Floats, number: int, rng: np.random.Generator) -> None:
    """Dark round spaces between the layers, in place."""
    depth, height, width = light.shape
    z, y, x = np.ogrid[:depth, :height, :width]
    for _ in range(number):
        at_z, at_x = int(rng.integers(depth)), int(rng.integers(width))
        at_y = rng.uniform(surfaces[1, at_z, at_x], surfaces[6, at_z, at_x])
        radius = rng.uniform(2.0, 4.0)
        inside = ((z - at_z) / 1.5) ** 2 + (y - at_y) ** 2 + ((x - at_x) / 1.3) ** 2 < radius**2
        light[inside] = _FLUID


def _seen(light: Floats, device: Device, rng: np.random.Generator) -> NDArray[np.uint8]:
    speckled = light * rng.gamma(_SPECKLE, 1 / _SPECKLE, light.shape)
    shown = 255 * (device.gain * speckled / 255).clip(0, 1) ** device.gamma
    return np.asarray(np.rint(shown).clip(0, 255), np.uint8)
