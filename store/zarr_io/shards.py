"""Shards written whole by one writer, tile by tile, in the format of Zarr's sharding codec.

zarr itself encodes a shard from one array in memory, which for a few hundred tiles is gigabytes, and
rewrites the shard for every partial update. Here the encoded chunks of one tile after another stream into
the shard file, so memory holds one tile, and encoding runs outside the interpreter lock.

Format: Zarr v3 sharding codec (ZEP 2): chunks, then an index of (offset, size) pairs and its CRC-32C.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import google_crc32c
import imagecodecs
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from fintune_xr.errors import StoreDamagedError
from fintune_xr.execution.recycled_memory import spare_bytes
from fintune_xr.store.zarr_io.location import Location

CODEC: Final = "zstd"
LEVEL = 1
# What Blosc compresses at once. Its own choice, 32 KiB, takes a fifth longer and saves no byte.
BLOCK_BYTES = 1 << 18
# What Blosc may need beyond the pixels, and the bytes of a checksum.
_OVERHEAD, _CHECKSUM = 16, 4
MAX_CHUNK_EDGE_PX = 2048
TARGET_SHARD_BYTES = 2 << 30
MAX_TILES_PER_SHARD = 256
ABSENT = 0xFFFF_FFFF_FFFF_FFFF

Encoded = tuple[bytes | memoryview, ...]


@dataclass(frozen=True, slots=True)
class ShardGrid:
    """How an array (tile, …, y, x) is cut: `chunk` is what is compressed, `shard` is one stored object.

    `filler` is what stands outside of tiles that are smaller than the array, and in tiles without pixels.
    """

    path: str
    dtype: str
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    filler: Any = 0

    @property
    def tiles_per_shard(self) -> int:
        """Number of tiles in one stored object."""
        return self.shard[0]

    @property
    def chunks_per_tile(self) -> int:
        """Number of chunks that one tile is cut into."""
        return math.prod(s // c for s, c in zip(self.shard[1:], self.chunk[1:], strict=True))

    def key(self, shard: int) -> str:
        """Name of the stored object that holds tiles from `shard * tiles_per_shard` on."""
        return f"{self.path}/c.{shard}" + ".0" * (len(self.shard) - 1)

    @property
    def index_size(self) -> int:
        """Bytes of the index at the end of a shard."""
        return 16 * self.tiles_per_shard * self.chunks_per_tile + 4


def chunk_edge(length: int) -> int:
    """Chunk edge in px for an image edge of `length` px: the whole edge up to 2048, else even parts."""
    return math.ceil(length / math.ceil(length / MAX_CHUNK_EDGE_PX))


def plan_grid(path: str, dtype: str, tile_shape: tuple[int, ...], tiles_per_shard: int | None = None) -> ShardGrid:
    """Grid for tiles of `tile_shape` (…, y, x), by default as many per shard as fill two GiB unpacked."""
    edges = tuple(chunk_edge(length) for length in tile_shape[-2:])
    chunk = (1, *tile_shape[:-2], *edges)
    padded = tuple(e * math.ceil(n / e) for e, n in zip(edges, tile_shape[-2:], strict=True))
    whole = (*tile_shape[:-2], *padded)
    if tiles_per_shard is None:
        room = TARGET_SHARD_BYTES // (math.prod(whole) * np.dtype(dtype).itemsize)
        tiles_per_shard = int(np.clip(room, 1, MAX_TILES_PER_SHARD))
    return ShardGrid(path, dtype, chunk, (tiles_per_shard, *whole))


def create_sharded(
    group: zarr.Group, name: str, grid: ShardGrid, *, shape: tuple[int, ...], dims: tuple[str, ...],
    attrs: dict[str, Any],
) -> zarr.Array[Any]:  # fmt: skip
    """A new, empty array on `grid` with checksummed chunks; its shards are written by `write_shard`."""
    return group.create_array(
        name,
        shape=shape,
        dtype=grid.dtype,
        chunks=grid.chunk,
        shards=grid.shard,
        compressors=[BloscCodec(cname=CODEC, clevel=LEVEL, shuffle="shuffle", blocksize=BLOCK_BYTES), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=dims,
        fill_value=grid.filler,
        attributes=attrs,
    )


def grid_of(array: zarr.Array[Any]) -> ShardGrid:
    """The grid of an existing sharded array."""
    if array.shards is None:
        raise StoreDamagedError(f"{array.path}: expected a sharded array, found chunks of {array.chunks}")
    return ShardGrid(array.path, array.dtype.name, array.chunks, array.shards, _filler(array))


def encode_tile(tile: NDArray[Any], grid: ShardGrid) -> Encoded:
    """Compressed, checksummed chunks of one tile (…, y, x); smaller tiles are padded with the filler.

    Safe and parallel in threads: compression releases the interpreter lock.
    """
    padded = tile
    if tile.shape != grid.shard[1:] or tile.dtype.name != grid.dtype:
        padded = np.full(grid.shard[1:], grid.filler, grid.dtype)
        padded[tuple(slice(0, n) for n in tile.shape)] = tile
    return tuple(_encode_chunk(chunk) for chunk in chunks_of(padded, grid))


def encode_empty(grid: ShardGrid) -> Encoded:
    """The same for a tile without pixels, which holds the filler alone."""
    return encode_tile(np.full((1,) * (len(grid.shard) - 1), grid.filler, grid.dtype), grid)


def _filler(array: zarr.Array[Any]) -> Any:
    """The array's fill value; stores of before there was another hold 0."""
    value = array.fill_value
    return 0 if value is None else value.item() if hasattr(value, "item") else value


