"""The documentation as a site: every link and anchor holds, and every public name is on the page of the API."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from pages import ROOT

import fintune_xr


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
    first = (tmp_path / "site" / "index.html").read_text()
    assert "how-to/tissue.html" in first
    assert 'href="docs/' not in first
    assert 'href="site.css"' in first, "wide tables are cut without it"
    assert (tmp_path / "site" / "site.css").is_file()
    assert not (tmp_path / "site" / "__pycache__").exists()
    python = (tmp_path / "site" / "reference" / "python.html").read_text()
    described = set(re.findall(r'<h2 id="([a-z0-9_]+)"', python.lower()))
    assert described == {name.lower() for name in fintune_xr.__all__}
    # Nothing is fetched from elsewhere when a page is read.
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.findall(r'(?:src|<link[^>]*href)="(?:https?:)?//[^"]*', page.read_text()), page


@pytest.mark.parametrize("broken", ["[a page](nowhere.md)", "[an anchor](other.md#nothing)"])
def test_a_link_to_nothing_stops_it(broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"see {broken}")
    (docs / "other.md").write_text("# Other\n")
    config = load_config(
        str(tmp_path / "mkdocs.yml"), site_dir=str(tmp_path / "site"), hooks=[], nav=None, plugins=["search"]
    )  # fmt: skip
    with caplog.at_level(logging.WARNING), pytest.raises(Abort):
        build(config)
    assert re.search(r"'nowhere.md'|'#nothing'", caplog.text)


def test_every_page_has_its_place(tmp_path: Path) -> None:
    """What is not in the navigation is found by nobody."""
    told = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(page for page in pages if page not in told) == []
