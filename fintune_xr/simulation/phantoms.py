"""Simulated immunofluorescence tiles of known cells: nuclei, one marker, and what fools a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[np.float64]

COUNTS_PER_PHOTON: Final = 4.0
OFFSET: Final = 100.0
READ_NOISE: Final = 12.0
ROOT_PX: Final = 6.0
"""Processes leave the soma this far from the middle of the nucleus."""
SMALLEST_PX: Final = 40
"""Pieces smaller than this at the tile's edge are painted but are no cells."""


@dataclass(frozen=True, slots=True)
class Stain:
    """How a marker looks: `soma` reaches so many nuclear radii; a nuclear marker has no processes."""

    soma: float
    nuclear: float
    arms: tuple[int, int] = (0, 0)
    arm_px: tuple[float, float] = (0.0, 0.0)
    arm_signal: float = 0.0


STAINS: Final = {
    "GFAP": Stain(soma=1.35, nuclear=0.75, arms=(4, 8), arm_px=(18.0, 42.0), arm_signal=2.6),
    "IBA1": Stain(soma=1.2, nuclear=0.85, arms=(4, 7), arm_px=(12.0, 30.0), arm_signal=2.2),
    "OLIG2": Stain(soma=1.0, nuclear=1.0),
}
OTHER_STAIN: Final = Stain(soma=1.3, nuclear=0.8)


@dataclass(frozen=True, slots=True)
class Nuclei:
    """Centres (cell, yx) and mean radii (cell,) in px, with the coefficients of each outline."""

    centre: Plane
    radius: Plane
    wobble: Plane
    phase: Plane


@dataclass(frozen=True, slots=True)
class Scene:
    """What the tile truly holds: `mask` (y, x) uint16, and of each pixel the distance from its nucleus.

    `depth` is the distance to the nearest centre in units of that nucleus' outline (1 on the outline),
    `owner` the nearest nucleus (1..N, 0 far from all).
    """

    mask: NDArray[np.uint16]
    depth: Plane
    owner: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Phantom:
    """A simulated tile: `image` (channel, y, x) uint16 with DAPI first, `mask` (y, x) uint16 of labels 1..N,
    `is_positive` (cell,) in the order of the labels."""

    image: NDArray[np.uint16]
    mask: NDArray[np.uint16]
    is_positive: NDArray[np.bool_] = field(repr=False)


def phantom_tile(rng: np.random.Generator, *, marker: str, ratio: float, tile_px: int, gain: float = 1.0) -> Phantom:
    """A tile whose cells are marker-positive with probability `ratio`, drawn from `rng` alone.

    `gain` scales the marker's brightness, as staining does between donors.
    """
    n_wanted = int(rng.integers(34, 58) * (tile_px / 256) ** 2)
    scene = _scene(_placed_nuclei(rng, max(n_wanted, 1), tile_px), tile_px)
    n_cells = int(scene.mask.max())
    is_positive = rng.random(n_cells) < ratio
    specks = _granules(rng, tile_px)
    dapi = _psf(_nuclear_signal(rng, scene), 1.1) + _blurred_nuclei(rng, tile_px) + specks
    stain = _marker_signal(rng, scene, is_positive, STAINS.get(marker, OTHER_STAIN))
    stained = gain * stain + 0.04 * dapi + 0.8 * specks + _haze(rng, tile_px)
    planes = [
        _detected(rng, dapi + _background(rng, tile_px, unevenness=1.0)),
        _detected(rng, stained + _background(rng, tile_px, unevenness=0.35)),
    ]
    return Phantom(np.stack(planes), scene.mask, is_positive)


def _placed_nuclei(rng: np.random.Generator, n_wanted: int, tile_px: int) -> Nuclei:
    """Nuclei of about 20 px; every third one is pushed against another until they touch."""
    centres: list[tuple[float, float]] = []
    radii: list[float] = []
    for _ in range(n_wanted * 6):
        if len(centres) == n_wanted:
            break
        radius = float(np.clip(rng.normal(10.0, 2.2), 5.5, 15.0))
        neighbour = int(rng.integers(len(centres))) if centres and rng.random() < 0.38 else None
        if neighbour is None:
            place = rng.uniform(-3.0, tile_px + 3.0, size=2)
        else:
            angle = rng.uniform(0.0, 2.0 * np.pi)
            reach = (radius + radii[neighbour]) * rng.uniform(0.8, 0.95)
            place = np.array(centres[neighbour]) + reach * np.array([np.sin(angle), np.cos(angle)])
        if _has_room(place, radius, centres, radii):
            centres.append((float(place[0]), float(place[1])))
            radii.append(radius)
    n = len(centres)
    wobble = np.abs(rng.normal(0.0, 1.0, size=(n, 3))) * np.array([0.13, 0.05, 0.03])
    phase = rng.uniform(0.0, 2.0 * np.pi, size=(n, 3))
    return Nuclei(np.array(centres), np.array(radii), np.clip(wobble, 0.0, 0.3), phase)


