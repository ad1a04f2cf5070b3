"""The network's batches filled from several tiles (`batch_tiles`), on one CPU thread: calls of the network and time.

64 tiles of one patch each and 32 of four, a new `flow_unet` of default size with random weights, eight patches to a
batch. Only `predict` is timed: reading and reconstruction are the same. Not measured on a GPU. Takes minutes, and is
not part of `make bench`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from table import Fact, Row, compared, print_table

from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.flow_unet.adapter import FlowUnet
from fintune_xr.models.flow_unet.settings import FlowUnetArchitecture, FlowUnetSettings
from fintune_xr.models.flows.segmenter import FlowSegmenter
from fintune_xr.models.protocol import Maps
from fintune_xr.seeds import stream

CHANNELS = ("DAPI", "marker")
BATCH_TILES = 8
CASES = ((64, 200), (32, 300))


def rows() -> list[Row | Fact]:
    """Calls and seconds for each size of tile, in batches of tiles against tile by tile."""
    torch.set_num_threads(1)
    network = FlowUnet(FlowUnetArchitecture(channels=CHANNELS)).eval()
    choice = ChannelChoice(CHANNELS, (0, 1), (False, False))
    segmenter = FlowSegmenter(network, FlowUnetSettings(), choice=choice, n_inputs=2)
    return [one for case in CASES for one in _case(segmenter, network, *case)]


def _case(segmenter: FlowSegmenter, network: FlowUnet, n_tiles: int, tile_px: int) -> list[Row | Fact]:
    tiles = [stream(0, str(i)).normal(size=(2, tile_px, tile_px)).astype(np.float32) for i in range(n_tiles)]
    calls: dict[int, int] = {}
    found: dict[int, list[Maps]] = {}
    for batch in (BATCH_TILES, 1):
        counted: list[int] = []
        hook = network.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        found[batch] = _predicted(segmenter, tiles, batch)
        hook.remove()
        calls[batch] = len(counted)
    alike = all(np.array_equal(one, other) for one, other in zip(found[BATCH_TILES], found[1], strict=True))
    what = f"{n_tiles} tiles of {tile_px} px, {BATCH_TILES} at once"
    return [
        compared(
            what,
            lambda: _predicted(segmenter, tiles, BATCH_TILES),
            ("one at a time", lambda: _predicted(segmenter, tiles, 1)),
            repeats=3,
        ),
        Fact(
            what=f"{what}: calls of the network; equal to the bit: {'yes' if alike else 'no'}",
            ours=str(calls[BATCH_TILES]), peer=f"{calls[1]} (one at a time)", reach="", reached=None,
        ),
    ]  # fmt: skip


def _predicted(segmenter: FlowSegmenter, tiles: list[Maps], batch: int) -> list[Maps]:
    return [one for i in range(0, len(tiles), batch) for one in segmenter.predict(tiles[i : i + batch])]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    print_table(rows())
