"""The clinical table that was given last, and which stored results rest on columns of it that read otherwise by now."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.clinical import column_values, read_clinical
from fintune_xr.provenance import file_sha256, provenance, settings_digest
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import text_array, texts

# What a command is asked for, in the order in which it is typed, by its name in the provenance of what it made.
_OPTIONS = {
    "donor_column": "--donor-column", "outcomes": "--outcome", "covariates": "--covariate", "groups": "--group",
    n.SUBJECT: "--subject", n.READOUT: "--readout",
}  # fmt: skip
_DEFAULTS = {"donor_column": "projid", n.READOUT: "ratio"}


@dataclass(frozen=True, slots=True, eq=False)
class ClinicalTable:
    """A clinical table as it was given: its `rows` of text, and `digests` of what each column says of the donors."""

    path: Path
    donor_column: str
    rows: pd.DataFrame
    digests: Mapping[str, str]

    def facts(self, columns: Iterable[str], **asked: Any) -> dict[str, Any]:
        """Attributes of a result: digests of the `columns` that it rests on, and how it was `asked` for."""
        made = provenance(
            clinical=self.path.name, clinical_sha256=file_sha256(self.path), donor_column=self.donor_column, **asked
        )
        return {n.CLINICAL_COLUMNS: {name: self.digests[name] for name in dict.fromkeys(columns)}, n.PROVENANCE: made}

    @contextlib.contextmanager
    def noted(self, cohort: Cohort, *, refuse: Callable[[], None]) -> Iterator[None]:
        """Stores that this table was given last: results that rest on columns with other values are out of date.

        What rests on it is stored within the block, which other commands that were given a table wait for: what each of
        them stores belongs together. `refuse` raises, before anything is stored, where that would throw away what is
        there, which another command may have stored since this one looked. Raises RunBusyError where they still hold it
        after 60 s.
        """
        with cohort.hold_storing(n.CLINICAL):
            refuse()
            self._note(cohort)
            yield

    def _note(self, cohort: Cohort) -> None:
        before = _given_last(cohort)
        now = {**before, **{name: (digest, self.path.name) for name, digest in self.digests.items()}}
        if now == before:
            return
        columns = sorted(now)
        digests, tables = (np.array([now[name][at] for name in columns], np.str_) for at in (0, 1))
        found = {n.DIGEST: (n.COLUMN, digests), n.CLINICAL: (n.COLUMN, tables)}
        cohort.write(
            n.CLINICAL_COLUMNS, xr.Dataset(found, {n.COLUMN: np.array(columns, np.str_)}), datasets.CLINICAL_COLUMNS
        )


def open_clinical(cohort: Cohort, path: str | Path, donor_column: str) -> ClinicalTable:
    """The table at `path`, held against the donors of the cohort.

    Raises FintuneValueError where it is no table, UnknownNameError without that column, and as `column_values` does.
    """
    rows = read_clinical(path)
    donors = sorted(set(text_array(cohort.images(lazy=False)[n.DONOR]).tolist()))
    values = column_values(rows, donors, donor_column=donor_column)
    return ClinicalTable(
        Path(path), donor_column, rows, {name: settings_digest(of_donors) for name, of_donors in values.items()}
    )


def clinical_doubt(cohort: Cohort, found: xr.Dataset) -> str:
    """Which column that `found` rests on has other values in the clinical table that was given last; empty for none.

    Nothing is known of results that were stored before columns had digests.
    """
    last = _given_last(cohort)
    for name, digest in found.attrs.get(n.CLINICAL_COLUMNS, {}).items():
        if name in last and last[name][0] != digest:
            return f"column {name} of the clinical table has other values in {last[name][1]}, which was given last"
    return ""


def associate_command(found: xr.Dataset) -> str:
    """The `associate` that makes a stored result anew, with the options that it was asked for."""
    asked: Mapping[str, Any] = {**found.attrs, **found.attrs.get(n.PROVENANCE, {})}
    words = ["fintune-xr", "associate", "STORE", "--clinical", str(asked.get(n.CLINICAL, "CSV"))]
    for name, option in _OPTIONS.items():
        told = asked.get(name, "")
        for one in [told] if isinstance(told, str) else told:
            words += [option, str(one)] if one and one != _DEFAULTS.get(name) else []
    return shlex.join(words)


def _given_last(cohort: Cohort) -> dict[str, tuple[str, str]]:
    """By column: its digest, and the name of the table that it was last given in."""
    if not cohort.has(n.CLINICAL_COLUMNS):
        return {}
    stored = cohort.read(n.CLINICAL_COLUMNS, datasets.CLINICAL_COLUMNS).load()
    values = zip(texts(stored[n.DIGEST]), texts(stored[n.CLINICAL]), strict=True)
    return dict(zip(texts(stored[n.COLUMN]), values, strict=True))
