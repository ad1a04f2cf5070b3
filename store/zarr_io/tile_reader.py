"""Single tiles out of shards, with one index per shard and no event loop between them and their bytes.

zarr reads any selection, and for that builds a pipeline anew, fetches the shard's index again and hands every chunk
from thread to thread: about a millisecond a tile, whatever its size. A run reads whole tiles, one after another.
"""

from __future__ import annotations

import struct
import threading
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray

from fintune_xr.errors import StoreDamagedError
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.location import Location, explain_read_errors

_CHECKSUM = 4
# Of a chunk packed by Blosc, where its header says how many bytes it unpacks to.
_UNPACKED_SIZE_AT = 4


class TileReader:
    """Tiles (…, y, x) of the sharded array at `path`, by their number; safe in several threads at once."""

    def __init__(self, location: Location, path: str) -> None:
        array: zarr.Array[Any] = location.array(path)
        self.location, self.grid = location, shards.grid_of(array)
        self.shape: tuple[int, ...] = array.shape
        self._lock = threading.Lock()
        # The last shard that was asked for, and its index: tiles come in order.
        self._index: tuple[int, NDArray[np.uint64]] | None = None

    def __getitem__(self, tile: int) -> NDArray[Any]:
        """Pixels of one tile, checked against their checksums.

        Raises StoreDamagedError where the shard or one of the tile's chunks is missing or not what was written,
        IndexError past the end of the array.
        """
        if not 0 <= tile < self.shape[0]:
            raise IndexError(f"tile {tile} of {self.shape[0]}")
        with explain_read_errors(f"tile {tile} of {self.location.url}/{self.grid.path}"):
            try:
                return self._read(tile)
            except StoreDamagedError:
                # Whoever appends puts a longer shard in the place of this one, whose index is another.
                self._index = None
            try:
                return self._read(tile)
            except StoreDamagedError as error:
                raise StoreDamagedError(
                    f"tile {tile} of {self.location.url}: {error}. Run `fintune-xr check` to list what is damaged and "
                    "how to repair it."
                ) from error

    def checksums(self, tile: int) -> tuple[tuple[int, bytes], ...]:
        """Bytes and stored checksum of each chunk of a tile: others where its pixels are others.

        Raises StoreDamagedError where the shard or one of the tile's chunks is missing.
        """
        with explain_read_errors(f"tile {tile} of {self.location.url}/{self.grid.path}"):
            key, places = self._places(tile)
            return tuple(
                (size, self.location.read(key, start + size - _CHECKSUM, start + size)) for start, size in places
            )

    def _places(self, tile: int) -> tuple[str, list[tuple[int, int]]]:
        """The object that holds a tile, and where in it each of its chunks begins and how many bytes it has."""
        shard, slot = divmod(tile, self.grid.tiles_per_shard)
        places = self._index_of(shard)[slot].tolist()
        if any(place[0] == shards.ABSENT for place in places):
            raise StoreDamagedError(f"{self.grid.key(shard)} in {self.location.url}: tile {tile} is absent")
        return self.grid.key(shard), places

    def _read(self, tile: int) -> NDArray[Any]:
        key, places = self._places(tile)
        whole = np.empty(self.grid.shard[1:], np.dtype(self.grid.dtype).newbyteorder("<"))
        for (start, size), target in zip(places, shards.chunks_of(whole, self.grid), strict=True):
            _decode_into(target, self.location.read(key, start, start + size))
        cropped = whole[tuple(slice(0, length) for length in self.shape[1:])]
        return cropped.astype(self.grid.dtype, copy=False)

    def _index_of(self, shard: int) -> NDArray[np.uint64]:
        with self._lock:
            if self._index is None or self._index[0] != shard:
                self._index = (shard, shards.read_index(self.location, self.grid, shard))
            return self._index[1]


def _decode_into(target: NDArray[Any], packed: bytes) -> None:
    """Unpacks a chunk into its place.

    Raises StoreDamagedError where the checksum or the number of bytes is another.
    """
    body, (stored,) = packed[:-_CHECKSUM], struct.unpack("<I", packed[-_CHECKSUM:])
    if google_crc32c.value(body) != stored:
        raise StoreDamagedError("a chunk fails its checksum")
    if target.flags.c_contiguous:
        (n_bytes,) = struct.unpack_from("<I", body, _UNPACKED_SIZE_AT)
        if n_bytes != target.nbytes:
            raise StoreDamagedError(f"a chunk holds {n_bytes} bytes, expected {target.nbytes}")
        blosc.decompress(body, target)
        return
    raw = blosc.decompress(body)
    target[...] = np.frombuffer(raw, target.dtype).reshape(target.shape)
