"""Cellpose-SAM at full size on a GPU: one tile beside stock `CellposeModel.eval`, and one step of fine-tuning.

Random weights of the published shape. Needs an NVIDIA GPU; where there is none, it says that nothing was measured.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import Fact, Row, compared, medians, print_table

from fintune_xr.finetune.instance.settings import CpsamTrainSettings
from fintune_xr.finetune.registry import trainable
from fintune_xr.models.cellpose.adapter import FULL_SIZE, EncoderSize, empty_network, load_cpsam, save_cpsam
from fintune_xr.models.cellpose.settings import CpsamSettings
from fintune_xr.models.devices import finish, peak_memory, resolve_device, start_measuring
from fintune_xr.models.protocol import segment
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile

CHANNELS = ("DAPI", "marker")
TILE_PX = 2048
BATCHES = (1, 8)
_MIB = 2**20


def rows() -> list[Row | Fact]:
    """A tile in two precisions and four ways to train; a single fact where there is no GPU."""
    if not torch.cuda.is_available():
        return [Fact(what="Cellpose-SAM at full size", ours="no NVIDIA GPU here: not measured", reach="", reached=None)]
    return measured(resolve_device("cuda"), FULL_SIZE, TILE_PX)


def measured(device: str, size: EncoderSize, tile_px: int) -> list[Row | Fact]:
    """All rows, for a network of this `size`."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random_cpsam"
        save_cpsam(empty_network(size), weights)
        found: list[Row | Fact] = []
        for precision in ("float32", "bfloat16"):
            found += _one_tile(weights, device, precision, tile_px)
        for recompute in (False, True):
            found += [_one_step(weights, device, n, recompute=recompute) for n in BATCHES]
    return found


def _one_tile(weights: Path, device: str, precision: str, tile_px: int) -> list[Row | Fact]:
    from cellpose.models import CellposeModel

    tile = phantom_tile(stream(0, "benchmark"), marker="GFAP", ratio=0.3, tile_px=tile_px).image
    padded = np.concatenate([tile, np.zeros_like(tile[:1])])
    settings: Any = {"precision": precision}
    ours = load_cpsam(resolve_checkpoint(weights), CpsamSettings(**settings), channels=CHANNELS, device=device)
    stock = CellposeModel.__new__(CellposeModel)
    stock.net, stock.device, stock.gpu = ours.network, torch.device(device), device != "cpu"
    stock.backbone, stock.pretrained_model = "sam_vitl", ""
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: segment(ours, [tile]),
        "stock": lambda: stock.eval(padded, channel_axis=0, batch_size=8),
    }
    what = f"one tile of {tile_px} x {tile_px}, {precision}"
    timed = compared(what, calls["ours"], ("CellposeModel.eval", calls["stock"]), repeats=3)
    memory = {name: _peak(device, call) for name, call in calls.items()}
    return [timed, Fact(
        what=f"{what}, most memory", ours=f"{memory['ours']} MiB", peer=f"{memory['stock']} MiB (CellposeModel.eval)",
        reach="", reached=None,
    )]  # fmt: skip


def _one_step(weights: Path, device: str, n_patches: int, *, recompute: bool) -> Fact:
    """Seconds and memory of forward, backward and optimiser on a batch, in bfloat16 on a GPU."""
    settings = CpsamTrainSettings(batch_size=n_patches, activation_checkpointing=recompute)
    model = trainable(settings, start=resolve_checkpoint(weights), channels=CHANNELS, device=device)
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=settings.learning_rate)
    patches = torch.randn(n_patches, 3, settings.patch_px, settings.patch_px, device=device)
    target = torch.rand(n_patches, 3, settings.patch_px, settings.patch_px, device=device)

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
            maps = model.network(patches)
        optimizer.zero_grad()
        model.objective.loss(maps, target).backward()
        optimizer.step()
        finish(device)

    try:
        cost = f"{medians({'step': step}, 3)['step']:.3f} s, {_peak(device, step)} MiB"
    except torch.cuda.OutOfMemoryError:
        cost = "more memory than this GPU has"
    how = "activations computed again" if recompute else "activations kept"
    what = f"one step of fine-tuning, {n_patches} patch(es) of {settings.patch_px} px, {how}"
    return Fact(what=what, ours=cost, reach="", reached=None)


def _peak(device: str, call: Callable[[], Any]) -> int:
    start_measuring(device)
    call()
    return peak_memory(device) // _MIB


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    print_table(rows())
