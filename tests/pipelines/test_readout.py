"""Other numbers of donors than the ratio, against tables of pandas, and their correlation against SciPy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stores import add_tiles, make_store

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.readouts import parse_readout, ranges, statistic_of
from fintune_xr.analysis.report.contents import Section, Table, all_parts
from fintune_xr.errors import FintuneValueError, SettingsError, UnknownNameError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.report.report import report, report_sections
from fintune_xr.pipelines.steps.associate import association_doubt
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.group_tests import compare_groups, group_doubt
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.pipelines.steps.readout import associate_readout, readout_doubt
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.zarr_io.groups import open_column, remove_group

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


def test_columns_that_are_an_outcome_in_another_spelling_are_named(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spelt = tmp_path / "spelt.csv"
    spelt.write_text("projid,nft,GPATH\n" + "".join(f"d{donor},{donor},{9 - donor}\n" for donor in range(DONORS)))
    associate_readout(cohort.url, readout="count", clinical=spelt, replace=True)
    assert "column 'GPATH' is not taken for the outcome 'gpath'" in capsys.readouterr().err


def readouts_of_report(cohort: Cohort) -> Section:
    return next(one for one in report_sections(cohort) if one.key == "readouts")


def tables_of_report(cohort: Cohort) -> dict[str, pd.DataFrame]:
    return {part.key: part.data for part in all_parts(readouts_of_report(cohort).parts) if isinstance(part, Table)}


@pytest.fixture
def own(cohort: Cohort, tmp_path: Path) -> Cohort:
    """A copy of the cohort that a test may change, with a readout and nothing else of the donors."""
    shutil.copytree(cohort.location.path, tmp_path / "c.zarr")
    shutil.copy(clinical(cohort), tmp_path)
    found = open_cohort(tmp_path / "c.zarr")
    associate_readout(found.url, readout="mean:area", clinical=clinical(found), replace=True)
    return found


def test_the_report_shows_readouts(own: Cohort) -> None:
    for name in own.names_under(n.READOUTS):
        if name != "mean_area_px":
            remove_group(own.location, f"{n.READOUTS}/{name}")
    section, tables = readouts_of_report(own), tables_of_report(own)
    stored = own.read(f"{n.READOUTS}/mean_area_px")
    assert not section.stale
    shown = tables["readouts"].set_index(n.MARKER)
    for marker in ("GFAP", "IBA1"):
        assert shown.loc[marker, n.RHO] == float(stored[n.RHO].sel({n.MARKER: marker}).squeeze())
    assert len(tables["readout_values"]) == 2 * DONORS
    assert [note.text for note in section.findings] == ["Readout mean:area: none of 2 associations has q < 0.05."]
    page = report(own.url).read_text()
    assert "d0: " in page
    assert "mean:area (px)" in page


def test_a_readout_of_other_cells_is_out_of_date(own: Cohort, no_pictures: None) -> None:
    infer(own.url, run="base", model="threshold", restart=True, overrides=(
        "device=cpu", "cluster.dashboard=false", "model.sigma_px=3"))  # fmt: skip
    stale = {one.what: one for one in readouts_of_report(own).stale}
    assert stale["the readout mean:area"].reason == "run base has been made anew"
    assert stale["the readout mean:area"].command.endswith("--readout mean:area")
    assert not tables_of_report(own)


def test_a_readout_of_other_tiles_is_out_of_date(own: Cohort) -> None:
    path = f"{n.READOUTS}/mean_area_px"
    assert not readout_doubt(own, own.read(path))
    add_tiles(own, ["d0/GFAP/099"])
    assert "1 of 25 tiles pending" in readout_doubt(own, own.read(path))
    infer(own.url, run="base", overrides=("device=cpu", "cluster.dashboard=false"))
    assert "cells, donors or the tiles" in readout_doubt(own, own.read(path))
    unknown = own.read(path)
    del unknown.attrs[n.RESTS_ON]
    assert "without a record" in readout_doubt(own, unknown)


def test_a_density_rests_on_the_size_of_pixels(own: Cohort) -> None:
    for um in (UM, 2 * UM):
        open_column(own.location, f"{n.IMAGES}/{n.MPP}")[:] = um
        if um == UM:
            associate_readout(own.url, readout="density", clinical=clinical(own))
    assert readout_doubt(own, own.read(f"{n.READOUTS}/density")) == "the size of pixels is another one now"
    assert not readout_doubt(own, own.read(f"{n.READOUTS}/mean_area_px"))


def grouped(cohort: Cohort, where: Path) -> Path:
    """A clinical table with two groups of text, and three subjects at two times."""
    path = where / "groups.csv"
    rows = "".join(f"d{i},{'AD' if i % 2 else 'control'},{i % 2},s{i // 2}\n" for i in range(DONORS))
    path.write_text(f"projid,diagnosis,visit,whose\n{rows}")
    return path


def test_groups_are_compared_by_the_ratio_and_by_readouts(
    own: Cohort, cells: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["associate", own.url, "--clinical", str(grouped(own, tmp_path)), "--group", "diagnosis=control,AD"]
    assert command([*arguments, "--readout", "mean:area"]) == 0
    assert "Mann-Whitney U" in capsys.readouterr().out
    assert command(arguments) == 0
    assert not own.has(n.ANALYSIS)
    stored = own.read(f"{n.GROUP_TESTS}/mean_area_px", datasets.GROUP_TESTS)
    area = cells.groupby(["donor", "marker"])["area_px"].mean().unstack()
    for marker in ("GFAP", "IBA1"):
        one = area[marker].to_numpy()
        expected = stats.mannwhitneyu(one[1::2], one[::2], method="exact")
        found = stored.sel({n.MARKER: marker}).squeeze()
        assert (found[n.TEST_STATISTIC].item(), found[n.P].item()) == (
            expected.statistic,
            pytest.approx(expected.pvalue),
        )
    section = next(one for one in report_sections(own) if one.key == "groups")
    shown = next(part for part in all_parts(section.parts) if isinstance(part, Table)).data
    assert sorted(set(shown[n.READOUT])) == ["mean:area", "ratio"]
    assert not section.stale
    assert "d1 (AD): " in report(own.url).read_text()
    assert command([*arguments, "--subject", "whose"]) == 2
    assert "independent donors that this call would throw away" in capsys.readouterr().err
    infer(own.url, run="base", model="threshold", restart=True, overrides=(
        "device=cpu", "cluster.dashboard=false", "model.sigma_px=3"))  # fmt: skip
    section = next(one for one in report_sections(own) if one.key == "groups")
    assert {one.reason for one in section.stale} == {"run base has been made anew"}


def test_repeats_of_subjects(own: Cohort, cells: pd.DataFrame, tmp_path: Path) -> None:
    table = grouped(own, tmp_path)
    found = compare_groups(own.url, groups=["visit"], subject="whose", readout="count", clinical=table)
    count = cells.groupby(["donor", "marker"]).size().unstack()["GFAP"].to_numpy()
    one = found.sel({n.MARKER: "GFAP"}).squeeze()
    change = count[1::2] - count[::2]
    assert one[n.N].item() == 3
    ranks = stats.rankdata(np.abs(change[change != 0]))
    assert one[n.TEST_STATISTIC].item() == ranks[change[change != 0] > 0].sum()


def test_a_ratio_by_another_rule_is_out_of_date(own: Cohort, tmp_path: Path) -> None:
    table = grouped(own, tmp_path)
    compare_groups(own.url, groups=["diagnosis"], clinical=table)
    assert not group_doubt(own, own.read(f"{n.GROUP_TESTS}/ratio"))
    positivity(own.url, run="base", rule="mixture")
    assert group_doubt(own, own.read(f"{n.GROUP_TESTS}/ratio")) == "positive cells are counted with another rule now"


def test_a_clinical_table_with_other_values_is_noticed_by_all_that_rests_on_them(
    own: Cohort, no_pictures: None, tmp_path: Path
) -> None:
    first = tmp_path / "first.csv"
    rows = [(f"d{i}", "AD" if i % 2 else "control", value) for i, value in enumerate((3.0, 1.0, 4.0, 1.5, 9.0, 2.6))]
    first.write_text("projid,diagnosis,nft,age\n" + "".join(f"{who},{of},{value},80\n" for who, of, value in rows))
    arguments = ["associate", own.url, "--clinical", str(first)]
    assert command([*arguments, "--outcome", "nft", "--replace"]) == 0
    assert command([*arguments, "--outcome", "nft", "--readout", "count", "--replace"]) == 0
    assert command([*arguments, "--group", "diagnosis=control,AD", "--readout", "count", "--replace"]) == 0

    def doubts() -> list[str]:
        stored = (own.analysis(), own.read(f"{n.READOUTS}/count"), own.read(f"{n.GROUP_TESTS}/count"))
        doubt_of = (association_doubt, readout_doubt, group_doubt)
        return [doubt(own, one) for doubt, one in zip(doubt_of, stored, strict=True)]

    assert doubts() == ["", "", ""]
    # Written anew with more columns, another order and spelling, it says the same.
    same = tmp_path / "same.csv"
    same.write_text("nft,projid,sex,diagnosis\n" + "".join(f"{v:.2f},{who},1,{of}\n" for who, of, v in rows[::-1]))
    compare_groups(own.url, groups=["diagnosis"], clinical=same, readout="mean:area", replace=True)
    assert doubts() == ["", "", ""]
    diagnosed = tmp_path / "diagnosed.csv"
    diagnosed.write_text(same.read_text().replace("d5,1,AD", "d5,1,control"))
    compare_groups(own.url, groups=["diagnosis"], clinical=diagnosed, readout="mean:area", replace=True)
    other = "column {} of the clinical table has other values in {}, which was given last"
    assert doubts() == ["", "", other.format("diagnosis", "diagnosed.csv")]
    counted = tmp_path / "counted.csv"
    counted.write_text(first.read_text().replace("9.0", "0.9"))
    associate_readout(own.url, readout="mean:area", clinical=counted, outcomes=["nft"], replace=True)
    old = other.format("nft", "counted.csv")
    assert doubts() == [old, old, ""]
    stale = {one.what: one for section in report_sections(own) for one in section.stale}
    told = {what: one.command.removeprefix("fintune-xr associate STORE --clinical ") for what, one in stale.items()}
    assert told["the readout count"] == "first.csv --outcome nft --readout count"
    assert any(command == "first.csv --outcome nft" for command in told.values())
    compare_groups(own.url, groups=["diagnosis=control,AD"], clinical=diagnosed, readout="mean:area", replace=True)
    stale = {one.what: one for section in report_sections(own) for one in section.stale}
    assert stale["the groups of donors by the readout count"].command == (
        "fintune-xr associate STORE --clinical first.csv --group diagnosis=control,AD --readout count"
    )


def test_options_that_say_nothing_together(own: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["associate", own.url, "--clinical", str(grouped(own, tmp_path))]
    for extra in (
        ["--group", "diagnosis", "--covariate", "visit"],
        ["--subject", "whose"],
        ["--group", "diagnosis", "--subject", "whose", "--outcome", "visit"],
    ):
        assert command([*arguments, *extra]) == 2
    said = capsys.readouterr().err
    assert "rank tests of --group are not adjusted" in said
    assert "correlates over independent donors" in said


def test_readouts_need_no_positive_cells(own: Cohort) -> None:
    expected = associate_readout(own.url, readout="count", clinical=clinical(own), replace=True)
    remove_group(own.location, f"{n.POSITIVITY}/base")
    found = associate_readout(own.url, readout="count", clinical=clinical(own))
    np.testing.assert_array_equal(found[n.READOUT], expected[n.READOUT])


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
