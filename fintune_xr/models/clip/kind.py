"""CLIP without its libraries: what opens a folder of it. Its embeddings are of regions, so it makes no runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Embedder(Protocol):
    """Something that embeds images and texts in one space; embeddings (n, feature) have length 1."""

    @property
    def sha256(self) -> str:
        """Digest of all that it is made of."""
        ...

    @property
    def former_sha256(self) -> str:
        """Digest of the same by an earlier release, which left out some of its files."""
        ...

    @property
    def scale(self) -> float:
        """What similarities are multiplied by before they become probabilities."""
        ...

    def of_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of sentences. Raises FintuneValueError for one that is longer than what it reads."""
        ...

    def of_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embeddings of square colour images (colour, y, x)."""
        ...


def open_clip_folder(folder: str | Path, *, device: str) -> Embedder:
    """The CLIP network in `folder` on `device`.

    Raises CheckpointNotFoundError for a folder that is not there, CheckpointError for one that lacks a part of CLIP,
    has a damaged one, or holds another network.
    """
    from fintune_xr.models.clip.adapter import load_clip

    return load_clip(folder, device=device)
