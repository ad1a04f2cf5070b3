"""Tiles of 2048 x 2048 uint16 in two channels, from TIFF files into a Zarr store.

Ours includes what the peers leave out: scanning and pairing names, headers, the SHA-256 of every file, checksums of
every chunk, labels, and bytes forced to the disk.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import tifffile
import xarray as xr
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from table import Fact, Reach, Row, medians, print_table, row
from tiles_on_disk import SIDE, link_tiles, tile_pairs, write_tiles
from zarr.codecs import BloscCodec, Crc32cCodec

from fintune_xr.pipelines.ingest import ingest

N_FILES = 32
N_LINKED = 64
LOOP_TILES = 8
N_REPEATS = 3
SHAPE = (2, SIDE, SIDE)
CODEC = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=2)
N_CORES = len(os.sched_getaffinity(0))
SHARE_OF_LIMIT = 0.6
MEMORY_GROWTH = 1.25

Pairs = Sequence[tuple[Path, Path]]

_CHILD = """
import re, sys
from pathlib import Path
from fintune_xr.pipelines.ingest import ingest
ingest(sys.argv[1], sys.argv[2])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def rows() -> list[Row | Fact]:
    """Four peers for each kind of TIFF, and memory for N and 4 N tiles."""
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder:
        work = Path(folder)
        for name, compression in (("LZW", "lzw"), ("plain", None)):
            write_tiles(work / name, N_FILES, compression=compression)
        link_tiles(work / "linked", work / "plain", N_LINKED, N_FILES)
        link_tiles(work / "many", work / "plain", 4 * N_FILES, N_FILES)
        return [
            *_speed("uncompressed TIFF", work / "linked", work / "out"),
            *_speed("LZW TIFF", work / "LZW", work / "out"),
            _memory(work / "plain", work / "many", work / "out"),
        ]


def obvious_loop(pairs: Pairs, out: Path) -> None:
    """One tile at a time, zarr's default codec."""
    array = zarr.create_array(out, shape=(len(pairs), *SHAPE), chunks=(1, *SHAPE), dtype="uint16")
    for index, pair in enumerate(pairs):
        array[index] = _read(pair)


def xarray_dask(pairs: Pairs, out: Path) -> None:
    """Lazy images stacked and written by xarray, with a fast codec."""
    images = [da.from_delayed(dask.delayed(_read)(pair), SHAPE, np.uint16) for pair in pairs]
    dataset = xr.Dataset({"image": (("tile", "channel", "y", "x"), da.stack(images))})
    with dask.config.set(scheduler="threads"):
        dataset.to_zarr(out, encoding={"image": {"compressors": [CODEC]}}, consolidated=False)


def threads_zarr(pairs: Pairs, out: Path, *, checked: bool = False) -> None:
    """A thread for each core, zarr arrays, a fast codec, no test for empty chunks; `checked` adds our digests."""
    array = zarr.create_array(
        out, shape=(len(pairs), *SHAPE), chunks=(1, *SHAPE), dtype="uint16",
        compressors=[CODEC, Crc32cCodec()] if checked else [CODEC],
        config={"write_empty_chunks": True},
    )  # fmt: skip

    def copy(index: int) -> None:
        array[index] = _read(pairs[index])
        if checked:
            for path in pairs[index]:
                hashlib.sha256(path.read_bytes()).hexdigest()

    with ThreadPoolExecutor(N_CORES) as pool:
        list(pool.map(copy, range(len(pairs))))


def decoded_and_encoded(pair: tuple[Path, Path]) -> None:
    """What no way can leave out, for one tile on one core: decode the files, compress the pixels."""
    blosc.compress(_read(pair), b"zstd", 1, blosc.SHUFFLE)


def _speed(kind: str, source: Path, out: Path) -> list[Row]:
    pairs = tile_pairs(source)
    n_tiles = len(pairs)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: ingest(source, out),
        "limit": lambda: decoded_and_encoded(pairs[0]),
        "loop": lambda: obvious_loop(pairs[:LOOP_TILES], out),
        "xarray + dask, blosc zstd-1": lambda: xarray_dask(pairs, out),
        "threads + zarr, blosc zstd-1": lambda: threads_zarr(pairs, out),
        "the same with SHA-256 and crc32c": lambda: threads_zarr(pairs, out, checked=True),
    }
    found = medians(ways, N_REPEATS, before=functools.partial(shutil.rmtree, out, ignore_errors=True))
    limit_s = found["limit"] * n_tiles / N_CORES
    loop = (f"tifffile + zarr default, one by one, scaled from {LOOP_TILES}", found["loop"] * n_tiles / LOOP_TILES)
    what = f"ingest {n_tiles} tiles ({_pixels_mb(n_tiles):.0f} MB), {kind}"
    peers = [(name, found[name]) for name in list(ways)[3:]]
    return [
        row(what, found["ours"], loop, limit_s=limit_s, reach=Reach(faster=4, of_limit=1 / SHARE_OF_LIMIT)),
        *(row(what, found["ours"], peer, limit_s=limit_s, reach=Reach(faster=1)) for peer in peers),
    ]


def _memory(few: Path, many: Path, out: Path) -> Fact:
    n_few, n_many = (len(tile_pairs(source)) for source in (few, many))
    few_mb, many_mb = (statistics.median(_peak_mb(source, out) for _ in range(N_REPEATS)) for source in (few, many))
    return Fact(
        what=f"peak memory of an ingest of {n_many} tiles ({_pixels_mb(n_many):,.0f} MB of pixels)",
        ours=f"{many_mb:.0f} MB", peer=f"{few_mb:.0f} MB (ours at {n_few} tiles)",
        reach=f"<= {MEMORY_GROWTH}x that of {n_few} tiles", reached=many_mb <= MEMORY_GROWTH * few_mb,
    )  # fmt: skip


def _pixels_mb(n_tiles: int) -> float:
    return n_tiles * math.prod(SHAPE) * 2 / 1e6


def _peak_mb(source: Path, out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", _CHILD, str(source), str(out)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(child.stdout) * 1024 / 1e6


def _read(pair: tuple[Path, Path]) -> NDArray[np.uint16]:
    return np.stack([tifffile.imread(path, maxworkers=1) for path in pair])


if __name__ == "__main__":
    print_table(rows())
