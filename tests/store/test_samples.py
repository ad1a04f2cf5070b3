"""Tables of samples: folders that no pattern fits, and one clear error for each way in which a table is wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile

from fintune_xr import names as n
from fintune_xr.errors import FintuneError, FintuneValueError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.ingest import ingest, plan_ingest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.ingest.quarantine import quarantine_rows

ROWS = [
    "x/one.tif,d1,GFAP,a,marker",
    "x/two.tif,d1,GFAP,a,DAPI",
    "y z/Ü (3).tif,d2,GFAP,b,marker",
    "y z/four_mask.tif,d2,GFAP,b,DAPI",
]
HEADER = "path,donor,marker,tile,channel"


def folder(root: Path, *names: str) -> Path:
    """A folder of images of these names; each is filled with its place in the list, from 1 on."""
    for value, name in enumerate(names, start=1):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(file, np.full((32, 40), value, np.uint16))
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder(tmp_path / "raw", *(row.split(",")[0] for row in ROWS), "x/another.tif")


def table(place: Path, *rows: str, header: str = HEADER) -> Path:
    place.write_text("\n".join([header, *rows]) + "\n")
    return place


def stored(store: Path) -> dict[str, list[int]]:
    """The first pixel of each channel of each tile."""
    images = open_cohort(store).images()
    values = images[n.IMAGE].values[:, :, 0, 0].tolist()
    return dict(zip(images[n.TILE].values.tolist(), values, strict=True))


def test_names_that_fit_no_pattern_are_stored_as_the_table_says(source: Path, tmp_path: Path) -> None:
    listed = table(source / "samples.csv", *ROWS)
    report = ingest(source, tmp_path / "c.zarr", samples=listed)
    assert (report.n_added, report.left_out) == (2, ())
    # The order of channels is the layout's, not that of the rows.
    assert open_cohort(tmp_path / "c.zarr").images()[n.CHANNEL].values.tolist() == [n.DAPI, n.MARKER_CHANNEL]
    assert stored(tmp_path / "c.zarr") == {"d1/GFAP/a": [2, 1], "d2/GFAP/b": [4, 3]}
    (facts,) = open_cohort(tmp_path / "c.zarr").images().attrs[n.INGESTS]
    assert facts["samples"] == str(listed)
    assert len(facts["sha256"]) == 64
    again = ingest(source, tmp_path / "c.zarr", samples=listed)
    assert (again.n_added, again.n_present) == (0, 2)
    assert plan_ingest(source, samples=listed).ignored == {"image that is not in the table of samples": 1}


def test_relative_paths_count_from_the_folder_of_the_table(source: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "tables").mkdir()
    listed = table(tmp_path / "tables/s.tsv", *(f"../raw/{row}".replace(",", "\t") for row in ROWS[:2]),
                   f"{source}/{ROWS[2]}".replace(",", "\t"), f"../raw/./{ROWS[3]}".replace(",", "\t"),
                   header=HEADER.replace(",", "\t"))  # fmt: skip
    assert command(["ingest", str(source), str(tmp_path / "c.zarr"), "--samples", str(listed)]) == 0
    assert "understood: 2 donor(s)" in capsys.readouterr().err
    assert stored(tmp_path / "c.zarr") == {"d1/GFAP/a": [2, 1], "d2/GFAP/b": [4, 3]}


def test_without_tile_and_channel_each_file_is_a_tile_called_as_it(source: Path, tmp_path: Path) -> None:
    listed = table(source / "s.csv", "x/one.tif,d1,train,0.5", "y z/four_mask.tif,d2,,", header="path,donor,split,mpp")
    ingest(source, tmp_path / "c.zarr", samples=listed)
    assert stored(tmp_path / "c.zarr") == {"d1/unknown/one": [1], "d2/unknown/four_mask": [4]}
    images = open_cohort(tmp_path / "c.zarr").images()
    assert images[n.SPLIT].values.tolist() == ["train", n.UNASSIGNED]
    assert images[n.MPP].values.tolist() == [0.5, 0.0]


def test_channels_are_named_by_tokens_and_may_have_names_of_their_own(source: Path, tmp_path: Path) -> None:
    rows = [row.replace("DAPI", "405").replace(",marker", ",488") for row in ROWS]
    listed = table(source / "s.csv", *rows)
    assert command(["ingest", str(source), str(tmp_path / "a.zarr"), "--samples", str(listed), "--channels", "405=DAPI",
                 "488=marker"]) == 0  # fmt: skip
    assert stored(tmp_path / "a.zarr") == {"d1/GFAP/a": [2, 1], "d2/GFAP/b": [4, 3]}
    ingest(source, tmp_path / "b.zarr", samples=listed)
    assert open_cohort(tmp_path / "b.zarr").images()[n.CHANNEL].values.tolist() == ["488", "405"]


def test_files_that_hold_all_channels(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    tifffile.imwrite(tmp_path / "raw/q.tif", np.stack([np.full((32, 32), v, np.uint16) for v in (7, 8)]))
    listed = table(tmp_path / "raw/s.csv", "q.tif,d1", header="path,donor")
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="planes", samples=listed)
    assert stored(tmp_path / "c.zarr") == {"d1/unknown/q": [7, 8]}
    with pytest.raises(FintuneValueError, match="holds all channels of its tile"):
        plan_ingest(tmp_path / "raw", layout="planes", samples=table(tmp_path / "s.csv", "raw/q.tif,d1,GFAP,q,DAPI"))


def test_a_file_that_cannot_be_read_is_quarantined_until_it_can(source: Path, tmp_path: Path) -> None:
    listed, file = table(source / "s.csv", *ROWS), source / "x/one.tif"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert ingest(source, tmp_path / "c.zarr", samples=listed).left_out[0].tile == "d1/GFAP/a"
    file.write_bytes(whole)
    assert ingest(source, tmp_path / "c.zarr", samples=listed).n_added == 1
    assert quarantine_rows(open_cohort(tmp_path / "c.zarr")) == []


WRONG = {
    "age": ([ROWS[0] + ",7"], HEADER + ",age", "no column of samples is called 'age'"),
    "chanel": (ROWS, HEADER.replace("channel", "chanel"), "Did you mean 'channel'"),
    "no donor": (["x/one.tif,a"], "path,tile", "column 'donor' is missing; found: path, tile"),
    "no rows": ([], HEADER, "a row for each file, found none"),
    "empty": ([*ROWS[:2], "x/another.tif,,GFAP,c,DAPI"], HEADER, r"row 4: no donor\. Fill it in"),
    "empty channel": ([ROWS[0], "x/two.tif,d1,GFAP,a,"], HEADER, "row 3: no channel"),
    "slash": (["x/one.tif,d/1"], "path,donor", "row 2: a slash in the donor"),
    "excel": (["x/one.tif,1.00002E+05"], "path,donor", r"1\.00002E\+05.*such as Excel"),
    "split": (["x/one.tif,d1,training"], "path,donor,split", "an unknown split. Known: train, val, test"),
    "mpp": (["x/one.tif,d1,-1"], "path,donor,mpp", "mpp is no length"),
    "row twice": ([*ROWS, ROWS[0]], HEADER, r"row 2, 6: the same file in each of these rows \(x/one.tif\)"),
    "path twice": ([*ROWS, "x/./one.tif,d3,GFAP,c,DAPI"], HEADER, "row 2, 6: the same file"),
    "two files": ([*ROWS, "x/another.tif,d1,GFAP,a,DAPI"], HEADER,
                  r"row 3, 6: the same tile and channel in each of these rows \(d1/GFAP/a, channel 'DAPI'\)"),
    "same names": (["x/one.tif,d1", "y/one.tif,d1"], "path,donor", "Tell them apart by the columns tile and channel"),
    "no tile": (["x/one.tif,d1,DAPI", "x/two.tif,d1,marker"], "path,donor,channel", "no column tile"),
    "missing": ([*ROWS, "x/gone.tif,d3,GFAP,c,DAPI"], HEADER, "1 of 5 files are not there: x/gone.tif"),
    "outside": (["../../one.tif,d1"], "path,donor", "row 2: the file is not under"),
    "format": (["x/one.czi,d1"], "path,donor", r"row 2: \.czi is not read \(x/one.czi\)\. convert with Bio-Formats"),
    "some channels": ([*ROWS[:1], "x/two.tif,d1,GFAP,a,0"], HEADER, "row 2: channel 'marker' is none of 0, 1"),
}  # fmt: skip


@pytest.mark.parametrize("which", WRONG)
def test_each_fault_of_a_table_is_one_clear_error_and_makes_no_store(source: Path, tmp_path: Path, which: str) -> None:
    rows, header, said = WRONG[which]
    listed = table(source / "samples.csv", *rows, header=header)
    with pytest.raises(FintuneValueError, match=said):
        ingest(source, tmp_path / "c.zarr", samples=listed)
    assert not (tmp_path / "c.zarr").exists()


def test_what_does_not_go_with_a_table(source: Path, tmp_path: Path, capsys: Any) -> None:
    listed = table(source / "samples.csv", *ROWS)
    with pytest.raises(FintuneValueError, match=r"no such file.*existing CSV"):
        plan_ingest(source, samples=source / "none.csv")
    with pytest.raises(FintuneError, match="volumes take a manifest"):
        plan_ingest(source, layout="volumes", samples=listed)
    wrong = ["ingest", str(source), str(tmp_path / "c.zarr"), "--samples", str(listed), "--pattern", "(?P<tile>.)"]
    assert command(wrong) != 0
    assert "--pattern and --samples" in capsys.readouterr().err


def test_a_table_in_a_bucket_beside_its_files() -> None:
    bucket, file = fsspec.filesystem("memory"), io.BytesIO()
    tifffile.imwrite(file, np.ones((32, 32), np.uint16))
    for name in "ab":
        bucket.pipe(f"/samples/x/{name}.tif", file.getvalue())
    bucket.pipe("/samples/t/s.csv", b"path,donor\n../x/a.tif,d1\nmemory://samples/x/b.tif,d2\n")
    planned = plan_ingest("memory://samples", samples="memory://samples/t/s.csv")
    assert planned.tiles[n.DONOR].tolist() == ["d1", "d2"]