def write_shard(location: Location, grid: ShardGrid, shard: int, tiles: Iterable[Encoded]) -> int:
    """Number of bytes of shard number `shard`, written whole and durable from encoded `tiles` in order.

    Fewer tiles than `tiles_per_shard` leave the rest absent, which is right only past the end of the array.
    """
    return location.write_whole(grid.key(shard), _shard_parts(grid, tiles))


def write_shard_aside(location: Location, grid: ShardGrid, shard: int, tiles: Iterable[Encoded]) -> str:
    """Key of a file beside shard number `shard` that holds what `write_shard` would have written there."""
    return location.write_aside(grid.key(shard), _shard_parts(grid, tiles))


def read_encoded(location: Location, grid: ShardGrid, shard: int) -> list[Encoded]:
    """The encoded tiles that shard number `shard` holds, to be carried unchanged into a new version of it.

    Raises StoreDamagedError where the shard is missing, cut short, its index fails its checksum, or a tile
    before the last one is absent.
    """
    index = read_index(location, grid, shard)
    absent = (index == ABSENT).any(axis=(1, 2))
    n_tiles = int(np.argmax(absent)) if absent.any() else absent.size
    if not absent[n_tiles:].all():
        raise StoreDamagedError(
            f"{grid.key(shard)} in {location.url}: tile {n_tiles} of the shard is absent, later ones are there"
        )
    body = location.read(grid.key(shard))
    return [tuple(body[start : start + size] for start, size in slot) for slot in index[:n_tiles].tolist()]


def read_index(location: Location, grid: ShardGrid, shard: int) -> NDArray[np.uint64]:
    """Index of a shard: (slot, chunk, 2) offsets and sizes; all bits set where a chunk is absent.

    Raises StoreDamagedError where the shard is missing, too short, or the index fails its checksum.
    """
    key = grid.key(shard)
    size = location.size(key)
    if size is None or size < grid.index_size:
        found = "nothing" if size is None else f"{size} bytes"
        raise StoreDamagedError(f"{key} in {location.url}: expected a shard, found {found}")
    raw = location.read(key, size - grid.index_size, size)
    (stored,) = struct.unpack("<I", raw[-4:])
    if google_crc32c.value(raw[:-4]) != stored:
        raise StoreDamagedError(f"{key} in {location.url}: the shard's index fails its checksum")
    return np.frombuffer(raw[:-4], "<u8").reshape(grid.tiles_per_shard, grid.chunks_per_tile, 2)


def _shard_parts(grid: ShardGrid, tiles: Iterable[Encoded]) -> Iterator[bytes | memoryview]:
    index = np.full((grid.tiles_per_shard, grid.chunks_per_tile, 2), ABSENT, "<u8")
    offset = 0
    for slot, tile in enumerate(tiles):
        for number, chunk in enumerate(tile):
            index[slot, number] = offset, len(chunk)
            offset += len(chunk)
            yield chunk
    raw = index.tobytes()
    yield raw + struct.pack("<I", google_crc32c.value(raw))


def chunks_of(tile: NDArray[Any], grid: ShardGrid) -> Iterator[NDArray[Any]]:
    """Views of the chunks of a padded tile (…, y, x), in the order that they are stored in."""
    counts = [n // c for n, c in zip(tile.shape, grid.chunk[1:], strict=True)]
    for place in np.ndindex(*counts):
        yield tile[tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, grid.chunk[1:], strict=True))]


def _encode_chunk(chunk: NDArray[Any]) -> memoryview:
    raw = np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<"))
    # Its types know bytes alone, and tell less than it takes.
    compress: Any = imagecodecs.blosc_encode
    packed = compress(
        raw, level=LEVEL, compressor=CODEC, shuffle=blosc.SHUFFLE, typesize=raw.itemsize, blocksize=BLOCK_BYTES,
        numthreads=1, out=spare_bytes(raw.nbytes + _OVERHEAD),
    )  # fmt: skip
    # Into a place of its own size: chunks wait to be written, and most are far smaller than their pixels.
    encoded = spare_bytes(len(packed) + _CHECKSUM)
    encoded[:-_CHECKSUM] = packed
    encoded[-_CHECKSUM:] = np.frombuffer(struct.pack("<I", google_crc32c.value(packed)), np.uint8)
    return encoded.data
