"""The public face: what the stub offers is what is there, from where it says."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import fintune_xr

STUB = Path(fintune_xr.__file__).with_suffix(".pyi")


def offered() -> dict[str, tuple[str, str]]:
    """Module and name there of everything that the stub imports."""
    return {
        alias.asname or alias.name: (f"{fintune_xr.__name__}.{node.module}", alias.name)
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", offered())
def test_a_public_name_is_what_the_stub_says(name: str) -> None:
    module, original = offered()[name]
    public = getattr(fintune_xr, name)
    assert public is getattr(importlib.import_module(module), original)
    # Not a module that happens to be called as its verb is.
    assert callable(public)
    assert inspect.unwrap(public).__module__ == module


def test_the_stub_lists_what_it_imports() -> None:
    (listed,) = (
        ast.literal_eval(node.value) for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.Assign)
    )
    assert listed == sorted(offered())
    assert sorted(fintune_xr.__all__) == listed
