"""Tiles read singly are those that zarr reads, and damage is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from fintune_xr.errors import StoreDamagedError
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.tile_reader import TileReader

SHAPES = [((1, 5, 40, 33), "uint8"), ((2, 70, 50), "uint16"), ((3, 9, 9), "float32"), ((1, 2100, 3000), "uint16")]


def written(folder: Path, tiles: NDArray[Any], per_shard: int) -> tuple[Location, shards.ShardGrid]:
    location = Location.of(folder / "a.zarr")
    group = zarr.create_group(location.zarr(read_only=False))
    grid = shards.plan_grid("image", tiles.dtype.name, tiles.shape[1:], per_shard)
    dims = tuple(f"d{one}" for one in range(tiles.ndim))
    shards.create_sharded(group, "image", grid, shape=tiles.shape, dims=dims, attrs={})
    for number, first in enumerate(range(0, len(tiles), per_shard)):
        packed: Iterator[shards.Encoded] = (shards.encode_tile(t, grid) for t in tiles[first : first + per_shard])
        shards.write_shard(location, grid, number, packed)
    return location, grid


def noise(n_tiles: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    return np.random.default_rng(3).integers(0, 255, (n_tiles, *shape)).astype(dtype)


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_tiles_are_those_of_zarr_in_any_order(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    tiles = noise(3, shape, dtype)
    location, _ = written(tmp_path, tiles, per_shard=2)
    reader = TileReader(location, "image")
    theirs = zarr.open_array(location.zarr(), path="image", mode="r")
    for tile in (2, 0, 1, 2):
        np.testing.assert_array_equal(reader[tile], theirs[tile])
        assert reader[tile].dtype == theirs.dtype
    assert reader.shape == tiles.shape
    for outside in (-1, 3):
        with pytest.raises(IndexError):
            reader[outside]


def test_damage_is_an_error_that_names_the_tile(tmp_path: Path) -> None:
    location, grid = written(tmp_path, noise(4, (1, 4, 32, 32), "uint8"), per_shard=2)
    (start, size), reader = shards.read_index(location, grid, 0)[1, 0].tolist(), TileReader(location, "image")
    file = location.path / grid.key(0)
    content = bytearray(file.read_bytes())
    content[start + size // 2] ^= 1
    file.write_bytes(content)
    reader[0]
    with pytest.raises(StoreDamagedError, match=r"fails its checksum"):
        reader[1]
    (location.path / grid.key(1)).unlink()
    with pytest.raises(StoreDamagedError, match="expected a shard, found nothing"):
        reader[2]


def test_a_tile_that_was_never_written_is_not_background(tmp_path: Path) -> None:
    tiles = noise(2, (1, 4, 32, 32), "uint8")
    location, grid = written(tmp_path, tiles, per_shard=2)
    shards.write_shard(location, grid, 0, [shards.encode_tile(tiles[0], grid)])
    with pytest.raises(StoreDamagedError, match="tile 1 is absent"):
        TileReader(location, "image")[1]


def test_a_shard_that_has_grown_meanwhile_is_read_anew(tmp_path: Path) -> None:
    tiles = noise(2, (1, 4, 32, 32), "uint8")
    location, grid = written(tmp_path, tiles, per_shard=2)
    reader = TileReader(location, "image")
    reader[0]
    other = [np.zeros_like(tiles[0]), tiles[1]]
    shards.write_shard(location, grid, 0, [shards.encode_tile(one, grid) for one in other])
    np.testing.assert_array_equal(reader[1], tiles[1])
