"""How surely parts of one image are known by their noise, on published images.

`python examples/same_noise.py DATA` prints for each folder of images below DATA the likeness of the noise of different
images, and of an image and a crop of it that was saved otherwise: the table of docs/how-to/training.md.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from fintune_xr.splits.noise import noise_likeness

FOLDERS = {
    "brain, DAPI": "cellfinder-brain/ch0/*.tif", "neurons": "deepflash-hippocampus/*/*_[!e]*.tif",
    "nuclei": "dsb2018-fluo/images/*", "H&E biopsies": "ebhi-seg/images/*.png",
    "cryo-EM": "cryosegnet-empiar10017/images/*.jpg",
}  # fmt: skip
LONGEST = 512


def eight_bit(plane: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(255.0 * (plane - plane.min()) / max(float(np.ptp(plane)), 1.0)).astype(np.uint8)


def jpeg(plane: NDArray[Any], quality: int) -> NDArray[np.uint8]:
    held = io.BytesIO()
    Image.fromarray(eight_bit(plane)).save(held, "JPEG", quality=quality)
    return np.asarray(Image.open(held))


SAVED: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "0.4 of the brightness": lambda plane: np.round(0.4 * plane.astype(float) + 3),
    "8 bit": eight_bit,
    "JPEG 90": lambda plane: jpeg(plane, 90),
    "JPEG 75": lambda plane: jpeg(plane, 75),
}


def planes(files: list[Path]) -> list[NDArray[Any]]:
    """The first plane (y, x) of each image, at most 512 px of a side."""
    every = [tifffile.imread(file) if file.suffix == ".tif" else np.asarray(Image.open(file)) for file in files]
    return [(image if image.ndim == 2 else image[..., 0])[:LONGEST, :LONGEST] for image in every]


def main(data: Path) -> None:
    print("\t".join(["images", "n", "different, most", *(f"{name}, least and median" for name in SAVED)]))
    for name, pattern in FOLDERS.items():
        found = planes(sorted(data.glob(pattern)))
        pairs = [[plane[: min(a.shape[0], b.shape[0]), : min(a.shape[1], b.shape[1])] for plane in (a, b)]
                 for a, b in combinations(found, 2)]  # fmt: skip
        cells = [f"{max(noise_likeness(*pair) for pair in pairs):.2f}"]
        for saved in SAVED.values():
            likest = [noise_likeness(plane[20:, 10:], saved(plane)[20:, 10:]) for plane in found]
            cells.append(f"{min(likest):.2f}, {np.median(likest):.2f}")
        print("\t".join([name, str(len(found)), *cells]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
