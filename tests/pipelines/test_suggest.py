"""Which tiles to annotate next: where masks disagree, spread over donors and markers, and never to judge by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from skimage.io import imsave
from stores import annotate, make_store, tile_names

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.suggest import disagreement
from fintune_xr.splits.assignment import split_digest
from fintune_xr.splits.spread import spread_order
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import split_column
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.text import texts

CPU = ("device=cpu", "cluster.dashboard=false")


def squares(*corners: int, size: int = 10) -> np.ndarray:
    mask = np.zeros((64, 64), np.uint32)
    for label, corner in enumerate(corners, 1):
        mask[corner : corner + size, corner : corner + size] = label
    return mask


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Five donors of four tiles; the first tile of each is annotated, d0 to d2 in train, d3 in val, d4 in test."""
    made = make_store(tmp_path_factory.mktemp("suggest") / "a.zarr", donors=5, tiles=4)
    annotate(made, {f"d{d}/GFAP/000": squares(8) for d in range(5)})
    parts = {f"d{d}/GFAP/000": part for d, part in enumerate([n.TRAIN, n.TRAIN, n.TRAIN, n.VAL, n.TEST])}
    column = split_column(made)
    column[:] = np.array([parts.get(tile, "") for tile in tile_names(5, 4)], np.dtypes.StringDType())
    column.attrs[n.DIGEST] = split_digest(parts)
    for run, floor in (("loose", 1), ("strict", 130)):
        more = [f"model.min_area_px={floor}", "model.background_px=0", *CPU]
        fx.infer(made.url, run=run, model="threshold", overrides=more)
    return made


def test_disagreement_by_hand() -> None:
    """Of three and two squares two are the same: F1 is 2 * 2 / (3 + 2) = 0.8."""
    three, two, nothing = squares(2, 20, 40), squares(20, 40), squares()
    assert disagreement([three, two]) == pytest.approx(0.2)
    assert disagreement([three, nothing]) == 1.0
    assert disagreement([nothing, nothing]) == 0.0
    assert disagreement([three, two, nothing]) == pytest.approx((0.2 + 1 + 1) / 3)


def test_markers_take_turns_and_donors_before_scores() -> None:
    names = ["a1", "a2", "b1", "a3", "b2"]
    order = spread_order(names, [9, 8, 1, 5, 4], ["A", "A", "B", "A", "B"], ["G", "G", "G", "I", "I"], n=4)
    # G takes A's best, I then prefers B, whom nobody has asked yet; G goes on with the donor asked least, by score.
    assert order == ["a1", "b2", "a2", "a3"]


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("GI"), st.floats(0, 1)), min_size=1, max_size=12),
    st.randoms(),
)
def test_the_order_is_nested_and_does_not_depend_on_how_tiles_come(
    rows: list[tuple[str, str, float]], random: object
) -> None:
    named = [(f"t{i}", *row) for i, row in enumerate(rows)]

    def order(given_: list[tuple[str, str, str, float]], size: int) -> list[str]:
        names, donors, markers, scores = (list(column) for column in zip(*given_, strict=True))
        return spread_order(names, scores, donors, markers, n=size)

    shuffled = list(named)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole = order(named, len(named))
    assert sorted(whole) == sorted(name for name, *_ in named)
    assert order(shuffled, len(named)) == whole
    assert all(order(named, size) == whole[:size] for size in range(1, len(named)))


def test_tiles_come_from_donors_that_judge_nothing(cohort: Cohort) -> None:
    found = fx.suggest(cohort.url, n_tiles=100)
    expected = {tile for tile in tile_names(3, 4) if not tile.endswith("GFAP/000")}
    assert set(texts(found[n.TILE])) == expected
    assert found.attrs["by"] == "runs"
    assert set(found.attrs[n.RESTS_ON]["runs"]) == {"loose", "strict"}
    few = fx.suggest(cohort.url, n_tiles=3)
    assert texts(few[n.TILE]) == texts(found[n.TILE])[:3]
    assert len(set(texts(few[n.DONOR]))) == 3
    assert set(texts(few[n.MARKER])) == {"GFAP", "IBA1"}
    assert fx.suggest(cohort.url, n_tiles=3, among=2).sizes[n.TILE] == 2


def test_disagreement_is_that_of_the_stored_masks(cohort: Cohort) -> None:
    found = fx.suggest(cohort.url, n_tiles=4, runs=["loose", "strict"])
    assert found[n.DISAGREEMENT].values.max() > 0
    runs = [cohort.run(name, lazy=False)[n.MASK] for name in ("loose", "strict")]
    for tile, value in zip(texts(found[n.TILE]), found[n.DISAGREEMENT].values, strict=True):
        assert value == pytest.approx(disagreement([run.sel(tile=tile).values for run in runs]))


def test_a_single_run_is_held_against_its_model_on_flipped_tiles(cohort: Cohort) -> None:
    """Thresholds know no direction: flipped tiles have the same cells but for ties between seeds."""
    found = fx.suggest(cohort.url, n_tiles=4, runs=["loose"])
    assert found.attrs["by"] == "flips"
    assert (found[n.DISAGREEMENT] <= 0.35).all()


def test_images_are_written_for_the_gui_and_its_masks_are_read_back(cohort: Cohort, tmp_path: Path) -> None:
    assert command(["suggest", cohort.url, "--n", "2", "--out", str(tmp_path)]) == 0
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 3
    assert "to_annotate.tsv" in files
    image = next(tmp_path.glob("*.tif"))
    pixels = tifffile.imread(image)
    assert pixels.shape == (3, 64, 64)
    assert not pixels[2].any()
    with pytest.raises(FintuneValueError, match="no file under"):
        fx.annotate(tmp_path, cohort.url, layout="cellpose", dry_run=True)
    imsave(image.with_name(f"{image.stem}_cp_masks.png"), squares(12).astype(np.uint16), check_contrast=False)
    assert fx.annotate(tmp_path, cohort.url, layout="cellpose", dry_run=True).n_added == 1


def test_without_a_split_nobody_knows_who_judges(tmp_path: Path) -> None:
    made = make_store(tmp_path / "a.zarr", donors=1)
    with pytest.raises(SplitError, match="no split yet"):
        fx.suggest(made.url)


def test_why_no_tile_is_left(cohort: Cohort) -> None:
    column = open_column(cohort.location, "runs/loose/state")
    before = column[:]
    try:
        column[:] = np.zeros_like(before)
        with pytest.raises(FintuneValueError, match="done with 0 of those"):
            fx.suggest(cohort.url, runs=["loose", "strict"])
    finally:
        column[:] = before
