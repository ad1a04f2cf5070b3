"""What the site has beside the pages in `docs/`: README as its first page, and the public Python names.

Links to files that are no pages become their names: the site stands by itself.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages that are not written in `docs/`."""
    files.append(File.generated(config, "index.md", content=first_page()))
    files.append(File.generated(config, "reference/python.md", content=python_page()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page, with links that leave `docs/` as plain names."""
    here = (ROOT / "docs" / page.file.src_uri).parent
    return _LINK.sub(lambda link: link[0] if _is_page((here / link[2]).resolve()) else _name(link), markdown)


def first_page() -> str:
    """README, whose links count from `docs/`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    kept = _LINK.sub(lambda link: link[0] if _is_page((ROOT / link[2]).resolve()) else _name(link), text)
    return re.sub(r"(\]\(|src=\")docs/", r"\1", kept)


def _is_page(target: Path) -> bool:
    return target.is_relative_to(ROOT / "docs")


def _name(link: re.Match[str]) -> str:
    return f"`{link[1].strip('`')}`"


def python_page() -> str:
    """What `import fintune_xr as fx` offers, as the stub of the package lists it."""
    stub = ast.parse((ROOT / "fintune_xr" / "__init__.pyi").read_text(encoding="utf-8"))
    named = sorted(
        (alias.asname or alias.name, f"fintune_xr.{node.module}.{alias.name}")
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )
    lines = ["# Python", "", "Every verb of the command line is a function of `fintune_xr`.", ""]
    for name, path in named:
        lines += [f"## {name}", "", f"::: {path}", ""]
    return "\n".join(lines)
