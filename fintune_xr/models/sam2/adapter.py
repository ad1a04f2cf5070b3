"""Everything that SAM 2 finds in a tile by itself, or for prompts, with the filters of SAM's own generator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from fintune_xr.models.channels import ChannelChoice, choose_channels
from fintune_xr.models.checkpoints import Checkpoint, read_state
from fintune_xr.models.colours import N_COLOURS, standardised_colours
from fintune_xr.models.protocol import Maps, Mask, Plane
from fintune_xr.models.sam.masks import candidate_masks, paint, select
from fintune_xr.models.sam2.keys import published_state
from fintune_xr.models.sam2.network import INSIDE, Pyramid, box_tokens, decode, point_tokens, published_sam2, pyramid
from fintune_xr.models.sam2.settings import Sam2Settings
from fintune_xr.pixels.prompts import Prompt


@dataclass(frozen=True, slots=True, eq=False)
class Sam2Image:
    """An image as SAM 2 has seen it: its pyramid, and its own size (y, x)."""

    seen: Pyramid
    shape: tuple[int, int]


class Sam2Prompts:
    """SAM 2 as a `Promptable`: an image is resized to the square that it learnt on, whatever its shape."""

    mask_threshold = 0.0

    def __init__(self, network: Any) -> None:
        self.network = network

    def embed(self, image: NDArray[np.uint8]) -> Sam2Image:
        """The pyramid of a colour image (y, x, 3) from 0 to 255."""
        return self.see(standardised_colours(np.moveaxis(image, -1, 0)))

    @torch.no_grad()
    def see(self, image: Maps) -> Sam2Image:
        """The pyramid of a standardised colour image (3, y, x)."""
        edge = self.network.prompt_encoder.input_image_size
        pixels = torch.from_numpy(image)[None].to(self.network.no_memory_embedding.device)
        squared = interpolate(pixels, (edge, edge), mode="bilinear", align_corners=False, antialias=True)
        return Sam2Image(pyramid(self.network, squared), (image.shape[1], image.shape[2]))

    def decode(self, embedded: Sam2Image, points: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (mask, y, x) at a stride of 4 px and predicted IoU (mask,): three masks for each of `points`.

        `points` (point, 2) are x and y in px of the image.
        """
        placed = torch.as_tensor(points, dtype=torch.float32, device=embedded.seen.coarse.device)[None, :, None]
        labels = torch.full(placed.shape[:3], INSIDE, device=placed.device)
        tokens = point_tokens(self.network, placed, labels, embedded.shape)
        found = decode(self.network, embedded.seen, tokens, multimask=True)
        return found.masks[0].flatten(0, 1), found.iou[0].flatten()

    def asked(self, embedded: Sam2Image, prompts: Sequence[Prompt]) -> list[Maps]:
        """Logits (y, x), at the size of the image, of one mask for each of `prompts`, whose points and box it is for.

        Prompts of as many points are decoded together; they do not see each other.
        """
        alike: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for at, prompt in enumerate(prompts):
            alike[len(prompt.points), prompt.box is None].append(at)
        found: dict[int, Maps] = {}
        for places in alike.values():
            found.update(zip(places, self._asked_together(embedded, [prompts[at] for at in places]), strict=True))
        return [found[at] for at in range(len(prompts))]

    @torch.no_grad()
    def _asked_together(self, embedded: Sam2Image, prompts: Sequence[Prompt]) -> Maps:
        """Logits (prompt, y, x) for prompts of as many points, all of them with a box or all without."""
        device = embedded.seen.coarse.device
        placed = torch.as_tensor(np.stack([one.points for one in prompts]), dtype=torch.float32, device=device)[None]
        signs = torch.as_tensor(np.stack([one.labels for one in prompts]), device=device)[None]
        boxes = [one.box for one in prompts if one.box is not None]
        if not boxes:
            tokens = point_tokens(self.network, placed, signs, embedded.shape)
        else:
            corners = torch.as_tensor(np.stack(boxes), dtype=torch.float32, device=device)[None]
            further = {"points": placed, "labels": signs} if placed.shape[2] else {}
            tokens = box_tokens(self.network, corners, embedded.shape, **further)
        found = decode(self.network, embedded.seen, tokens, multimask=False)
        return np.asarray(self.at_full_size(embedded, found.masks[0, :, 0]).cpu().numpy())

    def at_full_size(self, embedded: Sam2Image, logits: torch.Tensor) -> torch.Tensor:
        """`logits` (mask, y, x) at the size of the image."""
        return interpolate(logits[None], embedded.shape, mode="bilinear", align_corners=False)[0]


class Sam2Segmenter:
    """All masks of a grid of prompts, as instances; a tile is resized to the square that SAM 2 learnt on."""

    def __init__(self, network: Any, settings: Sam2Settings, choice: ChannelChoice) -> None:
        self.network = network
        self.settings = settings
        self.choice = choice

    def normalise(self, tile: Plane) -> Maps:
        """Red, green and blue (3, y, x), standardised."""
        return standardised_colours(self.choice.take(tile))

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Labels (1, y, x) of each image: there is nothing left to reconstruct once masks have been chosen."""
        return [self._labels(image)[None].astype(np.float32) for image in batch]

    def reconstruct(self, maps: Maps) -> Mask:
        """The instance mask itself."""
        labels: Mask = maps[0].astype(np.uint32)
        return labels

    def _labels(self, image: Maps) -> Mask:
        chosen = self.settings
        loosest = (chosen.pred_iou_thresh, chosen.stability_score_thresh)
        network = Sam2Prompts(self.network)
        candidates = candidate_masks(
            network, network.see(image), points_per_side=chosen.points_per_side, loosest=loosest, options=chosen
        )
        kept = select(candidates, loosest, box_nms_thresh=chosen.box_nms_thresh)
        return paint(candidates, kept, chosen)


def load_sam2(checkpoint: Checkpoint, *, device: str) -> Any:
    """SAM 2's network with the published weights of `checkpoint`, ready to predict on `device`.

    Raises CheckpointError naming entries that are missing, unknown or of another shape, or for an unknown size.
    """
    state = published_state(read_state(checkpoint), source=checkpoint.path)
    return published_sam2(state, source=checkpoint.path).to(device).eval()


def load_sam2_segmenter(
    checkpoint: Checkpoint, settings: Sam2Settings, *, channels: Sequence[str], device: str
) -> Sam2Segmenter:
    """SAM 2 with the weights of `checkpoint` on `device`, for tiles of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, UnknownNameError for a plane that the store lacks.
    """
    choice = choose_channels(channels, settings, n_inputs=N_COLOURS)
    return Sam2Segmenter(load_sam2(checkpoint, device=device), settings, choice)
