"""The cohort store: made, grown, opened by plain xarray and zarr, and left intact by kills and full disks."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from stores import CHANNELS, MARKERS, add_tiles, annotate, item, make_store, tile_names, tile_pixels

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.errors import (
    FintuneValueError,
    RunBusyError,
    SchemaError,
    SplitError,
    StoreDamagedError,
    StoreNotFoundError,
    StoreVersionError,
    StoreWriteError,
    UnknownNameError,
)
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX
from fintune_xr.pipelines.steps.check import check
from fintune_xr.splits.assignment import split_digest
from fintune_xr.store.check.problem import WRITTEN_AGAIN
from fintune_xr.store.cohort import Cohort, create_cohort, empty_quarantine, open_cohort, set_root_attrs
from fintune_xr.store.ingest.changed_files import stored_digests
from fintune_xr.store.labels.split_parts import with_part_names
from fintune_xr.store.split import annotated_part, part_to_score, require_split, split_column, split_table
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import groups as tables
from fintune_xr.store.zarr_io import locks, shards
from fintune_xr.store.zarr_io.groups import group_exists, remove_group, replace_group
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.locks import hold_replacement
from fintune_xr.store.zarr_io.recovery import OLD, sweep_staging


@pytest.fixture(autouse=True)
def small_shards_and_no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_TILES_PER_SHARD", 4)
    # Only a crash of the machine, which no test brings about, tells a synced file from another.
    monkeypatch.setattr(os, "fsync", lambda _: None)


def assert_holds(cohort: Cohort, names: list[str], px: int = 64) -> None:
    images = cohort.images()
    assert images[n.TILE].values.tolist() == names
    assert images[n.DONOR].values.tolist() == [name.split("/")[0] for name in names]
    for i, name in enumerate(names):
        np.testing.assert_array_equal(images[n.IMAGE][i].values, tile_pixels(name, px), err_msg=name)


# ---- made and grown


def test_a_new_cohort_is_empty_and_opens(tmp_path: Path) -> None:
    made = create_cohort(tmp_path / "a.zarr", kind="if", channels=CHANNELS, tile_shape=(8, 6), dtype="uint16")
    cohort = open_cohort(tmp_path / "a.zarr")
    assert (cohort.kind, cohort.title, cohort.url) == ("if", "a", made.url)
    assert dict(cohort.images().sizes) == {n.TILE: 0, n.CHANNEL: 2, n.Y: 8, n.X: 6}
    assert cohort.quarantine().sizes == {n.ITEM: 0}
    assert cohort.run_names() == []


@pytest.mark.parametrize("steps", [[8], [1] * 7, [3, 4, 1], [4, 4], [5, 6]])
def test_tiles_are_the_same_however_they_were_appended(tmp_path: Path, steps: list[int]) -> None:
    names = tile_names(2, 6)[: sum(steps)]
    cohort = make_store(tmp_path / "a.zarr", donors=0)
    first = 0
    for step in steps:
        add_tiles(cohort, names[first : first + step])
        first += step
        assert_holds(open_cohort(cohort.url), names[:first])
    files = sorted(file.name for file in (cohort.location.path / n.IMAGES / n.IMAGE).glob("c.*"))
    assert files == [f"c.{shard}.0.0.0" for shard in range(-(-first // 4))]


def test_memory_holds_one_tile_while_a_shard_is_written(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=0)
    target = cohort.images_group()
    drawn = 0

    def tiles() -> Iterator[Any]:
        nonlocal drawn
        for name in tile_names(1, 6):
            drawn += 1
            yield item(name, 64, target.grid)

    steps = growing.append(target, tiles())
    assert (next(steps), drawn) == (4, 4)
    assert next(steps) == 6


class Stopped(BaseException):
    pass


def stop_at_column(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    opened = tables.open_column

    def stopping(location: Location, asked: str) -> Any:
        if asked == path:
            raise Stopped
        return opened(location, asked)

    for module in (tables, growing):
        monkeypatch.setattr(module, "open_column", stopping)


@pytest.mark.parametrize("before", [0, 2, 4])
@pytest.mark.parametrize("column", [n.TILE, n.DONOR, n.SHA256, n.IMAGE])
def test_a_commit_broken_off_is_mended_by_the_next(tmp_path: Path, column: str, before: int) -> None:
    names = tile_names(2, 4)
    cohort = make_store(tmp_path / "a.zarr", donors=0)
    add_tiles(cohort, names[:before])
    with pytest.MonkeyPatch.context() as patch:
        stop_at_column(patch, f"{n.IMAGES}/{column}")
        with pytest.raises(Stopped):
            add_tiles(cohort, [f"lost/GFAP/{i}" for i in range(5)])
    assert cohort.images_group().n_tiles == before
    if column != n.TILE:
        with pytest.raises(StoreDamagedError, match=r"images in .* cannot be opened.*run the same command again"):
            cohort.images()
    add_tiles(cohort, names[before:])
    assert_holds(open_cohort(cohort.url), names)


def test_a_shard_with_fewer_tiles_than_were_committed_is_damage(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=1, tiles=3)
    target = cohort.images_group()
    kept = shards.read_encoded(target.location, target.grid, 0)
    shards.write_shard(target.location, target.grid, 0, kept[:2])
    with pytest.raises(StoreDamagedError, match=r"expected 3 tiles, found 2\. Run `fintune-xr check`"):
        add_tiles(cohort, ["d9/GFAP/1"])


def test_labels_are_not_added_behind_labels_that_are_gone(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=1, tiles=2)
    (cohort.location.path / n.IMAGES / n.MARKER / "c.0").unlink()
    for _ in range(2):
        with pytest.raises(StoreDamagedError, match=r"images/marker/c\.0 is missing"):
            add_tiles(cohort, ["d9/GFAP/1"])
    with pytest.raises(StoreDamagedError, match=r"images/marker/c\.0 is missing"):
        cohort.images().load()


# ---- plain xarray and zarr


PLAIN = """
import sys, numpy as np, xarray as xr, zarr
tree = xr.open_datatree(sys.argv[1], engine="zarr", consolidated=False)
images = tree["images"].to_dataset().set_xindex("donor").set_xindex("marker")
assert images.image.dims == ("tile", "channel", "y", "x"), images.image.dims
assert images.sel(donor="d1").sizes["tile"] == 2
assert images.sel(marker="IBA1").sizes["tile"] == 3
assert images.sel(channel="DAPI").image.dims == ("tile", "y", "x")
assert images.sel(tile="d2/GFAP/000").image.shape == (2, 64, 64)
flat = xr.open_zarr(sys.argv[1], group="images", consolidated=False)
np.testing.assert_array_equal(flat.image.values, zarr.open_group(sys.argv[1], mode="r")["images/image"][:])
assert {"path", "donor", "marker", "reason"} <= set(tree["quarantine"].to_dataset().data_vars)
assert not any(name.startswith("fintune_xr") for name in sys.modules)
print(int(flat.image.values.astype("i8").sum()))
"""


def test_plain_xarray_and_zarr_open_a_store_and_select_by_name(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:zarr", "-c", PLAIN, cohort.url],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(int(tile_pixels(name, 64).astype(int).sum()) for name in tile_names(3, 2))


def test_selection_by_each_label(tmp_path: Path) -> None:
    images = make_store(tmp_path / "a.zarr").images()
    assert images.sel({n.DONOR: "d1"})[n.TILE].values.tolist() == tile_names(3, 2)[2:4]
    assert images.sel({n.MARKER: MARKERS[1]}).sizes[n.TILE] == 3
    assert images.sel({n.SPLIT: n.UNASSIGNED}).sizes[n.TILE] == 6
    assert images.sel({n.CHANNEL: n.DAPI})[n.IMAGE].dims == (n.TILE, n.Y, n.X)
    with pytest.raises(LookupError, match="d9"):
        images.sel({n.DONOR: "d9"})


def test_opening_reads_no_pixels(tmp_path: Path, no_compute: None) -> None:
    cohort = make_store(tmp_path / "a.zarr")
    shutil.rmtree(cohort.location.path / n.IMAGES / n.IMAGE / "c", ignore_errors=True)
    for file in (cohort.location.path / n.IMAGES / n.IMAGE).glob("c.*"):
        file.unlink()
    assert open_cohort(cohort.url).images().sizes[n.TILE] == 6


def test_opening_makes_a_graph_whose_size_does_not_depend_on_the_tiles(tmp_path: Path) -> None:
    cohorts = [make_store(tmp_path / "few.zarr"), make_store(tmp_path / "more.zarr", donors=30)]
    few, more = (cohort.images() for cohort in cohorts)
    assert more.sizes[n.TILE] == 10 * few.sizes[n.TILE]
    made = [
        sum(len(layer) for layer in images[n.IMAGE].data.dask.layers.values() if layer.is_materialized())
        for images in (few, more)
    ]
    assert made[0] == made[1]
    assert not [name for name, label in more.coords.items() if label.chunks]


@pytest.mark.parametrize("lazy", [True, False])
def test_bytes_that_do_not_decode_are_named_whenever_they_are_read(tmp_path: Path, lazy: bool) -> None:
    cohort = make_store(tmp_path / "a.zarr")
    chunk = next(file for file in sorted((cohort.location.path / n.IMAGES / n.IMAGE).glob("c.0*")))
    raw = bytearray(chunk.read_bytes())
    raw[40] ^= 0xFF
    chunk.write_bytes(raw)
    pixels = cohort.images(lazy=lazy)[n.IMAGE]
    with pytest.raises(StoreDamagedError, match=r"images/image cannot be read.*fintune-xr check"):
        pixels[0].load()


# ---- what cannot be opened


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"no cohort store at .*none\.zarr\. Make one: fintune-xr ingest"):
        open_cohort(tmp_path / "none.zarr")


@pytest.mark.parametrize("attrs", [{"schema_version": 99}, {"schema": "other"}])
def test_another_schema_is_refused(tmp_path: Path, attrs: dict[str, Any]) -> None:
    set_root_attrs(make_store(tmp_path / "a.zarr", donors=0), **attrs)
    found = {"schema": datasets.SCHEMA, "schema_version": datasets.SCHEMA_VERSION} | attrs
    said = f"expected schema {datasets.SCHEMA} version 1, found {found['schema']} version {found['schema_version']}"
    with pytest.raises(StoreVersionError, match=said):
        open_cohort(tmp_path / "a.zarr")


def test_a_zarr_group_of_someone_else_is_refused(tmp_path: Path) -> None:
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    with pytest.raises(StoreVersionError, match="found None version None"):
        open_cohort(tmp_path / "a.zarr")


def test_a_store_is_never_made_over_another(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", donors=0)
    with pytest.raises(FintuneValueError, match="exists already; ingest into it to append"):
        create_cohort(tmp_path / "a.zarr", kind="if", channels=CHANNELS, tile_shape=(8, 6), dtype="uint16")


def test_a_store_is_made_where_an_earlier_attempt_was_killed_but_not_over_other_files(tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    (place / n.STAGING).mkdir(parents=True)
    (place / f"zarr.json.12ab{PARTIAL_SUFFIX}").write_bytes(b"{")
    assert_holds(make_store(place, donors=1), tile_names(1, 2))
    for other in (tmp_path / "notes", tmp_path / "file.zarr"):
        if other.suffix:
            other.write_text("mine")
        else:
            other.mkdir()
            (other / "mine.txt").write_text("mine")
        with pytest.raises(FintuneValueError, match="exists and is no cohort store"):
            make_store(other)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


def test_an_unknown_kind_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no kind of cohort 'ef'; known: .*em.*if"):
        create_cohort(tmp_path / "a.zarr", kind="ef", channels=CHANNELS, tile_shape=(8, 6), dtype="uint16")


def test_a_store_of_a_kind_that_nothing_implements_is_not_taken_for_another(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", donors=1, tiles=1)
    set_root_attrs(store, cohort_kind="mri")
    with pytest.raises(StoreVersionError, match=r"of kind 'mri'; this release reads if"):
        open_cohort(store.url)


@pytest.mark.parametrize(
    ("ask", "command"),
    [
        (lambda c: c.annotations(), "fintune-xr annotate MASKS"),
        (lambda c: c.analysis(), "fintune-xr associate"),
        (lambda c: c.read("metrics/x"), "holds no metrics/x yet"),
    ],
)
def test_what_is_not_there_yet_names_the_command_that_makes_it(tmp_path: Path, ask: Any, command: str) -> None:
    with pytest.raises(StoreNotFoundError, match=command):
        ask(make_store(tmp_path / "a.zarr", donors=0))


@pytest.mark.parametrize("ask", ["run", "cells", "positivity", "bootstrap", "metrics"])
def test_unknown_names_list_the_known(tmp_path: Path, ask: str) -> None:
    with pytest.raises(UnknownNameError, match=r"no .* 'nope'; known: none yet"):
        getattr(make_store(tmp_path / "a.zarr", donors=0), ask)("nope")


# ---- small datasets in place of others


def quarantine(*reasons: str) -> xr.Dataset:
    columns = {name: (n.ITEM, np.array(reasons, np.dtypes.StringDType())) for name in empty_quarantine().data_vars}
    return xr.Dataset(columns)


def reasons(cohort: Cohort) -> list[str]:
    return [str(one) for one in cohort.quarantine()[n.REASON].values]


def test_a_dataset_replaces_what_was_there(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=0)
    for texts in (["a"], ["b", "ä ö 漢"], []):
        cohort.write(n.QUARANTINE, quarantine(*texts), datasets.QUARANTINE)
        assert reasons(open_cohort(cohort.url)) == texts
    assert not list((cohort.location.path / n.STAGING).glob("*+*"))


def test_what_is_stored_says_what_it_means_even_where_it_was_put_together_without(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=0)
    bare = quarantine("a").drop_attrs()
    bare[n.PATH].attrs["long_name"] = "its own"
    cohort.write(n.QUARANTINE, bare, datasets.QUARANTINE)
    stored = cohort.read(n.QUARANTINE)
    assert stored[n.REASON].attrs["long_name"] == datasets.QUARANTINE[n.REASON].meaning
    assert stored[n.PATH].attrs["long_name"] == "its own"
    assert bare[n.REASON].attrs == {}


def test_a_dataset_that_does_not_fit_its_schema_is_not_written(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=0)
    with pytest.raises(SchemaError, match="reason: variable missing"):
        cohort.write(n.QUARANTINE, quarantine("x").drop_vars(n.REASON), datasets.QUARANTINE)
    assert reasons(cohort) == []


@pytest.mark.parametrize("survives", [1, 2, 3])
def test_a_replacement_broken_off_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    """`survives` renames happen before the kill; the second puts the new dataset in place."""
    cohort = make_store(tmp_path / "a.zarr", donors=0)
    cohort.write(n.QUARANTINE, quarantine("old"), datasets.QUARANTINE)
    renamed = Path.rename
    calls = 0

    def stopping(self: Path, target: Path) -> Path:
        nonlocal calls
        if self.suffix == PARTIAL_SUFFIX:
            return renamed(self, target)
        calls += 1
        if calls == survives:
            raise Stopped
        return renamed(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopping)
        with pytest.raises(Stopped):
            cohort.write(n.QUARANTINE, quarantine("new"), datasets.QUARANTINE)
    cohort = open_cohort(cohort.location)
    assert reasons(cohort) == (["old"] if survives < 3 else ["new"])
    cohort.write(n.QUARANTINE, quarantine("newer"), datasets.QUARANTINE)
    assert reasons(cohort) == ["newer"]
    assert not list((cohort.location.path / n.STAGING).glob("*+*"))


def test_a_replacement_that_goes_on_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By others that replace the same group, and by those who open the store between the two renames."""
    monkeypatch.setattr(locks, "REPLACING_S", 0.2)
    cohort = make_store(tmp_path / "a.zarr", donors=0)
    cohort.write(n.QUARANTINE, quarantine("old"), datasets.QUARANTINE)
    group, aside = (cohort.location.path / name for name in (n.QUARANTINE, f"{n.STAGING}/{n.QUARANTINE}+1{OLD}"))
    with hold_replacement(cohort.location, n.QUARANTINE):
        group.rename(aside)
        with pytest.raises(RunBusyError, match=r"another process is writing quarantine in .*a\.zarr\. Wait for it"):
            cohort.write(n.QUARANTINE, quarantine("new"), datasets.QUARANTINE)
        open_cohort(cohort.url)
        assert aside.exists()
    assert reasons(open_cohort(cohort.url)) == ["old"]
    assert not aside.exists()


