"""Rooms stay small: how much lies side by side, how long a function is, how much is handed to it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from sources import nodes, tree

ROOT = Path(__file__).resolve().parents[2]
WINGS = ("store", "analysis", "cluster", "pipelines")
MOST_SIBLINGS = {"fintune_xr": 23, "pipelines": 15, "store": 12}


Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("room", MOST_SIBLINGS)
def test_few_things_lie_side_by_side(room: str) -> None:
    siblings = [
        path.name
        for path in sorted((ROOT / room).iterdir())
        if (path.suffix == ".py" and not path.stem.startswith("__")) or (path / "__init__.py").is_file()
    ]
    assert len(siblings) <= MOST_SIBLINGS[room], f"{len(siblings)} in {room}: {', '.join(siblings)}"


def test_functions_fit_a_screen() -> None:
    lengths = {name: _body_lines(function) for name, function in _functions()}
    long = {name: lines for name, lines in lengths.items() if lines > 35}
    assert not long, f"bodies of more than 35 lines: {long}"
    assert _nine_in_ten(lengths.values()) <= 14


def test_few_arguments_are_handed_on() -> None:
    assert _nine_in_ten(_n_arguments(function) for _, function in _functions()) <= 4


IRREGULAR = {
    "drawn",
    "found",
    "given",
    "held",
    "kept",
    "known",
    "left",
    "made",
    "said",
    "seen",
    "shown",
    "taken",
    "told",
}


def test_no_participle_names_a_module_or_a_public_function() -> None:
    """Names say what a thing is or does; `stored_columns` is a noun, `stored` alone says nothing."""
    files = [path for wing in (*WINGS, "fintune_xr") for path in (ROOT / wing).rglob("*.py")]
    functions = [node.name for file in files for node in tree(file).body if isinstance(node, Function)]
    named = {name for name in (*functions, *(file.stem for file in files)) if _is_participle(name)}
    assert not named, f"participles: {', '.join(sorted(named))}"


def test_what_is_public_says_what_it_is() -> None:
    """Functions, classes and methods have a docstring; not those inside of functions, nor those that begin with _."""
    files = [path for wing in (*WINGS, "fintune_xr") for path in (ROOT / wing).rglob("*.py")]
    public = [(file, *one) for file in files for one in _public(tree(file))]
    assert len(public) > 1000, "they were looked at"
    bare = [f"{file.relative_to(ROOT)}: {name}" for file, name, node in public if not ast.get_docstring(node)]
    assert not bare, f"without a docstring: {', '.join(bare)}"


@pytest.mark.parametrize("source", ["def f(): ...", "class C: ...", "class C:\n 'C.'\n async def f(self): ..."])
def test_a_missing_docstring_is_seen(source: str) -> None:
    assert [name for name, node in _public(ast.parse(source)) if not ast.get_docstring(node)] in (["f"], ["C"], ["C.f"])


def _public(within: ast.AST, of: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions and classes of a module, with the public methods of those classes, by their names."""
    for node in ast.iter_child_nodes(within):
        if isinstance(node, ast.If | ast.Try):
            yield from _public(node, of)
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{of}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _public(node, f"{of}{node.name}.")


def _is_participle(name: str) -> bool:
    return name in IRREGULAR or (name.endswith("ed") and "_" not in name and name not in ("embed", "seed"))


def _functions() -> Iterator[tuple[str, Function]]:
    for room in ("fintune_xr", *WINGS):
        for path in sorted((ROOT / room).rglob("*.py")):
            where = path.relative_to(ROOT)
            if where.parts[:1] == ("fintune_xr",) and where.parts[1] in WINGS:
                continue
            for node in nodes(path):
                if isinstance(node, Function):
                    yield f"{where}:{node.name}", node


def _body_lines(function: Function) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _n_arguments(function: Function) -> int:
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def _nine_in_ten(values: Iterable[int]) -> int:
    """The value that nine in ten do not exceed."""
    ordered = sorted(values)
    return ordered[int(len(ordered) * 0.9)]
