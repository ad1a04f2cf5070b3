"""Columns of the clinical table that say which group a donor is in, and whose tiles the donor's are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.clinical import DonorRows, donor_rows, is_missing, refuse_codes
from fintune_xr.analysis.missing_codes import codes_of_scale
from fintune_xr.errors import FintuneValueError, SettingsError, unknown_name
from fintune_xr.text import one_spelling

MOST_GROUPS: Final = 12
_NAMED: Final = 3
# Words that stand for a missing value more often than for a group.
_SAYS_NOTHING: Final = frozenset(
    ("unknown", "not known", "unk", "missing", "not available", "n.a.", "nd", "n.d.", "?", "-", "--", ".", "refused",
     "not done", "not applicable", "#n/a", "<na>", "undefined", "tbd")
)  # fmt: skip


def parse_groups(text: str) -> tuple[str, tuple[str, ...]]:
    """Column and groups of `COLUMN`, all groups that it has, or `COLUMN=a,b`, these in this order.

    Raises SettingsError where a name is missing or stands twice.
    """
    column, equals, listed = text.partition("=")
    groups = tuple(name.strip() for name in listed.split(",")) if equals else ()
    if not column or not all(groups) or len(set(groups)) < len(groups) or (equals and len(groups) < 2):
        raise SettingsError(
            f"--group {text!r}: expected COLUMN, or COLUMN=a,b with two or more groups in the order in which they are "
            "compared, each once"
        )
    return column, groups


def clinical_groups(
    table: pd.DataFrame, donors: Iterable[str], *, donor_column: str, groups: Sequence[str], subject: str = ""
) -> xr.Dataset:
    """`label` (donor, outcome) of each column of `groups`, empty where there is none, and `subject` (donor).

    `groups` are as `parse_groups` takes them; the coordinate `group_label` (outcome, group) has the groups of a
    column in the order asked for, else of numbers by size and of text by the alphabet. Donors of other groups than
    those that were asked for have no label. Donors are joined as in `clinical_outcomes`; attributes likewise. Without
    `subject` every donor is a subject of its own.

    Raises UnknownNameError for a column or group that is not there, FintuneValueError for a column with more than
    MOST_GROUPS groups or with a code for missing values among them.
    """
    asked = dict(map(parse_groups, groups))
    if len(asked) < len(groups):
        raise SettingsError(f"--group: a column stands twice in {', '.join(groups)}")
    rows = donor_rows(table, donors, donor_column=donor_column)
    for name in (*asked, *([subject] if subject else [])):
        _require_column(table, name, "--subject" if name == subject else "--group")
        if name == donor_column:
            raise FintuneValueError(f"--group, --subject: {name!r} is the column of the donor ids. Name another.")
    labels = {name: _labels(rows, table, name) for name in asked}
    doubts = [line for name, chosen in asked.items() if not chosen for line in _doubtful_groups(labels[name], name)]
    order = {name: list(chosen) or _ordered(labels[name], name) for name, chosen in asked.items()}
    for name, chosen in order.items():
        for group in chosen:
            if group not in labels[name]:
                raise unknown_name(f"group in column {name!r}", group, sorted(set(labels[name]) - {""}))
        _refuse_two_spellings(chosen, name)
        labels[name] = [label if label in chosen else "" for label in labels[name]]
    most = max(map(len, order.values()))
    padded = [chosen + [""] * (most - len(chosen)) for chosen in order.values()]
    of_whom = _labels(rows, table, subject) if subject else rows.donors
    return xr.Dataset(
        {
            n.LABEL: ((n.DONOR, n.OUTCOME), np.array(list(labels.values()), np.str_).T),
            n.SUBJECT: (n.DONOR, np.array(of_whom, np.str_)),
        },
        coords={
            n.DONOR: np.array(rows.donors, np.str_), n.OUTCOME: np.array(list(asked), np.str_),
            n.GROUP: np.arange(most, dtype=np.int32), n.GROUP_LABEL: ((n.OUTCOME, n.GROUP), np.array(padded, np.str_)),
        },
        attrs={**rows.told, n.SUBJECT: subject, n.DOUBTFUL_VALUES: doubts},
    )  # fmt: skip


def _doubtful_groups(labels: Sequence[str], name: str) -> list[str]:
    """Lines on groups that may be codes or words for a missing value."""
    numbers = _numbers([label for label in labels if label])
    codes = {f"{code:.12g}" for code in codes_of_scale(numbers)} if numbers is not None else set()
    doubtful = sorted({label for label in labels if label in codes or label.casefold() in _SAYS_NOTHING})
    return [
        f"group {label!r} of column {name!r} ({labels.count(label)} donors) may stand for a missing value: where it "
        f"does, leave it empty, or name the groups that are compared: --group {name}=a,b"
        for label in doubtful
    ]


def _refuse_two_spellings(groups: Sequence[str], name: str) -> None:
    """Raises FintuneValueError for two groups that differ in capitals and blanks alone."""
    first: dict[str, str] = {}
    for group in groups:
        same = first.setdefault("".join(group.casefold().split()), group)
        if same != group:
            raise FintuneValueError(
                f"groups {same!r} and {group!r} in column {name!r} differ in capitals or blanks alone. Are they one? "
                f"Write it in one way, or name those that are compared: --group {name}=a,b"
            )


def _require_column(table: pd.DataFrame, name: str, option: str) -> None:
    if name not in table.columns:
        known = [str(column) for column in table.columns]
        raise unknown_name("column of groups in the clinical table", name, known, f"Name a column with {option}.")


def _labels(rows: DonorRows, table: pd.DataFrame, name: str) -> list[str]:
    """What the column says of each donor, numbers in one spelling: 1 and 1.0 are one group."""
    found = ["" if row < 0 else _label(table[name].iloc[row]) for row in rows.rows]
    numbers = _numbers([label for label in found if label])
    if numbers is None:
        return found
    values = np.full(len(found), np.nan)
    values[[i for i, label in enumerate(found) if label]] = numbers
    refuse_codes(name, values, rows.donors)
    return ["" if np.isnan(value) else f"{value:.12g}" for value in values]


def _label(value: object) -> str:
    return "" if is_missing(value) else one_spelling(str(value).strip())


def _numbers(labels: Sequence[str]) -> NDArray[np.float64] | None:
    """The labels as numbers; None where one of them is none, or has zeros before it, which are part of a name."""
    if any(label.lstrip("+-").startswith("0") and label.lstrip("+-")[1:2].isdigit() for label in labels):
        return None
    values = pd.to_numeric(pd.Series(labels, dtype=object), errors="coerce").to_numpy(np.float64)
    return values if np.isfinite(values).all() else None


def _ordered(labels: Sequence[str], name: str) -> list[str]:
    found = sorted(set(labels) - {""})
    if len(found) > MOST_GROUPS:
        some = ", ".join(found[:5])
        raise FintuneValueError(
            f"--group {name}: the column has {len(found)} values ({some}, …), expected 2 to {MOST_GROUPS} groups. "
            f"Name those to compare, --group {name}=a,b, or correlate with a number by --outcome {name}."
        )
    return sorted(found, key=float) if _numbers(found) is not None else found


def group_lines(labels: xr.Dataset) -> list[str]:
    """Lines that say how many donors have no group, and of whom several donors are."""
    lines = []
    for name in map(str, labels[n.OUTCOME].values):
        column = labels[n.LABEL].sel({n.OUTCOME: name}).values.tolist()
        missing = sum(not label for label in column)
        if missing:
            lines.append(f"{missing} of {len(column)} donors are in none of the groups of {name}")
        if labels.attrs[n.SUBJECT]:
            lines += _incomplete_lines(labels, name)
    if labels.attrs[n.SUBJECT]:
        unknown = sum(not whom for whom in labels[n.SUBJECT].values.tolist())
        times = Counter(whom for whom in labels[n.SUBJECT].values.tolist() if whom)
        lines.append(f"{len(times)} subjects have {sum(times.values())} donors; {unknown} donors are of no subject")
    return lines


def _incomplete_lines(labels: xr.Dataset, name: str) -> list[str]:
    """A line on subjects that have some of the times of a column and not all: they take no part."""
    times = {label for label in labels[n.GROUP_LABEL].sel({n.OUTCOME: name}).values.tolist() if label}
    column = labels[n.LABEL].sel({n.OUTCOME: name}).values.tolist()
    found: dict[str, set[str]] = {}
    for whom, label in zip(labels[n.SUBJECT].values.tolist(), column, strict=True):
        if whom and label:
            found.setdefault(whom, set()).add(label)
    lacking = {whom: sorted(times - own) for whom, own in found.items() if own != times}
    if not lacking:
        return []
    some = ", ".join(f"{whom} lacks {' and '.join(own)}" for whom, own in list(lacking.items())[:_NAMED])
    return [f"{len(lacking)} of {len(found)} subjects have not all times of {name}, and take no part: {some}"]
