"""Whoever goes on after an error of ours lets that of silent storage through: nothing follows from it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# They show the error as it is, and draw no conclusion.
SHOWN = {("pipelines/cli/app.py", "run"), ("store/cohort.py", "_state_of")}


def names_in(handler: ast.ExceptHandler) -> set[str]:
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else set()


def conclusions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Functions and lines at which any error of ours is taken for an answer, that of silent storage included."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for attempt in (node for node in ast.walk(function) if isinstance(node, ast.Try)):
            handled: set[str] = set()
            for handler in attempt.handlers:
                handled |= names_in(handler)
                goes_on = not isinstance(handler.body[-1], ast.Raise)
                if "FintuneError" in names_in(handler) and goes_on and "StoreUnreachableError" not in handled:
                    yield function.name, handler.lineno


def test_no_conclusion_is_drawn_from_silence() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for room in ("store", "pipelines")
        for path in sorted((ROOT / room).rglob("*.py"))
        for name, line in conclusions(ast.parse(path.read_text()))
        if (path.relative_to(ROOT).as_posix(), name) not in SHOWN
    ]
    assert not found


def test_such_conclusions_are_seen() -> None:
    silent = "def f():\n    try:\n        g()\n    except {}FintuneError:\n        return False\n"
    assert list(conclusions(ast.parse(silent.format("")))) == [("f", 4)]
    let_through = "StoreUnreachableError:\n        raise\n    except "
    assert list(conclusions(ast.parse(silent.format(let_through)))) == []


def test_errors_of_codecs_are_told_apart_in_one_place() -> None:
    named = [path for path in (ROOT / "store").rglob("*.py") if "DECODING_ERRORS" in path.read_text()]
    assert [path.name for path in named] == ["location.py"]
