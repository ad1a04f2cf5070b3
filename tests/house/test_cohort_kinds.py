"""Kinds of cohorts are named in one place, and a kind that nothing implements is refused."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from sources import nodes

import fintune_xr as fx
from fintune_xr.cohort_kinds import KINDS
from fintune_xr.errors import UnknownNameError
from fintune_xr.tasks.registry import TASKS

ROOT = Path(__file__).parents[2]
ROOMS = ("fintune_xr", "store", "pipelines", "analysis", "cluster")
# Words on disk may be spelt as a kind is, as the channel of an OCT volume.
THE_PLACES = ("fintune_xr/cohort_kinds.py", "fintune_xr/names.py")


def modules() -> Iterator[Path]:
    """Every product module once: the rooms that are linked into the package are read where they lie."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            linked = any(parent.is_symlink() for parent in path.parents)
            if not linked and path.relative_to(ROOT).as_posix() not in THE_PLACES:
                yield path


def is_cohort(node: ast.expr) -> bool:
    """Whether an expression is called a cohort: `cohort`, `plan.cohort`."""
    return "cohort" in (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", ""))


def kinds_named_in(found_in: Iterable[ast.AST]) -> list[int]:
    """Lines that hold the name of a kind, or compare the kind of a cohort."""
    found = []
    for node in found_in:
        if isinstance(node, ast.Constant) and node.value in KINDS:
            found.append(node.lineno)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            kinds = [one for one in sides if isinstance(one, ast.Attribute) and one.attr == "kind"]
            found += [node.lineno for one in kinds if is_cohort(one.value)]
    return found


@pytest.mark.parametrize("source", ["kind = 'em'", "x = 1 if cohort.kind == name else 2", "plan.cohort.kind in names"])
def test_a_kind_in_the_wrong_place_is_seen(source: str) -> None:
    assert kinds_named_in(ast.walk(ast.parse(source))) == [1]


def test_no_module_but_one_names_a_kind_of_cohort() -> None:
    wrong = [f"{path.relative_to(ROOT)}:{line}" for path in modules() for line in kinds_named_in(nodes(path))]
    assert not wrong


def test_every_kind_has_a_task_that_is_implemented() -> None:
    assert {kind.task for kind in KINDS.values()} <= set(TASKS)
    assert all(name == kind.name for name, kind in KINDS.items())


def test_a_kind_that_nothing_implements_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for channel in (0, 1):
        path = source / "d1" / "GFAP" / f"t_b0c{channel}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.ones((16, 16), np.uint16))
    with pytest.raises(UnknownNameError, match=r"no kind of cohort 'mri'; known: .*em.*if"):
        fx.ingest(source, tmp_path / "c.zarr", kind="mri")
    assert not (tmp_path / "c.zarr").exists()
