"""Ingest: what gets into the store, what is quarantined, what is read again, and what a kill leaves."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunBusyError
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.store.annotations.instance import annotate_tiles
from fintune_xr.store.annotations.instance_layouts import choose_mask_layout
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.ingest import last_planes, new_tiles
from fintune_xr.store.ingest import tiles as ingest
from fintune_xr.store.ingest.quarantine import quarantine_rows
from fintune_xr.store.ingest.tiles import IngestReport, ingest_tiles, open_or_create
from fintune_xr.store.raw import sources
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.scan import scan
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import groups as tables
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.locks import hold_tile_writes

ROSMAP = choose_layout("rosmap")
SHAPE = (20, 24)


def write(root: Path, path: str, shape: tuple[int, ...] = SHAPE, dtype: str = "uint16", value: int = 0) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") + value
    pixels = np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)
    tifffile.imwrite(file, pixels, photometric="minisblack", compression="zlib")
    return file


def pair(root: Path, tile: str, **options: Any) -> None:
    for channel in (0, 1):
        write(root, f"{tile}_b0c{channel}.tif", **options)


def run(source: Path, store: Path, **options: Any) -> tuple[Cohort, IngestReport]:
    found = scan(source, ROSMAP, workers=2)
    cohort = open_or_create(store, found)
    return cohort, ingest_tiles(cohort, found, workers=2, **options)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_TILES_PER_SHARD", 3)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose pixels or bytes are read, in any order."""
    seen: list[str] = []
    for module, name in ((last_planes, "read_plane_with_digest"), (sources, "place_sha256")):
        original = getattr(module, name)

        def recorded(place: Any, _original: Any = original, **options: Any) -> Any:
            seen.append(Path(place).name)
            return _original(place, **options)

        monkeypatch.setattr(module, name, recorded)
    monkeypatch.setattr("fintune_xr.store.ingest.changed_files.place_sha256", sources.place_sha256)
    return seen


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for donor in ("d2", "d10"):
        for tile in range(4):
            pair(root, f"{donor}/GFAP/t{tile}")
            (root / f"{donor}/GFAP/t{tile}_metadata.xml").write_text("<meta/>")
    return root


def assert_equal_to_files(cohort: Cohort, source: Path) -> None:
    images = cohort.images()
    for index in range(images.sizes[n.TILE]):
        one = images.isel({n.TILE: index}).load()
        for channel in range(images.sizes[n.CHANNEL]):
            file = source / str(one[n.SOURCE].values[channel])
            pixels = tifffile.imread(file)
            height, width = pixels.shape
            stored = one[n.IMAGE].values[channel]
            np.testing.assert_array_equal(stored[:height, :width], pixels)
            assert not stored[height:].any()
            assert not stored[:, width:].any()
            assert (int(one[n.HEIGHT]), int(one[n.WIDTH])) == (height, width)
            assert one[n.SHA256].values[channel] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_pixel_label_and_digest_is_that_of_the_files(source: Path, tmp_path: Path) -> None:
    pair(source, "d2/IBA1/small", shape=(12, 15))
    cohort, report = run(source, tmp_path / "c.zarr")
    assert (report.n_added, report.n_present, report.left_out) == (9, 0, ())
    images = cohort.images()
    assert images[n.TILE].values.tolist() == [
        *(f"d2/GFAP/t{i}" for i in range(4)), "d2/IBA1/small", *(f"d10/GFAP/t{i}" for i in range(4)),
    ]  # fmt: skip
    assert images[n.CHANNEL].values.tolist() == [n.DAPI, n.MARKER_CHANNEL]
    assert images.sel(donor="d10").sizes[n.TILE] == 4
    assert set(images[n.SPLIT].values.tolist()) == {n.UNASSIGNED}
    assert_equal_to_files(cohort, source)


