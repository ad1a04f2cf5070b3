"""A split of micrographs of one data set: by tile, said to be weaker, and checked for leaks all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from em_files import centres, picture
from micrographs import make_micrographs

from fintune_xr import names as n
from fintune_xr.errors import SplitError, UnknownNameError
from fintune_xr.pipelines.cli.app import run
from fintune_xr.pipelines.leak_check.pairs import refuse_leaks
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.pick import pick
from fintune_xr.pipelines.steps.split import split
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.split import require_split, stored_by

FRACTIONS = (0.5, 0.25, 0.25)


def test_one_data_set_needs_a_split_by_tile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=("train",) * 8, px=64)
    with pytest.raises(SplitError, match=r"1 donor\(s\) cannot fill 3 parts; .*, or split by tile: --by tile"):
        split(cohort.url, fractions=FRACTIONS, force=True, by="donor")
    table = split(cohort.url, fractions=FRACTIONS, force=True, by="tile", seed=3)
    assert dict(zip(table[n.SPLIT], table["tiles"], strict=True)) == {"train": 4, "val": 2, "test": 2}
    told = capsys.readouterr().err
    assert "1 of 1 donors (data sets) have tiles on both sides" in told
    assert "--by donor" not in told
    assert stored_by(cohort) == "tile"
    assert cohort.images()[n.SPLIT].attrs["by"] == "tile"
    first = cohort.images()[n.SPLIT].values.tolist()
    digest = require_split(cohort)
    refuse_leaks(cohort)
    assert check(cohort.url) == []
    with pytest.raises(SplitError, match="has a split already"):
        split(cohort.url, fractions=FRACTIONS, by="tile", seed=3)
    split(cohort.url, fractions=FRACTIONS, force=True, by="tile", seed=3)
    assert (cohort.images()[n.SPLIT].values.tolist(), require_split(cohort)) == (first, digest)


def test_micrographs_are_split_nine_to_one_and_judged_on_val(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=("train",) * 20, px=64, donors=("a", "b"))
    assert run(["split", cohort.url, "--force"]) == 0
    assert "2 of 2 donors (data sets) have tiles on both sides" in (told := capsys.readouterr().err)
    assert "Split by donor to score others: --by donor" in told
    parts = cohort.images()[n.SPLIT].values.tolist()
    assert (parts.count("train"), parts.count("val"), parts.count("test")) == (18, 2, 0)
    assert stored_by(cohort) == "tile"
    assert run(["pick", cohort.url, "--run", "blobs", "--model", "log"]) == 0
    capsys.readouterr()
    assert run(["evaluate", cohort.url, "--resamples", "10"]) == 0
    assert "evaluate: on part val, because the split has no test part" in capsys.readouterr().err
    assert cohort.metrics("val")[n.TILE].size == 2
    split(cohort.url, fractions=(0.5, 0.5, 0), by="donor", force=True)
    donors = cohort.images(lazy=False)
    assert len(set(zip(donors[n.DONOR].values.tolist(), donors[n.SPLIT].values.tolist(), strict=True))) == 2
    split(cohort.url, fractions=(0.5, 0.25, 0.25), force=True)
    capsys.readouterr()
    pick(cohort.url, run="blobs", model="log")
    assert evaluate(cohort.url, resamples=10).attrs["provenance"]["split"] == "test"
    assert "no test part" not in capsys.readouterr().err


def test_one_micrograph_fills_one_part(tmp_path: Path) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=("train",), px=64)
    with pytest.raises(SplitError, match=r"1 tile\(s\) cannot fill 2 parts; annotate more$"):
        split(cohort.url, force=True)


def test_micrographs_without_annotation_stay_outside(tmp_path: Path) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=("train",) * 4 + ("", ""), px=64)
    split(cohort.url, fractions=(0.75, 0.25, 0), force=True, by="tile")
    assert sorted(cohort.images()[n.SPLIT].values.tolist()) == ["train"] * 3 + [n.UNASSIGNED] * 2 + ["val"]


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        (lambda pixels: pixels, "same file content"),
        (lambda pixels: pixels[:, ::-1], r"nearly the same image \(micrograph: 0 of 256 bits differ\)"),
    ],
)
def test_the_same_micrograph_twice_is_still_a_leak(
    tmp_path: Path, turn: Callable[[np.ndarray], np.ndarray], why: str
) -> None:
    from PIL import Image

    (tmp_path / "raw").mkdir()
    for name in ("a", "b", "c"):
        pixels = picture("a" if name == "b" else name, (64, 64)).astype(np.uint8)
        Image.fromarray(turn(pixels) if name == "b" else pixels).save(tmp_path / f"raw/{name}.png")
        x, y = centres(name, (64, 64))[0]
        (tmp_path / f"raw/{name}.csv").write_text(f"x,y,diameter\n{x},{y},12\n")
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs")
    annotate(tmp_path / "raw", tmp_path / "c.zarr")
    with pytest.raises(SplitError, match=rf"set/particles/a .* set/particles/b .*: {why}\n.*same donor .*--restart"):
        split(tmp_path / "c.zarr", fractions=(1 / 3, 1 / 3, 1 / 3), by="tile")
    assert set(open_cohort(tmp_path / "c.zarr").images()[n.SPLIT].values.tolist()) == {n.UNASSIGNED}


def test_another_unit_is_refused(tmp_path: Path) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=("train",) * 3, px=64)
    with pytest.raises(UnknownNameError, match="no unit to split by 'grid'; known: donor, tile"):
        split(cohort.url, force=True, by="grid")  # type: ignore[arg-type]
