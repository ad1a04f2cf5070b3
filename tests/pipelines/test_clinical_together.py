"""Two commands that are given a clinical table at once: what each stores stays together, and neither is lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from stores import make_store

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.steps import clinical_table
from fintune_xr.pipelines.steps.associate import associate
from fintune_xr.pipelines.steps.clinical_table import open_clinical
from fintune_xr.pipelines.steps.group_tests import compare_groups
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.readout import associate_readout
from fintune_xr.store.cohort import Cohort
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
        with table.noted(cohort, refuse=lambda: None):
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


DONORS = 6
WIDE, NARROW = ["age", "sex"], ["age"]
VERBS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "ratio": (n.ANALYSIS, associate, "outcomes"),
    "readout": (f"{n.READOUTS}/count", partial(associate_readout, readout="count"), "outcomes"),
    "groups": (f"{n.GROUP_TESTS}/count", partial(compare_groups, readout="count"), "groups"),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Path]:
    """A cohort with a run, and a clinical table of two columns."""
    folder = tmp_path_factory.mktemp("together")
    cohort = make_store(folder / "c.zarr", donors=DONORS)
    infer(cohort.url, run="base", model="threshold", overrides=("device=cpu", "cluster.dashboard=false"))
    rows = "".join(f"d{donor},{donor % 2},{donor // 3}\n" for donor in range(DONORS))
    (folder / "clinical.csv").write_text(f"projid,age,sex\n{rows}")
    return cohort, folder / "clinical.csv"


@pytest.mark.parametrize("verb", VERBS)
def test_what_another_command_stored_meanwhile_is_not_thrown_away(
    study: tuple[Cohort, Path], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    cohort, clinical = study
    path, call, asked = VERBS[verb]
    ask = partial(call, cohort.url, clinical=clinical)
    hold, others = Cohort.hold_storing, [WIDE]

    def held_later(self: Cohort, what: str) -> contextlib.AbstractContextManager[None]:
        """The other command stores more, after this one has looked and computed."""
        while others:
            ask(**{asked: others.pop()})
        return hold(self, what)

    monkeypatch.setattr(Cohort, "hold_storing", held_later)
    with pytest.raises(FintuneValueError, match=r"would throw away: outcomes sex.*--replace"):
        ask(**{asked: NARROW})
    assert texts(cohort.read(path)[n.OUTCOME]) == WIDE
    assert texts(ask(**{asked: NARROW}, replace=True)[n.OUTCOME]) == NARROW
