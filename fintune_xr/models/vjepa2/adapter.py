"""Encoders of volumes from anybody's weights: found, translated, loaded strictly, and applied."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fintune_xr.errors import CheckpointError, FintuneValueError, SettingsError
from fintune_xr.models.checkpoints import load_strictly
from fintune_xr.models.vjepa2.checkpoint import FoundEncoder, find_encoder
from fintune_xr.models.vjepa2.keys import (
    BIAS,
    KERNEL,
    architecture_of,
    fold_channels,
    with_names_of_transformers,
    with_our_names,
)
from fintune_xr.models.vjepa2.settings import (
    EPSILON,
    IMAGENET_MEAN,
    IMAGENET_SD,
    VIT3D,
    VJEPA2,
    RandomEncoderSettings,
    Shape,
    VolumeArchitecture,
    VolumeEncoderSettings,
    by_x,
    check_patches,
)
from fintune_xr.models.vjepa2.vit3d import Vit3d, random_vit3d
from fintune_xr.pixels.normalisations import IMAGENET

LOGGER = logging.getLogger(__name__)

MOST_GRIDS = 4


class VolumeEncoder(nn.Module):
    """Embeddings (n, width) of volumes (n, 1, z, y, x): the mean of the tokens after the last norm.

    `taken` says which entry of the file the weights come from, and `offered` which encoders it holds.
    """

    def __init__(
        self, network: nn.Module, size: VolumeArchitecture, *, crop_px: int = 0, taken: str = "",
        offered: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network
        self.size = size
        self.crop_px = crop_px
        self.taken, self.offered = taken, offered

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.size.width

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """Transformer blocks in the order of computation."""
        inside: Any = self.network.blocks if isinstance(self.network, Vit3d) else self.network.layer
        return tuple(inside)

    @property
    def last_norm(self) -> nn.Module:
        """The norm after the last block."""
        inside: Any = self.network.norm if isinstance(self.network, Vit3d) else self.network.layernorm
        return inside  # type: ignore[no-any-return]

    @property
    def stem(self) -> tuple[nn.Parameter, ...]:
        """Parameters before the first block: patches and positions."""
        if isinstance(self.network, Vit3d):
            return (*self.network.patch_embed.parameters(), self.network.pos_embed)
        inside: Any = self.network.embeddings
        return tuple(inside.parameters())

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Embeddings of `volumes`.

        Raises FintuneValueError for volumes of another grid than the positions are for.
        """
        if volumes.ndim != 5 or volumes.shape[1] != 1:
            raise FintuneValueError(f"volumes: expected (n, 1, z, y, x), got shape {tuple(volumes.shape)}")
        check_grid(self.size, (volumes.shape[2], volumes.shape[3], volumes.shape[4]), self.crop_px)
        if isinstance(self.network, Vit3d):
            tokens = self.network(volumes)
        else:
            tokens = self.network(volumes.transpose(1, 2)).last_hidden_state
        mean: torch.Tensor = tokens.mean(1)
        return mean


def load_vjepa2_encoder(
    checkpoint: str | Path, freeze: bool = True, *, settings: VolumeEncoderSettings | None = None
) -> VolumeEncoder:
    """The pretrained encoder in a weights file, on the CPU: volumes (n, 1, z, y, x) to embeddings (n, width).

    Files of Meta's V-JEPA 2, of transformers and of networks with learned positions are told apart by what they
    hold. Nothing in the file is run, and every entry must fit. With `freeze` no parameter learns. Volumes are
    expected in the values of `settings.normalisation` (`fintune_xr.pixels.volume_values.normalised`).

    Raises CheckpointNotFoundError, CheckpointError naming every entry that does not fit, SettingsError for a
    normalisation that the weights do not go with, MissingPackageError without transformers where it is needed.
    """
    chosen = settings or VolumeEncoderSettings()
    found = find_encoder(checkpoint, which=chosen.which)
    state = with_our_names(found.state)
    source = f"{checkpoint} ({found.taken})" if found.taken else str(checkpoint)
    size = architecture_of(state, heads=chosen.heads, source=source)
    size, state = _with_one_channel(size, state, chosen, source)
    encoder = VolumeEncoder(
        _filled(size, state, chosen, source), size, crop_px=chosen.crop_px if size.kind == VJEPA2 else 0,
        taken=found.taken, offered=found.offered,
    )  # fmt: skip
    _say(encoder, found, source)
    if "crop_px" in chosen.model_fields_set and size.kind != VJEPA2:
        LOGGER.warning("%s: crop_px=%d changes nothing: this encoder has learned positions", source, chosen.crop_px)
    return frozen(encoder) if freeze else encoder


def read_size(checkpoint: str | Path, settings: VolumeEncoderSettings) -> VolumeArchitecture:
    """Sizes of the encoder in a weights file, from the shapes of its entries.

    Raises what `load_vjepa2_encoder` raises for the file.
    """
    found = find_encoder(checkpoint, which=settings.which)
    return architecture_of(with_our_names(found.state), heads=settings.heads, source=str(checkpoint))


