"""Shared fixtures: real sample images where they are at hand, and a scheduler that forbids computing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import dask
import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# The suite tries the same examples each time, so that it judges the change and not the day; `make properties` draws new
# ones, and more of them.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
settings.register_profile("same", _COMMON, derandomize=True, database=None)
settings.register_profile("drawn", _COMMON, max_examples=400, print_blob=True)
settings.load_profile("same")

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first: processes would wait at the end for one that is begun late."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real sample images; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real sample images are not beside this checkout (../shared/data)")
    return SHARED_DATA


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together, but not drawn: for reports of which something else is asked, as that takes longest."""
    monkeypatch.setattr("fintune_xr.analysis.figures.style.figure_bytes", lambda *_, **__: b"")


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Dask's worker processes are forks of one that has imported the package: for tests of what they do, as each that
    starts as users' do takes seconds of a core to import it."""
    from killing import FORKS

    # It is running before Dask says what it shall import.
    assert FORKS.get_start_method() == "forkserver"
    forkserver.ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.fixture
def no_compute() -> Iterator[None]:
    """Any Dask computation inside the test raises."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was computed that should have stayed lazy")

    with dask.config.set(scheduler=refuse):
        yield
