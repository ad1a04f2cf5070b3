"""Double positives over the tiles of one field, against cells compared one by one as sets of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import stats

from fintune_xr import names as n
from fintune_xr.analysis.readouts import parse_readout
from fintune_xr.errors import FintuneValueError, SettingsError, UnknownNameError
from fintune_xr.metrics.same_cells import same_cells
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.group_tests import compare_groups
from fintune_xr.pipelines.steps.import_run import import_run
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.readout import associate_readout, readout_doubt
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.text import texts

PX = 96
MARKERS = ("GFAP", "IBA1")
# Donor and field; of the last one there is no tile of the second marker.
FIELDS = [(f"d{donor}", f"f{field}") for donor in range(4) for field in range(2)]
READOUT = "across:GFAP>250+IBA1>250"


def _drawn(seed: int) -> list[tuple[NDArray[np.uint16], NDArray[np.uint16]]]:
    """Mask and image of both markers: cells on a grid, the second marker's moved, some gone, some of another size."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:PX, :PX]
    labels = rng.permutation(np.arange(3, 300))
    made = []
    for marker in range(2):
        mask, image = np.zeros((PX, PX), np.uint16), rng.normal(100, 3, (PX, PX))
        for at in range(36):
            cy, cx = 8 + 16 * (at // 6) + marker * rng.integers(0, 5), 8 + 16 * (at % 6)
            inside = (y - cy) ** 2 + (x - cx) ** 2 <= (16 if marker and at % 7 == 0 else 36)
            if marker and at % 5 == 0:
                continue
            mask[inside] = labels[36 * marker + at]
            image[inside] += 600 if rng.random() < 0.6 else 60
        made.append((mask, image.astype(np.uint16)))
    return made


DRAWN = [_drawn(seed) for seed in range(len(FIELDS))]


def _rows() -> list[tuple[str, str, str, int, int]]:
    return [
        (donor, field, marker, at, which)
        for at, (donor, field) in enumerate(FIELDS)
        for which, marker in enumerate(MARKERS)
        if (at, which) != (len(FIELDS) - 1, 1)
    ]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return _store(tmp_path_factory.mktemp("fields"), [(*row, row[1]) for row in _rows()])


def _store(folder: Path, rows: list[tuple[str, str, str, int, int, str]]) -> Cohort:
    raw, masks, lines = folder / "raw", folder / "masks", ["path,donor,marker,tile,field"]
    raw.mkdir()
    masks.mkdir()
    for donor, name, marker, at, which, field in rows:
        tile = f"{name}_{marker}"
        mask, image = DRAWN[at][which]
        tifffile.imwrite(raw / f"{donor}_{tile}.tif", image)
        tifffile.imwrite(masks / f"{safe_name(f'{donor}/{marker}/{tile}')}_masks.tif", mask)
        lines.append(f"{donor}_{tile}.tif,{donor},{marker},{tile},{field}")
    (raw / "samples.csv").write_text("\n".join(lines) + "\n")
    ingest(raw, folder / "c.zarr", samples=raw / "samples.csv")
    import_run(masks, folder / "c.zarr", run="theirs", made_by="by hand")
    (folder / "clinical.csv").write_text("projid,nft,sex\nd0,3.0,a\nd1,1.0,b\nd2,4.0,a\nd3,1.5,b\n")
    return open_cohort(folder / "c.zarr")


def clinical(cohort: Cohort) -> Path:
    return cohort.location.path.parent / "clinical.csv"


def _pixels(mask: NDArray[np.uint16], image: NDArray[np.uint16]) -> dict[int, tuple[set[int], bool]]:
    """Of each cell its pixels, and whether it is bright."""
    flat, values = mask.ravel(), image.ravel().astype(float)
    cells = {int(label): np.flatnonzero(flat == label) for label in np.unique(flat[flat > 0])}
    background = np.median(values[flat == 0])
    return {label: (set(where.tolist()), values[where].mean() - background > 250) for label, where in cells.items()}


def _expected() -> dict[str, tuple[int, int, int]]:
    """Of each donor: double positives, cells seen in both, all cells of GFAP in fields with both."""
    found: dict[str, tuple[int, int, int]] = {}
    for (donor, _), drawn in zip(FIELDS[:-1], DRAWN, strict=False):
        first, second = (_pixels(*one) for one in drawn)
        n_both = n_seen = 0
        for pixels, is_bright in first.values():
            same = [bright for other, bright in second.values() if len(pixels & other) > 0.5 * len(pixels | other)]
            n_seen += len(same)
            n_both += bool(same) and is_bright and same[0]
        now = (n_both, n_seen, len(first))
        found[donor] = tuple(a + b for a, b in zip(found.get(donor, (0, 0, 0)), now, strict=True))
    return found


def test_shares_are_those_of_cells_compared_one_by_one(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["associate", cohort.url, "--clinical", str(clinical(cohort)), "--readout", READOUT]
    assert command(asked) == 0
    told = " ".join(capsys.readouterr().err.split())
    expected = _expected()
    both, seen, of = (sum(one[place] for one in expected.values()) for place in range(3))
    assert 0 < both < seen < of
    assert f"{seen} of {of} cells are seen in every tile of their field" in told
    assert "1 of 8 fields have no tile of every marker" in told
    stored = cohort.read(f"{n.READOUTS}/across_GFAP_above_250+IBA1_above_250")
    values = stored[n.READOUT].sel({n.RUN: "theirs"})
    assert texts(values[n.MARKER]) == ["GFAP+IBA1"]
    shares = [expected[donor][0] / expected[donor][2] for donor in texts(values[n.DONOR])]
    np.testing.assert_allclose(values.squeeze(), shares)
    outcome = pd.read_csv(clinical(cohort))["nft"]
    assert float(stored[n.RHO].squeeze()) == pytest.approx(stats.spearmanr(shares, outcome).statistic)
    assert stored.attrs[n.READOUT] == parse_readout(READOUT).text == READOUT
    assert readout_doubt(cohort, stored) == ""
    # Two groups of brightness: Otsu finds the same.
    by_otsu = associate_readout(cohort.url, readout="across:GFAP+IBA1", clinical=clinical(cohort))
    np.testing.assert_array_equal(by_otsu[n.READOUT], stored[n.READOUT])
    assert "within one mode" not in capsys.readouterr().err
    tests = compare_groups(cohort.url, groups=["sex"], readout=READOUT, clinical=clinical(cohort))
    assert texts(tests[n.MARKER]) == ["GFAP+IBA1"]


def test_thresholds_within_one_mode_are_named_where_otsu_found_them(
    cohort: Cohort, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"GFAP": "no two modes", "IBA1": "no two modes either"}
    monkeypatch.setattr("fintune_xr.pipelines.instance.across_tiles.otsu_doubts", lambda _: found)
    associate_readout(cohort.url, readout="across:GFAP+IBA1>250", clinical=clinical(cohort), replace=True)
    told = " ".join(capsys.readouterr().err.split())
    assert "GFAP: the threshold of rule otsu lies within one mode: no two modes. " in told
    assert "either" not in told


def test_a_field_is_a_label_that_is_selected_by(cohort: Cohort) -> None:
    images = cohort.images().sel(donor="d1", field="f0")
    assert texts(images[n.MARKER]) == list(MARKERS)
    assert texts(cohort.run("theirs").sel(field="f1", marker="IBA1")[n.DONOR]) == ["d0", "d1", "d2"]


def test_places_of_the_same_cells() -> None:
    first = np.array([[9, 9, 9, 0, 4, 4], [0, 0, 0, 0, 2, 2]], np.uint16)
    second = np.array([[0, 7, 7, 7, 5, 0], [0, 0, 0, 0, 1, 1]], np.uint16)
    # 9 and 7 share two of four pixels, 4 and 5 one of two: neither is more than half.
    np.testing.assert_array_equal(same_cells(first, second), [0, -1, -1])
    np.testing.assert_array_equal(same_cells(second, second), [0, 1, 2])
    assert same_cells(np.zeros((3, 3), np.uint8), np.ones((3, 3), np.uint8)).size == 0


def test_the_doors(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no marker 'CD68'; known: GFAP, IBA1"):
        associate_readout(cohort.url, readout="across:GFAP+CD68", clinical=clinical(cohort))
    for wrong in ("across", "across:GFAP", "across:GFAP+GFAP", "across:GFAP+IBA1>x"):
        with pytest.raises(SettingsError, match="--readout"):
            parse_readout(wrong)
    twice = _store(_folder(tmp_path / "a"), [(*row, "f0") for row in _rows()])
    with pytest.raises(FintuneValueError, match="field 'f0' of donor 'd0' has two tiles of marker GFAP"):
        associate_readout(twice.url, readout=READOUT, clinical=clinical(twice))
    untold = _store(_folder(tmp_path / "b"), [(*row, "") for row in _rows()])
    assert n.FIELD not in untold.images().coords
    with pytest.raises(FintuneValueError, match="does not know which tiles show the same field"):
        associate_readout(untold.url, readout=READOUT, clinical=clinical(untold))
    raw = untold.location.path.parent / "raw"
    (raw / "samples.csv").write_text("path,donor,marker,tile,field\nd0_f0_GFAP.tif,d9,GFAP,new,f0\n")
    with pytest.raises(FintuneValueError, match="made of files whose field was not told"):
        ingest(raw, untold.url, samples=raw / "samples.csv")


def test_tiles_whose_field_is_not_told_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = _store(_folder(tmp_path / "a"), [(*row, "" if row[:2] == ("d1", "f1") else row[1]) for row in _rows()])
    associate_readout(some.url, readout=READOUT, clinical=clinical(some))
    told = " ".join(capsys.readouterr().err.split())
    assert "of 2 tiles of GFAP, IBA1 no field is told, as of d1/GFAP/f1_GFAP: left out" in told
    assert "1 of 7 fields have no tile of every marker" in told


def _folder(place: Path) -> Path:
    place.mkdir()
    return place
