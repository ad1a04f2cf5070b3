"""Donors without cells, resamples without rho and parts without annotated cells are told, not only stored as NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.pipelines.steps import missing_ratios
from fintune_xr.pipelines.steps.evaluate import score_lines
from fintune_xr.seeds import stream
from fintune_xr.store.lineage import tile_counts
from fintune_xr.store.zarr_io.groups import open_column

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
    assert "run base, GFAP: 1 of 4 donors have no ratio: no cell was found (1 of their 1 tiles)" in said
    fx.bootstrap(folder / "s.zarr", resamples=20)
    said = "".join(capsys.readouterr())
    assert "no resample of run base, GFAP has a rho with gpath: the outcome is the same in all donors" in said
    assert "nft" not in said


def test_donors_whose_tiles_a_rule_leaves_out_or_that_failed_are_not_told_to_have_no_cell(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, clinical = folder / "s.zarr", folder / "clinical.csv"
    for module in (tile_counts, missing_ratios):
        monkeypatch.setattr(module, "excluded_tiles", lambda _: np.arange(len(DONORS)) == 1)
    fx.associate(store, clinical=clinical, replace=True)
    monkeypatch.undo()
    said = "".join(capsys.readouterr())
    # One of each of the two, and the first that is met is told.
    assert "2 of 4 donors have no ratio: left out by the rule of qc (1 of their 2 tiles)" in said
    states = open_column(fx.open_cohort(store).location, f"{n.RUNS}/base/{n.STATE}")
    before = states[:]
    states[:] = np.where(np.arange(len(DONORS)) == 0, n.QUARANTINED, before)
    try:
        assert missing_ratios.why_uncounted(fx.open_cohort(store), "base").tolist() == [
            "the tile is in quarantine", *["the rule could not tell"] * 2, "no cell was found",
        ]  # fmt: skip
    finally:
        states[:] = before


def test_a_part_without_annotated_cells_is_told(folder: Path) -> None:
    [line] = score_lines(fx.evaluate(folder / "s.zarr", runs=["base"], split="all"))
    assert line.startswith("none of the 4 scored tiles holds an annotated cell")
