"""Scores and studies are what is declared of them: checked before they are stored, and when they are opened."""

from __future__ import annotations

import pytest
import xarray as xr
from stores import filled, make_store

from fintune_xr import names as n
from fintune_xr.errors import SchemaError
from fintune_xr.schema import DatasetSchema
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.zarr_io.groups import replace_group
from fintune_xr.tasks.registry import TASKS
from fintune_xr.tasks.scores import BENCHMARKS, PART_SCORES, STAGES, STUDIES, declared_schema, metrics_schema
from fintune_xr.tasks.task import INSTANCE

OF_MASKS = [name for name, by_task in BENCHMARKS.items() if INSTANCE in by_task]
OTHERS = (*OF_MASKS, *STUDIES, f"{n.GATE_PREFIX}r", f"{n.COARSER_PREFIX}tumor_test")
GROUPS = [f"{n.METRICS}/{name}" for name in (n.TEST, "all", n.BUDGET, *OTHERS)] + [f"{n.SELFTRAIN}/s"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make_store(tmp_path_factory.mktemp("scores") / "a.zarr", donors=1, tiles=1)


def declared(path: str) -> DatasetSchema:
    schema = declared_schema(path, INSTANCE)
    assert schema is not None
    return schema


@pytest.mark.parametrize("path", GROUPS)
def test_what_fits_is_stored_and_opened_and_what_lacks_an_array_is_neither(cohort: Cohort, path: str) -> None:
    schema = declared(path)
    whole = filled(schema)
    cohort.write(path, whole)
    stored = cohort.read(path)
    assert set(stored.variables) == set(whole.variables)
    assert stored.attrs["schema"] == schema.name
    first = next(iter(schema.variables))
    with pytest.raises(SchemaError, match=rf"{schema.name} v1:\n  {first}: variable missing"):
        cohort.write(path, whole.drop_vars(first))
    replace_group(cohort.location, path, whole.drop_vars(first), None)
    with pytest.raises(SchemaError, match=f"{first}: variable missing"):
        cohort.read(path)


def test_metrics_are_checked_too(cohort: Cohort) -> None:
    replace_group(cohort.location, "metrics/test", filled(declared("metrics/test")).transpose(), None)
    with pytest.raises(SchemaError, match=r"tp: expected dims \('run', 'tile', 'threshold'\)"):
        cohort.metrics(n.TEST)


def test_every_task_declares_its_scores_and_others_may_store_their_own(cohort: Cohort) -> None:
    assert set(PART_SCORES) == set(TASKS)
    assert metrics_schema(n.TEST, "weighing") is None
    assert metrics_schema("own", INSTANCE) is None
    assert declared_schema("picks/r", INSTANCE) is None
    assert declared_schema("selftrain/s", INSTANCE) is STAGES
    cohort.write("metrics/own", xr.Dataset({"weight": (n.TILE, [1.0])}))
    assert cohort.metrics("own")["weight"].values.tolist() == [1.0]
