"""Shares of cells that are positive in several channels at once, against counts of plain NumPy and the ratio itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from measuring import set_sides
from scipy import stats
from stores import make_store

from fintune_xr import names as n
from fintune_xr.analysis.positivity.counting import apply_rules
from fintune_xr.analysis.positivity.joint import joint_counts
from fintune_xr.analysis.positivity.rules import FixedRule, OtsuDonorRule, OtsuRule
from fintune_xr.analysis.readouts import parse_readout
from fintune_xr.errors import SettingsError, UnknownNameError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.associate import associate
from fintune_xr.pipelines.steps.group_tests import compare_groups
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.readout import associate_readout, readout_doubt
from fintune_xr.store.cohort import Cohort, open_cohort

RNG = np.random.default_rng(3)
CHANNELS = ["DAPI", "marker", "IBA1"]
N_TILES = 12


def blocks_and_tiles(n_cells: int = 900) -> tuple[xr.Dataset, xr.Dataset]:
    """Cells of three channels in two groups each, of four donors and two markers; one tile has no background."""
    index = np.sort(RNG.integers(0, N_TILES - 1, n_cells)).astype(np.int32)
    bright = RNG.random((n_cells, 3)) < (0.5, 0.3, 0.4)
    intensity = np.where(bright, RNG.normal(700, 60, (n_cells, 3)), RNG.normal(150, 25, (n_cells, 3)))
    background = np.full((N_TILES, 3), 90, np.float32)
    background[2, 2] = np.nan
    counts = np.bincount(index, minlength=N_TILES).astype(np.int32)
    counts[5] = -1
    tiles = xr.Dataset(
        {n.N_CELLS: (n.TILE, counts), n.BACKGROUND: ((n.TILE, n.CHANNEL), background)},
        {
            n.CHANNEL: CHANNELS,
            n.TILE: [f"t{at}" for at in range(N_TILES)],
            n.DONOR: (n.TILE, [f"d{at % 4}" for at in range(N_TILES)]),
            n.MARKER: (n.TILE, [f"m{at // 6}" for at in range(N_TILES)]),
        },
    )
    cells = xr.Dataset(
        {
            n.TILE_INDEX: (n.CELL, index),
            n.MEAN_INTENSITY: ((n.CELL, n.CHANNEL), intensity.astype(np.float32)),
            n.REGION_CODE: (n.CELL, np.where(intensity[:, 0] > 400, 1, 2).astype(np.float32)),
        },
        {n.CHANNEL: CHANNELS},
    )
    return cells, tiles


@pytest.mark.parametrize("size", [37, 10_000])
@pytest.mark.parametrize("region", [None, 2])
def test_cells_above_both_thresholds(size: int, region: int | None) -> None:
    cells, tiles = blocks_and_tiles()

    def blocks() -> list[xr.Dataset]:
        return [cells.isel({n.CELL: slice(at, at + size)}) for at in range(0, cells.sizes[n.CELL], size)]

    conditions = [("marker", FixedRule(threshold=200.0)), ("IBA1", FixedRule(threshold=310.0))]
    found = joint_counts(blocks, tiles, conditions=conditions, region=region)
    signal = cells[n.MEAN_INTENSITY].values - tiles[n.BACKGROUND].values[cells[n.TILE_INDEX].values]
    chosen = np.ones(len(signal), bool) if region is None else cells[n.REGION_CODE].values == region
    both = chosen & (signal[:, 1] > 200) & (signal[:, 2] > 310)
    for name, which in ((n.N_ALL, chosen), (n.N_POSITIVE, both)):
        expected = np.bincount(cells[n.TILE_INDEX].values[which], minlength=N_TILES)
        expected[[2, 5]] = -1
        assert found[name].values.tolist() == expected.tolist()
    assert found[n.REASON].values[2] == "no background in a channel"
    assert found[n.REASON].values[5] == "the tile is not done"
    assert 0 < found[n.N_POSITIVE].sum() < found[n.N_ALL].sum()


@pytest.mark.parametrize("rule", [OtsuRule(), OtsuDonorRule(), FixedRule(threshold=250.0)], ids=lambda one: one.name)
def test_of_one_channel_it_is_the_rule_itself(rule: OtsuRule) -> None:
    cells, tiles = blocks_and_tiles()
    expected = apply_rules(lambda: [cells], tiles, rules=[rule]).isel({n.RULE: 0})
    found = joint_counts(lambda: [cells], tiles, conditions=[("marker", rule)])
    known = found[n.N_POSITIVE].values >= 0
    np.testing.assert_array_equal(found[n.N_POSITIVE], expected[n.N_POSITIVE])
    np.testing.assert_array_equal(found[n.N_ALL].values[known], expected[n.N_ALL].values[known])
    twice = joint_counts(lambda: [cells], tiles, conditions=[("marker", rule), ("marker", rule)])
    np.testing.assert_array_equal(twice[n.N_POSITIVE], found[n.N_POSITIVE])


def test_a_threshold_within_one_mode_is_named_by_marker_and_channel() -> None:
    cells, tiles = blocks_and_tiles(6000)
    rules = [(channel, OtsuRule()) for channel in CHANNELS]
    found = joint_counts(lambda: [cells], tiles, conditions=rules)
    assert found.attrs[n.THRESHOLD_DOUBTS] == {"otsu": {}}
    noise = cells[n.MEAN_INTENSITY].copy()
    noise[{n.CHANNEL: 2}] = RNG.normal(500, 60, cells.sizes[n.CELL]).astype(np.float32)
    dark = cells.assign({n.MEAN_INTENSITY: noise})
    doubted = joint_counts(lambda: [dark], tiles, conditions=rules).attrs[n.THRESHOLD_DOUBTS]["otsu"]
    assert sorted(doubted) == ["m0 in channel IBA1", "m1 in channel IBA1"]
    fixed = [(channel, FixedRule(threshold=200.0)) for channel in CHANNELS]
    assert joint_counts(lambda: [dark], tiles, conditions=fixed).attrs[n.THRESHOLD_DOUBTS] == {"otsu": {}}


def test_too_few_cells_have_no_threshold() -> None:
    cells, tiles = blocks_and_tiles(15)
    found = joint_counts(lambda: [cells], tiles, conditions=[("marker", OtsuRule())])
    assert (found[n.N_POSITIVE].values[tiles[n.N_CELLS].values > 0] == -1).all()
    assert "fewer than 20 cells" in str(found[n.REASON].values.tolist())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("shares")
    cohort = make_store(folder / "c.zarr", donors=6, tiles=4)
    set_sides(cohort, 0.5)
    infer(cohort.url, run="base", model="threshold", overrides=("device=cpu", "cluster.dashboard=false"))
    values = (3.0, 1.0, 4.0, 1.5, 9.0, 2.6)
    rows = "".join(f"d{donor},{value},{'ab'[donor % 2]}\n" for donor, value in enumerate(values))
    (folder / "clinical.csv").write_text(f"projid,nft,sex\n{rows}")
    return open_cohort(cohort.url)


def clinical(cohort: Cohort) -> Path:
    return cohort.location.path.parent / "clinical.csv"


def test_the_share_of_one_marker_is_the_ratio(cohort: Cohort) -> None:
    ratio = associate(cohort.url, clinical=clinical(cohort))
    found = associate_readout(cohort.url, readout="share:marker", clinical=clinical(cohort))
    np.testing.assert_allclose(found[n.READOUT], ratio[n.RATIO])
    for name in (n.RHO, n.P, n.Q, n.N):
        np.testing.assert_array_equal(found[name], ratio[name])


def test_double_positives_of_donors(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    readout = "share:marker>250+DAPI>799.5"
    asked = ["associate", cohort.url, "--clinical", str(clinical(cohort)), "--readout", readout]
    assert command(asked) == 0
    assert "nft" in capsys.readouterr().out
    stored = cohort.read(f"{n.READOUTS}/share_marker_above_250+DAPI_above_799.5")
    cells, run = cohort.cells("base").compute(), cohort.run("base", lazy=False)
    signal = cells[n.MEAN_INTENSITY].values - run[n.BACKGROUND].values[cells[n.TILE_INDEX].values]
    both = (signal[:, 1] > 250) & (signal[:, 0] > 799.5)
    assert 0 < both.sum() < (signal[:, 1] > 250).sum() < len(both)
    frame = pd.DataFrame({"donor": cells.donor.values, "marker": cells.marker.values, "both": both})
    expected = frame.groupby(["donor", "marker"])["both"].mean().unstack()
    np.testing.assert_allclose(stored[n.READOUT].sel({n.RUN: "base"}), expected)
    outcome = pd.read_csv(clinical(cohort))["nft"]
    for marker in expected:
        rho = stats.spearmanr(expected[marker], outcome).statistic
        assert float(stored[n.RHO].sel({n.MARKER: marker}).squeeze()) == pytest.approx(rho)
    assert stored.attrs[n.READOUT] == parse_readout(readout).text == readout
    assert readout_doubt(cohort, stored) == ""
    tests = compare_groups(cohort.url, groups=["sex"], readout=readout, clinical=clinical(cohort))
    assert tests.sizes[n.OUTCOME] == 1


def test_the_doors(cohort: Cohort) -> None:
    with pytest.raises(UnknownNameError, match="no channel 'CD68'; known: DAPI, marker"):
        associate_readout(cohort.url, readout="share:marker+CD68", clinical=clinical(cohort))
    for wrong in ("share", "share:", "share:marker+", "share:marker+marker>3", "share:marker>x", "share:>3"):
        with pytest.raises(SettingsError, match="--readout"):
            parse_readout(wrong)
    assert parse_readout("share:marker+IBA1>1234567@cortex").text == "share:marker+IBA1>1234567@cortex"
