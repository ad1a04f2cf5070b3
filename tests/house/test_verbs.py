"""A verb is a row: what reads its arguments, where its function lies, and that function in the face of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import fintune_xr
from fintune_xr.pipelines.cli.verbs import GROUPS, VERBS

ROOT = Path(__file__).resolve().parents[2]


def offered() -> dict[str, str]:
    """Module of each name that the stub file of the package offers."""
    stub = ast.parse((ROOT / "fintune_xr" / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {name.name: str(node.module) for node in imports for name in node.names}


def test_every_verb_is_a_function_of_the_package() -> None:
    face = offered()
    assert {name: f"pipelines.{verb.module}" for name, verb in VERBS.items()} == {
        name: module for name, module in face.items() if name in VERBS
    }
    assert set(face) == set(fintune_xr.__all__)


def test_every_module_of_a_verb_defines_its_function() -> None:
    for name, verb in VERBS.items():
        source = (ROOT / "pipelines" / f"{verb.module.replace('.', '/')}.py").read_text()
        defined = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        assert name in defined, verb.module


def test_every_verb_is_in_a_group_of_the_help() -> None:
    assert {verb.group for verb in VERBS.values()} == set(GROUPS)


def test_verbs_that_give_a_dataset_give_its_labels() -> None:
    """What is selected of it is asked for, and refused, as it is of the datasets of a cohort."""
    giving = {}
    for name, verb in VERBS.items():
        source = (ROOT / "pipelines" / f"{verb.module.replace('.', '/')}.py").read_text()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and node.name == name and ast.unparse(node.returns) == "xr.Dataset":
                giving[name] = [ast.unparse(one) for one in node.decorator_list]
    assert {"evaluate", "associate", "bootstrap", "positivity", "qc", "gate"} <= set(giving)
    assert {name for name, decorators in giving.items() if decorators != ["gives_named_labels"]} == set()
