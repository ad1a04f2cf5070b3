"""Scans brought together to participants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax as scipy_softmax

from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.classification.units import by_unit

NAMES = np.array(["b", "a", "c", "a", "b", "a", "d"])
CLASS = {"a": 2, "b": 0, "c": 1, "d": 2}
LABEL = np.array([CLASS[name] for name in NAMES])


def logits(seed: int, runs: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(runs, NAMES.size, 3)) * 3


@given(seed=st.integers(0, 10_000))
def test_mean_of_softmax(seed: int) -> None:
    units, probability = by_unit(logits(seed), LABEL, NAMES)
    assert units.name.tolist() == ["a", "b", "c", "d"]
    assert units.truth.tolist() == [2, 0, 1, 2]
    assert units.n_scans.tolist() == [3, 2, 1, 1]
    single = scipy_softmax(logits(seed), axis=-1)
    for at, name in enumerate(units.name):
        np.testing.assert_allclose(probability[:, at], single[:, name == NAMES].mean(1))


@given(seed=st.integers(0, 10_000), order=st.permutations(range(NAMES.size)))
def test_order_of_scans_plays_no_part(seed: int, order: list[int]) -> None:
    scores = logits(seed)
    _, before = by_unit(scores, LABEL, NAMES)
    _, after = by_unit(scores[:, order], LABEL[order], NAMES[order])
    np.testing.assert_array_equal(before, after)


@given(seed=st.integers(0, 10_000), times=st.integers(2, 4))
def test_scans_of_a_participant_more_than_once(seed: int, times: int) -> None:
    scores = logits(seed)
    again = np.concatenate([np.arange(NAMES.size), *[np.flatnonzero(NAMES == "a")] * (times - 1)])
    _, before = by_unit(scores, LABEL, NAMES)
    _, after = by_unit(scores[:, again], LABEL[again], NAMES[again])
    np.testing.assert_allclose(before, after, rtol=1e-12)


def test_what_does_not_fit() -> None:
    scores = logits(0)
    with pytest.raises(FintuneValueError, match="several classes: a"):
        by_unit(scores, np.where(np.arange(7) == 1, 0, LABEL), NAMES)
    with pytest.raises(FintuneValueError, match="expected classes 0 to 2, got -1"):
        by_unit(scores, np.where(np.arange(7) == 2, -1, LABEL), NAMES)
    scores[0, 3, 1] = np.nan
    with pytest.raises(FintuneValueError, match="finite"):
        by_unit(scores, LABEL, NAMES)
    with pytest.raises(FintuneValueError, match="do not fit together"):
        by_unit(logits(0), LABEL[:-1], NAMES[:-1])
