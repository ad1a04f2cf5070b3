"""Whoever goes on after an error of ours catches answers alone: nothing follows from storage that is silent."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import tree

from fintune_xr import errors
from fintune_xr.errors import AnswerError, FintuneError, StoreUnreachableError, UnreadableFileError

ROOT = Path(__file__).resolve().parents[2]
# They show the error as it is, and draw no conclusion.
SHOWN = {
    ("pipelines/cli/app.py", "run"), ("store/cohort.py", "_state_of"), ("pipelines/steps/doctor.py", "_cohort"),
    ("fintune_xr/finetune/ranks.py", "_sit"),
    # It asks what silence means: a store without an answer is one that does not answer.
    ("store/zarr_io/location.py", "answers"),
    # They name the one file that cannot be read, and throw nothing away.
    *(("store/check/store.py", name) for name in (
        "check_store", "open_nodes", "_check_groups", "_check_columns", "_check_shard", "error_of", "_errors_of_tiles",
        "_pixels",
    )),
    ("store/runs/measurement_writer.py", "_was_damaged"), ("pipelines/steps/check.py", "_split_problems"),
    ("store/check/problem.py", "explain_faults"),
}  # fmt: skip
SILENCE = {"FintuneError", "StoreUnreachableError", "UnreadableFileError"}


def names_in(node: ast.AST | None) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} if node else set()


def conclusions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Functions and lines at which more is done about silent storage than to raise it again."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            is_handled = isinstance(node, ast.ExceptHandler) and not isinstance(node.body[0], ast.Raise)
            is_passed_over = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "suppress"
            caught = node.type if isinstance(node, ast.ExceptHandler) else node
            if (is_handled or is_passed_over) and SILENCE & names_in(caught):
                yield function.name, node.lineno


def test_no_conclusion_is_drawn_from_silence() -> None:
    rooms = ("fintune_xr", "store", "analysis", "cluster", "pipelines")
    files = {path.resolve().relative_to(ROOT) for room in rooms for path in (ROOT / room).rglob("*.py")}
    found = [
        f"{path}:{line} {name}"
        for path in sorted(files)
        for name, line in conclusions(tree(ROOT / path))
        if (path.as_posix(), name) not in SHOWN
    ]
    assert len(files) > 300
    assert not found, f"catch AnswerError there: {', '.join(found)}"


@pytest.mark.parametrize("caught", ["FintuneError", "(ValueError, FintuneError) as error", "StoreUnreachableError"])
def test_such_conclusions_are_seen(caught: str) -> None:
    handled = "def f():\n    try:\n        g()\n    except {}:\n        {}\n"
    assert list(conclusions(ast.parse(handled.format(caught, "note()\n        raise")))) == [("f", 4)]
    assert list(conclusions(ast.parse(handled.format(caught, "raise")))) == []
    assert list(conclusions(ast.parse(handled.format("AnswerError", "return False")))) == []
    assert list(conclusions(ast.parse("def f():\n    with contextlib.suppress(FintuneError):\n        g()\n")))


def test_all_errors_are_answers_but_that_of_silent_storage() -> None:
    family = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, FintuneError)}
    assert {one for one in family if not issubclass(one, AnswerError)} == {
        FintuneError,
        StoreUnreachableError,
        UnreadableFileError,
    }


def test_errors_of_codecs_are_told_apart_in_one_place() -> None:
    named = [path for path in (ROOT / "store").rglob("*.py") if "DECODING_ERRORS" in path.read_text()]
    assert [path.name for path in named] == ["location.py"]
