"""Words that stores hold are spelt in one module: whoever renames one there has renamed it everywhere, or nowhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from sources import nodes, tree

import fintune_xr
from fintune_xr import names as n

ROOT = Path(fintune_xr.__file__).parent

# Attributes whose words mean nothing else, so that a literal elsewhere can only be another spelling of them.
ATTRIBUTES = (n.PROVENANCE, n.RESTS_ON, n.SPLIT_DIGEST, n.ANNOTATIONS_DIGEST, n.IDENTITY, n.INPUTS_SHA256)
GROUPS = (n.METRICS, n.RUNS, n.CELLS, n.POSITIVITY, n.BOOTSTRAP, n.PICKS, n.SELFTRAIN, n.PSEUDO)
ALLOWED = {"analysis/report/sections/cohort.py": {n.PROVENANCE}}  # the key of a section of the report


def test_attributes_are_spelt_in_names_alone() -> None:
    spelt = {
        (where, word)
        for where, word in _literals()
        if word in ATTRIBUTES and word not in ALLOWED.get(where, set()) and where != "names.py"
    }
    assert not spelt, f"take these from fintune_xr.names: {sorted(spelt)}"


def test_paths_of_groups_are_made_of_names() -> None:
    spelt = {
        (where, word)
        for where, word in _literals()
        if where != "names.py" and word.partition("/")[0] in GROUPS and word.partition("/")[1] and " " not in word
    }
    assert not spelt, f"take these from fintune_xr.names: {sorted(spelt)}"


def test_words_are_defined_once() -> None:
    names = tree(ROOT / "names.py").body
    defined = [ast.unparse(node.target) for node in names if isinstance(node, ast.AnnAssign)]
    assert len(defined) == len(set(defined))


def _literals() -> Iterator[tuple[str, str]]:
    """Module and text of every literal that is not a docstring."""
    for path in sorted(one for part in (ROOT, *_linked()) for one in part.rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield where, node.value


def _linked() -> list[Path]:
    """Packages that lie beside the core and are linked into it; `rglob` does not follow links."""
    return [path for path in ROOT.iterdir() if path.is_symlink()]
