"""Weights of Cellpose's network that find something although they are random."""

from __future__ import annotations

from pathlib import Path

import torch

from fintune_xr.models.cellpose.adapter import EncoderSize, empty_network, save_cpsam

TINY = EncoderSize(width=32, depth=2, heads=2, global_blocks=(1,))


def save_random_cpsam(path: Path, size: EncoderSize = TINY, *, cell_bias: float = 0.2, seed: int = 3) -> Path:
    """`path`, where Cellpose finds a network of this size.

    Random weights give no instances: every 8 x 8 block gets flows towards its middle, and is a cell or not as the
    random encoder says.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = empty_network(size)
    offset = 3.6 - torch.arange(8.0)
    toward = torch.stack(torch.meshgrid(offset, offset, indexing="ij"))
    with torch.no_grad():
        network.out.bias[:128] = (5 * toward / toward.norm(dim=0)).reshape(-1)
        network.out.bias[128:] = cell_bias
        network.out.weight[128:] = 3 * network.out.weight[128:129]
    save_cpsam(network, path)
    return path
