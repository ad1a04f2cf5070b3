"""Images cut into tiles: every pixel once, sizes within their bounds, for every length."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.errors import FintuneValueError
from fintune_xr.store.raw.cutting import check_cut, ends, parts_of, whole_name


@pytest.mark.parametrize("cut", [64, 512, 1024])
def test_parts_tile_every_length(cut: int) -> None:
    for length in range(1, 20_001):
        parts = ends(length, cut)
        assert parts[0][0] == 0
        assert parts[-1][1] == length
        assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))
        sizes = [stop - start for start, stop in parts]
        assert max(sizes) <= 1.5 * cut + 1
        if length >= 0.75 * cut:
            assert min(sizes) >= 0.75 * cut - 1


@given(st.integers(1, 900), st.integers(1, 900), st.integers(64, 400))
def test_parts_of_an_image_cover_it_once(height: int, width: int, cut: int) -> None:
    covered = np.zeros((height, width), np.int32)
    parts = parts_of(height, width, cut)
    for part in parts:
        covered[part.rows, part.columns] += 1
    assert (covered == 1).all()
    assert len({part.place for part in parts}) == len(parts)


def test_whole_images_and_names() -> None:
    assert ends(20_000, 0) == [(0, 20_000)]
    assert whole_name("TCGA_x@y0x12") == "TCGA_x"
    assert whole_name("a@b") == "a@b"
    assert check_cut(0) == 0
    with pytest.raises(FintuneValueError, match="expected 64 px or more"):
        check_cut(10)
