"""Donors without cells, resamples without rho and parts without annotated cells are told, not only stored as NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import fintune_xr as fx
from fintune_xr.pipelines.steps.evaluate import score_lines
from fintune_xr.seeds import stream

DONORS = ("d0", "d1", "d2", "d3")


def write_tile(folder: Path, donor: str, n_positive: int) -> None:
    """Nine cells of which so many are positive; of none there are no cells either."""
    draw = stream(0, donor)
    image = draw.normal(100, 3, (2, 80, 80))
    y, x = np.mgrid[:80, :80]
    grid = [(row, column) for row in range(9, 80, 20) for column in range(9, 80, 20)]
    for at, place in enumerate(draw.permutation(grid)[: 9 if n_positive else 0]):
        inside = (y - place[0]) ** 2 + (x - place[1]) ** 2 <= 36
        image[0][inside] += 800
        image[1][inside] += 600 if at < n_positive else 20
    for kind, name, pixels in (
        ("raw", "t_b0c0.tif", image[0]), ("raw", "t_b0c1.tif", image[1]), ("masks", "t_masks.tif", np.zeros((80, 80))),
    ):  # fmt: skip
        place = folder / kind / donor / "GFAP" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(place, pixels.astype(np.uint16), photometric="minisblack")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run, one donor of which has no cell, and annotations without a cell."""
    made = tmp_path_factory.mktemp("nothing")
    for donor, n_positive in zip(DONORS, (2, 4, 6, 0), strict=True):
        write_tile(made, donor, n_positive)
    fx.ingest(made / "raw", made / "s.zarr")
    fx.infer(made / "s.zarr", run="base", model="threshold", cluster="threads")
    fx.annotate(made / "masks", made / "s.zarr")
    fx.split(made / "s.zarr")
    rows = "".join(f"{donor},{at},1\n" for at, donor in enumerate(DONORS))
    (made / "clinical.csv").write_text("projid,nft,gpath\n" + rows)
    return made


def test_a_donor_without_cells_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fx.associate(folder / "s.zarr", clinical=folder / "clinical.csv")
    assert found["n"].sel(outcome="nft").item() == 3
    said = "".join(capsys.readouterr())
    assert "run base, GFAP: 1 of 4 donors have no ratio: no cell was found in any of their tiles" in said
    fx.bootstrap(folder / "s.zarr", resamples=20)
    said = "".join(capsys.readouterr())
    assert "no resample of run base, GFAP has a rho with gpath: the outcome is the same in all donors" in said
    assert "nft" not in said


def test_a_part_without_annotated_cells_is_told(folder: Path) -> None:
    [line] = score_lines(fx.evaluate(folder / "s.zarr", runs=["base"], split="all"))
    assert line.startswith("none of the 4 scored tiles holds an annotated cell")
