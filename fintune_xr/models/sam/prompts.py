"""SAM asked by points, through segment_anything's own functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import Sam


@dataclass(frozen=True, slots=True, eq=False)
class SamEmbedding:
    """The embedding of one image and the sizes (y, x) of the resized and the original image."""

    features: torch.Tensor
    input_size: tuple[int, int]
    shape: tuple[int, int]


class SamPrompts:
    """SAM as a `fintune_xr.models.sam.masks.Promptable`."""

    def __init__(self, network: Sam) -> None:
        self.network = network

    @property
    def mask_threshold(self) -> float:
        """Logit above which a pixel belongs to a mask."""
        return float(self.network.mask_threshold)

    @torch.no_grad()
    def embed(self, image: NDArray[np.uint8]) -> SamEmbedding:
        """The embedding of a colour image (y, x, 3), resized as SAM was trained."""
        predictor = SamPredictor(self.network)
        predictor.set_image(np.ascontiguousarray(image))
        return SamEmbedding(predictor.features, predictor.input_size, (image.shape[0], image.shape[1]))

    @torch.no_grad()
    def decode(self, embedded: SamEmbedding, points: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits at decoder size and predicted IoU, three masks for each of `points` (point, 2) as x and y in px."""
        network = self.network
        scaled = SamPredictor(network).transform.apply_coords(points, embedded.shape)
        places = torch.as_tensor(scaled, device=network.device)[:, None, :]
        labels = torch.ones(places.shape[:2], dtype=torch.int, device=places.device)
        sparse, dense = network.prompt_encoder(points=(places, labels), boxes=None, masks=None)
        logits, iou = network.mask_decoder(
            image_embeddings=embedded.features,
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return logits.flatten(0, 1), iou.flatten(0, 1)

    def at_full_size(self, embedded: SamEmbedding, logits: torch.Tensor) -> torch.Tensor:
        """Logits (mask, y, x) at the size of the image, without what was padded."""
        full: torch.Tensor = self.network.postprocess_masks(logits[None], embedded.input_size, embedded.shape)[0]
        return full
