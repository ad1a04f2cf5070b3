"""OCT volumes: files to the study's grid and into a store, and embeddings by `infer`, in process CPU seconds.

DICOM of 61 x 496 x 768, uncompressed, noise. The peer of reading is pydicom with torch's `interpolate`; of an ingest, a
loop of pydicom, torch, hashlib and zarr, which checks nothing and syncs nothing; of `infer`, a loop that loads `.npy`,
normalises and applies the same encoder. The limit of an ingest is what none can leave out: decoding, resizing,
compression and SHA-256; that of `infer` is the encoder on tensors that lie ready.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from oct_encoders import SIZE, make
from table import Fact, print_table
from zarr.codecs import BloscCodec

from fintune_xr import names as n
from fintune_xr.execution.dask_blocks import map_plans
from fintune_xr.models.vjepa2.adapter import random_encoder
from fintune_xr.models.vjepa2.settings import RandomEncoderSettings
from fintune_xr.pipelines.inference.block import infer_block
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pixels.volume_values import normalise
from fintune_xr.simulation.oct_files import write_volume
from fintune_xr.store.raw.readers.volumes import Reading, volume_frames
from fintune_xr.store.raw.resampling import to_grid
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.tile_reader import TileReader

SOURCE, GRID = (61, 496, 768), (64, 384, 384)
N_FEW, N_MANY = 8, 24
N_REPEATS = 3
CODEC = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=1)
SHARE_OF_PARTS = 0.8
MOST_VOLUMES = 3
N_TINY, N_LARGER = 500, 60
SMALL = {"width": 96, "depth": 1, "heads": 3, "patch": [4, 16, 16]}
MOST_OVER_LOOP = 1.1

_CHILD = """
import re, sys
from pathlib import Path
from fintune_xr.pipelines.classification.ingest import VolumeRequest
from fintune_xr.pipelines.steps.ingest import ingest
def told(what):
    return int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
# Small volumes load and compile everything.
ingest(sys.argv[1], sys.argv[3] + "-small", layout="volumes", volumes=VolumeRequest(grid=(4, 32, 32), workers=1))
before = told("VmRSS")
ingest(sys.argv[2], sys.argv[3], layout="volumes", volumes=VolumeRequest(grid=(64, 384, 384), workers=1))
print(told("VmHWM") - before)
"""


def rows() -> list[Fact]:
    """Reading, ingest, memory, and `infer` on volumes of two sizes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-volumes-") as folder:
        work = Path(folder)
        files = [_file(work / "many", number) for number in range(N_MANY)]
        (work / "few").mkdir()
        for file in files[:N_FEW]:
            target = work / "few" / file.parent.name / file.name
            target.parent.mkdir()
            target.hardlink_to(file)
        return [
            _reading(files[0]),
            _ingest(work / "many", files, work / "out"),
            _memory(work),
            *_infer(work / "tiny", (16, 64, 64), SIZE, N_TINY),
            *_infer(work / "larger", (32, 192, 192), SMALL, N_LARGER),
            *_shares_of_infer(work / "shares", (32, 192, 192), SMALL, N_LARGER),
        ]


def by_pydicom_and_torch(file: Path) -> NDArray[np.uint8]:
    """A volume on the grid as one writes it first."""
    from pydicom import dcmread

    values = torch.from_numpy(dcmread(file).pixel_array.astype(np.float32))
    made = torch.nn.functional.interpolate(values[None, None], size=GRID, mode="trilinear", align_corners=False)
    return np.asarray(made[0, 0].round().to(torch.uint8).numpy())


def obvious_loop(files: list[Path], out: Path) -> None:
    """One volume at a time into zarr, and the digest of each file."""
    array = zarr.create_array(
        out, shape=(len(files), *GRID), chunks=(1, *GRID), dtype="uint8", compressors=[CODEC],
        config={"write_empty_chunks": True},
    )  # fmt: skip
    for index, file in enumerate(files):
        array[index] = by_pydicom_and_torch(file)
        hashlib.sha256(file.read_bytes()).hexdigest()


