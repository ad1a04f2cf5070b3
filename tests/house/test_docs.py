"""Documentation: links lead somewhere, paths exist, and the drawn floors are those of the imports."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
_PATH = re.compile(r"`((?:fintune_xr|store|analysis|cluster|pipelines|tests|docs)/[\w./-]+\.(?:py|pyi|md))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = [target for target in _LINK.findall(page.read_text()) if "://" not in target and ":" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", ["docs/explanation/architecture.md", "docs/how-to/extend.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_exists(page: str) -> None:
    named = [path for path in _PATH.findall((ROOT / page).read_text()) if "TASK" not in path]
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_floors_are_those_of_the_imports() -> None:
    plan = _script("floor_plan")
    assert plan.page_with(plan.drawing()) == plan.PAGE.read_text(), "run: python docs/floor_plan.py --write"


def test_there_are_at_most_nine_floors() -> None:
    plan = _script("floor_plan")
    graph = grimp.build_graph("fintune_xr", cache_dir=None)
    heights = {container: len(plan.floors(graph, container)) for container in plan.CONTAINERS}
    assert min(heights.values()) > 1, "floors were found"
    assert max(heights.values()) <= 9, f"floors of each container: {heights}"


def test_the_trips_are_those_of_the_source() -> None:
    """Each change moves them a little: the page is off by no more than a tenth."""
    trips = _script("trips")
    now, page = trips.measured(ROOT, trips.VERBS), trips.figures_of_page()
    assert len(page) >= 3, "the table was found"
    off = {
        verb: f"{told}, counted: {now[verb]}"
        for verb, told in page.items()
        if any(abs(one - other) > 0.1 * other for one, other in zip(told, now[verb], strict=True))
    }
    assert not off, f"run: python docs/trips.py --write; stays and climbs on the page: {off}"


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
