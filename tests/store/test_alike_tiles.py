"""Tiles that look alike on two sides of a split: shown, and allowed for a reason that is stored."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError, UnknownNameError
from fintune_xr.pipelines.leak_check.pairs import refuse_leaks
from fintune_xr.pipelines.report.extra_files import lines_by_verb
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.split import allowed_pairs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Four donors with a tile each; that of the last is that of the first, brighter."""
    root = tmp_path_factory.mktemp("alike")
    rng = np.random.default_rng(0)
    fields = [ndimage.gaussian_filter(rng.normal(size=(2, 64, 64)), (0, 3, 3)) * 2000 + 3000 for _ in range(3)]
    for at, field in enumerate([*fields, fields[0] * 1.5 + 40]):
        for kind, planes in (("raw", field), ("masks", np.eye(64, k=at)[None])):
            for c, plane in enumerate(planes):
                name = f"t_b0c{c}.tif" if kind == "raw" else "t_masks.tif"
                path = root / f"{kind}/d{at}/GFAP/{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, plane.astype(np.uint16))
    ingest(root / "raw", root / "c.zarr")
    annotate(root / "masks", root / "c.zarr")
    return open_cohort(root / "c.zarr")


PARTS = [n.TRAIN, n.TRAIN, n.VAL, n.TEST]
FIRST, LAST = "d0/GFAP/t", "d3/GFAP/t"


def test_pairs_are_shown_and_allowed_for_a_reason(made: Cohort, tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"nearly the same image[\s\S]*--show-leaks[\s\S]*--allow-alike"):
        refuse_leaks(made, PARTS)
    with pytest.raises(SplitError, match=r"Written to .*: 1 pictures and pairs\.tsv"):
        refuse_leaks(made, PARTS, pictures=tmp_path / "leaks")
    table = pd.read_csv(tmp_path / "leaks/pairs.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert table[["first", "second", "reason", "picture"]].values.tolist() == [[FIRST, LAST, "", "001.png"]]
    assert (tmp_path / "leaks/001.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FintuneValueError, match="say in `reason` why they are no copies"):
        split(made.url, allow_alike=tmp_path / "leaks/pairs.tsv")
    table["reason"] = "two animals, seen in the notebook"
    table.to_csv(tmp_path / "pairs.tsv", sep="\t", index=False)
    seed = next(seed for seed in range(50) if sides_differ(made, seed))
    split(made.url, fractions=(0.5, 0.25, 0.25), seed=seed, force=True, allow_alike=tmp_path / "pairs.tsv")
    [pair] = allowed_pairs(open_cohort(made.url))
    assert (pair.first, pair.second, pair.reason) == (FIRST, LAST, "two animals, seen in the notebook")
    assert check(made.url) == []
    assert lines_by_verb(open_cohort(made.url))["split"][0].endswith("two animals, seen in the notebook")
    with pytest.raises(SplitError, match="nearly the same image"):
        split(made.url, fractions=(0.5, 0.25, 0.25), seed=seed, force=True)


def sides_differ(made: Cohort, seed: int) -> bool:
    """Whether this draw is refused: then the two tiles that look alike lie on two sides."""
    try:
        split(made.url, fractions=(0.5, 0.25, 0.25), seed=seed, force=True)
    except SplitError:
        return True
    return False


def test_pairs_of_tiles_that_are_not_there_are_refused(made: Cohort, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(f"first,second,reason\n{FIRST},d9/GFAP/t,x\n")
    with pytest.raises(UnknownNameError, match="d9/GFAP/t"):
        split(made.url, allow_alike=tmp_path / "pairs.csv", force=True)


@pytest.mark.parametrize("how", ["cropped", "swapped"])
@pytest.mark.parametrize("is_one_exposure", [True, False])
def test_parts_of_a_field_and_swapped_channels_are_refused_by_their_noise_or_told(
    tmp_path: Path, how: str, is_one_exposure: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(4)
    one, other = (ndimage.gaussian_filter(rng.normal(size=(2, 96, 96)), (0, 3, 3)) * 2000 + 3000 for _ in range(2))
    noise, another = rng.normal(0, 20, (2, *one.shape))
    seen, again = one + noise, one + (noise if is_one_exposure else another)
    copy = {"cropped": 0.5 * again[:, 10:, :-14], "swapped": again[::-1]}[how]
    for at, field in enumerate([seen, other, copy]):
        folder = tmp_path / f"raw/d{at}/GFAP"
        folder.mkdir(parents=True)
        for c, plane in enumerate(field):
            tifffile.imwrite(folder / f"t_b0c{c}.tif", plane.astype(np.uint16))
        mask = tmp_path / f"masks/d{at}/GFAP/t_masks.tif"
        mask.parent.mkdir(parents=True)
        tifffile.imwrite(mask, np.eye(*field.shape[1:], k=at).astype(np.uint16))
    ingest(tmp_path / "raw", tmp_path / "c.zarr")
    annotate(tmp_path / "masks", tmp_path / "c.zarr")
    cohort = open_cohort(tmp_path / "c.zarr")
    refuse_leaks(cohort, [n.TRAIN, n.TEST, n.TRAIN])
    assert "one field" not in capsys.readouterr().err
    noise_too = ", down to its noise" if is_one_exposure else ""
    told = {
        "cropped": rf"d2/GFAP/t \(test\): show the same field{noise_too} \((DAPI|marker), 100% of the smaller tile\)",
        "swapped": rf"show the same field{noise_too} \((DAPI as marker|marker as DAPI), 100%",
    }[how]
    with pytest.raises(SplitError, match=told) if is_one_exposure else nullcontext():
        refuse_leaks(cohort, [n.TRAIN, n.VAL, n.TEST], pictures=tmp_path / "leaks")
    said = capsys.readouterr().err
    assert is_one_exposure or re.search(rf"1 pair\(s\)[\s\S]*{told}[\s\S]*--show-leaks", said)
    assert (tmp_path / "leaks/001.png").exists()