def random_encoder(settings: RandomEncoderSettings, grid: Shape) -> VolumeEncoder:
    """An encoder with the random weights of a seed, for volumes of this `grid`; it does not learn.

    Raises SettingsError for a grid that the patches do not divide, or a width that has no heads.
    """
    check_patches(grid, settings.patch)
    heads = settings.heads or max(1, settings.width // 64)
    size = VolumeArchitecture(
        kind="vit3d", width=settings.width, depth=settings.depth, heads=heads, mlp_width=4 * settings.width,
        patch=settings.patch, positions=_n_tokens(grid, settings.patch),
    )  # fmt: skip
    return frozen(VolumeEncoder(random_vit3d(size, settings.random, settings.epsilon), size))


def frozen(encoder: VolumeEncoder) -> VolumeEncoder:
    """`encoder` at rest: no parameter learns, and nothing is drawn at random."""
    return encoder.requires_grad_(False).eval()


def check_grid(size: VolumeArchitecture, grid: Shape, crop_px: int) -> None:
    """Refuses volumes of this `grid` (z, y, x) where positions would mean something else than they did in training.

    Raises FintuneValueError that names the grids that fit.
    """
    if any(length % edge or not length for length, edge in zip(grid, size.patch, strict=True)):
        raise FintuneValueError(
            f"grid {by_x(grid)}: expected multiples of the encoder's patches, {by_x(size.patch)} (z, y, x)"
        )
    if size.kind == VIT3D and _n_tokens(grid, size.patch) != size.positions:
        raise FintuneValueError(
            f"grid {by_x(grid)} gives {_n_tokens(grid, size.patch)} tokens of {by_x(size.patch)} voxels, but the "
            f"encoder has learned {size.positions} positions. Ingest with the grid of its pretraining: "
            f"{_grids(size, grid)}."
        )
    if size.kind == VJEPA2 and (grid[1], grid[2]) != (crop_px, crop_px):
        raise FintuneValueError(
            f"grid {by_x(grid)}: this encoder counts positions in a square of {crop_px} px, and would place those of "
            f"{grid[1]} x {grid[2]} px elsewhere. Give crop_px={grid[1]} if that is meant, or ingest a square grid."
        )


def _with_one_channel(
    size: VolumeArchitecture, state: dict[str, torch.Tensor], settings: VolumeEncoderSettings, source: str
) -> tuple[VolumeArchitecture, dict[str, torch.Tensor]]:
    n_channels, is_imagenet = size.channels, settings.normalisation == IMAGENET
    if n_channels == 1 and is_imagenet:
        raise SettingsError(
            f"{source} has one channel, and ImageNet's means are of three: expected normalisation zscore or "
            "percentile_gamma"
        )
    if n_channels not in (1, len(IMAGENET_MEAN)):
        raise CheckpointError(f"{source}: expected patches of 1 or 3 channels, got {n_channels} ({KERNEL})")
    if n_channels == 1:
        return size, state
    mean, sd = (IMAGENET_MEAN, IMAGENET_SD) if is_imagenet else (None, None)
    if BIAS not in state:
        raise CheckpointError(f"{source}: missing: {BIAS}")
    kernel, bias = fold_channels(state[KERNEL], state[BIAS], mean=mean, sd=sd)
    LOGGER.info("%s: patches of %d channels folded into one, as for equal channels", source, n_channels)
    return size.model_copy(update={"channels": 1}), {**state, KERNEL: kernel, BIAS: bias}


def _filled(
    size: VolumeArchitecture, state: dict[str, torch.Tensor], settings: VolumeEncoderSettings, source: str
) -> nn.Module:
    epsilon = settings.epsilon or EPSILON[size.kind]
    # Nothing is drawn for weights that are filled in anyway.
    if size.kind == VIT3D:
        with torch.device("meta"):
            network: nn.Module = Vit3d(size, epsilon)
        load_strictly(network, state, source=source)
        return network
    from fintune_xr.models.vjepa2.rotary import rotary_encoder

    network = rotary_encoder(size, epsilon=epsilon, crop_px=settings.crop_px)
    load_strictly(network, with_names_of_transformers(state), source=source)
    return network


def _say(encoder: VolumeEncoder, found: FoundEncoder, source: str) -> None:
    size = encoder.size
    LOGGER.info(
        "%s: %s, %d wide, %d deep, %d heads, patches of %s; %d entries",
        source, size.kind, size.width, size.depth, size.heads, by_x(size.patch), len(found.state),
    )  # fmt: skip


def _n_tokens(grid: Shape, patch: Shape) -> int:
    return (grid[0] // patch[0]) * (grid[1] // patch[1]) * (grid[2] // patch[2])


def _grids(size: VolumeArchitecture, grid: Shape) -> str:
    """Grids that give as many tokens as there are positions: of the same plane, else of square planes, deepest last."""
    depth, height, width = size.patch
    rest, other = divmod(size.positions, (grid[1] // height) * (grid[2] // width))
    fitting = [(rest * depth, grid[1], grid[2])] if rest and not other else []
    for edge in range(int(size.positions**0.5), 0, -1):
        if size.positions % edge**2 == 0:
            fitting.append((size.positions // edge**2 * depth, edge * height, edge * width))
    return " or ".join(by_x(one) for one in dict.fromkeys(fitting[:MOST_GRIDS]))