def test_the_store_does_not_depend_on_the_number_of_workers(source: Path, tmp_path: Path) -> None:
    found = scan(source, ROSMAP)
    for workers in (1, 5):
        ingest_tiles(open_or_create(tmp_path / f"{workers}.zarr", found), found, workers=workers)
    one, five = (sorted((tmp_path / f"{w}.zarr").rglob("images/*/c.*")) for w in (1, 5))
    assert [file.name for file in one] == [file.name for file in five]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in five]


def test_bad_tiles_are_quarantined_and_the_rest_goes_on(source: Path, tmp_path: Path) -> None:
    write(source, "d3/GFAP/alone_b0c0.tif")
    for name in ("cut", "text", "empty", "undecodable"):
        pair(source, f"d3/GFAP/{name}")
    cut = source / "d3/GFAP/cut_b0c0.tif"
    cut.write_bytes(cut.read_bytes()[:-40])
    (source / "d3/GFAP/text_b0c1.tif").write_text("not a TIFF")
    (source / "d3/GFAP/empty_b0c1.tif").write_bytes(b"")
    undecodable = source / "d3/GFAP/undecodable_b0c1.tif"
    content = bytearray(undecodable.read_bytes())
    content[-200:-100] = bytes(100)
    undecodable.write_bytes(content)
    pair(source, "d3/GFAP/dtype", dtype="uint8")
    write(source, "d3/GFAP/shape_b0c0.tif")
    write(source, "d3/GFAP/shape_b0c1.tif", (21, 24))
    pair(source, "d3/GFAP/twice")
    write(source, "d3/GFAP/twice_b0c0.tiff")
    cohort, report = run(source, tmp_path / "c.zarr")
    assert report.n_added == 8
    assert_equal_to_files(cohort, source)
    stored = cohort.quarantine().load()
    reasons = dict(zip(stored["path"].values.tolist(), stored[n.REASON].values.tolist(), strict=True))
    expected = {
        "alone_b0c0.tif": "unpaired: no file for channel marker",
        "cut_b0c0.tif": "truncated: expected",
        "text_b0c1.tif": "unreadable: expected a TIFF",
        "empty_b0c1.tif": "zero bytes",
        "undecodable_b0c1.tif": "unreadable: truncated or damaged TIFF",
        "dtype_b0c0.tif": "wrong dtype: expected uint16, found uint8",
        "shape_b0c1.tif": "wrong shape: expected 20 x 24",
        "twice_b0c0.tiff": "duplicate: same tile and channel",
    }
    assert sorted(reasons) == sorted(f"d3/GFAP/{name}" for name in expected)
    assert all(reasons[f"d3/GFAP/{name}"].startswith(reason) for name, reason in expected.items())
    assert set(stored[n.DONOR].values.tolist()) == {"d3"}
    assert "d3/GFAP/undecodable" in {item.tile for item in report.left_out}


