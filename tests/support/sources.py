"""Modules of the product as trees, each parsed once however many tests look at it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


def tree(path: Path) -> ast.Module:
    """The tree of a module, which is not to be changed."""
    return _tree(path.resolve())


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of that tree, outer ones first."""
    return tuple(ast.walk(tree(path)))


def forget() -> None:
    """Frees the memory of all of them."""
    _tree.cache_clear()
    nodes.cache_clear()
