"""Numbers that may be codes for missing values are asked about, and those of ordinary columns are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fintune_xr.analysis.clinical import clinical_outcomes, join_lines
from fintune_xr.analysis.missing_codes import ages_of_none, codes_apart, negative_codes
from fintune_xr.seeds import stream


def column(kind: str, size: int, seed: int = 0) -> NDArray[np.float64]:
    """A column as studies have it, drawn at random."""
    draw = stream(seed, f"{kind} {size}")
    drawn = {
        "age": lambda: draw.normal(85, 7, size).round(),
        "mmse": lambda: np.minimum(30, 30 - draw.poisson(6, size)).clip(0),
        "education": lambda: draw.normal(16, 3, size).round().clip(6, 25),
        "sex": lambda: draw.integers(1, 3, size), "grade": lambda: draw.integers(1, 5, size),
        "stage": lambda: draw.integers(0, 7, size), "year": lambda: draw.integers(1995, 2016, size),
    }  # fmt: skip
    return np.asarray(drawn[kind](), np.float64)


@pytest.mark.parametrize(
    ("kind", "codes", "size"),
    [
        ("mmse", [88], 30), ("mmse", [99], 30), ("mmse", [88, 99], 30), ("education", [99], 12), ("sex", [9], 30),
        ("sex", [8, 9], 40), ("grade", [9], 30), ("stage", [9, 9, 9], 60), ("stage", [9], 60), ("year", [8888], 12),
        ("year", [9999, 7777], 12), ("age", [0], 12), ("age", [0, 0], 30), ("education", [77, 99], 5),
    ],
)  # fmt: skip
def test_codes_that_lie_apart_are_found(kind: str, codes: list[int], size: int) -> None:
    for seed in range(5):
        values = np.concatenate([column(kind, size, seed), codes])
        assert codes_apart(values) == sorted(set(codes))
        assert codes_apart(np.append(values, np.nan)) == sorted(set(codes))


@given(st.permutations(range(11)), st.lists(st.integers(0, 10), max_size=60))
def test_a_score_that_holds_all_of_its_numbers_has_no_code(all_of_them: Sequence[int], more: list[int]) -> None:
    assert codes_apart(np.array([*all_of_them, *more], np.float64)) == []


@given(st.lists(st.integers(60, 100), min_size=1, max_size=80), st.sampled_from([1.0, 0.1]))
def test_ages_are_no_codes(ages: list[int], unit: float) -> None:
    values = np.array(ages) * unit
    assert codes_apart(values) == []
    assert not ages_of_none("age", values)


@given(st.lists(st.floats(0, 100), max_size=80), st.lists(st.sampled_from([0.0, 1.0]), max_size=80))
def test_shares_and_answers_have_no_codes(shares: list[float], answers: list[float]) -> None:
    """But for those beyond all others: whoever draws numbers from 0 to 100 meets 99 beside none above 33 as well."""
    assert codes_apart(np.array(answers)) == []
    found = codes_apart(np.array(shares))
    assert all(code in shares and (code == 0 or code > max(s for s in shares if s < code)) for code in found)


@pytest.mark.parametrize("kind", ["age", "mmse", "education", "sex", "grade", "stage", "year"])
def test_ordinary_columns_are_not_asked_about(kind: str) -> None:
    asked = [seed for seed in range(100) for size in (4, 12, 40) if codes_apart(column(kind, size, seed))]
    assert not asked


def test_counts_that_are_skewed_are_seldom_asked_about() -> None:
    draw = stream(1, "counts")
    columns = [draw.geometric(0.4, size) - 1.0 for size in (8, 20, 70) for _ in range(100)]
    columns += [draw.poisson(mean, 40).astype(float) for mean in (0.3, 1, 4, 30) for _ in range(50)]
    assert np.mean([bool(codes_apart(one)) for one in columns]) < 0.01


def test_ages_of_adults_hold_no_newborn() -> None:
    for name in ("age", "age_death", "Age at visit", "mother.age"):
        assert ages_of_none(name, np.array([0.0, 71, 80]))
    assert not ages_of_none("stage", np.array([0.0, 71, 80]))
    assert not ages_of_none("age", np.array([0.0, 3, 80]))
    assert not ages_of_none("age", np.array([0.0]))


def test_several_negative_codes() -> None:
    scores = column("mmse", 30)
    assert negative_codes(np.concatenate([scores, [-1, -9]])) == [-9, -1]
    assert negative_codes(np.concatenate([scores, [-9, -8]])) == [-9, -8]
    assert negative_codes(scores) == []


@given(st.integers(0, 10**6), st.integers(9, 80))
def test_changes_of_scores_are_no_codes(seed: int, size: int) -> None:
    changes = stream(seed, "changes").normal(0, 3, size).round()
    found = negative_codes(changes)
    # Where they are: only two or three numbers below 0, with a hole among them that nothing above 0 has.
    below, above = np.unique(changes[changes < 0]), np.unique(changes[changes >= 0])
    assert not found or (below.size < 4 and np.diff([*below, 0]).max() >= 3 * np.diff(above).max())


def test_codes_are_told_with_the_donors_that_have_them() -> None:
    size = 30
    rows = pd.DataFrame({
        "projid": [f"d{at}" for at in range(size)],
        "mmse": [*column("mmse", size - 1).astype(int).astype(str), "99"],
        "age": [*column("age", size - 2).astype(int).astype(str), "0", ""],
        "cope": ["-1", "-9", *column("mmse", size - 2).astype(int).astype(str)],
    })  # fmt: skip
    found = clinical_outcomes(
        rows, rows["projid"], donor_column="projid", outcomes=["mmse"], covariates=["age", "cope"]
    )
    told = " ".join(join_lines(found))
    assert "99 of donor 'd29' lies apart from all other values in column 'mmse'" in told
    assert "0 of donor 'd28' lies apart from all other values in column 'age'" in told
    assert "-9 of donor 'd1' is beside no other negative value in column 'cope'" in told
    assert "-1 of donor 'd0' is beside" in told


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ([1, 2, 1, 2, 1, 9], True), ([0, 1, 2, 0, 1, 2, 8], True), ([2.5, 3.1, 4, 9, 5, 6], False),
        ([16, 12, 14, 18, 10, 9], False), ([1, 2, 3, 4, 5, 9], False), ([1, 9, 1, 9, 1, 9], False),
    ],
)  # fmt: skip
def test_codes_among_a_few_categories_of_a_covariate(values: list[float], asked: bool) -> None:
    rows = pd.DataFrame({
        "projid": [f"d{at}" for at in range(len(values))],
        "nft": [str(at) for at in range(len(values))], "sex": list(map(str, values)),
    })  # fmt: skip
    found = clinical_outcomes(rows, rows["projid"], donor_column="projid", outcomes=["nft"], covariates=["sex"])
    assert any("lies apart from all other values in column 'sex'" in line for line in join_lines(found)) == asked
