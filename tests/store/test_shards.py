"""Shards: our bytes against zarr's own codec, and what is said of bytes that are not those that were written."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from fintune_xr.errors import FintuneError, StoreDamagedError, StoreWriteError
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX
from fintune_xr.store.zarr_io import location as location_module
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import open_column, read_column, write_rows
from fintune_xr.store.zarr_io.location import Location, explain_read_errors, is_chunk_key, sync_array

_FOLDER = itertools.count()


def made(location: Location, grid: shards.ShardGrid, n_tiles: int, tile_shape: tuple[int, ...]) -> zarr.Array[Any]:
    group = zarr.open_group(location.zarr(read_only=False), mode="a", zarr_format=3)
    dims = ("tile", "channel", "y", "x")[-len(tile_shape) :] if len(tile_shape) == 3 else ("y", "x")
    return shards.create_sharded(
        group, grid.path, grid, shape=(n_tiles, *tile_shape), dims=("tile", *dims), attrs={"units": "1"}
    )


def pixels(seed: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    top = min(np.iinfo(dtype).max, 70_000)
    return (rng.integers(0, top, shape) * (rng.random(shape) < 0.5)).astype(dtype)


def write_all(location: Location, grid: shards.ShardGrid, tiles: NDArray[Any]) -> None:
    for shard, first in enumerate(range(0, len(tiles), grid.tiles_per_shard)):
        here = tiles[first : first + grid.tiles_per_shard]
        shards.write_shard(location, grid, shard, (shards.encode_tile(tile, grid) for tile in here))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, tuple[int, ...], int, int, int]:
    dtype = draw(st.sampled_from(["uint8", "uint16", "uint32"]))
    planes = draw(st.sampled_from([(), (1,), (2,), (3,)]))
    edges = (draw(st.integers(1, 23)), draw(st.integers(1, 23)))
    return dtype, (*planes, *edges), draw(st.integers(1, 7)), draw(st.integers(1, 4)), draw(st.integers(3, 16))


@examples(max_examples=40)
@given(layout=layouts(), seed=st.integers(0, 2**32 - 1))
def test_any_grid_reads_back_equal_through_plain_zarr(
    layout: tuple[str, tuple[int, ...], int, int, int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dtype, tile_shape, n_tiles, per_shard, edge = layout
    location = Location.of(tmp_path_factory.mktemp("shards") / f"{next(_FOLDER)}.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MAX_CHUNK_EDGE_PX", edge)
        grid = shards.plan_grid("image", dtype, tile_shape, per_shard)
    array = made(location, grid, n_tiles, tile_shape)
    tiles = pixels(seed, (n_tiles, *tile_shape), dtype)
    write_all(location, grid, tiles)

    # Nothing of this package reads here.
    np.testing.assert_array_equal(zarr.open_array(location.url, path="image", mode="r")[:], tiles)
    assert shards.grid_of(array) == grid

    # The same pixels as zarr itself encodes them, carried over by our reader.
    # (zarr leaves chunks of zeros out.)
    tiles = np.maximum(tiles, 1)
    array[:] = tiles
    for shard in range(-(-n_tiles // per_shard)):
        kept = shards.read_encoded(location, grid, shard)
        shards.write_shard(location, grid, shard, kept)
    np.testing.assert_array_equal(zarr.open_array(location.url, path="image", mode="r")[:], tiles)


def test_the_index_is_that_of_zarr(tmp_path: Path) -> None:
    """zarr writes the same chunks; offsets may differ, sizes and decoded bytes may not."""
    ours, theirs = (Location.of(tmp_path / name) for name in ("ours.zarr", "theirs.zarr"))
    grid = shards.plan_grid("image", "uint16", (2, 16, 12), 3)
    tiles = 1 + pixels(0, (3, 2, 16, 12), "uint16")
    made(ours, grid, 3, (2, 16, 12))
    write_all(ours, grid, tiles)
    made(theirs, grid, 3, (2, 16, 12))[:] = tiles
    for location in (ours, theirs):
        assert shards.read_index(location, grid, 0).shape == (3, grid.chunks_per_tile, 2)
    assert shards.read_encoded(ours, grid, 0) == shards.read_encoded(theirs, grid, 0)


def test_smaller_tiles_are_padded_with_zeros_in_the_corner() -> None:
    grid = shards.plan_grid("image", "uint32", (10, 9), 1)
    small = np.arange(12, dtype=np.int64).reshape(3, 4)
    padded = np.zeros((10, 9), np.uint32)
    padded[:3, :4] = small
    assert shards.encode_tile(small, grid) == shards.encode_tile(padded, grid)


@pytest.mark.parametrize(("length", "edge"), [(1, 1), (2048, 2048), (2049, 1025), (5000, 1667), (4096, 2048)])
def test_long_edges_are_cut_into_even_parts(length: int, edge: int) -> None:
    assert shards.chunk_edge(length) == edge


def test_a_shard_never_holds_more_than_its_bytes_or_tiles() -> None:
    assert shards.plan_grid("a", "uint16", (2, 2048, 2048)).tiles_per_shard == 128
    assert shards.plan_grid("a", "uint16", (2, 64, 64)).tiles_per_shard == shards.MAX_TILES_PER_SHARD
    assert shards.plan_grid("a", "uint32", (40_000, 40_000)).tiles_per_shard == 1


# ---- what is not what was written is an error, and never background


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Location, shards.ShardGrid, NDArray[Any]]:
    location = Location.of(tmp_path / "cohort.zarr")
    grid = shards.plan_grid("image", "uint16", (2, 24, 20), 3)
    tiles = 1 + pixels(3, (5, 2, 24, 20), "uint16")
    made(location, grid, 5, (2, 24, 20))
    write_all(location, grid, tiles)
    return location, grid, tiles


def strictly(location: Location) -> zarr.Array[Any]:
    return zarr.open_array(location.zarr(), path="image", mode="r")


@pytest.mark.parametrize("row", [0, 2])
def test_a_missing_shard_is_an_error(stored: tuple[Location, shards.ShardGrid, Any], row: int) -> None:
    location, grid, _ = stored
    (location.path / grid.key(0)).unlink()
    with pytest.raises(StoreDamagedError, match=r"image/c\.0\.0\.0\.0 is missing in .*fintune-xr check"):
        strictly(location)[row]
    with pytest.raises(StoreDamagedError, match="expected a shard, found nothing"):
        shards.read_encoded(location, grid, 0)


def test_an_empty_shard_is_an_error(stored: tuple[Location, shards.ShardGrid, Any]) -> None:
    location, grid, _ = stored
    (location.path / grid.key(1)).write_bytes(b"")
    with pytest.raises(StoreDamagedError, match="is empty"):
        strictly(location)[4]
    with pytest.raises(StoreDamagedError, match="found 0 bytes"):
        shards.read_index(location, grid, 1)


@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.01])
def test_a_truncated_shard_is_an_error(stored: tuple[Location, shards.ShardGrid, Any], kept: float) -> None:
    location, grid, _ = stored
    file = location.path / grid.key(0)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(StoreDamagedError, match="cannot be read"), explain_read_errors("image"):
        strictly(location)[0]
    with pytest.raises(StoreDamagedError, match=r"index fails its checksum|expected a shard"):
        shards.read_index(location, grid, 0)


def test_every_flipped_bit_is_seen(stored: tuple[Location, shards.ShardGrid, NDArray[Any]]) -> None:
    location, grid, tiles = stored
    file = location.path / grid.key(0)
    sound = file.read_bytes()
    rng = np.random.default_rng(11)
    for place in rng.integers(0, len(sound), 150):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(damaged))
        seen = 0
        for row in range(3):
            try:
                with explain_read_errors("image"):
                    np.testing.assert_array_equal(strictly(location)[row], tiles[row])
            except StoreDamagedError:
                seen += 1
        assert seen, f"byte {place} of {len(sound)}"


def test_tiles_past_the_last_one_are_absent(stored: tuple[Location, shards.ShardGrid, Any]) -> None:
    location, grid, _ = stored
    assert (shards.read_index(location, grid, 1)[2] == shards.ABSENT).all()
    assert len(shards.read_encoded(location, grid, 1)) == 2


def test_a_hole_in_a_shard_is_not_closed_by_moving_later_tiles(stored: tuple[Location, shards.ShardGrid, Any]) -> None:
    location, grid, tiles = stored
    with_hole = tiles.copy()
    with_hole[1] = 0
    zarr.open_array(location.url, path="image", mode="r+")[:] = with_hole
    with pytest.raises(StoreDamagedError, match="tile 1 of the shard is absent, later ones are there"):
        shards.read_encoded(location, grid, 0)


def test_an_array_without_shards_has_no_grid(tmp_path: Path) -> None:
    plain = zarr.create_array(str(tmp_path / "plain.zarr"), shape=(3, 4), chunks=(1, 4), dtype="u2")
    with pytest.raises(StoreDamagedError, match="expected a sharded array"):
        shards.grid_of(plain)


# ---- written whole or not at all


def broken_off(parts: list[bytes], error: Exception) -> Iterator[bytes]:
    yield from parts
    raise error


def test_what_breaks_off_in_the_middle_leaves_the_old_object_and_nothing_else(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    location.write_whole("a/c.0", [b"old"])
    with pytest.raises(ZeroDivisionError):
        location.write_whole("a/c.0", broken_off([b"new", b"er"], ZeroDivisionError()))
    assert location.read("a/c.0") == b"old"
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["c.0"]


def test_a_full_disk_says_what_is_intact_and_what_to_do(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    with pytest.raises(StoreWriteError, match=r"cannot write .*/a/c\.0: No space left.*intact.*run the same command"):
        location.write_whole("a/c.0", broken_off([b"new"], OSError(28, "No space left on device")))
    assert list((tmp_path / "a").iterdir()) == []


def test_other_faults_of_the_operating_system_keep_their_own_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        Location.of(tmp_path).write_whole("a", broken_off([], ConnectionResetError(104, "reset")))


def test_leftovers_of_killed_writers_are_swept_and_nothing_else(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    location.write_whole("images/c.0", [b"x"])
    (tmp_path / "images" / f"c.1.abc{PARTIAL_SUFFIX}").write_bytes(b"half")
    assert location.sweep("images") == [f"images/c.1.abc{PARTIAL_SUFFIX}"]
    assert [file.name for file in (tmp_path / "images").iterdir()] == ["c.0"]


def test_ranges_and_sizes(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    assert location.write_whole("k", [b"0123", b"456"]) == 7
    assert location.read("k", 2, 5) == b"234"
    assert location.read("k", 5) == b"56"
    assert location.size("k") == 7
    assert location.size("none") is None
    with pytest.raises(FileNotFoundError):
        location.read("none")


@pytest.mark.parametrize(
    ("key", "is_chunk"),
    [
        ("images/image/c.3.0.0.0", True),
        ("foreign/c/0/1", True),
        ("foreign/c", True),
        ("images/image/zarr.json", False),
        ("runs/c/zarr.json", False),
        ("runs/c.1/mask/zarr.json", False),
        ("runs/c/.zgroup", False),
    ],
)
def test_names_of_chunks_are_told_from_names_of_groups(key: str, is_chunk: bool) -> None:
    assert is_chunk_key(key) == is_chunk


# ---- small arrays


def test_rows_are_never_added_behind_a_chunk_that_is_gone(tmp_path: Path) -> None:
    location = Location.of(tmp_path / "s.zarr")
    group = zarr.open_group(location.zarr(read_only=False), mode="w", zarr_format=3)
    keys = {"name": "default", "separator": "."}
    group.create_array("a", shape=(0,), chunks=(8,), dtype="i4", chunk_key_encoding=keys)
    write_rows(location, "a", 0, np.arange(3))
    write_rows(location, "a", 3, np.arange(3, 10))
    assert read_column(location, "a").tolist() == list(range(10))
    write_rows(location, "a", 5, np.array([50]))
    assert read_column(location, "a").tolist() == [0, 1, 2, 3, 4, 50]
    sync_array(location, "a", [0])
    (location.path / "a" / "c.0").unlink()
    with pytest.raises(StoreDamagedError, match=r"a/c\.0 is missing"):
        write_rows(location, "a", 6, np.array([1]))
    assert open_column(location, "a").shape == (6,)


def test_zeros_are_written_whatever_other_threads_set_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location.of(tmp_path / "s.zarr")
    group = zarr.open_group(location.zarr(read_only=False), mode="w", zarr_format=3)
    keys = {"name": "default", "separator": "."}
    group.create_array("a", shape=(4,), chunks=(2,), dtype="f4", chunk_key_encoding=keys)
    made = zarr.AsyncArray

    def as_another_leaves(*given: Any, **named: Any) -> Any:
        zarr.config.set({"array.write_empty_chunks": False})
        return made(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(zarr, "AsyncArray", as_another_leaves)
        open_column(location, "a")[:] = 0
    assert read_column(location, "a").tolist() == [0] * 4


def test_what_another_process_wrote_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    location = Location.of(tmp_path / "s.zarr")
    store, file = location.zarr(read_only=False), location.path / "a" / "zarr.json"
    location.path.mkdir()

    async def as_before_the_other(key: str) -> bool:
        file.parent.mkdir()
        file.write_text("its own")
        return False

    store.exists = as_before_the_other  # type: ignore[method-assign]
    sync(store.set_if_not_exists("a/zarr.json", default_buffer_prototype().buffer.from_bytes(b"{}")))
    assert file.read_text() == "its own"


def test_errors_meant_for_people_pass_through_reading() -> None:
    with pytest.raises(FintuneError, match="as it was"), explain_read_errors("x"):
        raise FintuneError("as it was")


def test_a_long_file_is_forced_to_the_disk_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is forced before the rest is, and all of it before the file takes its place."""
    sizes: list[int] = []
    is_forced = threading.Event()

    def forced(handle: int) -> None:
        sizes.append(os.fstat(handle).st_size)
        is_forced.set()

    def parts() -> Iterator[bytes]:
        yield part
        assert is_forced.wait(60)
        yield from [part] * 4

    part = b"x" * (1 << 18)
    monkeypatch.setattr(location_module, "SYNC_BYTES", 10)
    monkeypatch.setattr(os, "fsync", forced)
    assert Location.of(tmp_path).write_whole("a", parts()) == 5 * len(part)
    assert sizes[0] == len(part)
    # The last one is of the folder.
    assert sizes[-2] == 5 * len(part)
    assert (tmp_path / "a").read_bytes() == part * 5


def test_a_fault_of_forcing_what_was_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of it once, while the file is still written; the last forcing goes well."""

    def full_once(_: int) -> None:
        if not failed:
            failed.append(True)
            raise OSError(errno.ENOSPC, "No space left on device")

    failed: list[bool] = []
    monkeypatch.setattr(location_module, "SYNC_BYTES", 10)
    monkeypatch.setattr(os, "fsync", full_once)
    with pytest.raises(StoreWriteError, match="No space left"):
        Location.of(tmp_path).write_whole("a", [b"x" * (1 << 18)] * 5)
    assert list(tmp_path.iterdir()) == []
