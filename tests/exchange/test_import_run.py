"""Masks of another program are a run like any other: counted as they are, judged, scored, correlated, reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from exchange import IMAGES, MASKS, RUN, TILES, exchange_store
from stores import make_store

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunMismatchError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.associate import associate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.import_run import NO_MASK, Imported, import_run
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.layouts import safe_name

THEIRS = {"run": "theirs", "made_by": "StarDist 0.9"}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return exchange_store(tmp_path / "c.zarr")


def masks(folder: Path, tiles: range = range(4)) -> Path:
    folder.mkdir()
    for at in tiles:
        tifffile.imwrite(folder / f"{safe_name(TILES[at])}_masks.tif", MASKS[at])
    return folder


def test_what_is_stored_is_what_was_given(cohort: Cohort, tmp_path: Path) -> None:
    made = import_run(masks(tmp_path / "m"), cohort.url, **THEIRS)
    assert made == Imported(4, 0, 0, ())
    run = cohort.run("theirs", lazy=False)
    cells = cohort.cells("theirs", lazy=False).load()
    rows = []
    for at, mask in enumerate(MASKS):
        np.testing.assert_array_equal(run[n.MASK].values[at][: mask.shape[0], : mask.shape[1]], mask)
        for label in np.unique(mask[mask > 0]):
            inside = mask == label
            rows.append((at, label, inside.sum(), IMAGES[at][1][inside].mean()))
    columns = (n.TILE_INDEX, n.LABEL, n.AREA_PX)
    np.testing.assert_array_equal(np.stack([cells[c].values for c in columns], axis=1), [row[:3] for row in rows])
    np.testing.assert_allclose(cells[n.MEAN_INTENSITY].values[:, 1], [row[3] for row in rows], rtol=1e-6)
    assert run.attrs[n.IDENTITY][n.IMPORTED] == run.attrs[n.PROVENANCE][n.IMPORTED] == "StarDist 0.9"
    assert run[n.N_POSITIVE].attrs[n.RULE] == "otsu"
    assert check(cohort.url) == []


def test_masks_without_an_object_are_told(cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = masks(tmp_path / "m")
    for at in (1, 2):
        tifffile.imwrite(folder / f"{safe_name(TILES[at])}_masks.tif", np.zeros_like(MASKS[at]))
    import_run(folder, cohort.url, **THEIRS)
    assert f"2 of 4 masks are empty, e.g. {TILES[1]}" in "".join(capsys.readouterr())


@pytest.mark.slow
def test_the_whole_way_without_a_model(cohort: Cohort, tmp_path: Path) -> None:
    import_run(masks(tmp_path / "m"), cohort.url, **THEIRS)
    (tmp_path / "c.csv").write_text("projid,nft\nd1,0.5\nd2,1.5\n")
    found = associate(cohort.url, clinical=tmp_path / "c.csv", runs=["theirs"])
    assert found[n.RATIO].sizes == {n.RUN: 1, n.DONOR: 2, n.MARKER: 2}
    assert evaluate(cohort.url, runs=["theirs"], split="all", resamples=10).sizes[n.RUN] == 1
    assert "theirs" in report(cohort.url, out=tmp_path / "r.html").read_text()


def test_an_exported_run_comes_back_as_itself(cohort: Cohort, tmp_path: Path) -> None:
    export(cohort.url, to="geojson", out=tmp_path, runs=[RUN])
    import_run(tmp_path / RUN, cohort.url, rest_lost=True, **THEIRS)
    first, second = (cohort.run(name, lazy=False).load() for name in (RUN, "theirs"))
    for name in (n.MASK, n.N_CELLS, n.STATE, n.BACKGROUND):
        done = first[n.STATE].values == n.DONE
        np.testing.assert_array_equal(first[name].values[done], second[name].values[done])
    pd.testing.assert_frame_equal(*(cohort.cells(one, lazy=False)[[n.TILE_INDEX, n.LABEL, n.AREA_PX]].to_dataframe()
                                    for one in (RUN, "theirs")))  # fmt: skip


def test_tiles_without_masks_wait_or_are_given_up(cohort: Cohort, tmp_path: Path) -> None:
    few = masks(tmp_path / "few", range(2))
    assert import_run(few, cohort.url, **THEIRS) == Imported(2, 0, 2, ())
    with pytest.raises(FintuneValueError, match=r"2 of 4 tiles pending.*fintune-xr import-run MASKS .* --run theirs"):
        (tmp_path / "c.csv").write_text("projid,nft\nd1,0.5\nd2,1.5\n")
        associate(cohort.url, clinical=tmp_path / "c.csv", runs=["theirs"])
    assert import_run(masks(tmp_path / "more", range(2, 3)), cohort.url, **THEIRS) == Imported(3, 0, 1, ())
    assert import_run(few, cohort.url, rest_lost=True, **THEIRS) == Imported(3, 1, 0, ())
    assert str(cohort.run("theirs", lazy=False)[n.REASON].values[3]) == NO_MASK
    assert check(cohort.url) == []


def test_masks_that_cannot_be_used_quarantine_their_tiles(cohort: Cohort, tmp_path: Path) -> None:
    folder = masks(tmp_path / "m")
    tifffile.imwrite(folder / f"{safe_name(TILES[2])}_masks.tif", MASKS[2][:-1])
    tifffile.imwrite(folder / "nobody_masks.tif", MASKS[2])
    arguments = ["import-run", str(folder), cohort.url, "--run", "theirs", "--made-by", "StarDist 0.9"]
    assert command(arguments) == 3
    run = open_cohort(cohort.url).run("theirs", lazy=False)
    assert run[n.STATE].values.tolist() == [n.DONE, n.DONE, n.QUARANTINED, n.DONE]
    assert "expected 64 x 80 as the tile, found 63 x 80" in str(run[n.REASON].values[2])


def test_another_maker_is_another_run(cohort: Cohort, tmp_path: Path) -> None:
    folder = masks(tmp_path / "m")
    import_run(folder, cohort.url, **THEIRS)
    with pytest.raises(RunMismatchError, match=r"imported: stored 'StarDist 0\.9', now 'Mesmer'"):
        import_run(folder, cohort.url, run="theirs", made_by="Mesmer")
    with pytest.raises(FintuneValueError, match="--made-by"):
        import_run(folder, cohort.url, run="other", made_by=" ")
    with pytest.raises(FintuneValueError, match="was not made by a model"):
        infer(cohort.url, run="theirs", overrides=("device=cpu",))


def test_reasons_of_masks_that_cannot_be_used_are_shown(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = masks(tmp_path / "m", range(3))
    wrong = folder / f"{safe_name(TILES[0])}_masks.tif"
    tifffile.imwrite(wrong, MASKS[0].astype(np.float32) / 2)
    arguments = ["import-run", str(folder), cohort.url, "--run", "theirs", "--made-by", "x", "--rest-lost"]
    assert command(arguments) == 3
    said = capsys.readouterr().out
    assert f"quarantined {TILES[0]}: {wrong.name}: " in said.replace(f"{folder}/", "")
    assert TILES[3] not in said, "it was given up on purpose"


@pytest.mark.parametrize("how", ["right", "upside down", "of other tiles"])
def test_masks_that_do_not_lie_on_the_images_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    store = make_store(tmp_path / "c.zarr", donors=6, tiles=1)
    infer(store.url, run="base", model="threshold", overrides=("device=cpu", "cluster.dashboard=false"))
    run = store.run("base", lazy=False)
    found = dict(zip(run[n.TILE].values.tolist(), run[n.MASK].values, strict=True))
    others = [*list(found.values())[1:], next(iter(found.values()))]
    (tmp_path / "m").mkdir()
    for (tile, mask), other in zip(found.items(), others, strict=True):
        saved = {"right": mask, "upside down": mask[::-1], "of other tiles": other}[how]
        tifffile.imwrite(tmp_path / f"m/{safe_name(tile)}_masks.tif", saved)
    capsys.readouterr()
    import_run(tmp_path / "m", store.url, run="x", made_by="x")
    said = capsys.readouterr().err
    assert ("lie on what the image shows only once they are mirrored upside down" in said) == (how == "upside down")
    assert ("Are they masks of other tiles" in said) == (how == "of other tiles")
