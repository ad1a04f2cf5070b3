"""Splits by donor: deterministic, stratified, and without leaks."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.splits.assignment import NEAR_DUPLICATE_BITS, find_leaks, split_digest, split_donors
from fintune_xr.splits.image_hash import N_BITS, Looks, looks

FRACTIONS = (0.6, 0.2, 0.2)


def cohort(n_donors: int, markers: str = "GI") -> tuple[list[str], list[str]]:
    """Donor and marker of every tile: each donor has a few tiles of each marker."""
    tiles = [(f"d{i:02}", m) for i in range(n_donors) for k, m in enumerate(markers) for _ in range(1 + (i + k) % 3)]
    return [d for d, _ in tiles], [m for _, m in tiles]


@given(st.integers(3, 40), st.integers(0, 5))
def test_every_donor_lies_in_one_part_and_none_is_empty(n_donors: int, seed: int) -> None:
    donor, marker = cohort(n_donors)
    part_of = split_donors(donor, marker, fractions=FRACTIONS, seed=seed)
    assert set(part_of) == set(donor)
    assert set(part_of.values()) == set(n.SPLITS)


@given(st.integers(3, 20), st.randoms(use_true_random=False))
def test_the_order_of_tiles_does_not_matter(n_donors: int, random) -> None:  # type: ignore[no-untyped-def]
    donor, marker = cohort(n_donors)
    order = list(range(len(donor)))
    random.shuffle(order)
    shuffled = split_donors([donor[i] for i in order], [marker[i] for i in order], fractions=FRACTIONS, seed=1)
    assert shuffled == split_donors(donor, marker, fractions=FRACTIONS, seed=1)


def test_markers_come_close_to_the_fractions() -> None:
    donor, marker = cohort(60, "GIO")
    part_of = split_donors(donor, marker, fractions=FRACTIONS, seed=3)
    for one in "GIO":
        counts = Counter(part_of[d] for d, m in zip(donor, marker, strict=True) if m == one)
        shares = [counts[part] / sum(counts.values()) for part in n.SPLITS]
        np.testing.assert_allclose(shares, FRACTIONS, atol=0.06)


def test_seeds_differ_and_a_seed_repeats() -> None:
    donor, marker = cohort(20)
    made = [split_donors(donor, marker, fractions=FRACTIONS, seed=seed) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_a_part_of_nothing_gets_no_donor() -> None:
    donor, marker = cohort(4)
    assert set(split_donors(donor, marker, fractions=(0.75, 0.25, 0.0), seed=0).values()) == {n.TRAIN, n.VAL}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.6, 0.3, 0.3), (1.2, -0.1, -0.1)])
def test_fractions_that_make_no_sense(fractions: tuple[float, ...]) -> None:
    with pytest.raises(SplitError, match="expected three numbers >= 0 that add up to 1"):
        split_donors(["a", "b", "c"], ["m"] * 3, fractions=fractions, seed=0)  # type: ignore[arg-type]


def test_too_few_donors() -> None:
    with pytest.raises(SplitError, match=r"2 donor.s. cannot fill 3 parts; .* --by tile"):
        split_donors(["a", "b"], ["m", "m"], fractions=FRACTIONS, seed=0)


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    grid = np.mgrid[:96, :96]
    blobs = [sum(np.exp(-((grid[0] - y) ** 2 + (grid[1] - x) ** 2) / 60) for y, x in rng.uniform(0, 96, (20, 2)))
             for _ in range(count)]  # fmt: skip
    return [(1000 * blob + rng.normal(0, 20, blob.shape) + 200).clip(0).astype(np.uint16) for blob in blobs]


def leaks_of(planes: list[np.ndarray], split: list[str], **facts: list[str]) -> list[str]:
    """Leaks of tiles of a plane (y, x), or of a DAPI plane and a marker plane (channel, y, x)."""
    count = len(planes)
    known = {"donor": [f"d{i}" for i in range(count)], "digest": [f"s{i}" for i in range(count)]} | facts
    tiles = [np.atleast_3d(plane.T).T for plane in planes]
    seen = looks(tiles, ["DAPI", "marker"][-len(tiles[0]) :])
    return [str(leak) for leak in find_leaks([f"t{i}" for i in range(count)], split, seen=seen, **known)]


def test_different_images_of_different_donors_do_not_leak() -> None:
    assert leaks_of(images(12), ["train", "val", "test"] * 4) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda plane: plane,
        lambda plane: (plane * 1.7 + 90).astype(np.uint16),
        lambda plane: plane + np.random.default_rng(1).integers(0, 40, plane.shape).astype(np.uint16),
        lambda plane: (plane // 16).astype(np.uint8),
        lambda plane: plane[::-1],
        lambda plane: np.rot90(plane) * 2,
        lambda plane: np.rot90(plane[:, ::-1], 3) // 2,
    ],
    ids=["copy", "brighter", "noisier", "eight bits", "mirrored", "turned and brighter", "both and darker"],
)
def test_nearly_the_same_image_on_two_sides_is_found(change) -> None:  # type: ignore[no-untyped-def]
    planes = images(4)
    planes[3] = change(planes[0])
    (leak,) = leaks_of(planes, ["train", "train", "val", "test"])
    assert leak.startswith("t0 (train) and t3 (test): nearly the same image (marker: ")


def test_one_plane_that_is_the_same_is_enough_and_is_named() -> None:
    tiles = [np.stack(pair) for pair in zip(images(8)[:4], images(8)[4:], strict=True)]
    tiles[2][0] = tiles[0][0][::-1]
    (leak,) = leaks_of(tiles, ["train", "val", "test", "test"])
    assert leak == "t0 (train) and t2 (test): nearly the same image (DAPI: 0 of 256 bits differ)"


def test_planes_that_show_nothing_are_no_leak() -> None:
    blank = [np.zeros((96, 96), np.uint16), np.zeros((96, 96), np.uint16), np.full((96, 96), 7, np.uint16)]
    assert leaks_of(blank, ["train", "val", "test"]) == []
    tiles = [np.stack(pair) for pair in zip(images(3), blank, strict=True)]
    assert leaks_of(tiles, ["train", "val", "test"]) == []
    tiles[2][0] = tiles[0][0]
    (leak,) = leaks_of(tiles, ["train", "val", "test"])
    assert leak == "t0 (train) and t2 (test): nearly the same image (DAPI: 0 of 256 bits differ)"


def test_the_same_image_on_one_side_is_no_leak() -> None:
    planes = images(3)
    planes[1] = planes[0]
    assert leaks_of(planes, ["train", "train", "test"]) == []


def test_donor_and_file_on_two_sides() -> None:
    planes = images(4)
    assert leaks_of(planes, ["train", "test", n.UNASSIGNED, "val"], donor=["a", "a", "a", "b"]) == [
        "t0 (train) and t1 (test): same donor a"
    ]
    assert leaks_of(planes, ["train", "test", "val", "val"], digest=["x", "y", "z", "x"]) == [
        "t0 (train) and t3 (val): same file content"
    ]


def test_the_digest_changes_with_any_assignment() -> None:
    one = {"t1": "train", "t2": "test"}
    assert split_digest(one) == split_digest(dict(reversed(one.items())))
    assert split_digest(one) != split_digest({**one, "t2": "val"})


@given(st.integers(0, 12), st.integers(0, 2**31))
def test_leaks_are_those_of_a_comparison_pair_by_pair(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tile = [f"t{i}" for i in range(count)]
    split = rng.choice(["train", "val", "test", n.UNASSIGNED], count).tolist()
    donor, digest = rng.choice(list("abcdefgh"), count).tolist(), rng.choice(list("stuvwxyz"), count).tolist()
    hashes = rng.random((2, 8, N_BITS)) < 0.5
    hashes = np.array([hashes ^ (rng.random(hashes.shape) < rng.choice([0.02, 0.08, 0.1, 0.5])) for _ in tile], bool)
    hashes, told = hashes.reshape(count, 2, 8, N_BITS), rng.random((count, 2)) < 0.7
    expected = []
    for i, j in itertools.combinations(range(count), 2):
        whys = [f"same donor {donor[i]}"] * (donor[i] == donor[j]) + ["same file content"] * (digest[i] == digest[j])
        bits = {
            name: min(int((hashes[i, c, 0] != hashes[j, c, turn]).sum()) for turn in range(8))
            for c, name in enumerate(["DAPI", "GFAP"])
            if told[i, c] and told[j, c]
        }
        near = [f"{name}: {n} of 256 bits differ" for name, n in bits.items() if n <= NEAR_DUPLICATE_BITS]
        whys += [f"nearly the same image ({', '.join(near)})"] * bool(near)
        if n.UNASSIGNED not in (split[i], split[j]) and split[i] != split[j] and whys:
            expected.append(f"{tile[i]} ({split[i]}) and {tile[j]} ({split[j]}): {whys[0]}")
    seen = Looks(("DAPI", "GFAP"), np.packbits(hashes, axis=-1).view(np.uint64), told)
    found = find_leaks(tile, split, donor=donor, digest=digest, seen=seen)
    assert [str(leak) for leak in found] == expected
