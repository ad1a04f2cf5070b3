"""A cohort without a positive cell gets a threshold all the same: screen, store and report say what it is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.seeds import stream
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort

SMALL = CohortSettings(
    n_donors=4, markers=("GFAP",), tiles_per_donor=(2, 2), tile_px=256, n_annotated=0, damaged=False, seed=3
)
SAID = "the threshold of rule otsu lies within one mode"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_cohort(tmp_path_factory.mktemp("raw"), settings=SMALL).source


def segmented(raw: Path, store: Path) -> None:
    fx.ingest(raw, store)
    fx.infer(store, run="base", model="threshold", overrides=["model.channel=DAPI"])


def test_a_marker_of_noise_is_named_on_screen_in_the_store_and_in_the_report(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = tmp_path / "raw"
    for at, path in enumerate(sorted(raw.rglob("*.tif"))):
        image = tifffile.imread(path)
        if path.stem.endswith("b0c1"):
            image = stream(at, "noise").normal(500, 60, image.shape).astype(np.uint16)
        (dark / path.relative_to(raw)).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(dark / path.relative_to(raw), image)
    store = tmp_path / "c.zarr"
    segmented(dark, store)
    assert f"positivity of base: GFAP: {SAID}" in " ".join(capsys.readouterr().err.split())
    stored = fx.open_cohort(store).positivity("base")
    assert list(stored.attrs[n.THRESHOLD_DOUBTS]["otsu"]) == ["GFAP"]
    share = stored[n.N_POSITIVE].sel({n.RULE: "otsu"}).sum() / stored[n.N_ALL].sel({n.RULE: "otsu"}).sum()
    assert 0.1 < float(share) < 0.9, "the share is what it was, and is not changed in silence"
    assert f"base: GFAP: {SAID}" in fx.report(store).read_text()
    # A threshold that somebody chose far above all of them is no doubt's concern.
    positivity(store, run="base", rule="fixed", threshold=5000)
    assert stored.attrs[n.THRESHOLD_DOUBTS]["otsu"]
    assert "not to be trusted" not in capsys.readouterr().err
    assert SAID not in fx.report(store).read_text()


def test_of_cells_with_and_without_the_marker_nothing_is_said(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segmented(raw, tmp_path / "c.zarr")
    assert "one mode" not in capsys.readouterr().err
    assert fx.open_cohort(tmp_path / "c.zarr").positivity("base").attrs[n.THRESHOLD_DOUBTS]["otsu"] == {}
    assert "one mode" not in fx.report(tmp_path / "c.zarr").read_text()


@pytest.mark.slow
def test_real_cells_are_not_shouted_at(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nuclei by their cFOS, and how much parvalbumin they show: four fields of two channels."""
    source = real_data / "deepflash-hippocampus"
    for path in sorted((source / "Parv").glob("*_Parv.tif")):
        number = path.stem.partition("_")[0]
        folder = tmp_path / "raw" / f"d{number}" / "Parv"
        folder.mkdir(parents=True)
        (folder / "t_b0c0.tif").write_bytes((source / "cFOS" / f"{number}_cFOS.tif").read_bytes())
        (folder / "t_b0c1.tif").write_bytes(path.read_bytes())
    segmented(tmp_path / "raw", tmp_path / "c.zarr")
    assert "one mode" not in capsys.readouterr().err
    assert fx.open_cohort(tmp_path / "c.zarr").positivity("base")[n.N_ALL].sel({n.RULE: "otsu"}).sum() > 200