def _has_room(place: Plane, radius: float, centres: Sequence[tuple[float, float]], radii: Sequence[float]) -> bool:
    if not centres:
        return True
    distance = np.hypot(*(np.array(centres) - place).T)
    return bool(np.all(distance > 0.78 * (np.array(radii) + radius)))


def _scene(nuclei: Nuclei, tile_px: int) -> Scene:
    depth = np.full((tile_px, tile_px), np.inf)
    owner = np.zeros((tile_px, tile_px), dtype=np.intp)
    for index in range(len(nuclei.radius)):
        rows, columns, relative = _relative_distance(nuclei, index, tile_px)
        closer = relative < depth[rows, columns]
        depth[rows, columns][closer] = relative[closer]
        owner[rows, columns][closer] = index + 1
    painted = np.where(depth < 1.0, owner, 0)
    keep = np.bincount(painted.ravel(), minlength=len(nuclei.radius) + 1) >= SMALLEST_PX
    keep[0] = False
    renumber = np.where(keep, np.cumsum(keep), 0)
    return Scene(renumber[painted].astype(np.uint16), depth, renumber[owner])


def _relative_distance(nuclei: Nuclei, index: int, tile_px: int) -> tuple[slice, slice, Plane]:
    """The window around a nucleus and in it the distance to its centre in units of its outline."""
    reach = 2.0 * nuclei.radius[index]
    (y0, x0), (y1, x1) = (np.clip(nuclei.centre[index] + side * reach, 0, tile_px).astype(int) for side in (-1.0, 1.0))
    y, x = np.mgrid[y0:y1, x0:x1] - nuclei.centre[index][:, None, None]
    angle = np.arctan2(y, x)
    harmonics = np.array([2, 3, 4])[:, None, None] * angle + nuclei.phase[index][:, None, None]
    waves = np.sum(nuclei.wobble[index][:, None, None] * np.cos(harmonics), axis=0)
    outline = nuclei.radius[index] * (1.0 + waves)
    return slice(y0, y1), slice(x0, x1), np.hypot(y, x) / outline


def _nuclear_signal(rng: np.random.Generator, scene: Scene) -> Plane:
    """DAPI counts: every nucleus with its own brightness, domed, with grainy chromatin."""
    n_cells = int(scene.mask.max())
    brightness = np.concatenate([[0.0], rng.lognormal(np.log(850.0), 0.45, size=n_cells)])
    texture = 1.0 + 0.28 * _smooth_noise(rng, scene.mask.shape[0], 1.4)
    dome = 1.0 - 0.4 * np.minimum(scene.depth, 1.0) ** 2
    return np.asarray(brightness[scene.mask] * np.maximum(texture, 0.3) * dome)


def _marker_signal(rng: np.random.Generator, scene: Scene, is_positive: NDArray[np.bool_], stain: Stain) -> Plane:
    """Marker counts: soma and processes of positive cells, autofluorescence and a little stain in all."""
    n_cells = is_positive.size
    stained = rng.lognormal(np.log(800.0), 0.35, n_cells) * is_positive
    unstained = rng.lognormal(np.log(95.0), 0.35, n_cells)
    per_cell = np.concatenate([[0.0], stained + unstained])
    profile = np.where(scene.depth < 0.8, stain.nuclear, 1.0) * (scene.depth < stain.soma)
    soma = per_cell[scene.owner] * profile * (1.0 + 0.15 * _smooth_noise(rng, scene.mask.shape[0], 1.5))
    if stain.arms[1] == 0:
        return _psf(soma, 1.1)
    return _psf(soma, 1.4) + _processes(rng, scene, stained, stain)


def _processes(rng: np.random.Generator, scene: Scene, strength: Plane, stain: Stain) -> Plane:
    """Thin curved arms from each cell of positive `strength`, and some whose cell lies out of the plane."""
    tile_px = scene.mask.shape[0]
    canvas = np.zeros((tile_px, tile_px))
    cells = np.flatnonzero(strength)
    starts = ndimage.center_of_mass(scene.mask > 0, scene.mask, cells + 1) if cells.size else []
    for start, signal in zip(starts, strength[cells], strict=True):
        for _ in range(rng.integers(*stain.arms, endpoint=True)):
            length_px = rng.uniform(*stain.arm_px)
            _draw_arm(rng, canvas, np.array(start), length_px, float(signal) * stain.arm_signal)
    for _ in range(rng.poisson(6 * (tile_px / 256) ** 2)):
        stray = rng.uniform(0.0, tile_px, size=2)
        _draw_arm(rng, canvas, stray, 1.5 * rng.uniform(*stain.arm_px), 450.0 * stain.arm_signal)
    return _psf(canvas, 1.1)


