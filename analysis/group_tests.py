"""Do groups of donors differ in a readout: rank tests with effect sizes, intervals over donors, and q-values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fintune_xr import names as n
from fintune_xr.analysis.association import MIN_DONORS_FOR_Q, q_values
from fintune_xr.analysis.kernels.rank_tests import (
    Floats,
    RankTest,
    independent_effect,
    independent_test,
    repeated_effect,
    repeated_test,
)
from fintune_xr.datasets import GROUP_TESTS
from fintune_xr.errors import FintuneValueError
from fintune_xr.seeds import stream
from fintune_xr.text import texts

N_RESAMPLES: Final = 2000
MIN_FOR_INTERVAL: Final = 5
"""Donors in each group, or subjects: resamples of fewer are too much alike."""
MIN_IN_GROUP: Final = 2
_FAMILY: Final = (n.MARKER, n.OUTCOME)
_ENDS: Final = (0.025, 0.975)


class _Compared(NamedTuple):
    """Values of each group, or a table (subject, time); and why there is no test, empty where there is one."""

    samples: list[Floats]
    repeated: bool
    reason: str


def group_tests(values: xr.DataArray, labels: xr.Dataset) -> xr.Dataset:
    """Tests of `values` (run, donor, marker), in memory, between the groups of `labels`, in the form of GROUP_TESTS.

    Donors without a value or a group take no part. Without subjects in `labels` (attribute `subject`) groups are of
    different donors: Mann-Whitney of two, Kruskal-Wallis of more. With subjects, the groups of a column are times of
    the same subjects: Wilcoxon signed-rank of two, Friedman of more, over the subjects that have all of them. q is
    adjusted jointly over markers and columns, each run being a family; a test of fewer than MIN_DONORS_FOR_Q donors has
    none. Intervals of effects are over N_RESAMPLES resamples of donors within groups, or of subjects.

    Raises FintuneValueError where a subject has two donors in one group.
    """
    runs, markers, outcomes = texts(values[n.RUN]), texts(values[n.MARKER]), texts(labels[n.OUTCOME])
    shape = (len(runs), len(markers), len(outcomes))
    found = _empty(shape, labels.sizes[n.GROUP])
    known = labels.sel({n.DONOR: values[n.DONOR]})
    for r, m, o in np.ndindex(shape):
        column = known.isel({n.OUTCOME: o})
        one = values.isel({n.RUN: r, n.MARKER: m}).values
        _fill(found, (r, m, o), _compared(one, column))
    made = xr.Dataset(
        {name: (GROUP_TESTS[name].dims, array, GROUP_TESTS[name].attrs) for name, array in found.items()},
        coords={n.RUN: runs, n.MARKER: markers, n.OUTCOME: outcomes, n.GROUP: labels[n.GROUP].values},
    )
    q = q_values(made[n.P].where(made[n.N] >= MIN_DONORS_FOR_Q), family=_FAMILY)
    parts = {n.Q: q.assign_attrs({**GROUP_TESTS[n.Q].attrs, "family": list(_FAMILY)}), n.READOUT: values}
    parts |= {name: known[name].reset_coords(drop=True) for name in (n.LABEL, n.SUBJECT)}
    return made.assign(parts).assign_coords({n.GROUP_LABEL: labels[n.GROUP_LABEL]}).assign_attrs(family=list(_FAMILY))


def _empty(shape: tuple[int, ...], n_groups: int) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for name, spec in GROUP_TESTS.variables.items():
        if spec.dims[:3] == (n.RUN, n.MARKER, n.OUTCOME) and name != n.Q:
            size = shape if len(spec.dims) == 3 else (*shape, n_groups)
            number = np.full(size, np.nan) if spec.dtype.startswith("float") else np.zeros(size, np.int32)
            found[name] = np.full(size, "", object) if spec.dtype == "str" else number
    return found


def _compared(values: Floats, column: xr.Dataset) -> _Compared:
    """What is compared between the groups of one column."""
    groups, label = [one for one in texts(column[n.GROUP_LABEL]) if one], np.array(texts(column[n.LABEL]))
    here = np.isfinite(values)
    if column.attrs.get(n.SUBJECT):
        return _of_subjects(values, label, np.array(texts(column[n.SUBJECT])), groups)
    samples = [values[here & (label == group)] for group in groups]
    few = [group for group, sample in zip(groups, samples, strict=True) if sample.size < MIN_IN_GROUP]
    if few or len(groups) < 2:
        return _Compared(samples, False, f"fewer than {MIN_IN_GROUP} donors in {', '.join(few) or 'a second group'}")
    same = np.ptp(np.concatenate(samples)) == 0
    return _Compared(samples, False, "the readout is the same in all donors" if same else "")


def _of_subjects(
    values: Floats, label: NDArray[np.str_], subject: NDArray[np.str_], groups: Sequence[str]
) -> _Compared:
    names = sorted(set(subject) - {""})
    table = np.full((len(names), len(groups)), np.nan)
    place = {name: row for row, name in enumerate(names)}
    taken: set[tuple[str, str]] = set()
    for whom, group, value in zip(subject.tolist(), label.tolist(), values.tolist(), strict=True):
        if not whom or group not in groups:
            continue
        if (whom, group) in taken:
            raise FintuneValueError(
                f"subject {whom!r} has two donors in group {group!r}; expected one. Leave one out, or name a column "
                "that tells them apart with --subject."
            )
        taken.add((whom, group))
        table[place[whom], groups.index(group)] = value
    table = table[np.isfinite(table).all(axis=1)]
    samples = list(table.T)
    if len(groups) < 2 or len(table) < MIN_IN_GROUP:
        return _Compared(samples, True, f"fewer than {MIN_IN_GROUP} subjects have {' and '.join(groups)}")
    same = bool((np.ptp(table, axis=1) == 0).all())
    return _Compared(samples, True, "no subject changes" if same else "")


def _fill(found: dict[str, NDArray[Any]], at: tuple[int, int, int], one: _Compared) -> None:
    for group, sample in enumerate(one.samples):
        found[n.N_IN_GROUP][(*at, group)] = sample.size
        found[n.MEDIAN][(*at, group)] = np.median(sample) if sample.size else np.nan
    found[n.N][at] = one.samples[0].size if one.repeated and one.samples else sum(s.size for s in one.samples)
    found[n.REASON][at] = one.reason
    if one.reason:
        return
    table = np.column_stack(one.samples) if one.repeated else None
    test: RankTest = independent_test(one.samples) if table is None else repeated_test(table)
    low, high = effect_interval(one.samples, repeated=one.repeated)
    told = {
        n.RANK_TEST: test.test, n.TEST_STATISTIC: test.statistic, n.P: test.p, n.P_METHOD: test.method,
        n.P_RESOLUTION: test.resolution, n.EFFECT: test.effect, n.EFFECT_MEASURE: test.measure,
        n.EFFECT_LOW: low, n.EFFECT_HIGH: high,
    }  # fmt: skip
    for name, value in told.items():
        found[name][at] = value


def effect_interval(samples: Sequence[Floats], *, repeated: bool) -> tuple[float, float]:
    """95 % interval of the effect of `samples` (n,) over resamples of donors within groups, or of whole subjects.

    Of two groups bias-corrected and accelerated (BCa). Of more, where the effect is never negative and too high on
    average, percentiles less what resampling and the statistic itself add where nothing differs, and not below 0. NaN
    below MIN_FOR_INTERVAL donors in a group, and where all resamples have the same effect, which is no certainty.

    Reference: Efron 1987, Better bootstrap confidence intervals, J. Am. Stat. Assoc. 82:171.
    """
    sizes = [sample.size for sample in samples]
    if min(sizes) < MIN_FOR_INTERVAL:
        return np.nan, np.nan
    # In the order of the values, so that the order of the donors does not matter.
    ordered = [np.sort(sample) for sample in samples]
    if repeated:
        table = np.column_stack(samples)
        ordered = list(table[np.lexsort(table.T[::-1])].T)
    rows = _resampled_rows(sizes, repeated=repeated)
    drawn = _effects([one[at] for one, at in zip(ordered, rows, strict=True)], repeated=repeated)
    drawn = drawn[np.isfinite(drawn)]
    whole = float(_effects([one[None] for one in ordered], repeated=repeated)[0])
    if not drawn.size or np.ptp(drawn) == 0:
        return np.nan, np.nan
    if len(samples) > 2:
        of_nothing = 1 / sizes[0] if repeated else (len(samples) - 1) / (sum(sizes) - 1)
        low, high = np.maximum(np.quantile(drawn, _ENDS) - (drawn.mean() - whole) - of_nothing, 0.0)
        return float(low), float(high)
    without = [_effects(parts, repeated=repeated) for parts in _each_left_out(ordered, repeated=repeated)]
    return _bca(drawn, whole, np.concatenate(without))


def _effects(samples: Sequence[Floats], *, repeated: bool) -> Floats:
    """Effect (...) of samples (..., n)."""
    return repeated_effect(np.stack(samples, axis=-1)) if repeated else independent_effect(samples)


def _resampled_rows(sizes: Sequence[int], *, repeated: bool) -> list[NDArray[np.int64]]:
    """Which donors (resample, n) of each group are drawn; of subjects the same in all groups."""
    rng = stream(0, "effect", *sizes)
    if repeated:
        return [rng.integers(0, sizes[0], (N_RESAMPLES, sizes[0]))] * len(sizes)
    return [rng.integers(0, size, (N_RESAMPLES, size)) for size in sizes]


def _each_left_out(samples: Sequence[Floats], *, repeated: bool) -> list[list[Floats]]:
    """Samples (left out, n) without each donor in turn, group after group, or without each subject."""
    less = [sample[[np.delete(np.arange(sample.size), row) for row in range(sample.size)]] for sample in samples]
    if repeated:
        return [less]
    whole = [[np.broadcast_to(sample, (other.size, sample.size)) for sample in samples] for other in samples]
    return [[less[g] if h == g else whole[g][h] for h in range(len(samples))] for g in range(len(samples))]


def _bca(drawn: Floats, whole: float, without: Floats) -> tuple[float, float]:
    away = without[np.isfinite(without)].mean() - without[np.isfinite(without)]
    squares = float((away**2).sum())
    if not squares:
        return np.nan, np.nan
    below = (np.mean(drawn < whole) + np.mean(drawn <= whole)) / 2
    bias = ndtri(np.clip(below, 1 / drawn.size, 1 - 1 / drawn.size))
    acceleration = float((away**3).sum()) / (6 * squares**1.5)
    z = bias + ndtri(np.array(_ENDS))
    low, high = np.quantile(drawn, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)
