"""Options of `annotate` that one task knows are refused for all others, whichever way they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fintune_xr.cohort_kinds import KINDS
from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.pipelines.cli import app
from fintune_xr.pipelines.steps.annotate import AnnotateOptions, annotate
from fintune_xr.store.cohort import create_cohort

# By option: the kinds of cohorts that know it, and a value.
OPTIONS: dict[str, tuple[str, Any]] = {
    "pieces": ("if", "keep"),
    "overlap": ("if", "last"),
    "join": ("if", True),
    "marks": ("if", "all"),
    "corrects": ("if", "base"),
    "accept_unchanged": ("if", True),
    "diameter": ("em", 5.0),
    "frame": ("em", "file"),
    "classes": ("if", ["cell"]),
    "scale": ("if em", 2.0),
    "unit": ("if em", "px"),
    "drop_outside": ("em", True),
    "merge_closer": ("em", 2.0),
    "legend": ("he", "legend.tsv"),
    "ignore": ("he", [0]),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An empty cohort of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        shape = (8, 8, 8) if kind == "oct" else (8, 8)
        create_cohort(folder / f"{kind}.zarr", kind=kind, channels=["a"], tile_shape=shape, dtype="uint8")
    return {kind: folder / f"{kind}.zarr" for kind in KINDS}


def test_every_option_is_looked_at() -> None:
    assert set(OPTIONS) == set(AnnotateOptions.__annotations__)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_one_task_are_refused_for_others(option: str, stores: dict[str, Path], tmp_path: Path) -> None:
    own, value = OPTIONS[option]
    assert len(stores) == 4
    for kind in set(stores) - set(own.split()):
        with pytest.raises(FintuneValueError, match=f"--{option.replace('_', '-')}.* of the task"):
            annotate(tmp_path, stores[kind], **{option: value})  # type: ignore[misc]


def test_options_arrive_from_the_command_line(
    stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, (own, value) in OPTIONS.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        words = [f"--{option.replace('_', '-')}", *map(str, values)]
        other = "he" if own == "if em" else "em" if own == "if" else "if"
        assert app.run(["annotate", str(tmp_path), str(stores[other]), *words]) != 0
        assert "of the task" in capsys.readouterr().err, option


def test_what_is_no_keyword_or_no_word_is_refused(stores: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"annotate\(\) got an unexpected keyword argument 'diametre'.*'diameter'"):
        annotate(tmp_path, stores["em"], diametre=3)  # type: ignore[call-arg]
    for option, known in (("pieces", "keep, split"), ("overlap", "first, last"), ("marks", "all, positive")):
        with pytest.raises(UnknownNameError, match=f"no word for --{option} 'x'; known: {known}"):
            annotate(tmp_path, stores["if"], **{option: "x"})  # type: ignore[misc]
