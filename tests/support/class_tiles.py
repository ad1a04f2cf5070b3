"""Small colour tiles whose classes can be told by colour and texture, with codes as annotations have them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fintune_xr.finetune.semantic.tiles import with_class_pixels
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings
from fintune_xr.store.annotations.class_patches import AnnotatedPatches
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.semantic import RGB_CHANNELS

THREE = ClassMap(classes={"tumor": [1], "stroma": [2], "blood_vessel": [18]})  # type: ignore[arg-type]
COLOURS = {0: (255, 255, 255), 1: (110, 60, 140), 2: (230, 140, 190), 7: (200, 200, 90), 18: (190, 40, 60)}


def drawn_tile(seed: int, px: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A tile (3, y, x) and its codes (y, x): stroma with round pieces of the other classes."""
    rng = stream(seed, "class tile")
    codes = np.full((px, px), 2, np.uint8)
    y, x = np.mgrid[:px, :px]
    for code, radius in ((1, px // 4), (7, px // 8), (18, px // 8), (0, px // 10)):
        for _ in range(2):
            centre = rng.integers(0, px, 2)
            codes[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = code
    table = np.zeros((256, 3), np.float64)
    for code, colour in COLOURS.items():
        table[code] = colour
    image = table[codes] + rng.normal(0, 12, (px, px, 3))
    return np.moveaxis(np.clip(image, 0, 255), -1, 0).astype(np.uint8), codes


def class_tiles(n_tiles: int, *, first: int = 0, px: int = 96) -> AnnotatedPatches:
    """Several of them; code 0 is unknown."""
    pairs = [drawn_tile(first + index, px) for index in range(n_tiles)]
    return AnnotatedPatches(
        names=[f"t{first + index}" for index in range(n_tiles)],
        channels=RGB_CHANNELS,
        image=np.stack([image for image, _ in pairs]),
        codes=np.stack([codes for _, codes in pairs]),
        height=[px] * n_tiles,
        width=[px] * n_tiles,
        ignored=(0,),
    )


def settings_for(kind: type[Any], tiles: AnnotatedPatches, *, class_map: ClassMap = THREE, **chosen: Any) -> Any:
    """Settings of a training of `kind` on `tiles`."""
    return with_class_pixels(load_settings(kind, {**chosen, "classes": class_map.as_dict()}), tiles)
