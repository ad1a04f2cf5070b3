"""One simulated patch of stained tissue with its class mask, in the codes of the BCSS legend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr.tasks.legends import BCSS

Plane: TypeAlias = NDArray[np.float64]

CODE: Final = {meaning: code for code, meaning in BCSS.rows}
OUTSIDE, TUMOR, STROMA = CODE["outside_roi"], CODE["tumor"], CODE["stroma"]
LYMPHOCYTES, NECROSIS = CODE["lymphocytic_infiltrate"], CODE["necrosis_or_debris"]
VESSEL, OTHER = CODE["blood_vessel"], CODE["other"]

# Absorbance of haematoxylin and eosin in red, green and blue, of unit length.
# Reference: Ruifrok & Johnston 2001, Anal. Quant. Cytol. Histol. 23:291.
HAEMATOXYLIN: Final = np.array([0.650, 0.704, 0.286])
EOSIN: Final = np.array([0.072, 0.990, 0.105])


@dataclass(frozen=True, slots=True)
class Texture:
    """How a tissue looks: nuclei per 1,000 px, half axes of a nucleus in px, its stain, and eosin between nuclei."""

    nuclei: float
    axes: tuple[float, float]
    haematoxylin: float
    eosin: float
    grain: float


TEXTURES: Final = {
    TUMOR: Texture(8.0, (4.6, 3.8), 0.95, 0.30, 0.05),
    STROMA: Texture(2.2, (5.5, 1.6), 0.85, 0.55, 0.16),
    LYMPHOCYTES: Texture(20.0, (2.5, 2.3), 1.25, 0.20, 0.04),
    NECROSIS: Texture(10.0, (1.4, 1.1), 0.45, 0.38, 0.10),
    OTHER: Texture(0.0, (1.0, 1.0), 0.0, 0.02, 0.005),
}
# Regions by what their smooth field must beat; lower ones are rarer.
_ADVANTAGE: Final = {TUMOR: 0.35, STROMA: 0.55, LYMPHOCYTES: -0.15, NECROSIS: -0.45, OTHER: -0.75}


@dataclass(frozen=True, slots=True, eq=False)
class Stain:
    """What differs between slides: absorbance (stain, colour) of unit rows, and strengths of the two stains."""

    vectors: Plane
    strength: tuple[float, float]


def slide_stain(rng: np.random.Generator) -> Stain:
    """The stain of one slide: vectors turned a little and strengths from 0.7 to 1.3."""
    vectors = np.clip(np.stack([HAEMATOXYLIN, EOSIN]) + rng.normal(0.0, 0.04, (2, 3)), 0.02, None)
    strength = rng.uniform(0.7, 1.3, 2)
    return Stain(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), (float(strength[0]), float(strength[1])))


def tissue_patch(
    rng: np.random.Generator, stain: Stain, *, tile_px: int, outside: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A patch (y, x, colour) uint8 and its codes (y, x) uint8; `outside` leaves a band beyond what was annotated.

    Tumour has dense large nuclei, stroma fibres and spindles, infiltrate dense small round nuclei, necrosis is pale
    with debris, vessels are rings around an empty lumen and cover about 0.6 % of the pixels, empty glass is `other`.
    """
    codes = _regions(rng, tile_px)
    codes, ring, lumen = _with_vessels(rng, codes)
    eosin = _ground(rng, codes)
    eosin[ring], eosin[lumen] = 0.95, 0.03
    nuclei = _nuclei(rng, codes, free=~(ring | lumen))
    density = np.stack([nuclei * stain.strength[0], eosin * stain.strength[1]])
    light = np.exp(-np.tensordot(np.moveaxis(density, 0, -1), stain.vectors, axes=1))
    noisy = 245.0 * ndimage.gaussian_filter(light, (0.6, 0.6, 0)) + rng.normal(0.0, 2.0, light.shape)
    if outside:
        codes[: tile_px // 10] = OUTSIDE
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), codes


def _regions(rng: np.random.Generator, tile_px: int) -> NDArray[np.uint8]:
    fields = [_smooth(rng, tile_px, tile_px / 11) + advantage for advantage in _ADVANTAGE.values()]
    return np.asarray(np.array(list(_ADVANTAGE), np.uint8)[np.argmax(fields, axis=0)])


def _with_vessels(
    rng: np.random.Generator, codes: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """Codes with vessels where there is stroma, and the pixels of walls and of lumens."""
    codes = codes.copy()
    ring, lumen = np.zeros(codes.shape, np.bool_), np.zeros(codes.shape, np.bool_)
    rows, columns = np.ogrid[: codes.shape[0], : codes.shape[1]]
    room = np.argwhere(codes == STROMA)
    for _ in range(max(1, rng.poisson(codes.size / 25_000)) if room.size else 0):
        y, x = room[rng.integers(len(room))]
        long, short = rng.uniform(6.0, 10.0), rng.uniform(4.5, 6.5)
        angle = rng.uniform(0.0, np.pi)
        along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        distance = np.hypot(along / long, across / short)
        ring |= (distance <= 1.0) & (distance > 0.6)
        lumen |= distance <= 0.6
    ring &= ~lumen
    codes[ring | lumen] = VESSEL
    return codes, ring, lumen


def _ground(rng: np.random.Generator, codes: NDArray[np.uint8]) -> Plane:
    """Eosin between the nuclei: even, but for the fibres of stroma and the grain of necrosis."""
    fibres = ndimage.gaussian_filter(rng.standard_normal(codes.shape), (0.8, 7.0))
    grain = ndimage.gaussian_filter(rng.standard_normal(codes.shape), 1.2)
    eosin = np.zeros(codes.shape)
    for code, texture in TEXTURES.items():
        here = codes == code
        pattern = fibres if code == STROMA else grain
        eosin[here] = texture.eosin + texture.grain * pattern[here] / pattern.std()
    return np.clip(eosin, 0.0, None)


def _nuclei(rng: np.random.Generator, codes: NDArray[np.uint8], *, free: NDArray[np.bool_]) -> Plane:
    """Haematoxylin of all nuclei; where two overlap, the darker one counts."""
    plane = np.zeros(codes.shape)
    for code, texture in TEXTURES.items():
        room = np.argwhere((codes == code) & free)
        count = rng.poisson(texture.nuclei * len(room) / 1000) if len(room) else 0
        for y, x in room[rng.integers(0, max(1, len(room)), count)] if count else ():
            _draw(plane, (y, x), np.array(texture.axes) * rng.uniform(0.8, 1.25, 2), rng.uniform(0.0, np.pi),
                  texture.haematoxylin * rng.uniform(0.75, 1.2))  # fmt: skip
    return plane


def _draw(plane: Plane, at: tuple[int, int], axes: Plane, angle: float, signal: float) -> None:
    reach = int(np.ceil(axes.max())) + 2
    top, left = max(0, at[0] - reach), max(0, at[1] - reach)
    part = plane[top : at[0] + reach + 1, left : at[1] + reach + 1]
    rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    along = (rows - at[0]) * np.sin(angle) + (columns - at[1]) * np.cos(angle)
    across = (rows - at[0]) * np.cos(angle) - (columns - at[1]) * np.sin(angle)
    inside = np.clip((1.15 - np.hypot(along / axes[0], across / axes[1])) / 0.3, 0.0, 1.0)
    np.maximum(part, signal * inside, out=part)


def _smooth(rng: np.random.Generator, tile_px: int, sigma: float) -> Plane:
    """Noise of correlation length `sigma` px, mean 0 and standard deviation 1 over an endless plane."""
    noise = ndimage.gaussian_filter(rng.standard_normal((tile_px, tile_px)), sigma, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std())
