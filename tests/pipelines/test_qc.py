"""How tiles were taken: what is unusual, what a rule leaves out and gives back, and batches made equally bright."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from stores import add_tiles, make_store

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.analysis import quality as measures
from fintune_xr.analysis.quality import batch_scale, measured_tiles, unusual
from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.instance import cell_blocks
from fintune_xr.pipelines.report.instance import tiles_section
from fintune_xr.pipelines.steps import qc as step
from fintune_xr.pixels.tile_quality import tile_quality
from fintune_xr.store.lineage.exclusion import excluded_tiles
from fintune_xr.store.lineage.tile_counts import tile_counts
from fintune_xr.text import texts

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(DATA / "cells.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def quality(intensity: list[float], *, batch: list[str] | None = None, **more: list[float]) -> xr.Dataset:
    """Tiles of one marker and channel, two of each donor, with an intensity; the other measures are the same in all."""
    size = len(intensity)
    same = {n.BACKGROUND: 10.0, n.FOCUS: 0.3, n.SATURATION: 0.0}
    values = {name: more.get(name, [value] * size) for name, value in same.items()} | {n.INTENSITY: intensity}
    return xr.Dataset(
        {name: ((n.TILE, n.CHANNEL), np.array(one)[:, None]) for name, one in values.items()}
        | {n.CELL_SIZE_PX: (n.TILE, np.full(size, np.nan))},
        coords={
            n.TILE: [f"t{i}" for i in range(size)],
            n.DONOR: (n.TILE, [f"d{i // 2}" for i in range(size)]),
            n.MARKER: (n.TILE, ["GFAP"] * size),
            n.BATCH: (n.TILE, batch or [""] * size),
            n.CHANNEL: ["marker"],
        },
    )


def test_the_modified_z_is_that_of_the_book() -> None:
    """Median of the logarithms is 5 and their median distance 0.2; 6.5 lies 0.6745 * 1.5 / 0.2 = 5.06 away."""
    found = unusual(quality(list(np.expm1([4.8, 4.8, 5.0, 5.0, 5.2, 5.2, 6.5]))))
    assert found["unit"].tolist() == ["t6"]
    assert found["z"].tolist() == pytest.approx([0.6745 * 1.5 / 0.2])
    assert found["usual"].tolist() == pytest.approx([np.expm1(5.0)])


def test_what_is_alike_and_what_are_few_have_no_outliers() -> None:
    assert unusual(quality([100.0] * 9 + [103.0])).empty
    assert unusual(quality([100.0, 101.0, 99.0, 5000.0])).empty


def test_donors_are_compared_with_donors() -> None:
    values = [100, 110, 90, 105, 100, 95, 108, 99, 102, 101, 300, 310]
    assert unusual(quality([float(v) for v in values]), n.DONOR)["unit"].tolist() == ["d5"]


def test_clipping_counts_by_itself_and_sharpness_does_not() -> None:
    clipped = unusual(quality([100.0] * 6, saturation=[0.0, 0.0, 0.02, 0.0, 0.0, 0.0]))
    assert clipped["unit"].tolist() == ["t2"]
    focus = [0.3, 0.31, 0.29, 0.3, 0.02, 0.9]
    assert unusual(quality([100.0] * 6, focus=focus))["unit"].tolist() == ["t4"]


def test_batches_are_made_equally_bright() -> None:
    found = batch_scale(quality([110, 110, 110, 210, 210, 210], batch=list("AAABBB")))
    np.testing.assert_allclose(found.values[:, 0], [100 / 150] * 3 + [200 / 150] * 3)
    assert (batch_scale(quality([110.0, 60.0, 500.0])) == 1).all()


def test_measures_are_lazy_and_leave_out_what_fills_smaller_tiles_up(tmp_path: Path, no_compute: None) -> None:
    images = make_store(tmp_path / "a.zarr", donors=1).images()
    lazy = measured_tiles(images)
    assert all(array.chunks for array in lazy.values())
    images = images.assign_coords({n.HEIGHT: (n.TILE, [40, 64])}).load(scheduler="synchronous")
    found = measured_tiles(images.chunk({n.TILE: 1})).load(scheduler="synchronous")
    expected = tile_quality(images[n.IMAGE].values[0, :, :40])
    np.testing.assert_allclose([found[name].values[0] for name in step.MEASURES], expected.T)


def test_a_kill_loses_the_tiles_in_flight_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "a.zarr"
    cohort = make_store(store, donors=3, tiles=2)
    measured: list[str] = []

    def counting(images: xr.Dataset) -> xr.Dataset:
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.extend(texts(images[n.TILE]))
        return measured_tiles(images)

    monkeypatch.setattr(step, "TILES_AT_ONCE", 2)
    monkeypatch.setattr(step, "SECONDS_BETWEEN_COMMITS", 0.0)
    monkeypatch.setattr(step, "measured_tiles", counting)
    with pytest.raises(KeyboardInterrupt):
        fx.qc(store)
    first, measured[:] = list(measured), []
    assert cohort.read(n.QC).sizes[n.TILE] == 4
    resumed = fx.qc(store)
    assert measured == [tile for tile in texts(cohort.images()[n.TILE]) if tile not in first]
    monkeypatch.setattr(step, "measured_tiles", measured_tiles)
    xr.testing.assert_identical(resumed.load().drop_attrs(), fx.qc(store, restart=True).load().drop_attrs())


def test_a_rule_leaves_tiles_out_is_told_and_is_taken_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Five tidy donors hold nothing unusual.
    monkeypatch.setattr(measures, "UNUSUAL", 1.0)
    store, clinical = folder / "a.zarr", folder / "clinical.csv"
    cohort = fx.open_cohort(store)
    before = fx.associate(store, clinical=clinical, runs=["a"])
    found = fx.qc(store, run="a", exclude=["intensity", "background", "focus"])
    left_out = found[n.EXCLUDED].values
    assert 0 < left_out.sum() < left_out.size
    assert all(bool(reason) for reason in np.array(texts(found[n.REASON]))[left_out])
    np.testing.assert_array_equal(tile_counts(cohort, ["a"])[n.N_ALL].values[0] == -1, left_out)
    after = fx.associate(store, clinical=clinical, runs=["a"])
    assert after.attrs[n.EXCLUDED]["measures"] == ["intensity", "background", "focus"]
    assert int(after[n.N_TILES].sum()) == int(before[n.N_TILES].sum()) - left_out.sum()
    np.testing.assert_array_equal(after[n.RHO_OF_ALL_TILES], before[n.RHO])
    section = tiles_section(cohort)
    assert "with_and_without_drift" in [getattr(part, "key", "") for part in section.parts]
    assert f"{left_out.sum()} tile" in section.findings[0].text
    fx.qc(store, exclude=["nothing"])
    again = fx.associate(store, clinical=clinical, runs=["a"])
    np.testing.assert_array_equal(again[n.RHO], before[n.RHO])
    assert not again.attrs[n.EXCLUDED]
    # Cells of the run were measured once and stay, rule or no rule.
    assert np.isfinite(cohort.read(n.QC)[n.CELL_SIZE_PX].values).all()


def test_cell_sizes_are_medians_of_whole_tiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_blocks, "CELLS_PER_BLOCK", 2)
    cohort = fx.open_cohort(folder / "a.zarr")
    found = fx.qc(folder / "a.zarr", run="a")[n.CELL_SIZE_PX].values
    cells = cohort.cells("a", lazy=False).load()
    frame = pd.DataFrame({"tile": cells[n.TILE_INDEX].values, "area": cells[n.AREA_PX].values})
    np.testing.assert_array_equal(found, frame.groupby("tile")["area"].median().to_numpy())


def test_tiles_that_came_in_since_are_held_against_the_rule_first(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=3)
    fx.qc(cohort.url, exclude=["focus"])
    add_tiles(cohort, ["d9/GFAP/000"])
    with pytest.raises(FintuneValueError, match="not held against it"):
        excluded_tiles(cohort)
    fx.qc(cohort.url)
    assert excluded_tiles(cohort).size == 7


def test_normalised_signals_undo_the_brightness_of_a_batch(folder: Path) -> None:
    """Thresholds lie in the counts of each tile: a batch of twice the scale has twice the threshold."""
    store = folder / "a.zarr"
    cohort = fx.open_cohort(store)
    donors = sorted(set(texts(cohort.images()[n.DONOR])))
    table = folder / "batches.csv"
    pd.DataFrame({"donor": donors, "batch": ["A", "A", "B", "B", "B"]}).to_csv(table, index=False)
    found = fx.qc(store, batches=table)
    assert found.attrs[n.VERSION]["number"] == 1
    fx.positivity(store, run="a", rule="fixed", threshold=50, normalise=True)
    counts = cohort.positivity("a").sel({n.RULE: "fixed_50"})
    scale = found[n.SCALE].sel({n.CHANNEL: "marker"}).values
    np.testing.assert_allclose(counts[n.THRESHOLD], 50 * scale, rtol=1e-6)
    assert len(set(scale.tolist())) == 2
    pd.DataFrame({"donor": donors, "batch": ["A", "B", "B", "A", "B"]}).to_csv(table, index=False)
    assert fx.qc(store, batches=table).attrs[n.VERSION]["number"] == 2
    with pytest.raises(FintuneValueError, match=r"version 1.*Count again"):
        tile_counts(cohort, ["a"])


def test_the_verb_names_what_is_unusual(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["qc", str(folder / "a.zarr"), "--exclude", "intensity", "focus"]) == 0
    told = capsys.readouterr().out
    assert "left out of ratios: |modified z| > 3.5 of intensity, focus" in told
    with pytest.raises(UnknownNameError, match="Did you mean 'focus'"):
        fx.qc(folder / "a.zarr", exclude=["focsu"])
    with pytest.raises(FintuneValueError, match="takes the rule back and stands alone"):
        fx.qc(folder / "a.zarr", exclude=["nothing", "focus"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("donor,lot\na,b\n", "expected a column batch"),
        ("donor,batch\n1,A\n1,B\n", "stands there twice"),
        ("donor,batch\nnobody,A\n", "none of its 1 rows"),
    ],
)
def test_tables_of_batches_that_cannot_be_meant(tmp_path: Path, text: str, message: str) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=1)
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(FintuneValueError, match=message):
        fx.qc(cohort.url, batches=tmp_path / "b.csv")
