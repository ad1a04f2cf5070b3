"""The clinical table joined to the donors of a cohort."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.missing_codes import ages_of_none, codes_apart, codes_of_scale, negative_codes
from fintune_xr.analysis.outcomes import DEFAULT_OUTCOMES, KNOWN_OUTCOMES, outcome
from fintune_xr.datasets import CLINICAL
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.names import (
    COVARIATE,
    COVARIATE_VALUE,
    DIRECTION,
    DONOR,
    DOUBTFUL_VALUES,
    MEANING,
    OUTCOME,
    OUTCOME_VALUE,
    REASON,
)
from fintune_xr.schema import check_dataset
from fintune_xr.text import one_spelling
from fintune_xr.text_tables import check_ids, read_text_table

_TOP_CODED = re.compile(r"(\d+(?:\.\d+)?)\s*\+")
_WHOLE_NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?")
_MISSING = {"", "na", "nan", "n/a", "null", "none"}
_LISTED = 5
_MOST_CATEGORIES = 6
# Numbers that questionnaires and SPSS write for "missing", and how far from all others a positive one lies.
_CODES = (-7.0, -8.0, -9.0, -77.0, -88.0, -99.0, -777.0, -888.0, -999.0, -9999.0, 777.0, 888.0, 999.0, 9999.0, 99999.0,
          -(2.0**15), -(2.0**31), -(2.0**63), 2.0**31 - 1, 2.0**63)  # fmt: skip
_FAR = 3
# A negative code beside other negative numbers is one where it is so many times as large as all of them.
_FAR_BELOW = 100
# No measurement of a donor is as large. Formats fill gaps with such numbers (1e20, 9.97e36, 1.8e308), and overflow
# leaves them; their squares are infinite, or all that is left of a sum.
_ABSURD = 1e20
# So many times as large as all others a number is asked about.
_DOUBTFUL = 1e6


def read_clinical(path: Path | str) -> pd.DataFrame:
    """The table at `path` with every value as it was written, as text, so that donor ids keep their zeros.

    `.csv` is read with commas, `.tsv`, `.tab` and `.txt` with tabs.

    Raises FintuneValueError for another suffix, no such file, or a file that holds no such table.
    """
    return read_text_table(path, "clinical table")


@dataclass(frozen=True, slots=True)
class DonorRows:
    """Rows of the clinical table by donor, -1 where there is none, and what is told of the join, as attributes."""

    donors: list[str]
    rows: list[int]
    told: dict[str, object]


def donor_rows(table: pd.DataFrame, donors: Iterable[str], *, donor_column: str) -> DonorRows:
    """The row of each donor, joined as text; ids that are whole numbers match whatever their leading zeros and `.0`.

    Raises UnknownNameError without that column, FintuneValueError for an id that occurs twice or no match at all.
    """
    _require_donor_column(table, donor_column)
    names = list(dict.fromkeys(str(donor) for donor in donors))
    row_of = _rows_by_id(table[donor_column], donor_column)
    id_of = {donor: donor_key(donor) for donor in names}
    _check_match(id_of, row_of, table, donor_column)
    rows = [row_of.get(id_of[donor], -1) for donor in names]
    return DonorRows(names, rows, _join_report(table, donor_column, id_of, row_of))


def clinical_outcomes(
    table: pd.DataFrame,
    donors: Iterable[str],
    *,
    donor_column: str,
    outcomes: Sequence[str] = DEFAULT_OUTCOMES,
    covariates: Sequence[str] = (),
) -> xr.Dataset:
    """Outcome_value (donor, outcome), covariate_value (donor, covariate) and reason (outcome), in memory.

    Donors are joined as text; ids that are whole numbers match whatever their leading zeros and a trailing
    `.0`. A donor without a row has NaN. Coordinates `direction` and `meaning` say what a higher value means;
    `reason` says why an outcome cannot be used. `cogdx_ordered` and `dcfdx_lv_ordered` merge the codes 2 + 3
    and 4 + 5 and leave out 6. A top-coded value such as `90+` counts as 90.

    Attributes: `donors_without_row`, `rows_without_donor`, `n_rows_without_id`, `top_coded` (values per
    column), DOUBTFUL_VALUES (lines on values that may be no values).

    Raises UnknownNameError for a column that is not there, FintuneValueError for text or values out of range
    in an outcome, an id that occurs twice, or no match at all.
    """
    _check_columns(table, donor_column, outcomes, covariates)
    joined = donor_rows(table, donors, donor_column=donor_column)
    donors, rows = joined.donors, joined.rows
    values = _columns(table, [source_column(name) for name in outcomes], rows)
    for k, name in enumerate(outcomes):
        values[:, k] = _checked(name, values[:, k], donors)
        refuse_codes(name, values[:, k], donors)
    adjusting = _columns(table, covariates, rows)
    for k, name in enumerate(covariates):
        refuse_codes(name, adjusting[:, k], donors)
    result = xr.Dataset(
        {
            OUTCOME_VALUE: ((DONOR, OUTCOME), values, CLINICAL[OUTCOME_VALUE].attrs),
            COVARIATE_VALUE: ((DONOR, COVARIATE), adjusting, CLINICAL[COVARIATE_VALUE].attrs),
            REASON: (OUTCOME, _text(_reason(column) for column in values.T), CLINICAL[REASON].attrs),
        },
        coords={
            DONOR: _text(donors),
            OUTCOME: _text(outcomes),
            COVARIATE: _text(covariates),
            DIRECTION: (OUTCOME, _text(outcome(name).direction for name in outcomes)),
            MEANING: (OUTCOME, _text(outcome(name).meaning for name in outcomes)),
        },
        attrs=joined.told
        | {
            "top_coded": _top_coded(table, [*map(source_column, outcomes), *covariates]),
            DOUBTFUL_VALUES: _doubtful_values(
                dict(zip([*outcomes, *covariates], np.hstack([values, adjusting]).T, strict=True)), covariates, donors
            ),
        },
    )
    return check_dataset(result, CLINICAL)


def join_lines(facts: xr.Dataset) -> list[str]:
    """Lines that name donors without a row in the clinical table, rows of it without a donor, a few of many, and values
    that may be none.
    """
    absent, others = (facts.attrs.get(name, []) for name in ("donors_without_row", "rows_without_donor"))
    lines = []
    if absent:
        lines.append(f"{len(absent)} of {facts.sizes[DONOR]} donors have no row in the clinical table: {_some(absent)}")
    if others:
        lines.append(f"{len(others)} rows of the clinical table are of no donor: {_some(others)}")
    if facts.attrs.get("n_rows_without_id"):
        lines.append(f"{facts.attrs['n_rows_without_id']} rows of the clinical table have no donor id")
    return [*lines, *facts.attrs.get(DOUBTFUL_VALUES, [])]


def outcome_lines(table: pd.DataFrame, chosen: Iterable[str]) -> list[str]:
    """Lines that name columns which are an outcome in another spelling, and are not taken for it."""
    known, taken = {name.casefold(): name for name in KNOWN_OUTCOMES}, set(chosen)
    spelt = [(str(column), known.get(re.sub(r"[^a-z0-9_]", "", str(column).casefold()))) for column in table.columns]
    return [
        f"column {column!r} is not taken beside column {name!r}: which one holds the outcome?"
        if name in taken
        else f"column {column!r} is not taken for the outcome {name!r}: rename it, or name it with --outcome"
        for column, name in spelt
        if name is not None and column != name
    ]


def donor_key(donor: object) -> str:
    """What two spellings of one donor id share: `00123`, `123`, `123.0` are one, and so are both ways to write `ü`."""
    text = one_spelling(str(donor).strip())
    number = _WHOLE_NUMBER.fullmatch(text)
    return number.group(1) if number else text


def source_column(name: str) -> str:
    """The column of the clinical table that an outcome is made from."""
    return outcome(name).column or name


def column_values(table: pd.DataFrame, donors: Iterable[str], *, donor_column: str) -> dict[str, dict[str, str | None]]:
    """What each column says of each donor: numbers and text in one spelling, None where it says nothing.

    Raises as `donor_rows` does.
    """
    joined = donor_rows(table, donors, donor_column=donor_column)
    return {
        str(name): {
            donor: None if row < 0 else _spelt(column.iloc[row])
            for donor, row in zip(joined.donors, joined.rows, strict=True)
        }
        for name, column in table.items()
    }


def _spelt(value: object) -> str | None:
    if is_missing(value):
        return None
    text = one_spelling(str(value).strip())
    # Zeros before a number are part of a name.
    return f"{float(text):.12g}" if _NUMBER.fullmatch(text) else text


def _require_donor_column(table: pd.DataFrame, donor_column: str) -> None:
    columns = [str(column) for column in table.columns]
    if donor_column not in columns:
        remedy = "Name the column of the donor ids with --donor-column."
        raise unknown_name("donor column in the clinical table", donor_column, columns, remedy)


def _check_columns(table: pd.DataFrame, donor_column: str, outcomes: Sequence[str], covariates: Sequence[str]) -> None:
    _require_donor_column(table, donor_column)
    columns = [str(column) for column in table.columns]
    derived = [name for name, known in KNOWN_OUTCOMES.items() if known.column in columns and known.column]
    asked = (("outcome", outcomes, columns + derived), ("covariate", covariates, columns))
    for kind, names, known in asked:
        for name in names:
            if name not in known:
                remedy = f"Name a column of the table with --{kind}."
                raise unknown_name(f"{kind} in the clinical table", name, set(known) - {donor_column}, remedy)
        if donor_column in names:
            raise FintuneValueError(
                f"{kind} {donor_column!r} is the column of the donor ids, which say nothing of donors"
            )
        repeated = [name for name, times in Counter(names).items() if times > 1]
        if repeated:
            raise FintuneValueError(f"{kind} {repeated[0]!r} was asked for more than once")
    both = [name for name in outcomes if {name, source_column(name)} & set(covariates)]
    if both:
        raise FintuneValueError(
            f"{both[0]!r} is an outcome and a covariate: adjusted for itself, nothing of it is left"
        )


def _rows_by_id(ids: pd.Series, donor_column: str) -> dict[str, int]:
    row_of: dict[str, int] = {}
    for row, value in enumerate(ids):
        key = donor_key(value)
        if is_missing(value):
            continue
        check_ids([key], donor_column, "the clinical table")
        if key in row_of:
            raise FintuneValueError(
                f"donor {value!r} stands in rows {row_of[key] + 1} and {row + 1} of the clinical table "
                f"(column {donor_column!r}); expected one row per donor. Remove one of the two."
            )
        row_of[key] = row
    return row_of


def _check_match(id_of: dict[str, str], row_of: dict[str, int], table: pd.DataFrame, donor_column: str) -> None:
    twins = [key for key, times in Counter(id_of.values()).items() if times > 1]
    if twins:
        same = [donor for donor, key in id_of.items() if key == twins[0]]
        raise FintuneValueError(f"donors {same} of the cohort are one id in the clinical table; rename one")
    if id_of and not row_of.keys() & id_of.values():
        raise FintuneValueError(
            f"no donor of the cohort ({_some(id_of)}) is in column {donor_column!r} of the clinical table "
            f"({_some(table[donor_column].astype(str))}). Name the column of the donor ids with --donor-column."
        )


def _columns(table: pd.DataFrame, names: Sequence[str], rows: Sequence[int]) -> NDArray[np.float64]:
    """Values (donor, name) of the table's `rows`; NaN where the row is -1."""
    values = np.full((len(rows), len(names)), np.nan)
    present = np.asarray(rows, np.int64) >= 0
    for k, name in enumerate(names):
        values[present, k] = _numbers(table[name], name)[np.asarray(rows, np.int64)[present]]
    return values


