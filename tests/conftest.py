"""Shared fixtures: real sample images where they are at hand, and a scheduler that forbids computing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("default", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real sample images; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real sample images are not beside this checkout (../shared/data)")
    return SHARED_DATA


@pytest.fixture
def no_compute() -> Iterator[None]:
    """Any Dask computation inside the test raises."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was computed that should have stayed lazy")

    with dask.config.set(scheduler=refuse):
        yield
