"""Files that a folder holds beside those of the layout: counted by what they are, with an example of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from fintune_xr.store.raw.conversions import conversion

HIDDEN: Final = "hidden file, or copy that a system made"
UNLISTED: Final = "image that is not in the table of samples"
MISNAMED: Final = "image whose name does not fit the layout"
PRODUCT: Final = "mask or other product of segmentation"
BESIDE: Final = "image or mask of the folder beside"

# Folders that systems and programs make of their own accord; whatever begins with a dot is hidden as well.
_OF_SYSTEMS: Final = frozenset(
    {
        "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "#recycle", "@recycle",
        "#snapshot", "~snapshot", "@recently-snapshot",
    }
)  # fmt: skip
# Companions of images are many and mean nothing; these could be images or annotations that somebody misses, and so
# could all that can be converted.
_MEANT: Final = frozenset(
    {
        ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".ome", ".mrc", ".npy", ".zip", ".roi", ".geojson", ".json", ".csv",
        ".star", ".box", ".cs", ".txt", ".tsv",
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
    """Whether a path leads through a hidden or a system's folder, or is a hidden file, or an office program's lock."""
    return any(part.startswith((".", "~$")) or part.lower() in _OF_SYSTEMS for part in path.split("/"))


def extra_lines(found: Mapping[str, int], *, products: bool = False) -> list[str]:
    """A line for each kind of file that might be missed, with an example; `products` of segmentation only if asked."""
    examples = found.examples if isinstance(found, PassedOver) else {}
    lines = []
    for what, count in found.items():
        is_silent = what in (HIDDEN, BESIDE) or (what == PRODUCT and not products)
        is_meant = bool(conversion(what)) or PurePosixPath("x" + what).suffix in _MEANT
        if is_silent or (what.startswith((".", "(")) and not is_meant):
            continue
        example = f", e.g. {examples[what]}" if what in examples else ""
        remedy = conversion(what)
        lines.append(f"passed over: {count} x {what}{example}{f'; {remedy}' if remedy else ''}")
    return lines
