"""Rank tests of groups against R's printed outputs, SciPy, brute force, and a table without any difference."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from fintune_xr import names as n
from fintune_xr.analysis.clinical import join_lines
from fintune_xr.analysis.group_labels import clinical_groups, group_lines, parse_groups
from fintune_xr.analysis.group_tests import effect_interval, group_tests
from fintune_xr.analysis.kernels import rank_tests
from fintune_xr.analysis.kernels.rank_tests import independent_effect, independent_test, repeated_effect, repeated_test
from fintune_xr.datasets import GROUP_TESTS
from fintune_xr.errors import FintuneValueError, SettingsError, UnknownNameError
from fintune_xr.schema import check_dataset

# Data of the examples of R's help pages.
PERMEABILITY = ([1.15, 0.88, 0.90, 0.74, 1.21], [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46])
DEPRESSION = (
    [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29],
    [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30],
)
CLEARANCE = ([2.9, 3.0, 2.5, 2.6, 3.2], [3.8, 2.7, 4.0, 2.4], [2.8, 3.4, 3.7, 2.2, 2.0])
ROUNDING = """
5.40 5.50 5.55 5.85 5.70 5.75 5.20 5.60 5.50 5.55 5.50 5.40 5.90 5.85 5.70 5.45 5.55 5.60 5.40 5.40 5.35 5.45 5.50 5.35
5.25 5.15 5.00 5.85 5.80 5.70 5.25 5.20 5.10 5.65 5.55 5.45 5.60 5.35 5.45 5.05 5.00 4.95 5.50 5.50 5.40 5.45 5.55 5.50
5.55 5.55 5.35 5.45 5.50 5.55 5.50 5.45 5.25 5.65 5.60 5.40 5.70 5.65 5.55 6.30 6.30 6.25
"""


def arrays(samples: tuple[list[float], ...]) -> list[np.ndarray]:
    return [np.array(sample) for sample in samples]


def test_mann_whitney_as_r_prints_it() -> None:
    """R: wilcox.test(x, y, alternative = "g") of its first example prints W = 35, p-value = 0.1272."""
    found = independent_test(arrays(PERMEABILITY))
    assert found.statistic == 35
    assert round(found.p / 2, 4) == 0.1272
    assert (found.test, found.method) == (rank_tests.MANN_WHITNEY, rank_tests.EXACT)
    assert found.effect == pytest.approx(2 * 35 / 50 - 1)


def test_signed_ranks_as_r_prints_them() -> None:
    """R: wilcox.test(x, y, paired = TRUE, alternative = "greater") there prints V = 40, p-value = 0.01953."""
    found = repeated_test(np.column_stack(arrays(DEPRESSION)))
    assert found.statistic == 40
    assert round(found.p / 2, 5) == 0.01953
    assert found.effect == pytest.approx((40 - 5) / 45)


def test_kruskal_wallis_as_r_prints_it() -> None:
    """R: kruskal.test(list(x, y, z)) of its example prints chi-squared = 0.77143; exact p of 14 donors is not its p."""
    found = independent_test(arrays(CLEARANCE))
    assert round(found.statistic, 5) == 0.77143
    assert found.effect == pytest.approx(found.statistic / 13)
    assert found.method == rank_tests.MONTE_CARLO
    many = [np.tile(one, 4) + np.linspace(0, 1e-6, 4 * one.size) for one in arrays(CLEARANCE)]
    large = independent_test(many)
    assert large.method == rank_tests.CHI_SQUARED
    assert large.p == pytest.approx(scipy.stats.kruskal(*many).pvalue, rel=1e-12)


def test_friedman_as_r_prints_it() -> None:
    """R: friedman.test(RoundingTimes) prints Friedman chi-squared = 11.143, df = 2, p-value = 0.003805."""
    table = np.array(ROUNDING.split(), np.float64).reshape(22, 3)
    found = repeated_test(table)
    assert round(found.statistic, 3) == 11.143
    assert found.p == pytest.approx(0.003805, abs=0.0015)  # drawn arrangements of 22 subjects, not chi-squared
    assert found.effect == pytest.approx(found.statistic / (22 * 2))
    twice = repeated_test(np.concatenate([table, table]))
    assert twice.method == rank_tests.CHI_SQUARED
    assert twice.p == pytest.approx(scipy.stats.chi2.sf(2 * 11.142857142857142, 2), rel=1e-9)


few = st.lists(st.integers(0, 3).map(float), min_size=2, max_size=4)


@settings(max_examples=25, deadline=None)
@given(st.lists(few, min_size=2, max_size=3))
def test_p_is_the_share_of_all_arrangements(samples: list[list[float]]) -> None:
    together = np.concatenate(samples)
    if np.ptp(together) == 0 or np.unique(together).size == together.size:
        return
    sizes = [len(one) for one in samples]
    ranks = scipy.stats.rankdata(together) - (together.size + 1) / 2

    def apart(order: np.ndarray) -> float:
        return float(sum(part.sum() ** 2 / part.size for part in np.split(order, np.cumsum(sizes)[:-1])))

    arranged = [apart(ranks[list(order)]) for order in itertools.permutations(range(len(ranks)))] if (
        len(ranks) <= 7) else []  # fmt: skip
    if arranged:
        expected = np.mean(np.array(arranged) >= apart(ranks) - 1e-9)
        assert independent_test(arrays(tuple(samples))).p == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3).map(float)] * 2), min_size=2, max_size=8))
def test_p_of_pairs_is_the_share_of_all_signs(pairs: list[tuple[float, float]]) -> None:
    change = np.array([second - first for first, second in pairs])
    change = change[change != 0]
    if change.size < 2:
        return
    ranks = scipy.stats.rankdata(np.abs(change))
    far = abs((np.sign(change) * ranks).sum())
    signs = np.array(list(itertools.product((-1, 1), repeat=change.size)))
    assert repeated_test(np.array(pairs)).p == pytest.approx(np.mean(np.abs(signs @ ranks) >= far - 1e-9))


def test_large_groups_are_as_scipy_says() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 9, 40).astype(float), rng.integers(1, 9, 45).astype(float)
    found = independent_test([first, second])
    expected = scipy.stats.mannwhitneyu(second, first, method="asymptotic")
    assert (found.statistic, found.p) == (expected.statistic, pytest.approx(expected.pvalue, rel=1e-12))
    change = rng.integers(-4, 7, 60).astype(float)
    paired = repeated_test(np.column_stack([np.zeros(60), change]))
    assert paired.p == pytest.approx(scipy.stats.wilcoxon(change, method="approx", correction=True).pvalue, rel=1e-12)


def test_p_is_never_zero_and_the_order_of_donors_does_not_matter() -> None:
    far = [np.arange(60.0), np.arange(100.0, 160.0)]
    assert independent_test(far).p > 0
    rng = np.random.default_rng(0)
    samples = [rng.integers(0, 5, 9).astype(float), rng.integers(1, 6, 10).astype(float)]
    turned = [sample[::-1] for sample in samples]
    assert independent_test(samples) == independent_test(turned)
    assert effect_interval(samples, repeated=False) == effect_interval(turned, repeated=False)


@given(few, few)
def test_the_effect_of_two_groups_is_what_pairs_of_donors_say(first: list[float], second: list[float]) -> None:
    pairs = [np.sign(b - a) for a in first for b in second]
    found = independent_effect([np.array(first)[None], np.array(second)[None]])
    assert found[0] == pytest.approx(np.mean(pairs))


def test_the_effect_of_repeats_is_one_where_all_subjects_agree() -> None:
    assert repeated_effect(np.array([[1.0, 2.0, 5.0], [3.0, 4.0, 9.0]])) == 1
    assert repeated_effect(np.array([[1.0, 2.0], [4.0, 3.0]])) == 0


def test_intervals_hold_the_effect_and_are_not_given_of_few() -> None:
    rng = np.random.default_rng(1)
    samples = [rng.normal(0, 1, 12), rng.normal(1, 1, 12)]
    low, high = effect_interval(samples, repeated=False)
    assert low < independent_test(samples).effect < high
    assert all(np.isnan(effect_interval([one[:4] for one in samples], repeated=False)))
    assert all(np.isnan(effect_interval([np.arange(6.0), np.arange(10.0, 16.0)], repeated=False)))
    three = effect_interval([rng.normal(0, 1, 9) for _ in range(3)], repeated=False)
    assert three[0] == 0


# A table of 8 donors: two of a subject at two times, three groups of text, one donor without any.
TABLE = pd.DataFrame(
    {
        "projid": [f"d{i}" for i in range(8)],
        "diagnosis": ["AD", "AD", "AD", "control", "control", "control", "MCI", ""],
        "visit": ["1", "2", "1.0", "2", "1", "2", "1", "2"],
        "whose": ["a", "a", "b", "b", "c", "c", "d", "e"],
    }
)
DONORS = list(TABLE["projid"])


def values(numbers: list[float]) -> xr.DataArray:
    return xr.DataArray(
        np.array(numbers)[None, :, None],
        dims=(n.RUN, n.DONOR, n.MARKER),
        coords={n.RUN: ["base"], n.DONOR: DONORS, n.MARKER: ["GFAP"]},
    )


def labelled(*groups: str, subject: str = "") -> xr.Dataset:
    return clinical_groups(TABLE, DONORS, donor_column="projid", groups=groups, subject=subject)


NUMBERS = [5.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0, 9.0]


def test_groups_are_tested_in_the_order_asked_for() -> None:
    found = group_tests(values(NUMBERS), labelled("diagnosis=control,AD"))
    check_dataset(found, GROUP_TESTS)
    one = found.squeeze()
    expected = scipy.stats.mannwhitneyu([5, 7, 6], [1, 2, 3], method="exact")
    assert (float(one[n.TEST_STATISTIC]), float(one[n.P])) == (expected.statistic, pytest.approx(expected.pvalue))
    assert float(one[n.EFFECT]) == 1
    assert one[n.N_IN_GROUP].values.tolist() == [3, 3]
    assert one[n.MEDIAN].values.tolist() == [2, 6]
    assert one[n.GROUP_LABEL].values.tolist() == ["control", "AD"]
    turned = group_tests(values(NUMBERS), labelled("diagnosis=AD,control")).squeeze()
    assert float(turned[n.EFFECT]) == -1


def test_missing_values_leave_a_donor_out_and_reasons_are_said() -> None:
    found = group_tests(values(NUMBERS), labelled("diagnosis")).squeeze()
    assert found[n.REASON].item() == "fewer than 2 donors in MCI"
    assert np.isnan(found[n.P].item())
    missing = [np.nan, *NUMBERS[1:]]
    found = group_tests(values(missing), labelled("diagnosis=control,AD")).squeeze()
    assert found[n.N_IN_GROUP].values.tolist() == [3, 2]
    assert found[n.N].item() == 5
    same = group_tests(values([1.0] * 8), labelled("diagnosis=control,AD")).squeeze()
    assert same[n.REASON].item() == "the readout is the same in all donors"


def test_subjects_are_compared_with_themselves() -> None:
    found = group_tests(values(NUMBERS), labelled("visit", subject="whose")).squeeze()
    assert found[n.RANK_TEST].item() == rank_tests.WILCOXON
    assert found[n.N].item() == 3  # d and e were seen once
    assert found[n.MEDIAN].values.tolist() == [5, 3]
    expected = scipy.stats.wilcoxon([2.0, -5.0, 1.0])
    assert found[n.P].item() == pytest.approx(expected.pvalue)
    twice = TABLE.assign(visit="1", diagnosis=["x", "y"] * 4)
    labels = clinical_groups(twice, DONORS, donor_column="projid", groups=["diagnosis"], subject="visit")
    with pytest.raises(FintuneValueError, match="subject '1' has two donors in group 'x'"):
        group_tests(values(NUMBERS), labels)


def test_q_is_adjusted_over_markers_and_columns_of_a_run() -> None:
    rng = np.random.default_rng(5)
    numbers = xr.DataArray(
        rng.normal(0, 1, (2, 8, 3)), dims=(n.RUN, n.DONOR, n.MARKER),
        coords={n.RUN: ["a", "b"], n.DONOR: DONORS, n.MARKER: list("xyz")},
    )  # fmt: skip
    table = TABLE.assign(other=list("uuuuvvvv"))
    labels = clinical_groups(table, DONORS, donor_column="projid", groups=["diagnosis=control,AD", "other"])
    found = group_tests(numbers, labels)
    for run in ("a", "b"):
        p = found[n.P].sel({n.RUN: run}).values.ravel()
        expected = multipletests(p, method="fdr_bh")[1]
        np.testing.assert_allclose(found[n.Q].sel({n.RUN: run}).values.ravel(), expected)


def test_subjects_that_lack_a_time_are_named() -> None:
    told = " ".join(group_lines(labelled("visit", subject="whose")))
    assert "2 of 5 subjects have not all times of visit, and take no part: d lacks 2, e lacks 1" in told
    assert "take no part" not in " ".join(group_lines(labelled("visit")))


@pytest.mark.parametrize(
    ("groups", "asked"),
    [
        (["1", "2", "1", "9"], ["9"]), (["1", "2", "8", "9"], ["8", "9"]), (["1", "2", "3", "77"], ["77"]),
        (["0", "6", "12", "9"], []), (["1", "2", "3", "4"], []), (["7", "8", "9", "9"], []), (["1", "9", "1", "9"], []),
        (["AD", "control", "Unknown", "AD"], ["Unknown"]), (["AD", "control", "n.a.", "?"], ["?", "n.a."]),
        (["AD", "control", "mci", "AD"], []),
    ],
)  # fmt: skip
def test_groups_that_may_stand_for_a_missing_value_are_asked_about(groups: list[str], asked: list[str]) -> None:
    table = TABLE.assign(stage=groups * 2)
    found = clinical_groups(table, DONORS, donor_column="projid", groups=["stage"])
    lines = join_lines(found)
    assert [line.split("'")[1] for line in lines] == asked
    assert all("(2 donors) may stand for a missing value" in line for line in lines)
    chosen = clinical_groups(table, DONORS, donor_column="projid", groups=[f"stage={groups[0]},{groups[1]}"])
    assert join_lines(chosen) == []


def test_numbers_are_groups_by_their_value() -> None:
    found = labelled("visit")
    assert found[n.GROUP_LABEL].values.tolist() == [["1", "2"]]
    assert found[n.LABEL].values[:, 0].tolist() == ["1", "2", "1", "2", "1", "2", "1", "2"]
    coded = TABLE.assign(visit=["1", "2", "1", "2", "1", "2", "1", "-9"])
    with pytest.raises(FintuneValueError, match="-9 of donor 'd7' looks like a code"):
        clinical_groups(coded, DONORS, donor_column="projid", groups=["visit"])
    named = TABLE.assign(visit=["01", "1"] * 4)
    kept = clinical_groups(named, DONORS, donor_column="projid", groups=["visit"])
    assert kept[n.GROUP_LABEL].values.tolist() == [["01", "1"]]


def test_doors_of_groups() -> None:
    assert parse_groups("diagnosis") == ("diagnosis", ())
    for wrong in ("", "=a,b", "x=a", "x=", "x=a,,b", "x=a,a"):
        with pytest.raises(SettingsError, match="--group"):
            parse_groups(wrong)
    with pytest.raises(SettingsError, match="stands twice"):
        labelled("visit", "visit=1,2")
    with pytest.raises(UnknownNameError, match="diagnosis"):
        labelled("diagnosi")
    with pytest.raises(UnknownNameError, match="MCI"):
        labelled("diagnosis=MCi,AD")
    many = TABLE.assign(age=[str(60 + i) for i in range(8)])
    big = pd.concat([many.assign(projid=many.projid + tail, age=many.age + tail) for tail in "12"])
    with pytest.raises(FintuneValueError, match="has 16 values"):
        clinical_groups(big, list(big.projid), donor_column="projid", groups=["age"])
    assert group_lines(labelled("diagnosis")) == ["1 of 8 donors are in none of the groups of diagnosis"]
    told = group_lines(labelled("visit", subject="whose"))
    assert told[1:] == ["5 subjects have 8 donors; 0 donors are of no subject"]