def test_a_half_written_group_is_named(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=0)
    replace_group(cohort.location, "metrics/test", xr.Dataset({"a": ("b", [1.0])}), None)
    tables.open_writable(cohort.location, "metrics/test").attrs[n.COMPLETE] = False
    with pytest.raises(StoreDamagedError, match=r"metrics/test in .* left half-written\. Run the step"):
        cohort.metrics("test")


def test_a_half_written_run_is_to_be_made_by_what_makes_it(tmp_path: Path) -> None:
    """Nothing in it can be set back, and not every run is one that `infer` makes."""
    cohort = make_store(tmp_path / "a.zarr", donors=1)
    tables.ensure_group(cohort.location, n.RUNS)
    group = tables.ensure_group(cohort.location, f"{n.RUNS}/r", {n.COMPLETE: False})
    # Made, and not yet filled.
    tables.create_column(group, n.STATE, datasets.QUARANTINE[n.TILE], shape=(3,))
    assert {(problem.where, problem.remedy) for problem in check(cohort.url)} == {(f"{n.RUNS}/r", WRITTEN_AGAIN)}


@pytest.mark.parametrize("donors", [0, 1])
def test_labels_of_tiles_that_were_not_committed_are_no_damage(tmp_path: Path, donors: int) -> None:
    """A writer killed in a commit has made columns longer, whose rows are not written yet."""
    cohort = make_store(tmp_path / "a.zarr", donors=donors)
    for name in cohort.images_group().labels:
        column = tables.open_column(cohort.location, f"{n.IMAGES}/{name}")
        column.resize((growing.ROWS_PER_CHUNK + 1, *column.shape[1:]))
    assert {(problem.where, problem.remedy) for problem in check(cohort.url)} == {(n.IMAGES, WRITTEN_AGAIN)}
    # Nor is what goes on with the command stopped by them.
    assert len(stored_digests(cohort.images_group())) == 2 * donors