def _draw_arm(rng: np.random.Generator, canvas: Plane, start: Plane, length_px: float, signal: float) -> None:
    n_steps = max(int(length_px * 2), 2)
    heading = rng.uniform(0.0, 2.0 * np.pi) + np.cumsum(rng.normal(0.0, 0.12, n_steps))
    steps = np.stack([np.sin(heading), np.cos(heading)])
    path = start[:, None] + ROOT_PX * steps[:, :1] + np.cumsum(steps, axis=1) / 2.0
    inside = np.all((path >= 0) & (path < canvas.shape[0]), axis=0)
    rows, columns = path[:, inside].astype(int)
    fading = np.linspace(1.0, 0.25, n_steps)[inside]
    np.add.at(canvas, (rows, columns), signal * fading / 2.0)


def _blurred_nuclei(rng: np.random.Generator, tile_px: int) -> Plane:
    """Nuclei above or below the plane: wide faint blobs that are not annotated."""
    n = rng.poisson(9 * (tile_px / 256) ** 2)
    return _blobs(rng, tile_px, signal=rng.uniform(90.0, 330.0, n), sigma=rng.uniform(5.0, 10.0, n))


def _haze(rng: np.random.Generator, tile_px: int) -> Plane:
    """Diffuse autofluorescence of the marker channel."""
    n = rng.poisson(2 * (tile_px / 256) ** 2)
    return _blobs(rng, tile_px, signal=rng.uniform(40.0, 150.0, n), sigma=rng.uniform(8.0, 18.0, n))


def _granules(rng: np.random.Generator, tile_px: int) -> Plane:
    """Lipofuscin and dust: clusters of small bright specks, seen in both channels."""
    plane = np.zeros((tile_px, tile_px))
    for _ in range(rng.poisson(9 * (tile_px / 256) ** 2)):
        n = int(rng.integers(1, 7))
        middle = rng.uniform(0, tile_px, size=2)
        places = middle + rng.normal(0.0, 2.5, size=(n, 2))
        signal, sigma = rng.uniform(200.0, 1500.0, n), rng.uniform(0.8, 2.2, n)
        plane += _blobs(rng, tile_px, signal=signal, sigma=sigma, at=places)
    return plane


def _blobs(rng: np.random.Generator, tile_px: int, *, signal: Plane, sigma: Plane, at: Plane | None = None) -> Plane:
    """Gaussian blobs of peak `signal` and width `sigma` px, anywhere or `at` (blob, yx)."""
    places = rng.uniform(0, tile_px, size=(len(signal), 2)) if at is None else at
    plane = np.zeros((tile_px, tile_px))
    for (y, x), peak, width in zip(places, signal, sigma, strict=True):
        reach = 4.0 * width
        y0, y1, x0, x1 = np.clip([y - reach, y + reach + 1, x - reach, x + reach + 1], 0, tile_px).astype(int)
        rows, columns = np.ogrid[y0:y1, x0:x1]
        plane[y0:y1, x0:x1] += peak * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
    return plane


def _background(rng: np.random.Generator, tile_px: int, *, unevenness: float) -> Plane:
    """Tissue background in counts: a slope, slow waves and the lamp's fall-off to the corners."""
    y, x = np.mgrid[-1 : 1 : tile_px * 1j, -1 : 1 : tile_px * 1j]
    angle = rng.uniform(0.0, 2.0 * np.pi)
    slope = rng.uniform(0.0, 0.6) * (np.cos(angle) * y + np.sin(angle) * x)
    level = rng.uniform(160.0, 420.0)
    waves = np.zeros((tile_px, tile_px))
    for fy, fx, phase in rng.uniform(-1.0, 1.0, size=(5, 3)) * [4.5, 4.5, np.pi]:
        waves += np.cos(fy * y + fx * x + phase)
    return np.asarray(level * (1.0 + unevenness * (slope + 0.1 * waves - 0.12 * (y**2 + x**2))))


def _smooth_noise(rng: np.random.Generator, tile_px: int, sigma: float) -> Plane:
    """Gaussian noise of correlation length `sigma` px, mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal((tile_px, tile_px)), sigma, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std())


def _psf(plane: Plane, sigma: float) -> Plane:
    return np.asarray(ndimage.gaussian_filter(plane, sigma))


def _detected(rng: np.random.Generator, counts: Plane) -> NDArray[np.uint16]:
    """Camera counts: shot noise of the photons, read noise, offset."""
    photons = rng.poisson(np.maximum(counts, 0.0) / COUNTS_PER_PHOTON)
    read = rng.normal(OFFSET, READ_NOISE, size=counts.shape)
    return np.clip(np.rint(photons * COUNTS_PER_PHOTON + read), 0, 65535).astype(np.uint16)
