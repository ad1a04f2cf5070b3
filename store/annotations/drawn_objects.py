"""One look at all that was drawn before any of it is stored: of which classes it is, and whether it fills its tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError, TileReadError, unknown_name
from fintune_xr.store.annotations.corner import only_in_corner
from fintune_xr.store.raw.readers.drawings import look_at_drawn
from fintune_xr.store.raw.readers.drawings.painting import UNCLASSIFIED, DrawnReading, class_key
from fintune_xr.store.raw.sources import Place, place_in

Pictures: TypeAlias = Mapping[str, Sequence[tuple[int | None, tuple[int, int]]]]
"""By the path of a file: page and shape of each tile that it has objects of."""


@dataclass(slots=True)
class _Seen:
    """Objects of each class over all files, how a class is written and where it is met first, reaches, and files that
    name the image of another tile.
    """

    counts: Counter[str] = field(default_factory=Counter)
    written: dict[str, str] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    reach: list[NDArray[Any]] = field(default_factory=list)
    of_others: list[str] = field(default_factory=list)

    def listed(self, keys: Sequence[str]) -> str:
        """Classes with how many objects each has, and where the first of them is."""
        return ", ".join(f"{self.written[key]!r} ({self.counts[key]}, e.g. in {self.first[key]})" for key in keys)


def check_drawn(source: Place, pictures: Pictures, how: DrawnReading) -> list[str]:
    """Lines on the classes of what was drawn in `pictures`, whose files lie under `source`.

    Files that cannot be read say nothing here: they are left out with their reason when they are to be stored.

    Raises FintuneValueError where objects are of several classes and `how` does not say which are meant, where all lie
    in one corner of their tiles, and where it says something of drawn objects and there are none; UnknownNameError for
    a class that none has.
    """
    if not pictures and (how.classes is not None or how.is_told):
        raise FintuneValueError("--classes, --unit and --scale are about drawn objects, and label images lie there")
    seen = _seen(source, pictures, how)
    _check_asked(seen, how)
    reason = only_in_corner(seen.reach, "drawn objects", "um")
    if reason:
        raise FintuneValueError(reason)
    return _lines(seen, how)


def _seen(source: Place, pictures: Pictures, how: DrawnReading) -> _Seen:
    seen = _Seen()
    for path, of_file in pictures.items():
        try:
            looks = look_at_drawn(place_in(source, path), of_file, how)
        except TileReadError:
            continue
        for look in looks:
            seen.reach.append(look.reach)
            if look.picture and _stem(look.picture) != _stem(path):
                seen.of_others.append(f"{path} of {look.picture}")
            for name, count in look.classes.items():
                key = class_key(name)
                seen.counts[key] += count
                seen.written.setdefault(key, name or UNCLASSIFIED)
                seen.first.setdefault(key, path)
    return seen


def _check_asked(seen: _Seen, how: DrawnReading) -> None:
    if how.classes is not None:
        for name in how.classes:
            if class_key(name) not in seen.counts:
                raise unknown_name("class of drawn objects", name, seen.written.values(), "Name them with --classes.")
        return
    taken = [key for key in seen.counts if how.takes(seen.written[key])]
    if len(taken) > 1:
        raise FintuneValueError(
            f"drawn objects are of {len(taken)} classes: {seen.listed(taken)}. Say which are cells: --classes "
            f"{' '.join(_quoted(seen.written[key]) for key in taken)} takes all of them, others are left away."
        )


def _lines(seen: _Seen, how: DrawnReading) -> list[str]:
    taken = [key for key in seen.counts if how.takes(seen.written[key])]
    left = [key for key in seen.counts if key not in taken]
    lines = []
    if taken and (taken != [UNCLASSIFIED] or left):
        lines.append(f"drawn objects that are taken for cells are of the class {seen.listed(taken)}")
    if left:
        why = "" if how.classes is not None else "; by QuPath's convention no class that ends in * is one of objects"
        lines.append(f"drawn objects left away are of the class {seen.listed(left)}{why}")
    if seen.of_others:
        lines.append(
            f"{len(seen.of_others)} file(s) say that they were drawn in an image of another name, e.g. "
            f"{seen.of_others[0]}: they are taken for the tiles that the files are named after"
        )
    return lines


def _stem(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).stem


def _quoted(name: str) -> str:
    return name if name.isalnum() else f"'{name}'"
