"""What a model is called is said where the model is, and nowhere else: all other code asks its kind."""

from __future__ import annotations

import ast
from pathlib import Path

from sources import nodes

from fintune_xr.models.registry import KINDS

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("fintune_xr", "store", "analysis", "cluster", "pipelines")

# Threshold is a dim, too. The command line has its defaults as literals, so that its help costs no import; the demos'
# runs have the names of networks.
AMBIGUOUS = {"threshold"}
ALLOWED = {"pipelines/cli/models.py", "pipelines/demos/demo.py", "pipelines/demos/tissue.py"}


def files() -> list[Path]:
    """All code but that of the models' own folders."""
    found = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    inside = [(file, file.relative_to(ROOT).parts) for file in found if not file.is_symlink()]
    return [file for file, parts in inside if not (parts[:2] == ("fintune_xr", "models") and len(parts) > 3)]


def test_no_model_is_named_outside_its_folder() -> None:
    words = {word for kind in KINDS for word in (*kind.words, *kind.published)} - AMBIGUOUS
    assert {"flow_unet", "cpsam", "sam", "particle_unet", "unet"} <= words
    named = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.value}"
        for file in files()
        if str(file.relative_to(ROOT)) not in ALLOWED
        for node in nodes(file)
        if isinstance(node, ast.Constant) and node.value in words
    ]
    assert named == []
