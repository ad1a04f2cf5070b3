"""SAM 2 with learned prompts in place of points, one set for each class, and with a dense head on its pyramid."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, interpolate

from fintune_xr.models.classes.logits import ClassLogits
from fintune_xr.models.sam2.network import Pyramid, decode, empty_sam2, pyramid
from fintune_xr.models.sam2_semantic.settings import Sam2SemanticArchitecture


class DenseHead(nn.Module):
    """Logits (n, class, y, x) at a stride of 4 px: all levels of the pyramid, brought there, and two convolutions."""

    def __init__(self, features: int, n_classes: int, *, starts_at_zero: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Conv2d(features, features, 1) for _ in range(3)])
        self.mixed = nn.Conv2d(features, features, 3, padding=1)
        self.classes = nn.Conv2d(features, n_classes, 1)
        if starts_at_zero:
            nn.init.zeros_(self.classes.weight)
            nn.init.zeros_(self.classes.bias)  # type: ignore[arg-type]

    def forward(self, seen: Pyramid) -> torch.Tensor:
        """Logits of the classes."""
        shape = seen.fine.shape[-2:]
        brought = [
            interpolate(project(level), shape, mode="bilinear", align_corners=False)
            for project, level in zip(self.levels, (seen.fine, seen.middle, seen.coarse), strict=True)
        ]
        found: torch.Tensor = self.classes(gelu(self.mixed(gelu(sum(brought[1:], brought[0])))))
        return found


class Sam2Semantic(nn.Module):
    """SAM 2's image network as a classifier of pixels.

    The mask decoder is asked for all classes in one pass, each with its own tokens where the embedding of a point would
    stand: tokens equal to that embedding give that point's mask. With `both` the dense head starts at zero, so that
    training begins as SAM 2 with learned prompts.
    """

    def __init__(self, architecture: Sam2SemanticArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        features, n_classes = architecture.sam2.features, architecture.class_map.n_classes
        self.sam2 = empty_sam2(architecture.sam2)
        self.tokens = (
            nn.Parameter(torch.randn(n_classes, architecture.tokens, features)) if architecture.has_prompts else None
        )
        self.dense = (
            DenseHead(features, n_classes, starts_at_zero=architecture.has_prompts) if architecture.has_dense else None
        )

    def forward(self, patches: torch.Tensor) -> ClassLogits:
        """Logits at a stride of 4 px of `patches` (n, colour, y, x) whose edges are multiples of 32 px."""
        seen = pyramid(self.sam2, patches)
        dense = None if self.dense is None else self.dense(seen)
        if self.tokens is None and dense is not None:
            return ClassLogits(dense)
        assert self.tokens is not None, "an architecture has one head at least"
        decoded = decode(self.sam2, seen, self.tokens.expand(len(patches), -1, -1, -1), multimask=False)
        masks = decoded.masks[:, :, 0]
        return ClassLogits(masks if dense is None else masks + dense, decoded.iou[..., 0], decoded.presence)
