"""Files that a folder holds beside those of the layout: counted by what they are, with an example of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

HIDDEN: Final = "hidden file, or copy that a system made"
MISNAMED: Final = "image whose name does not fit the layout"
PRODUCT: Final = "mask or other product of segmentation"
BESIDE: Final = "image or mask of the folder beside"

# Folders that systems and programs make of their own accord; whatever begins with a dot is hidden as well.
_OF_SYSTEMS: Final = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
# Companions of images are many and mean nothing; these could be images or annotations that somebody misses.
_MEANT: Final = frozenset(
    {
        ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".czi", ".nd2", ".lif", ".lsm", ".vsi", ".svs",
        ".ome", ".mrc", ".mrcs", ".eer", ".npy", ".zip", ".roi", ".geojson", ".json", ".csv", ".star", ".box",
        ".cbox", ".cs", ".txt", ".tsv", ".webp", ".jp2", ".ndpi", ".scn", ".mrxs",
    }
)  # fmt: skip


class PassedOver(dict[str, int]):
    """How many files were passed over, by what they are; `examples` has a path of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, str] = {}

    def add(self, what: str, path: str) -> None:
        """Counts one file more."""
        self[what] = self.get(what, 0) + 1
        self.examples.setdefault(what, path)


def is_of_system(path: str) -> bool:
    """Whether a path leads through a hidden or a system's folder, or is a hidden file."""
    return any(part.startswith(".") or part.lower() in _OF_SYSTEMS for part in path.split("/"))


def told(found: Mapping[str, int], *, products: bool = False) -> list[str]:
    """A line for each kind of file that might be missed, with an example; `products` of segmentation only if asked."""
    examples = found.examples if isinstance(found, PassedOver) else {}
    lines = []
    for what, count in found.items():
        is_silent = what in (HIDDEN, BESIDE) or (what == PRODUCT and not products)
        if is_silent or (what.startswith((".", "(")) and PurePosixPath("x" + what).suffix not in _MEANT):
            continue
        example = f", e.g. {examples[what]}" if what in examples else ""
        lines.append(f"passed over: {count} x {what}{example}")
    return lines
