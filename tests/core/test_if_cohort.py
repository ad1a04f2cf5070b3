"""The simulated cohort: its files, its truth, and that it repeats itself to the byte."""

from __future__ import annotations

import hashlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from fintune_xr.errors import FintuneValueError
from fintune_xr.seeds import stream
from fintune_xr.simulation.if_cohort import (
    DONOR_COLUMN,
    LINKED_OUTCOME,
    OUTCOMES,
    CohortSettings,
    SimulatedCohort,
    _annotated,
    _planned_tiles,
    clinical_table,
    simulate_cohort,
)
from fintune_xr.simulation.phantoms import phantom_tile

SMALL = CohortSettings(n_donors=4, tile_px=96, n_annotated=6, tiles_per_donor=(1, 3), seed=5)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> SimulatedCohort:
    return simulate_cohort(tmp_path_factory.mktemp("cohort"), settings=SMALL)


def _truth(cohort: SimulatedCohort) -> pd.DataFrame:
    return pd.read_csv(cohort.truth, dtype={"donor": str})


def _files(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_every_true_tile_has_both_planes_and_a_metadata_file(cohort: SimulatedCohort) -> None:
    for row in _truth(cohort).itertuples():
        folder = cohort.source / row.donor / row.marker
        for channel in (0, 1):
            plane = tifffile.imread(folder / f"{row.tile}_b0c{channel}.tif")
            assert plane.shape == (96, 96)
            assert plane.dtype == np.uint16
        ElementTree.parse(folder / f"{row.tile}_metadata.xml")


def test_masks_pair_by_stem_and_agree_with_the_truth(cohort: SimulatedCohort) -> None:
    truth = _truth(cohort)
    annotated = truth[truth.is_annotated]
    assert len(annotated) == 6
    assert len(list(cohort.annotations.rglob("*.tif"))) == 6
    for row in annotated.itertuples():
        mask = tifffile.imread(cohort.annotations / row.donor / row.marker / f"{row.tile}_masks.tif")
        assert mask.dtype == np.uint16
        assert set(np.unique(mask)) == set(range(row.n_all + 1))


def test_positive_cells_never_outnumber_all_cells(cohort: SimulatedCohort) -> None:
    truth = _truth(cohort)
    assert (truth.n_positive <= truth.n_all).all()
    assert (truth.n_all > 0).all()


def test_damaged_files_cannot_be_read_or_lack_their_partner(cohort: SimulatedCohort) -> None:
    truncated, unpaired = cohort.damaged
    with pytest.raises(Exception, match=r"."):
        tifffile.imread(truncated)
    assert unpaired.is_file()
    assert not Path(str(unpaired).replace("b0c0", "b0c1")).exists()
    tiles = set(_truth(cohort).tile)
    assert truncated.name.removesuffix("_b0c1.tif") not in tiles
    assert unpaired.name.removesuffix("_b0c0.tif") not in tiles


def test_same_settings_give_the_same_bytes(cohort: SimulatedCohort, tmp_path: Path) -> None:
    again = simulate_cohort(tmp_path / "again", settings=SMALL)
    assert _files(again.folder) == _files(cohort.folder)


def test_another_seed_gives_other_images(cohort: SimulatedCohort, tmp_path: Path) -> None:
    other = simulate_cohort(tmp_path, settings=SMALL.model_copy(update={"seed": 6}))
    assert not set(_files(other.folder).items()) & set(_files(cohort.folder / "source").items())


def test_an_existing_cohort_is_not_mixed_with_another(cohort: SimulatedCohort) -> None:
    with pytest.raises(FintuneValueError, match=r"source exists; .* Name an empty folder"):
        simulate_cohort(cohort.folder, settings=SMALL)


def test_clinical_table_has_text_ids_gaps_and_top_coded_ages() -> None:
    table = clinical_table(CohortSettings(n_donors=60))
    assert table[DONOR_COLUMN].str.fullmatch(r"\d{8}").all()
    assert table[DONOR_COLUMN].str.startswith("0").any()
    assert table[DONOR_COLUMN].is_unique
    assert (table.age_death == "90+").any()
    assert pd.to_numeric(table.age_death[table.age_death != "90+"]).max() < 90
    assert table[list(OUTCOMES)].isna().any().drop(LINKED_OUTCOME).all()
    assert table[LINKED_OUTCOME].notna().all()


def test_gpath_is_the_mean_of_its_three_parts_and_missing_without_one() -> None:
    table = clinical_table(CohortSettings(n_donors=60))
    parts = table[["plaq_d", "plaq_n", "nft"]].astype(float).to_numpy()
    np.testing.assert_allclose(table.gpath.astype(float), parts.mean(axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("braaksc", 0, 6), ("ceradsc", 1, 4), ("cogdx", 1, 6), ("dcfdx_lv", 1, 6), ("nft", 0, 20)],
)
def test_outcomes_stay_in_their_published_range(name: str, low: float, high: float) -> None:
    values = clinical_table(CohortSettings(n_donors=200))[name].dropna().astype(float)
    assert values.between(low, high).all()


@pytest.mark.slow
def test_only_the_linked_marker_follows_the_linked_outcome(tmp_path: Path) -> None:
    cohort = simulate_cohort(tmp_path)
    sums = _truth(cohort).groupby(["donor", "marker"])[["n_all", "n_positive"]].sum()
    ratio = (sums.n_positive / sums.n_all).unstack()
    clinical = pd.read_csv(cohort.clinical, dtype={DONOR_COLUMN: str}).set_index(DONOR_COLUMN)
    p = {}
    for marker in ratio:
        for name in OUTCOMES:
            outcome = clinical[name].reindex(ratio.index)
            known = outcome.notna()
            p[marker, name] = stats.spearmanr(ratio[marker][known], outcome[known]).pvalue
    linked = p.pop(("GFAP", LINKED_OUTCOME))
    p.pop(("GFAP", "gpath"))
    assert linked < 1e-4
    assert min(p.values()) > 0.05 / len(p)


def test_annotated_tiles_reach_every_donor() -> None:
    settings = CohortSettings(n_donors=12, n_annotated=30)
    tiles = list(_planned_tiles(settings, clinical_table(settings)))
    chosen = [tiles[index] for index in _annotated(settings, tiles)]
    assert len(chosen) == 30
    assert {tile.donor for tile in chosen} == {tile.donor for tile in tiles}
    assert len({(tile.donor, tile.marker) for tile in chosen}) == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiles_per_donor": (3, 2)}, "expected 1 <= fewest <= most, got 3 and 2"),
        ({"linked_marker": "NEUN"}, "linked_marker 'NEUN' is not among"),
        ({"n_donors": 1}, "greater than or equal to 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CohortSettings(**change)


@given(seed=st.integers(0, 2**32), marker=st.sampled_from(["GFAP", "IBA1", "OLIG2", "NEUN"]))
@settings(max_examples=15)
def test_labels_run_without_gaps_and_cells_are_whole(seed: int, marker: str) -> None:
    phantom = phantom_tile(stream(seed), marker=marker, ratio=0.4, tile_px=96)
    n_cells = phantom.is_positive.size
    area = np.bincount(phantom.mask.ravel(), minlength=n_cells + 1)
    assert phantom.mask.max() == n_cells
    assert (area[1:] >= 40).all()
    for label in range(1, n_cells + 1):
        sizes = np.bincount(ndimage.label(phantom.mask == label)[0].ravel())[1:]
        assert sizes.max() >= 0.95 * sizes.sum()


def test_positive_cells_are_brighter_than_negative_ones_but_not_without_overlap() -> None:
    bright, dim = [], []
    for index in range(6):
        phantom = phantom_tile(stream(3, index), marker="GFAP", ratio=0.4, tile_px=256)
        means = ndimage.mean(phantom.image[1], phantom.mask, np.arange(1, phantom.is_positive.size + 1))
        bright.extend(means[phantom.is_positive])
        dim.extend(means[~phantom.is_positive])
    assert stats.mannwhitneyu(bright, dim, alternative="greater").statistic > 0.9 * len(bright) * len(dim)
    assert min(bright) < max(dim)


def test_ratio_zero_and_one_are_exact() -> None:
    assert not phantom_tile(stream(1), marker="IBA1", ratio=0.0, tile_px=96).is_positive.any()
    assert phantom_tile(stream(1), marker="IBA1", ratio=1.0, tile_px=96).is_positive.all()