def parts(file: Path) -> None:
    """What no ingest of a volume can leave out, with nothing written."""
    content = file.read_bytes()
    hashlib.sha256(content).hexdigest()
    shards.encode_tile(_on_grid(file, content)[None], shards.plan_grid("image", "uint8", (1, *GRID)))


def _on_grid(file: Path, content: bytes) -> NDArray[np.uint8]:
    header, frames = volume_frames(content, str(file), Reading())
    return to_grid(frames, header.shape, GRID, is_byte=True).pixels


def _file(folder: Path, number: int) -> Path:
    volume = np.random.default_rng(number).integers(0, 256, SOURCE, dtype=np.uint8)
    return write_volume(folder / f"p{number:03d}" / f"scan{number:03d}.dcm", volume, "R")


def _reading(file: Path) -> Fact:
    ours, peer = _cpu(lambda: _on_grid(file, file.read_bytes()), lambda: by_pydicom_and_torch(file))
    return Fact(
        what="read a volume and bring it to 64 x 384 x 384", ours=_ms(ours),
        peer=f"{_ms(peer)} (pydicom + torch, {peer / ours:.1f} x)", reach=">= 1x peer", reached=ours <= peer,
    )  # fmt: skip


def _ingest(folder: Path, files: list[Path], out: Path) -> Fact:
    from fintune_xr.pipelines.classification.ingest import VolumeRequest

    def ours() -> None:
        ingest(folder, out, layout="volumes", volumes=VolumeRequest(grid=GRID))

    found, peer, limit = _cpu(
        ours, lambda: obvious_loop(files, out), lambda: [parts(file) for file in files],
        before=lambda: shutil.rmtree(out, ignore_errors=True),
    )  # fmt: skip
    return Fact(
        what=f"ingest {len(files)} volumes, a volume", ours=_ms(found / len(files)),
        peer=f"{_ms(peer / len(files))} (pydicom + torch + hashlib + zarr, {peer / found:.1f} x)",
        limit=f"{_ms(limit / len(files))} (its four parts, {limit / found:.2f} of ours)",
        reach=f"its parts >= {SHARE_OF_PARTS} of ours", reached=limit >= SHARE_OF_PARTS * found,
    )  # fmt: skip


def _memory(work: Path) -> Fact:
    volume_mb = np.prod(SOURCE) / 1e6
    write_volume(work / "small" / "p0" / "scan.dcm", np.ones((4, 32, 32), np.uint8), "R")
    few_mb, many_mb = (statistics.median(_peak_mb(work, name) for _ in range(N_REPEATS)) for name in ("few", "many"))
    return Fact(
        what=f"memory that an ingest of {N_MANY} volumes gains, one worker",
        ours=f"{many_mb:.0f} MB ({many_mb / volume_mb:.1f} volumes)", peer=f"{few_mb:.0f} MB (ours at {N_FEW})",
        reach=f"<= {MOST_VOLUMES} volumes", reached=many_mb <= MOST_VOLUMES * volume_mb,
    )  # fmt: skip