def _numbers(column: pd.Series, name: str) -> NDArray[np.float64]:
    plain = pd.Series([_plain(value) for value in column], dtype=object)
    numbers = pd.to_numeric(plain, errors="coerce").to_numpy(np.float64)
    wrong = [str(value) for value in plain[~np.isfinite(numbers) & plain.notna()]]
    if wrong:
        raise FintuneValueError(
            f"column {name!r} of the clinical table: expected numbers, found {_some(dict.fromkeys(wrong))}. "
            "Code the values as numbers and leave missing ones empty."
        )
    return numbers


def _plain(value: object) -> object:
    """`value` without the plus of a top-coded number; None where it is missing."""
    if is_missing(value):
        return None
    top = _TOP_CODED.fullmatch(value.strip()) if isinstance(value, str) else None
    return top.group(1) if top else value


def _checked(name: str, values: NDArray[np.float64], donors: Sequence[str]) -> NDArray[np.float64]:
    """`values` of the outcome with its codes merged, once they are known to lie in its range."""
    known = outcome(name)
    outside = np.flatnonzero((values < known.low) | (values > known.high))
    if outside.size:
        raise FintuneValueError(
            f"outcome {name!r}: expected values from {known.low:g} to {known.high:g}, "
            f"found {values[outside[0]]:g} for donor {donors[outside[0]]!r} "
            f"({outside.size} in all). Leave missing values empty."
        )
    if not known.recode:
        return values
    return np.array([known.recode.get(value, np.nan) for value in values])


