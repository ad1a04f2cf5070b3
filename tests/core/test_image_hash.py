"""Hashes of images: alike for copies however turned, unlike for other fields, silent for planes without contrast."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fintune_xr.seeds import stream
from fintune_xr.splits.assignment import NEAR_DUPLICATE_BITS
from fintune_xr.splits.image_hash import N_BITS, has_contrast, looks, perceptual_hashes, shrunk

ORIENTATIONS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda p: p, lambda p: p[:, ::-1], lambda p: p[::-1], lambda p: p[::-1, ::-1],
    lambda p: p.T, lambda p: p.T[:, ::-1], lambda p: p.T[::-1], lambda p: p.T[::-1, ::-1],
]  # fmt: skip


def plain_hash(plane: np.ndarray) -> np.ndarray:
    """The hash (256,) of one orientation, pixel by pixel and frequency by frequency."""
    fine = np.repeat(np.repeat(plane.astype(float), 32, axis=0), 32, axis=1)
    side = [length // 32 for length in fine.shape]
    small = fine.reshape(32, side[0], 32, side[1]).mean(axis=(1, 3))
    place = np.arange(32)
    waves = [np.cos(np.pi * (place + 0.5) * k / 32) for k in range(16)]
    values = np.array([[np.sum(small * np.outer(down, along)) for along in waves] for down in waves])
    values[0, 0] = 0
    return (values > 0).ravel()


def bits(first: np.ndarray, second: np.ndarray) -> int:
    """Bits in which two planes differ."""
    return int(looks([first[None], second[None]], ["m"]).differing(0, np.array([1]))[0, 0])


@settings(max_examples=10)
@given(st.integers(20, 70), st.integers(20, 70), st.integers(0, 2**31))
def test_the_eight_hashes_are_those_of_the_turned_planes(height: int, width: int, seed: int) -> None:
    plane = stream(seed, "plane").integers(0, 60_000, (height, width)).astype(np.uint16)
    expected = [plain_hash(turn(plane)) for turn in ORIENTATIONS]
    np.testing.assert_array_equal(perceptual_hashes(shrunk(plane)), expected)


@pytest.mark.parametrize("value", [0, 1, 1000, 65_535])
@pytest.mark.parametrize("specks", [0, 1, 5])
def test_a_blank_plane_tells_nothing(value: int, specks: int) -> None:
    plane = np.full((512, 500), value, np.uint16)
    plane[:specks, :specks] = 300
    assert not has_contrast(shrunk(plane))
    assert bits(plane, plane) == N_BITS


@pytest.mark.parametrize("mean", [5, 200, 20_000])
def test_noise_under_the_same_uneven_light_is_not_alike(mean: float) -> None:
    """Empty fields of one microscope: what they share is smooth, and most frequencies are noise."""
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    light = mean * np.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / 3)
    planes = [stream(seed, "noise").poisson(light) + 100 for seed in range(8)]
    seen = looks([plane[None] for plane in planes], ["m"])
    assert seen.told.all()
    assert min(int(seen.differing(i, np.arange(i)).min()) for i in range(1, 8)) > 2 * NEAR_DUPLICATE_BITS


def jpeg(plane: np.ndarray) -> np.ndarray:
    low, high = np.percentile(plane, [0, 99.9])
    packed = io.BytesIO()
    Image.fromarray((255 * ((plane - low) / (high - low)).clip(0, 1)).round().astype(np.uint8)).save(
        packed, "JPEG", quality=50
    )
    return np.asarray(Image.open(packed))


def real_fields(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Planes of real images by specimen; colour is taken as its green plane."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted(folder.glob("deepflash-hippocampus/*/??_[!e]*.tif")):
        kind, number = path.parent.name, path.name[:2]
        shared = number != "05" and kind != "new"
        found.setdefault(f"field {number}" if shared else path.stem, {})[path.stem] = tifffile.imread(path)
    for path in sorted(folder.glob("dsb2018-fluo/images/*.tif")):
        found[path.stem] = {path.stem: np.squeeze(tifffile.imread(path))}
    for path in sorted(folder.glob("microglia-morphometry/*[0-9].tif")):
        found[path.stem] = {path.stem: tifffile.imread(path).reshape(-1, 512, 512)[0]}
    for path in sorted([*folder.glob("ebhi-seg/images/*.png"), *folder.glob("bcss/patches/*_image.png")]):
        found.setdefault(path.stem[2:14], {})[path.stem] = np.asarray(Image.open(path))[..., 1]
    for path in sorted(folder.glob("cryosegnet-empiar10017/images/*.jpg"))[:4]:
        found[path.stem] = {path.stem: np.asarray(Image.open(path).convert("L"))[::4, ::4]}
    return found


@pytest.fixture(scope="module")
def fields(real_data: Path) -> dict[str, dict[str, np.ndarray]]:
    return real_fields(real_data)


def test_real_fields_of_different_specimens_are_not_alike(fields: dict[str, dict[str, np.ndarray]]) -> None:
    """Whole fields, and 256 x 256 pieces of them, which show less each."""
    assert sum(map(len, fields.values())) > 40
    specimen, pieces = [], []
    for name, planes in fields.items():
        for plane in planes.values():
            cuts = [plane[y : y + 256, x : x + 256] for y in range(0, plane.shape[0] - 255, 256)
                    for x in range(0, plane.shape[1] - 255, 256)]  # fmt: skip
            pieces += [plane, *cuts]
            specimen += [name] * (1 + len(cuts))
    seen = looks([piece[None] for piece in pieces], ["m"])
    least = [
        int(seen.differing(i, np.flatnonzero(np.array(specimen) != specimen[i])).min()) for i in range(len(pieces))
    ]
    assert min(least) >= 40


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gain and offset": lambda p: p * 1.7 + 90,
    "JPEG of quality 50": jpeg,
    "mirrored, then JPEG": lambda p: jpeg(p[::-1]),
    "turned, then gain": lambda p: np.rot90(p) * 0.6 + 20,
    "noise": lambda p: p + stream(1, "noise").normal(0, 0.2 * p.std(), p.shape),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_copies_of_real_fields_are_alike(
    fields: dict[str, dict[str, np.ndarray]], change: Callable[[np.ndarray], np.ndarray]
) -> None:
    most = max(bits(plane, change(plane)) for planes in fields.values() for plane in planes.values())
    assert most <= 12


def test_overlapping_pieces_of_one_field_are_not_found(fields: dict[str, dict[str, np.ndarray]]) -> None:
    """The limit that the documentation states."""
    plane = fields["field 00"]["00_cFOS"]
    assert bits(plane[:, :-128], plane[:, 128:]) > NEAR_DUPLICATE_BITS
