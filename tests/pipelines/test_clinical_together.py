"""Two commands that are given a clinical table at once: what each stores stays together, and neither is lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from stores import make_store

from fintune_xr import names as n
from fintune_xr.pipelines.steps import clinical_table
from fintune_xr.pipelines.steps.clinical_table import open_clinical
from fintune_xr.text import texts


def test_columns_of_two_tables_that_are_noted_at_once_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = make_store(tmp_path / "a.zarr")
    for name in ("age", "sex"):
        (tmp_path / f"{name}.csv").write_text(f"projid,{name}\nd0,1\nd1,2\nd2,3\n")
    age, sex = (open_clinical(cohort, tmp_path / f"{name}.csv", "projid") for name in ("age", "sex"))
    read, stored = clinical_table._given_last, []

    def store(table: clinical_table.ClinicalTable, name: str) -> None:
        with table.noted(cohort):
            stored.extend([name, name])

    other = threading.Thread(target=store, args=(sex, "sex"))

    def slowly(*arguments: object) -> dict[str, tuple[str, str]]:
        """The other one begins between the reading and the writing of the first."""
        before = read(*arguments)
        if not other.is_alive() and not stored:
            other.start()
            other.join(timeout=2)
        return before

    monkeypatch.setattr(clinical_table, "_given_last", slowly)
    store(age, "age")
    other.join()
    assert {"age", "sex"} <= set(texts(cohort.read(n.CLINICAL_COLUMNS)[n.COLUMN]))
    assert stored == ["age", "age", "sex", "sex"]
