"""The handle of a store does not wander: how often it climbs back to a higher floor is counted from the source."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trips() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trips", ROOT / "docs" / "trips.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["trips"] = module
    spec.loader.exec_module(module)
    return module


def test_evaluate_climbs_seldom(trips: ModuleType) -> None:
    """The trip that was 25 climbs long when every task was on the way of every other."""
    stays, climbs = trips.measured(ROOT, ["evaluate"])["evaluate"]
    assert stays > 10, "the trip was followed"
    assert climbs <= 12


def test_a_trip_is_counted_by_hand(trips: ModuleType, tmp_path: Path) -> None:
    """`verb` asks the cohort, goes down to `low`, whose function asks it again, and up to `middle`: two climbs."""
    files = {
        "pipelines/steps/verb.py": """
from fintune_xr.store import low
from fintune_xr.store.middle import look

def verb(store):
    cohort = open(store)
    cohort.images()
    low.ask(cohort)
    look(cohort)
    print(len(store))
""",
        "store/low.py": "from fintune_xr.store.cohort import Cohort\n\ndef ask(cohort):\n    return cohort.images()\n",
        "store/middle.py": "from fintune_xr.store.low import ask\n\ndef look(cohort):\n    return 1\n",
        "store/cohort.py": "class Cohort:\n    pass\n",
        "fintune_xr/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    source = trips.Source.of(tmp_path)
    visited = trips.stays(source, "pipelines.steps.verb", "verb")
    assert visited == ["pipelines.steps.verb", "store.cohort", "store.low", "store.cohort", "store.middle"]
    assert trips.climbs(source, visited) == 2
    # `low` has two importers, the others have one.
    assert trips.mergeable(source, visited) == ["store.cohort", "store.middle"]