def _peak_mb(work: Path, source: str) -> float:
    out = work / "out"
    for left in (out, work / "out-small"):
        shutil.rmtree(left, ignore_errors=True)
    command = [sys.executable, "-c", _CHILD, str(work / "small"), str(work / source), str(out)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(child.stdout.split()[-1]) * 1024 / 1e6


def _infer(where: Path, grid: tuple[int, int, int], size: dict[str, Any], n_volumes: int) -> list[Fact]:
    """A run against both loops; with start and end of a run, and by what further volumes add to it."""
    where.mkdir()
    store = where / "a.zarr"
    cohort = make(store, {f"p{one:04d}": (one % 4, n.TRAIN) for one in range(n_volumes)}, grid)
    half = where / "half.zarr"
    make(half, {f"p{one:04d}": (one % 4, n.TRAIN) for one in range(n_volumes // 2)}, grid)
    encoder = random_encoder(RandomEncoderSettings(**size), grid)
    image = cohort.images_group().array
    files = [where / f"{row:04d}.npy" for row in range(n_volumes)]
    ready = []
    for row, file in enumerate(files):
        np.save(file, image[row])
        ready.append(torch.from_numpy(normalise(image[row], "zscore")[None]))

    def loop() -> None:
        with torch.inference_mode():
            made = [encoder(torch.from_numpy(normalise(np.load(one), "zscore")[None])).numpy() for one in files]
        np.save(where / "embeddings.npy", np.concatenate(made))

    def bare() -> None:
        with torch.inference_mode():
            for one in ready:
                encoder(one).numpy()

    told = [*(f"model.{key}={value}" for key, value in size.items()), "device=cpu"]

    def run(place: Path) -> Callable[[], Any]:
        return lambda: infer(place, run="r", model="vit3d_random", overrides=told, restart=True)

    ours, of_half, peer, limit = _cpu(run(store), run(half), loop, bare)
    each = (ours - of_half) / (n_volumes - n_volumes // 2)
    name = " x ".join(map(str, grid))
    peers = f"{_ms(peer / n_volumes)} (a loop from .npy files)"
    limits = f"{_ms(limit / n_volumes)} (tensors that lie ready)"
    return [
        _times(f"infer, {n_volumes} volumes of {name}, a volume", ours / n_volumes, peer / n_volumes, peers, limits),
        _times("the same without start and end of a run", each, peer / n_volumes, peers, limits),
    ]  # fmt: skip


def _shares_of_infer(where: Path, grid: tuple[int, int, int], size: dict[str, Any], n_volumes: int) -> list[Fact]:
    """Where the time of a run goes: on one thread, its blocks without Dask around them, and reading alone."""
    where.mkdir()
    cohort = make(where / "a.zarr", {f"p{one:04d}": (one % 4, n.TRAIN) for one in range(n_volumes)}, grid)
    told = [*(f"model.{key}={value}" for key, value in size.items()), "device=cpu"]
    sent: dict[str, Any] = {}

    def run(*more: str) -> Callable[[], Any]:
        return lambda: infer(where / "a.zarr", run="r", model="vit3d_random", overrides=[*told, *more], restart=True)

    def keeping(client: Any, work: Any, plans: Any, **others: Any) -> Any:
        sent.update(plans=plans, context=others["context"])
        return map_plans(client, work, plans, **others)

    def blocks() -> None:
        for plan in sent["plans"]:
            infer_block(plan, sent["context"])

    reader = TileReader(cohort.location, f"{n.IMAGES}/{n.IMAGE}")
    with mock.patch("fintune_xr.pipelines.steps.infer.map_plans", keeping):
        found = _cpu(run(), run("cluster.workers=1"), blocks, lambda: [reader[row] for row in range(n_volumes)])
    name = " x ".join(map(str, grid))
    whats = (
        f"infer of {name} again, in {len(sent['plans'])} blocks", "on one thread",
        "its blocks one by one, without Dask", "reading alone, checksums too",
    )  # fmt: skip
    return [
        Fact(what=what, ours=_ms(seconds / n_volumes), reach="", reached=None)
        for what, seconds in zip(whats, found, strict=True)
    ]


def _times(what: str, ours: float, peer: float, peers: str, limits: str) -> Fact:
    return Fact(
        what=what, ours=f"{_ms(ours)} ({ours / peer:.2f} x)", peer=peers, limit=limits,
        reach=f"<= {MOST_OVER_LOOP}x peer", reached=ours <= MOST_OVER_LOOP * peer,
    )  # fmt: skip


def _cpu(*ways: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> list[float]:
    """Least CPU seconds of the process for each way, called in turn; the first call of each is not counted."""
    spent: list[list[float]] = [[] for _ in ways]
    for _ in range(1 + N_REPEATS):
        for way, seconds in zip(ways, spent, strict=True):
            before()
            began = time.process_time()
            way()
            seconds.append(time.process_time() - began)
    return [min(seconds[1:]) for seconds in spent]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{1 if seconds >= 1e-3 else 2}f} ms"


if __name__ == "__main__":
    print_table(rows())
