"""The tree that was understood from paths, and levels that look as if they were others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from fintune_xr.pipelines.steps.ingest import ingest, plan_ingest
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.levels import Named, level_lines


def said(names: list[tuple[str, str]], layout: str = "rosmap") -> str:
    """What is said of tiles of these donors and markers."""
    tiles = [Named(f"{donor}/{marker}/t", donor, marker, "a.tif") for donor, marker in names]
    return " ".join(level_lines(tiles, choose_layout(layout))[1:])


@pytest.mark.parametrize(
    ("names", "layout", "doubt"),
    [
        ([("source", "00304419"), ("source", "00304420")], "rosmap", "donors that are called like folders: source"),
        ([("source", "00304419"), ("source", "00304420")], "rosmap", "markers that look like donors: 00304419"),
        ([("GFAP", "x"), ("IBA1", "y")], "rosmap", "donors that look like markers: GFAP, IBA1"),
        ([("d1", "GFAP"), ("d1", "IBA1")], "rosmap", "all 2 tiles are of one donor, d1"),
        ([("a", "p1"), ("b", "p2"), ("c", "p3")], "rosmap", "as many markers as donors, 3"),
        ([("images", "h&e"), ("images", "h&e")], "classes", "donors that are called like folders: images"),
        ([("volumes", "unknown"), ("volumes", "unknown")], "volumes", "donors that are called like folders: volumes"),
        (
            [("DonorA", "GFAP"), ("donorA", "GFAP")],
            "rosmap",
            "donors spelt nearly alike, and kept apart: 'DonorA', 'donorA'",
        ),
        ([("007", "GFAP"), ("7", "GFAP")], "rosmap", "donors spelt nearly alike, and kept apart: '007', '7'"),
        ([("7.0", "GFAP"), ("7", "GFAP")], "rosmap", "donors spelt nearly alike, and kept apart: '7.0', '7'"),
        ([("NA", "GFAP"), ("7", "GFAP")], "rosmap", "donors that are called as a missing value is: NA"),
        ([("d1", "GFAP"), ("d2", "gfap")], "rosmap", "markers spelt nearly alike, and kept apart: 'GFAP', 'gfap'"),
        ([("micrographs", "particles")], "micrographs", "donors that are called like folders: micrographs"),
    ],
)
def test_levels_that_look_like_others_are_told(names: list[tuple[str, str]], layout: str, doubt: str) -> None:
    assert doubt in said(names, layout)


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        ([("00304419", "GFAP"), ("00304420", "GFAP"), ("00304420", "IBA1")], "rosmap"),
        ([("d1", "CD68"), ("d2", "CD68"), ("d2", "AT8"), ("d1", "S100")], "rosmap"),
        ([("brain", "x"), ("brain", "x")], "cellfinder"),
        ([("set", "particles"), ("set", "particles")], "micrographs"),
        ([("10017", "particles"), ("10017", "particles")], "cryoppp"),
        ([("TCGA-A1-A0SK", "h&e"), ("TCGA-A2-A0D2", "h&e")], "bcss"),
    ],
)
def test_usual_levels_are_not(names: list[tuple[str, str]], layout: str) -> None:
    assert said(names, layout) == ""


def test_a_folder_one_level_too_high_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for donor in ("00304419", "00304420"):
        folder = tmp_path / f"raw/source/{donor}/GFAP"
        folder.mkdir(parents=True)
        for c in (0, 1):
            pixels = np.random.default_rng(int(donor) + c).integers(0, 99, (24, 24)).astype(np.uint16)
            tifffile.imwrite(folder / f"t_b0c{c}.tif", pixels)
    planned = plan_ingest(tmp_path / "raw")
    assert planned.said[0].startswith("understood: 1 donor(s): source (2); 2 marker(s): 00304419 (1), 00304420 (1)")
    assert "markers that look like donors" in " ".join(planned.said)
    assert len(plan_ingest(tmp_path / "raw/source").said) == 1
    ingest(tmp_path / "raw/source", tmp_path / "c.zarr")
    assert "understood: 2 donor(s): 00304419 (1), 00304420 (1); 1 marker(s): GFAP (2)" in capsys.readouterr().err
