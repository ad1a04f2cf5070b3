"""Other numbers of donors than the ratio, against tables of pandas, and their correlation against SciPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stores import make_store

from fintune_xr import names as n
from fintune_xr.analysis.readouts import parse_readout, ranges, statistic_of
from fintune_xr.errors import FintuneValueError, SettingsError, UnknownNameError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.readout import associate_readout
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.zarr_io.groups import open_column

DONORS = 6
UM = 0.5


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("readouts")
    cohort = make_store(folder / "c.zarr", donors=DONORS, tiles=4)
    infer(cohort.url, run="base", model="threshold", overrides=("device=cpu", "cluster.dashboard=false"))
    rows = "".join(f"d{donor},{value}\n" for donor, value in enumerate((3.0, 1.0, 4.0, 1.5, 9.0, 2.6)))
    (folder / "clinical.csv").write_text(f"projid,nft\n{rows}")
    return open_cohort(cohort.url)


def clinical(cohort: Cohort) -> Path:
    return cohort.location.path.parent / "clinical.csv"


@pytest.fixture(scope="module")
def cells(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path, _ = export(cohort.url, to="tables", out=tmp_path_factory.mktemp("tables"))
    return pd.read_parquet(path)


EXPECTED = {
    "mean:area": ("area_px", "mean"),
    "median:area_px": ("area_px", "median"),
    "median:mean_intensity.marker": ("mean_intensity_marker", "median"),
    "mean:mean_intensity.DAPI": ("mean_intensity_DAPI", "mean"),
}


@pytest.mark.parametrize("readout", EXPECTED)
def test_statistics_of_cells(cohort: Cohort, cells: pd.DataFrame, readout: str) -> None:
    found = associate_readout(cohort.url, readout=readout, clinical=clinical(cohort))
    column, statistic = EXPECTED[readout]
    expected = cells.astype({column: float}).groupby(["donor", "marker"])[column].agg(statistic).unstack()
    np.testing.assert_allclose(found[n.READOUT].sel({n.RUN: "base"}), expected, rtol=1e-6)
    outcome = pd.read_csv(clinical(cohort))["nft"]
    for marker in ("GFAP", "IBA1"):
        rho = stats.spearmanr(expected[marker].to_numpy(), outcome).statistic
        assert float(found[n.RHO].sel({n.MARKER: marker, n.OUTCOME: "nft"}).squeeze()) == pytest.approx(rho)
    stored = cohort.read(f"{n.READOUTS}/{parse_readout(readout).name}")
    np.testing.assert_array_equal(stored[n.READOUT], found[n.READOUT])
    assert stored.attrs[n.READOUT] == readout


def test_counts_are_per_tile(cohort: Cohort, cells: pd.DataFrame) -> None:
    found = associate_readout(cohort.url, readout="count", clinical=clinical(cohort))
    expected = cells.groupby(["donor", "marker"]).size().unstack() / 2
    np.testing.assert_allclose(found[n.READOUT].sel({n.RUN: "base"}), expected)


def test_densities_need_the_size_of_pixels(cohort: Cohort, cells: pd.DataFrame) -> None:
    with pytest.raises(FintuneValueError, match=r"24 of 24 tiles .* do not tell the size"):
        associate_readout(cohort.url, readout="density", clinical=clinical(cohort))
    open_column(cohort.location, f"{n.IMAGES}/{n.MPP}")[:] = UM
    found = associate_readout(cohort.url, readout="density", clinical=clinical(cohort))
    area_mm2 = 2 * 64 * 64 * UM**2 / 1e6
    expected = cells.groupby(["donor", "marker"]).size().unstack() / area_mm2
    np.testing.assert_allclose(found[n.READOUT].sel({n.RUN: "base"}), expected)
    assert found[n.READOUT].attrs["units"] == "mm-2"


def test_the_command_and_its_doors(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["associate", cohort.url, "--clinical", str(clinical(cohort)), "--readout"]
    assert command([*arguments, "mean:area"]) == 0
    assert "nft" in capsys.readouterr().out
    assert command([*arguments, "mean:aera"]) == 2
    assert "Did you mean 'mean:area'?" in capsys.readouterr().err
    assert not cohort.has(n.ANALYSIS)
    for wrong in ("sum:area", "mean:area.marker", "mean:mean_intensity", "", "mean:"):
        with pytest.raises(SettingsError, match="--readout"):
            parse_readout(wrong)
    with pytest.raises(UnknownNameError, match="no channel 'GFAP'; known: DAPI, marker"):
        associate_readout(cohort.url, readout="mean:mean_intensity.GFAP", clinical=clinical(cohort))


def test_narrower_values_do_not_replace_stored_ones(cohort: Cohort, tmp_path: Path) -> None:
    two = tmp_path / "two.csv"
    two.write_text("projid,nft,gpath\n" + "".join(f"d{donor},{donor},{9 - donor}\n" for donor in range(DONORS)))
    associate_readout(cohort.url, readout="median:area", clinical=two, replace=True)
    with pytest.raises(FintuneValueError, match="outcomes gpath"):
        associate_readout(cohort.url, readout="median:area", clinical=two, outcomes=["nft"])
    found = associate_readout(cohort.url, readout="median:area", clinical=two, outcomes=["nft"], replace=True)
    assert found.sizes[n.OUTCOME] == 1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_ranges_hold_the_cells_of_their_tiles(counts: list[int], data: st.DataObject) -> None:
    last = np.cumsum(counts)
    first = last - counts
    rows = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=len(counts), max_size=len(counts))))
    expected = [cell for row in rows for cell in range(first[row], last[row])]
    found = list(ranges(rows, first, last))
    assert [cell for one in found for cell in range(one.start, one.stop)] == expected
    assert all(one.stop > one.start for one in found)


def test_a_statistic_of_nothing_is_missing() -> None:
    assert np.isnan(statistic_of(np.array([np.nan]), "mean"))
    assert statistic_of(np.array([1.0, np.nan, 4.0, 5.0]), "median") == 4