def test_a_group_of_tiles_that_was_being_made_is_no_damage(tmp_path: Path) -> None:
    store = Path(make_store(tmp_path / "a.zarr", donors=0).location.path)
    shutil.rmtree(store / n.IMAGES / n.IMAGE)
    (store / n.IMAGES / n.CHANNEL / "c.0").unlink()
    for repair in (False, True):
        assert {(one.where, one.remedy) for one in check(store, repair=repair)} == {(n.IMAGES, WRITTEN_AGAIN)}


def test_removing_and_sweeping(tmp_path: Path) -> None:
    location = make_store(tmp_path / "a.zarr", donors=0).location
    replace_group(location, "metrics/a", xr.Dataset({"a": ("b", [1.0])}), None)
    remove_group(location, "metrics/a")
    remove_group(location, "metrics/a")
    assert not group_exists(location, "metrics/a")
    staging = location.path / n.STAGING
    for name in ("gone-1", "ordered-x-1", "cells-y"):
        (staging / name / "deep").mkdir(parents=True)
    sweep_staging(location, "ordered-x-")
    assert sorted(entry.name for entry in staging.iterdir()) == ["cells-y", "zarr.json"]


# ---- read-only places and full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for two MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system needs the right to mount: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_leaves_what_was_committed_and_goes_on_after_room_is_made(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * (1600 << 10))
    cohort = make_store(small_disk / "a.zarr", donors=1, tiles=4, px=128)
    names = tile_names(6, 4)
    with pytest.raises(StoreWriteError, match=r"cannot write .*No space left.*intact.*run the same command again"):
        add_tiles(cohort, names[4:], px=128)
    n_kept = cohort.images_group().n_tiles
    assert n_kept >= 4
    assert not list(cohort.location.path.rglob(f"*{PARTIAL_SUFFIX}"))
    filler.unlink()
    add_tiles(cohort, names[n_kept:], px=128)
    assert_holds(open_cohort(cohort.url), names, px=128)


