"""Learning flows: instance masks as targets, Cellpose's loss, AP50 of the masks as the score."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from fintune_xr.finetune.instance.loss import flow_loss
from fintune_xr.finetune.instance.settings import TrainSettings
from fintune_xr.finetune.instance.tiles import AnnotatedTiles, prepare
from fintune_xr.finetune.instance.validation import require_cells, validate
from fintune_xr.finetune.objective import Measure, Validation
from fintune_xr.finetune.patches import PreparedTile, Recipe
from fintune_xr.models.flows.segmenter import FlowSegmenter

AP50: Final = "ap50"
UNEXPLAINED: Final = "unexplained_flow"


class FlowObjective:
    """A network with Cellpose's outputs."""

    score = AP50
    measures = (UNEXPLAINED, AP50)
    recipe = Recipe()

    def __init__(self, settings: TrainSettings, segmenter: FlowSegmenter) -> None:
        self.settings = settings
        self.segmenter = segmenter

    def prepare(self, tiles: AnnotatedTiles, folder: Path) -> list[PreparedTile]:
        """Normalised planes and flows of the tiles with enough cells."""
        segmenter = self.segmenter
        return prepare(
            tiles, folder, choice=segmenter.choice, n_inputs=segmenter.n_inputs, min_cells=self.settings.min_cells
        )

    def loss(self, output: Any, target: torch.Tensor) -> torch.Tensor:
        """Cellpose's loss of the maps; the style vector beside them teaches nothing."""
        return flow_loss(output[0].float(), target).total

    def held_out(self, tiles: AnnotatedTiles) -> Measure:
        """Mean AP50 over `tiles`, once flows have shape."""
        require_cells(tiles)

        def measure(always: bool) -> Validation:
            limit = float("inf") if always else self.settings.reconstruct_below
            found = validate(self.segmenter, tiles, reconstruct_below=limit)
            return Validation(found.loss, found.ap50, {UNEXPLAINED: found.unexplained, AP50: found.ap50})

        return measure
