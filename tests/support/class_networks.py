"""Networks of classes, reduced until they take milliseconds, and what applies each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sam2_weights import SMALL

from fintune_xr.models.classes.mapper import ClassMapper
from fintune_xr.models.mask2former.adapter import load_mask2former, mask2former_mapper, save_mask2former
from fintune_xr.models.mask2former.network import Mask2FormerSemantic
from fintune_xr.models.mask2former.settings import Mask2FormerArchitecture
from fintune_xr.models.sam2_semantic.adapter import load_sam2_semantic, sam2_mapper, save_sam2_semantic
from fintune_xr.models.sam2_semantic.network import Sam2Semantic
from fintune_xr.models.sam2_semantic.settings import Sam2SemanticArchitecture
from fintune_xr.models.semantic_unet.adapter import SemanticUnet, load_semantic_unet, save_semantic_unet, unet_mapper
from fintune_xr.models.semantic_unet.settings import SemanticUnetArchitecture
from fintune_xr.models.swin_unetr.adapter import SwinSemantic, load_swin_unetr, save_swin_unetr, swin_mapper
from fintune_xr.models.swin_unetr.settings import SwinUnetrArchitecture
from fintune_xr.tasks.class_map import ClassMap

TWO = ClassMap(classes={"tumor": [1], "stroma": [2]})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Kind:
    """A kind of network of classes, by its functions."""

    build: Callable[[], Any]
    mapper: Callable[..., ClassMapper]
    save: Callable[..., None]
    load: Callable[..., ClassMapper]


def small_mask2former() -> Mask2FormerArchitecture:
    return Mask2FormerArchitecture(
        class_map=TWO, width=12, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, features=32, queries=6,
        pixel_layers=1, decoder_layers=3, decoder_heads=4, points=256,
    )  # fmt: skip


def small_swin() -> SwinUnetrArchitecture:
    return SwinUnetrArchitecture(class_map=TWO, features=8, depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), window=4)


KINDS = {
    "semantic_unet": Kind(
        lambda: SemanticUnet(SemanticUnetArchitecture(class_map=TWO, filters=(4, 8, 8))),
        unet_mapper, save_semantic_unet, load_semantic_unet,
    ),
    "sam2_semantic": Kind(
        lambda: Sam2Semantic(Sam2SemanticArchitecture(class_map=TWO, sam2=SMALL)),
        sam2_mapper, save_sam2_semantic, load_sam2_semantic,
    ),
    "swin_unetr": Kind(
        lambda: SwinSemantic(small_swin()),
        swin_mapper, save_swin_unetr, load_swin_unetr,
    ),
    "mask2former": Kind(
        lambda: Mask2FormerSemantic(small_mask2former()), mask2former_mapper, save_mask2former, load_mask2former
    ),
}  # fmt: skip


def small(name: str, *, seed: int = 0) -> Any:
    """A reduced network with random weights whose classes differ from pixel to pixel."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = KINDS[name].build().eval()
        if name == "sam2_semantic":
            # The dense head starts at zero; here it shall say something.
            torch.nn.init.normal_(network.dense.classes.weight)
    return network


def saved(name: str, folder: Path, *, seed: int = 0) -> Path:
    """A weights file of such a network."""
    path = folder / f"{name}.pt"
    KINDS[name].save(small(name, seed=seed), {}, path)
    return path
