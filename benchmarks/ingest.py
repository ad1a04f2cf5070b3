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
import time
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

from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.zarr_io.shards import BLOCK_BYTES

N_FILES = 32
N_LZW = 16
N_LINKED = 64
LOOP_TILES = 8
N_REPEATS = 3
SHAPE = (2, SIDE, SIDE)
CODEC = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=2)
N_CORES = len(os.sched_getaffinity(0))
SHARE_OF_LIMIT = 0.6
MEMORY_GROWTH = 1.15
OURS, LIMIT = "ours", "limit"

Pairs = Sequence[tuple[Path, Path]]

_CHILD = """
import re, sys
from pathlib import Path
from fintune_xr.pipelines.steps.ingest import ingest
ingest(sys.argv[1], sys.argv[2])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def rows() -> list[Row | Fact]:
    """Four peers for each kind of TIFF, and memory for N and 4 N tiles."""
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder:
        work = Path(folder)
        write_tiles(work / "plain", N_FILES)
        write_tiles(work / "LZW", N_LZW, compression="lzw")
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
    blosc.compress(_read(pair), b"zstd", 1, blosc.SHUFFLE, BLOCK_BYTES)


def _speed(kind: str, source: Path, out: Path) -> list[Row | Fact]:
    pairs = tile_pairs(source)
    n_tiles = len(pairs)
    loop = f"tifffile + zarr default, one by one, scaled from {LOOP_TILES}"
    ways: dict[str, Callable[[], Any]] = {
        OURS: lambda: ingest(source, out),
        LIMIT: lambda: decoded_and_encoded(pairs[0]),
        loop: lambda: obvious_loop(pairs[:LOOP_TILES], out),
        "xarray + dask, blosc zstd-1": lambda: xarray_dask(pairs, out),
        "threads + zarr, blosc zstd-1": lambda: threads_zarr(pairs, out),
        "the same with SHA-256 and crc32c": lambda: threads_zarr(pairs, out, checked=True),
    }
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    timed = {name: functools.partial(_noting_cpu, cpu[name], way) for name, way in ways.items()}
    wall = medians(timed, N_REPEATS, before=functools.partial(shutil.rmtree, out, ignore_errors=True))
    scale = {LIMIT: n_tiles, loop: n_tiles / LOOP_TILES}
    wall_s = {name: wall[name] * scale.get(name, 1) for name in ways}
    cpu_s = {name: statistics.median(cpu[name][1:]) * scale.get(name, 1) for name in ways}
    what = f"{n_tiles} tiles ({_pixels_mb(n_tiles):.0f} MB), {kind}"
    reaches = {loop: Reach(faster=4, of_limit=1 / SHARE_OF_LIMIT)}
    peers = [name for name in ways if name not in (OURS, LIMIT)]
    clock: list[Row | Fact] = [
        row(
            f"ingest {what}", wall_s[OURS], (peer, wall_s[peer]), limit_s=wall_s[LIMIT] / N_CORES,
            reach=reaches.get(peer, Reach(faster=1)),
        )
        for peer in peers
    ]  # fmt: skip
    return [*clock, _cpu(what, cpu_s, peers)]


def _cpu(what: str, cpu_s: dict[str, float], peers: Sequence[str]) -> Fact:
    """CPU seconds, which other programs on the machine distort less than the clock; the limit is the share of it."""
    share = cpu_s[LIMIT] / cpu_s[OURS]
    return Fact(
        what=f"CPU time for {what}", ours=f"{cpu_s[OURS]:.2f} s",
        peer=", ".join(f"{cpu_s[peer]:.2f} s" for peer in peers) + " (peers as above)",
        limit=f"{cpu_s[LIMIT]:.2f} s (ours {1 / share:.1f}x)", reach=f"limit >= {SHARE_OF_LIMIT:g} of ours",
        reached=share >= SHARE_OF_LIMIT,
    )  # fmt: skip


def _noting_cpu(seconds: list[float], way: Callable[[], Any]) -> None:
    began = time.process_time()
    way()
    seconds.append(time.process_time() - began)


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