def refuse_codes(name: str, values: NDArray[np.float64], donors: Sequence[str]) -> None:
    """Raises FintuneValueError for values (donor,) that stand for missing ones.

    Those are -9 where no other is negative, or all are far smaller, 999 far beyond all others, and numbers from 1e20
    on, which no donor has of anything.
    """
    absurd = np.abs(values) >= _ABSURD
    if absurd.any():
        who = [donor for donor, hit in zip(donors, absurd, strict=True) if hit]
        raise FintuneValueError(
            f"column {name!r} of the clinical table: {values[absurd][0]:g} of donor {_some(who)} is no measurement. "
            "Numbers of such a size stand for a missing value, or are left by an overflow. Correct them, or leave them "
            "empty."
        )
    for code in sorted(set(values[np.isin(values, _CODES)].tolist())):
        others = values[~np.isnan(values) & ~np.isin(values, _CODES)]
        largest = np.abs(others).max(initial=0.0)
        is_far = abs(code) > (_FAR_BELOW if code < 0 else _FAR) * largest
        is_apart = not others.size or is_far or (code < 0 and others.min() >= 0)
        if is_apart:
            who = [donor for donor, value in zip(donors, values, strict=True) if value == code]
            raise FintuneValueError(
                f"column {name!r} of the clinical table: {code:g} of donor {_some(who)} looks like a code for a "
                "missing value. Leave missing values empty, and leave out the column where such values are real."
            )


