"""What a notebook shows of a cohort: every tile counted, every run with its state, nothing unescaped."""

from __future__ import annotations

import shutil
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.overview import DONORS_SHOWN, RunState, overview_html, states_of


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    with tarfile.open(Path(__file__).parents[1] / "data" / "cells.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return open_cohort(tmp_path / "a.zarr")


class Tags(HTMLParser):
    """Names of the tags, and the text of each cell of a table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_tiles_are_counted_by_donor_and_marker_and_runs_by_state(cohort: Cohort) -> None:
    cells = Tags(cohort._repr_html_()).cells
    images, run = cohort.images(lazy=False), cohort.run("a", lazy=False)
    table = pd.crosstab(images[n.DONOR].values, images[n.MARKER].values)
    for donor, row in table.iterrows():
        at = cells.index(str(donor))
        assert cells[at + 1 : at + 1 + len(row)] == [str(count) for count in row]
    at = len(cells) - cells[::-1].index("quarantined") - 1
    assert cells[cells.index("a", at) + 2] == str(int((run[n.STATE] == n.DONE).sum()))
    assert "cohort.cells('a')" in cells[-1]
    assert "cohort.annotations()" in cells[-1]


def test_a_name_is_never_markup() -> None:
    bad = "<script>x</script>"
    runs = [RunState(bad, {"done": 1}, bad)]
    found = overview_html(bad, bad, labels={n.DONOR: [bad], n.MARKER: [bad]}, runs=runs, questions=[bad])
    assert "script" not in Tags(found).tags
    assert Tags(found).cells.count(bad) == 7


def test_donors_that_are_not_shown_are_counted() -> None:
    donors = [f"d{i:03d}" for i in range(DONORS_SHOWN + 5)]
    found = overview_html("", "", labels={n.DONOR: donors, n.MARKER: ["m"] * len(donors)}, runs=[], questions=[])
    assert f"{DONORS_SHOWN} of {DONORS_SHOWN + 5} donors shown" in found
    assert f"<td>all</td><td>{len(donors)}</td>" in found


def test_tiles_that_a_run_does_not_reach_are_pending() -> None:
    found = states_of("r", np.array([n.DONE, n.QUARANTINED, n.PENDING], np.uint8), 5)
    assert list(found.tiles.values()) == [3, 1, 1]


def test_a_run_that_cannot_be_read_does_not_hide_the_others(cohort: Cohort) -> None:
    shutil.copytree(cohort.location.path / "runs" / "a", cohort.location.path / "runs" / "b")
    shutil.rmtree(cohort.location.path / "runs" / "b" / "state")
    text = cohort._repr_html_()
    assert "state: variable missing" in text
    assert "<td>a</td>" in text