def test_metadata_is_never_opened(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = sources.open_place

    def recorded(place: Any) -> Any:
        opened.append(str(place))
        return original(place)

    monkeypatch.setattr(sources, "open_place", recorded)
    monkeypatch.setattr("fintune_xr.store.raw.readers.open_place", recorded)
    run(source, tmp_path / "c.zarr")
    assert len(opened) == 2 * 16
    assert all(name.endswith(".tif") for name in opened)


def test_a_second_ingest_reads_nothing(source: Path, tmp_path: Path, reads: list[str]) -> None:
    run(source, tmp_path / "c.zarr")
    assert len(reads) == 16
    reads.clear()
    _, report = run(source, tmp_path / "c.zarr")
    assert (report.n_added, report.n_present) == (0, 8)
    assert reads == []


def test_new_donors_are_appended_behind_the_old_ones(source: Path, tmp_path: Path, reads: list[str]) -> None:
    cohort, _ = run(source, tmp_path / "c.zarr")
    before = cohort.images()[n.TILE].values.tolist()
    pair(source, "d1/GFAP/new")
    pair(source, "d2/GFAP/later")
    reads.clear()
    cohort, report = run(source, tmp_path / "c.zarr")
    assert (report.n_added, report.n_present) == (2, 8)
    assert cohort.images()[n.TILE].values.tolist() == [*before, "d1/GFAP/new", "d2/GFAP/later"]
    assert sorted(reads) == ["later_b0c0.tif", "later_b0c1.tif", "new_b0c0.tif", "new_b0c1.tif"]
    assert_equal_to_files(cohort, source)


def test_a_changed_file_is_told_and_the_stored_tile_stays(source: Path, tmp_path: Path, reads: list[str]) -> None:
    cohort, _ = run(source, tmp_path / "c.zarr")
    before = cohort.images().sel(tile="d2/GFAP/t1")[n.IMAGE].values
    original = (source / "d2/GFAP/t1_b0c1.tif").read_bytes()
    dates = (source / "d2/GFAP/t1_b0c1.tif").stat()
    write(source, "d2/GFAP/t1_b0c1.tif", value=1)
    os.utime(source / "d2/GFAP/t1_b0c1.tif", ns=(dates.st_atime_ns, dates.st_mtime_ns))
    for _ in range(2):
        reads.clear()
        cohort, report = run(source, tmp_path / "c.zarr")
        (item,) = report.left_out
        assert item.reason.startswith("changed since it was ingested: expected sha256")
        assert set(reads) <= {"t1_b0c0.tif", "t1_b0c1.tif"}
        assert [row[0] for row in quarantine_rows(cohort)] == ["d2/GFAP/t1_b0c1.tif"]
        np.testing.assert_array_equal(cohort.images().sel(tile="d2/GFAP/t1")[n.IMAGE].values, before)
    (source / "d2/GFAP/t1_b0c1.tif").write_bytes(original)
    cohort, report = run(source, tmp_path / "c.zarr")
    assert report.left_out == ()
    assert quarantine_rows(cohort) == []


def test_another_folder_with_the_same_names_is_compared(source: Path, tmp_path: Path, reads: list[str]) -> None:
    run(source, tmp_path / "c.zarr")
    other = tmp_path / "other"
    pair(other, "d2/GFAP/t0")
    pair(other, "d2/GFAP/t1", value=5)
    reads.clear()
    _, report = run(other, tmp_path / "c.zarr")
    assert [item.tile for item in report.left_out] == ["d2/GFAP/t1"]
    assert len(reads) >= 3


def test_everything_is_compared_when_asked(source: Path, tmp_path: Path, reads: list[str]) -> None:
    run(source, tmp_path / "c.zarr")
    reads.clear()
    _, report = run(source, tmp_path / "c.zarr", verify=True)
    assert len(reads) == 16
    assert report.left_out == ()


def test_a_mended_file_leaves_quarantine(source: Path, tmp_path: Path) -> None:
    pair(source, "d3/GFAP/cut")
    whole = (source / "d3/GFAP/cut_b0c0.tif").read_bytes()
    (source / "d3/GFAP/cut_b0c0.tif").write_bytes(whole[:100])
    cohort, _ = run(source, tmp_path / "c.zarr")
    assert len(quarantine_rows(cohort)) == 1
    (source / "d3/GFAP/cut_b0c0.tif").write_bytes(whole)
    cohort, report = run(source, tmp_path / "c.zarr")
    assert report.n_added == 1
    assert quarantine_rows(cohort) == []


def test_ingest_of_one_folder_keeps_the_quarantine_of_another(source: Path, tmp_path: Path) -> None:
    write(source, "d3/GFAP/alone_b0c0.tif")
    run(source, tmp_path / "c.zarr")
    other = tmp_path / "other"
    pair(other, "d4/GFAP/t0")
    write(other, "d4/GFAP/alone_b0c1.tif")
    cohort, _ = run(other, tmp_path / "c.zarr")
    assert [row[0] for row in quarantine_rows(cohort)] == ["d3/GFAP/alone_b0c0.tif", "d4/GFAP/alone_b0c1.tif"]


def test_tiles_that_the_store_was_not_made_for(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "c.zarr")
    other = tmp_path / "other"
    pair(other, "d4/GFAP/large", shape=(21, 24))
    cohort, report = run(other, tmp_path / "c.zarr")
    assert "expected at most 20 x 24, which the store was made for" in report.left_out[0].reason
    other = tmp_path / "bytes"
    pair(other, "d4/GFAP/u8", dtype="uint8")
    cohort, report = run(other, tmp_path / "c.zarr")
    assert report.left_out[0].reason == "wrong dtype: expected uint16 as in the store, found uint8"
    assert cohort.images().sizes[n.TILE] == 8


def test_channels_must_be_those_of_the_store(source: Path, tmp_path: Path) -> None:
    cohort, _ = run(source, tmp_path / "c.zarr")
    layout = choose_layout("rosmap", channels={"0": "Hoechst", "1": "marker"})
    with pytest.raises(FintuneValueError, match=r"has the channels \['DAPI', 'marker'\].*gives \['Hoechst'"):
        ingest_tiles(cohort, scan(source, layout))


def test_no_store_is_made_for_nothing(tmp_path: Path) -> None:
    write(tmp_path / "source", "d/GFAP/alone_b0c0.tif")
    with pytest.raises(FintuneValueError, match=r"no complete tile under .* 1 left out; so no store"):
        run(tmp_path / "source", tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


def test_two_ingests_at_once_are_refused(source: Path, tmp_path: Path) -> None:
    cohort, _ = run(source, tmp_path / "c.zarr")
    with hold_tile_writes(cohort.location), pytest.raises(RunBusyError, match="process is adding tiles"):
        run(source, tmp_path / "c.zarr")


def test_progress_counts_every_tile(source: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    run(source, tmp_path / "c.zarr", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 8) for done in range(1, 9)]


def test_only_a_few_tiles_are_held_at_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tile in range(30):
        pair(source, f"d5/GFAP/t{tile}")
    drawn = written = most = 0
    original = new_tiles._good

    def watched(results: Any, *rest: Any) -> Iterator[Any]:
        nonlocal written, most
        for item in original(results, *rest):
            most = max(most, drawn - written)
            written += 1
            yield item

    read = ingest._read_tile

    def counted(*arguments: Any) -> Any:
        nonlocal drawn
        drawn += 1
        return read(*arguments)

    monkeypatch.setattr(new_tiles, "_good", watched)
    monkeypatch.setattr(ingest, "_read_tile", counted)
    run(source, tmp_path / "c.zarr")
    assert written == 38
    assert most <= 6


def test_what_was_ingested_is_recorded(source: Path, tmp_path: Path) -> None:
    cohort, _ = run(source, tmp_path / "c.zarr")
    (facts,) = cohort.images().attrs[n.INGESTS]
    assert facts["layout"] == "rosmap"
    assert facts["n_added"] == 8
    assert facts["packages"]["tifffile"]


@pytest.mark.parametrize("column", [n.TILE, n.SHA256, n.IMAGE])
def test_stopped_while_a_shard_is_committed(
    source: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    opened = tables.open_column
    commits = 0

    def stopping(location: Any, path: str) -> Any:
        nonlocal commits
        if path == f"{n.IMAGES}/{column}":
            commits += 1
            if commits == 2:
                raise KeyboardInterrupt
        return opened(location, path)

    with monkeypatch.context() as patch:
        for module in (growing, tables):
            patch.setattr(module, "open_column", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "c.zarr")
    reads.clear()
    cohort, report = run(source, tmp_path / "c.zarr")
    assert (report.n_added, report.n_present) == (5, 3)
    assert len(reads) == 10
    assert_equal_to_files(cohort, source)
    assert cohort.images()[n.TILE].to_index().is_unique


KILLED = """
import os, signal, sys
from fintune_xr.store.ingest import tiles as ingest
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.scan import scan
shards.MAX_TILES_PER_SHARD = 3
def progress(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
found = scan(sys.argv[1], choose_layout("rosmap"))
ingest.ingest_tiles(ingest.open_or_create(sys.argv[2], found), found, workers=2, progress=progress)
"""


@pytest.mark.parametrize("after", [1, 5])
def test_killed_and_run_again(source: Path, tmp_path: Path, after: int) -> None:
    store = tmp_path / "c.zarr"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(source), str(store), str(after)], check=False)
    assert killed.returncode == -signal.SIGKILL
    cohort, report = run(source, store)
    assert report.n_present == after // 3 * 3
    assert report.n_added == 8 - report.n_present
    assert_equal_to_files(cohort, source)
    assert list(store.rglob("*.partial")) == []


def test_a_store_killed_while_it_was_made_is_made_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fintune_xr.store.cohort.create_growing", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "c.zarr")
    cohort, report = run(source, tmp_path / "c.zarr")
    assert report.n_added == 8
    assert_equal_to_files(cohort, source)


@pytest.mark.parametrize(
    ("layout", "folder", "n_tiles"),
    [("deepflash", "deepflash-hippocampus", 3), ("microglia", "microglia-morphometry", 4),
     ("cellfinder", "cellfinder-brain", 10)],
)  # fmt: skip
def test_real_folders(real_data: Path, tmp_path: Path, layout: str, folder: str, n_tiles: int) -> None:
    found = scan(real_data / folder, choose_layout(layout))
    report = ingest_tiles(open_or_create(tmp_path / "c.zarr", found), found)
    assert (report.n_added, report.left_out) == (n_tiles, ())
    images = open_cohort(tmp_path / "c.zarr").images()
    assert images[n.IMAGE].dtype == found.dtype
    for tile in found.tiles:
        for channel, file in zip(images[n.CHANNEL].values, tile.planes, strict=True):
            pixels = tifffile.imread(real_data / folder / file.path, key=file.page or 0)
            stored = images[n.IMAGE].sel({n.TILE: tile.tile, n.CHANNEL: channel}).values
            np.testing.assert_array_equal(stored, pixels)


def test_a_source_behind_a_url(source: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in source.rglob("*.tif"):
        memory.pipe_file(f"/raw/{path.relative_to(source)}", path.read_bytes())
    found = scan("memory://raw", ROSMAP)
    cohort = open_or_create(tmp_path / "c.zarr", found)
    assert ingest_tiles(cohort, found, workers=2).n_added == 8
    assert_equal_to_files(cohort, source)
    again = ingest_tiles(cohort, found, workers=2, verify=True)
    assert (again.n_added, again.n_present, again.left_out) == (0, 8, ())


def test_a_simulated_cohort_with_its_annotations(tmp_path: Path) -> None:
    settings = CohortSettings(n_donors=3, markers=("GFAP",), tiles_per_donor=(1, 2), tile_px=64, n_annotated=2)
    simulated = simulate_cohort(tmp_path / "simulated", settings=settings)
    cohort, report = run(simulated.source, tmp_path / "c.zarr")
    assert {item.path for item in report.left_out} == {
        str(path.relative_to(simulated.source)) for path in simulated.damaged
    }
    annotated = annotate_tiles(cohort, simulated.annotations, choose_mask_layout("rosmap"))
    assert (annotated.n_added, annotated.left_out, annotated.from_components) == (2, (), ())
    truth = pd.read_csv(simulated.truth).set_index("tile")
    stored = cohort.annotations()
    for tile, mask in zip(stored[n.TILE].values, stored[n.MASK].values, strict=True):
        row = truth.loc[str(tile).rpartition("/")[2]]
        assert row["is_annotated"]
        assert np.unique(mask[mask > 0]).size == row["n_all"]
