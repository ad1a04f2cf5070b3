"""Windows of the gallery: where the annotated cells are, and never beyond the tile."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.pipelines.report.gallery import busiest_window


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)), edge=st.integers(1, 40),
    seed=st.integers(0, 1000), share=st.floats(0, 0.2),
)  # fmt: skip
def test_a_window_is_as_large_as_asked_or_the_whole(shape: tuple[int, int], edge: int, seed: int, share: float) -> None:
    mask = (np.random.default_rng(seed).random(shape) < share).astype(np.uint32)
    window = mask[busiest_window(mask, edge)]
    assert window.shape == tuple(min(edge, length) for length in shape)


def test_it_lies_on_the_crowd() -> None:
    mask = np.zeros((400, 400), np.uint32)
    mask[300:340, 20:60] = 1
    mask[10:14, 380:384] = 2
    window = mask[busiest_window(mask, 100)]
    assert np.count_nonzero(window == 1) == 1600
    assert not np.any(window == 2)