def test_a_disk_full_at_every_point_of_a_commit(small_disk: Path) -> None:
    """The disk is filled to the last block, then given back a little more each time, until the append succeeds."""
    cohort = make_store(small_disk / "a.zarr", donors=1, tiles=3)
    before, after = tile_names(1, 3), [*tile_names(1, 3), "d7/GFAP/7", "d7/IBA1/8"]
    room, failures = 0, 0
    filler = small_disk / "filler"
    while True:
        with filler.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(b"\0" * 4096):
                    pass
            file.truncate(max(0, file.tell() - room))
        try:
            add_tiles(cohort, after[3:])
            break
        except StoreWriteError:
            failures += 1
        assert cohort.images_group().n_tiles == 3
        np.testing.assert_array_equal(cohort.images_group().array[:3], [tile_pixels(name, 64) for name in before])
        room += 4096
    filler.unlink()
    assert failures > 3
    assert_holds(open_cohort(cohort.url), after)


LIMITED = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from stores import add_tiles, tile_names
from fintune_xr.errors import StoreWriteError
from fintune_xr.store.cohort import open_cohort
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    add_tiles(open_cohort(sys.argv[1]), tile_names(2, 4)[1:])
except StoreWriteError as error:
    print(error)
    sys.exit(42)
"""


def test_a_file_that_may_not_grow_is_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    assert resource.RLIMIT_FSIZE is not None
    cohort = make_store(tmp_path / "a.zarr", donors=1, tiles=1)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, cohort.url, str(Path(__file__).parents[1] / "support")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 42, done.stderr
    assert "File too large" in done.stdout
    assert_holds(open_cohort(cohort.url), tile_names(1, 1))
    add_tiles(cohort, tile_names(2, 4)[1:])
    assert_holds(open_cohort(cohort.url), tile_names(2, 4))


def test_a_store_on_a_read_only_file_system_opens_and_says_that_it_cannot_be_written(small_disk: Path) -> None:
    cohort = make_store(small_disk / "a.zarr")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert_holds(open_cohort(cohort.url), tile_names(3, 2))
    with pytest.raises(StoreWriteError, match="Read-only file system"):
        add_tiles(cohort, ["d9/GFAP/1"])
    with pytest.raises(StoreWriteError, match="Read-only file system"):
        cohort.write(n.QUARANTINE, quarantine("x"), datasets.QUARANTINE)
    with pytest.raises(StoreWriteError, match="Read-only file system"):
        make_store(small_disk / "b.zarr", donors=0)


def test_a_store_opened_for_reading_refuses_to_write(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=1, tiles=1)
    array = zarr.open_array(cohort.location.zarr(), path=f"{n.IMAGES}/{n.IMAGE}", mode="r")
    with pytest.raises(ValueError, match=r"read.only"):
        array[0] = 0


# ---- what lies on disk


def test_a_store_describes_itself(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=1, tiles=1)
    root = json.loads((cohort.location.path / "zarr.json").read_text())
    assert root["attributes"] == {
        "schema": "fintune-xr-cohort", "schema_version": 1, "cohort_kind": "if", "title": "Small",
    }  # fmt: skip
    image = json.loads((cohort.location.path / n.IMAGES / n.IMAGE / "zarr.json").read_text())
    assert image["dimension_names"] == [n.TILE, n.CHANNEL, n.Y, n.X]
    assert image["attributes"]["long_name"].startswith("Raw detector counts")
    (codec,) = image["codecs"]
    assert codec["name"] == "sharding_indexed"
    assert [inner["name"] for inner in codec["configuration"]["codecs"]] == ["bytes", "blosc", "crc32c"]


def test_a_cohort_at_a_url_goes_the_same_way() -> None:
    cohort = create_cohort("memory://c/a.zarr", kind="if", channels=CHANNELS, tile_shape=(64, 64), dtype="uint16")
    add_tiles(cohort, tile_names(2, 3)[:3])
    add_tiles(open_cohort("memory://c/a.zarr"), tile_names(2, 3)[3:])
    cohort.write(n.QUARANTINE, quarantine("x"), datasets.QUARANTINE)
    again = open_cohort("memory://c/a.zarr")
    assert_holds(again, tile_names(2, 3))
    assert reasons(again) == ["x"]
    with pytest.raises(FileNotFoundError):
        again.location.read("none")


def test_what_has_no_part_is_called_unassigned_wherever_it_is_read(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=2, tiles=1)
    split_column(cohort)[:1] = np.array([n.TRAIN], np.dtypes.StringDType())
    stored = xr.open_dataset(tmp_path / "c.zarr", engine="zarr", group=n.IMAGES, consolidated=False)
    n_tiles = stored.sizes[n.TILE]
    # On disk it is as it has always been: stores of other versions are read alike.
    assert sorted(map(str, stored[n.SPLIT].values)) == [*[""] * (n_tiles - 1), n.TRAIN]
    for images in (cohort.images(), cohort.images(lazy=False)):
        assert set(images[n.SPLIT].values.tolist()) == {n.TRAIN, n.UNASSIGNED}
        assert images.sel(split=n.UNASSIGNED).sizes[n.TILE] == n_tiles - 1
        assert images[n.SPLIT].attrs["units"] == "1"


def test_one_word_for_many_tiles_is_held_once() -> None:
    n_tiles = 1_000_000
    bare = xr.Dataset(coords={n.SPLIT: (n.TILE, np.zeros(n_tiles, "U1"))})
    tracemalloc.start()
    named = with_part_names(bare)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * n_tiles
    assert (named[n.SPLIT].values == n.UNASSIGNED).all()


def test_unassigned_tiles_are_no_part_that_anything_is_learned_from_or_scored_on(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=2, tiles=1)
    names = cohort.images()[n.TILE].values.tolist()
    annotate(cohort, {tile: np.eye(64, dtype=np.uint32) for tile in names})
    assert part_to_score(cohort, "all").names == names
    with pytest.raises(SplitError, match="has no split yet"):
        require_split(cohort)
    assigned = {names[0]: n.TRAIN}
    column = split_column(cohort)
    column[:1] = np.array([n.TRAIN], np.dtypes.StringDType())
    column.attrs[n.DIGEST] = split_digest(assigned)
    assert require_split(cohort) == split_digest(assigned)
    for of_part in (part_to_score, annotated_part):
        assert of_part(cohort, n.TRAIN).names == names[:1]
        with pytest.raises((UnknownNameError, SplitError), match=r"no annotated tile|no part of the split"):
            of_part(cohort, n.UNASSIGNED)
    assert sorted(split_table(cohort)[n.SPLIT]) == [n.TRAIN, *[n.UNASSIGNED] * (len(split_table(cohort)) - 1)]


def test_labels_are_on_the_disk_before_the_length_tells_of_their_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns are forced there on threads, however long that takes."""
    cohort = create_cohort(tmp_path / "a.zarr", kind="if", channels=CHANNELS, tile_shape=(64, 64), dtype="uint16")
    target, done = cohort.images_group(), []

    def slowly(_location: Location, path: str, _chunks: object) -> None:
        time.sleep(0.02)
        done.append(path)

    def opening(location: Location, path: str) -> object:
        done.append(path)
        return tables.open_column(location, path)

    monkeypatch.setattr(growing, "sync_array", slowly)
    monkeypatch.setattr(growing, "open_column", opening)
    for _ in growing.append(target, [item("d/m/t", 64, target.grid)]):
        pass
    assert set(done[:-1]) == {f"{n.IMAGES}/{name}" for name in target.labels}
    assert done[-1] == f"{n.IMAGES}/{n.IMAGE}"