def _doubtful_values(
    columns: Mapping[str, NDArray[np.float64]], covariates: Sequence[str], donors: Sequence[str]
) -> list[str]:
    """Lines on numbers that may be codes for missing values, on one that is a million times as large as all others, and
    on covariates that adjust nothing.
    """
    lines = []
    for name, values in columns.items():
        lines += _one_far_beyond(name, values, donors)
        lines += _code_lines(name, values, donors, categories=name in covariates)
        negative = values[values < 0]
        if negative.size and np.ptp(negative) == 0 and float(negative[0]).is_integer() and (values >= 0).any():
            who = [donor for donor, value in zip(donors, values, strict=True) if value < 0]
            lines.append(
                f"{negative[0]:g} of donor {_some(who)} is the only negative value in column {name!r}: where it stands "
                "for a missing one, leave it empty"
            )
        if name in covariates and np.nanmin(values, initial=np.inf) == np.nanmax(values, initial=-np.inf):
            lines.append(f"covariate {name!r} is the same in all donors that have it, and adjusts nothing")
    return lines


def _code_lines(
    name: str, values: NDArray[np.float64], donors: Sequence[str], *, categories: bool = False
) -> list[str]:
    """Lines on what may be codes in a column, which with `categories` may hold few numbers that many donors have."""
    codes, negative = codes_apart(values), negative_codes(values)
    if categories and not codes and _are_categories(values):
        codes = codes_of_scale(values)
    if ages_of_none(name, values) and 0.0 not in codes:
        codes = [0.0, *codes]
    lines = []
    for found, why in ((codes, "lies apart from all other values"), (negative, "is beside no other negative value")):
        for code in found:
            who = [donor for donor, value in zip(donors, values, strict=True) if value == code]
            lines.append(
                f"{code:g} of donor {_some(who)} {why} in column {name!r}: where it is a code for a missing one, leave "
                "it empty"
            )
    return lines


def _are_categories(values: NDArray[np.float64]) -> bool:
    """Whether a column holds a few whole numbers, most of them of several donors, as sex and the like do."""
    known, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    is_whole = bool(np.all(known == np.round(known)))
    return is_whole and known.size <= _MOST_CATEGORIES and 2 * int((counts > 1).sum()) > known.size


def _one_far_beyond(name: str, values: NDArray[np.float64], donors: Sequence[str]) -> list[str]:
    sizes = np.abs(values[~np.isnan(values)])
    *others, largest = np.sort(sizes) if sizes.size > 1 else (0.0, 0.0)
    if not 0 < _DOUBTFUL * others[-1] < largest:
        return []
    at = int(np.nanargmax(np.abs(values)))
    return [
        f"{values[at]:g} of donor {donors[at]!r} is {largest / others[-1]:.0e} times as large as any other value in "
        f"column {name!r}: is it in another unit, or a slip?"
    ]


def _reason(values: NDArray[np.float64]) -> str:
    present = values[~np.isnan(values)]
    if not present.size:
        return "no donor has a value"
    if present.size < 3:
        return f"only {present.size} donors have a value"
    return "the value is the same in all donors" if np.ptp(present) == 0 else ""


def _join_report(
    table: pd.DataFrame, donor_column: str, id_of: dict[str, str], row_of: dict[str, int]
) -> dict[str, object]:
    matched = set(id_of.values())
    return {
        "donors_without_row": [donor for donor, key in id_of.items() if key not in row_of],
        "rows_without_donor": [
            str(table[donor_column].iloc[row]).strip() for key, row in row_of.items() if key not in matched
        ],
        "n_rows_without_id": int(sum(is_missing(value) for value in table[donor_column])),
    }


def _top_coded(table: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """`column: n` for each column with values such as `90+`."""
    counts = {name: sum(bool(_TOP_CODED.fullmatch(str(value).strip())) for value in table[name]) for name in names}
    return [f"{name}: {count}" for name, count in counts.items() if count]


def is_missing(value: object) -> bool:
    """Whether a value of the table stands for none: empty, or NA and the like."""
    if isinstance(value, str):
        return value.strip().lower() in _MISSING
    return bool(pd.isna(value))  # type: ignore[call-overload]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(repr(name) for name in names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


def _text(values: Iterable[str]) -> NDArray[np.str_]:
    return np.array(list(values), dtype=str)
