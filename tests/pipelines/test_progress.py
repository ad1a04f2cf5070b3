"""What progress says is of what there was to do: what was there before is neither counted nor waited for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fintune_xr.pipelines.console import say, steps
from fintune_xr.pipelines.steps.ingest import ingest


def counted(printed: str) -> list[tuple[int, int]]:
    return [(int(done), int(total)) for done, total in re.findall(r"ingest: (\d+)/(\d+) tiles", printed)]


def test_a_notebook_gets_plain_lines_that_it_wraps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "a sentence that must be known to read what follows, " * 9
    say(line)
    assert tuple(capsys.readouterr()) == ("", f"{line}\n")
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    say(line)
    assert tuple(capsys.readouterr()) == (f"{line}\n", "")


def test_an_ingest_that_goes_on_counts_what_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)

    def tile(donor: str) -> None:
        folder = tmp_path / "raw" / donor / "GFAP"
        folder.mkdir(parents=True)
        for channel in range(2):
            plane = random.integers(0, 999, (32, 32)).astype(np.uint16)
            tifffile.imwrite(folder / f"{donor}_GFAP_00_b0c{channel}.tif", plane)

    for donor in ("d1", "d2", "d3"):
        tile(donor)
    ingest(tmp_path / "raw", tmp_path / "s.zarr")
    assert counted(capsys.readouterr().err)[-1] == (3, 3)
    tile("d4")
    ingest(tmp_path / "raw", tmp_path / "s.zarr")
    again = capsys.readouterr().err
    assert counted(again)[-1] == (1, 1)
    assert "left" not in again.split("ingest: 1/1", 1)[1]
    ingest(tmp_path / "raw", tmp_path / "s.zarr")
    assert counted(capsys.readouterr().err) == []


def test_steps_take_the_readers_total(capsys: pytest.CaptureFixture[str]) -> None:
    with steps("reading") as report:
        for done in (1, 3, 4):
            report(done, 4)
    assert "reading: 4/4 tiles" in capsys.readouterr().err
