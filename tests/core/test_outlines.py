"""Outlines along pixels: they enclose what they were made of, are valid polygons, and turn as geometry wants it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fintune_xr.pixels.outlines import fill_rings, outlines

MASKS = arrays.arrays(
    np.uint32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 1, 7])
)


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


@settings(max_examples=150)
@given(MASKS)
def test_what_is_enclosed_is_the_mask(mask: np.ndarray) -> None:
    found = list(outlines(mask))
    assert [one.label for one in found] == [label for label in np.unique(mask) if label]
    for one in found:
        rings = [ring for piece in one.pieces for ring in piece]
        np.testing.assert_array_equal(fill_rings(rings, mask.shape), mask == one.label)
        # Shoelace: outer rings add what they enclose, holes take theirs away; together it is the number of pixels.
        assert all(area(piece[0]) > 0 and all(area(hole) < 0 for hole in piece[1:]) for piece in one.pieces)
        assert sum(map(area, rings)) == np.count_nonzero(mask == one.label)
        for ring in rings:
            # Simple: no corner twice, and every edge runs along x or along y, in turns.
            assert len({tuple(corner) for corner in ring}) == len(ring)
            steps = np.diff(ring, axis=0, append=ring[:1])
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert (steps[::2, 0] == 0).all() or (steps[::2, 1] == 0).all()


def test_a_ring_by_hand() -> None:
    mask = np.zeros((5, 6), np.uint32)
    mask[1:4, 2:5] = 9
    mask[2, 3] = 0
    (one,) = outlines(mask)
    ((outer, hole),) = one.pieces
    assert outer.tolist() == [[5, 1], [5, 4], [2, 4], [2, 1]]
    assert sorted(map(tuple, hole.tolist())) == [(3, 2), (3, 3), (4, 2), (4, 3)]


def test_pixels_that_touch_in_a_corner_are_two_pieces() -> None:
    (one,) = outlines(np.eye(2, dtype=np.uint32))
    assert [len(piece) for piece in one.pieces] == [1, 1]


def test_rings_of_other_tools_need_not_follow_pixels() -> None:
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    middles = np.mgrid[:5, :5] + 0.5
    np.testing.assert_array_equal(fill_rings([triangle], (5, 5)), middles.sum(axis=0) <= 4)
