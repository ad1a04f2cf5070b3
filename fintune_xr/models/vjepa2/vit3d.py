"""A vision transformer of volumes with learned positions, and the mean of its tokens."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from fintune_xr.models.vjepa2.settings import EPSILON, VIT3D, VolumeArchitecture


class Attention(nn.Module):
    """Self-attention; query, key and value are the thirds of `qkv`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, token, width) to the same shape."""
        n, n_tokens, width = tokens.shape
        thirds = self.qkv(tokens).view(n, n_tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen: torch.Tensor = scaled_dot_product_attention(*thirds)
        mixed: torch.Tensor = self.proj(seen.transpose(1, 2).reshape(n, n_tokens, width))
        return mixed


class Perceptron(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(…, width) to the same shape."""
        out: torch.Tensor = self.fc2(gelu(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Attention and perceptron, each after a norm and added to what it was given."""

    def __init__(self, size: VolumeArchitecture, epsilon: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, eps=epsilon)
        self.attn = Attention(size.width, size.heads)
        self.norm2 = nn.LayerNorm(size.width, eps=epsilon)
        self.mlp = Perceptron(size.width, size.mlp_width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, token, width) to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class PatchEmbedding(nn.Module):
    """A token for each patch of the volume, z slowest, x fastest."""

    def __init__(self, size: VolumeArchitecture) -> None:
        super().__init__()
        self.proj = nn.Conv3d(size.channels, size.width, kernel_size=size.patch, stride=size.patch)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """(n, channel, z, y, x) to (n, token, width)."""
        tokens: torch.Tensor = self.proj(volumes)
        return tokens.flatten(2).transpose(1, 2)


class Vit3d(nn.Module):
    """Tokens (n, token, width) of volumes (n, channel, z, y, x), after the last norm."""

    def __init__(self, size: VolumeArchitecture, epsilon: float | None = None) -> None:
        super().__init__()
        epsilon = epsilon or EPSILON[VIT3D]
        self.patch_embed = PatchEmbedding(size)
        self.pos_embed = nn.Parameter(torch.zeros(1, size.positions, size.width))
        self.blocks = nn.ModuleList(Block(size, epsilon) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=epsilon)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Tokens after the last norm; the volumes' grid must give as many tokens as there are positions."""
        tokens = self.patch_embed(volumes) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        out: torch.Tensor = self.norm(tokens)
        return out


def random_vit3d(size: VolumeArchitecture, seed: int, epsilon: float | None = None) -> Vit3d:
    """A network with random weights that depend on `seed` alone: truncated normal, sd 0.02; biases 0, norms 1."""
    with torch.device("meta"):
        network = Vit3d(size, epsilon)
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if "norm" in name:
                parameter.fill_(float(name.endswith("weight")))
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
    return network
