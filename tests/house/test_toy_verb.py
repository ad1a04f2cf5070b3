"""A verb is a row and a line of the stub file: it runs from the command line, and as a function of the package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import lazy_loader
import pytest
from cyclopts import Parameter
from stores import make_store, tile_names, tile_pixels

from fintune_xr.errors import WRONG_USE
from fintune_xr.pipelines import steps
from fintune_xr.pipelines.cli import app, verbs
from fintune_xr.pipelines.cli.arguments import Store, show
from fintune_xr.pipelines.cli.verbs import GROUPS, Verb

ROOT = Path(__file__).resolve().parents[2]
LINE = "from .pipelines.steps.weigh import weigh as weigh\n"


def weigh(store: Store, *, per: Annotated[int, Parameter(help="Divide by so many.")] = 1) -> int:
    """Say how heavy tiles are."""
    step = importlib.import_module("fintune_xr.pipelines.steps.weigh")
    for tile, weight in step.weigh(store, per=per).items():
        show(f"{tile} {weight:g}")
    return 0


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The row of the verb, and its module among the steps."""
    monkeypatch.setattr(steps, "__path__", [*steps.__path__, str(Path(__file__).with_name("toy_verb"))])
    monkeypatch.setitem(verbs.VERBS, "weigh", Verb(weigh, "steps.weigh", group=GROUPS[0]))
    yield
    sys.modules.pop("fintune_xr.pipelines.steps.weigh", None)


@pytest.mark.usefixtures("added")
def test_a_verb_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "c.zarr").url
    expected = {tile: int(tile_pixels(tile, 64)[0].astype(int).sum()) for tile in tile_names(3, 2)}
    assert app.run(["weigh", str(store), "--per", "2"]) == 0
    said = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert {tile: float(weight) for tile, weight in said.items()} == pytest.approx(
        {tile: weight / 2 for tile, weight in expected.items()}, rel=1e-5
    )
    assert app.run(["--help"]) == 0
    assert "Say how heavy tiles are." in capsys.readouterr().out
    assert app.run(["weigh", str(tmp_path / "absent.zarr")]) == WRONG_USE


@pytest.mark.usefixtures("added")
def test_its_function_is_a_line_of_the_face(tmp_path: Path) -> None:
    stub = (ROOT / "fintune_xr" / "__init__.pyi").read_text()
    (tmp_path / "__init__.pyi").write_text(LINE + stub)
    get, _, names = lazy_loader.attach_stub("fintune_xr", str(tmp_path / "__init__.py"))
    assert "weigh" in names
    store = make_store(tmp_path / "c.zarr").url
    assert list(get("weigh")(store)) == tile_names(3, 2)
