"""Whether what a model learns from shows what it is judged on: donors, files, and looks of the annotated tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.leak_check.pictures import picture_of, show_leaks
from fintune_xr.splits.assignment import BothShow, Leak, SecondLook, find_leaks, find_shared_fields
from fintune_xr.splits.image_hash import Looks, looks
from fintune_xr.splits.noise import SAME_NOISE, noise_likeness
from fintune_xr.splits.second_look import COPY, likeness, likeness_in_place
from fintune_xr.splits.shared_fields import Shared, Windows, shared_part, windows_of, windows_together
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import Allowed, By, allowed_pairs, annotated_tiles, stored_by, unit_of
from fintune_xr.text import text_array, texts

_OTHERS: Final = "without a part"
# Two tiles that share less, as neighbours of a mosaic do, are not called one field.
_LEAST_SHARE: Final = 0.25
_FEWEST_PX: Final = 32
_LISTED: Final = 20


def refuse_leaks(
    cohort: Cohort,
    parts: Sequence[str] | None = None,
    *,
    by: By = n.DONOR,
    allowed: Allowed = (),
    pictures: Path | None = None,
) -> None:
    """Raises SplitError naming annotated tiles that leak across `parts`, by default the stored split and its `by`.

    Pairs that are `allowed`, by default those of the stored split, may look alike. With `pictures`, those that are
    refused are shown in this folder, with a table of them that `allowed` can be made of. Parts of one field leak where
    they hold the same noise. Where they do not, the pair is told and shown likewise: sparse fields of cells that are
    all alike are taken for such, too.
    """
    tiles = annotated_tiles(cohort)
    if parts is None:
        parts = texts(tiles[n.SPLIT])
        by, allowed = stored_by(cohort), allowed_pairs(cohort)
    names, donors = texts(tiles[n.TILE]), texts(tiles[unit_of(by)])
    seen, windows = _looked_at(tiles)
    leaks = find_leaks(
        names,
        parts,
        donor=donors,
        digest=[" ".join(row) for row in text_array(tiles[n.SHA256])],
        seen=seen,
        second_look=_second_look(tiles),
    )
    shared = find_shared_fields(names, parts, donor=donors, windows=windows, shown_by_both=_shown_by_both(tiles))
    known = {frozenset((one.first, one.second)) for one in allowed}
    leaks = [leak for leak in leaks if not (leak.by_looks and frozenset(leak.tiles) in known)]
    found = {frozenset(leak.tiles) for leak in leaks}
    shared = [leak for leak in shared if frozenset(leak.tiles) not in known | found]
    leaks += [leak for leak in shared if not leak.is_likely]
    shared = [leak for leak in shared if leak.is_likely]
    shown = show_leaks(tiles, [*leaks, *shared], pictures) if pictures is not None and (leaks or shared) else ""
    if shared:
        say(_told(shared, "" if leaks else shown))
    if leaks:
        raise SplitError(_refusal(cohort.url, leaks, shown))


def _told(shared: Sequence[Leak], shown: str) -> str:
    listed = "\n  ".join(str(leak) for leak in shared[:_LISTED])
    return (
        f"{len(shared)} pair(s) of tiles on two sides of the split may show parts of one field:\n  {listed}\nLook at "
        "them: split --show-leaks FOLDER. Where they do, give both tiles the same donor (names or --pattern of a new "
        "ingest), or leave one out; where not, say why in the column `reason` of pairs.tsv, and give it by "
        f"--allow-alike.{shown}"
    )


def _refusal(url: str, leaks: Sequence[Leak], shown: str) -> str:
    listed = "\n  ".join(str(leak) for leak in leaks[:_LISTED])
    alike = any(leak.by_looks for leak in leaks)
    look = (
        "\nTo see pairs that look alike: --show-leaks FOLDER, which writes pictures and pairs.tsv. Where they are "
        "different fields, say why in its column `reason`: --allow-alike pairs.tsv."
    )
    return (
        f"{url}: {len(leaks)} pair(s) of tiles would leak across the split:\n  {listed}\n"
        "Give both tiles the same donor (names or --pattern of a new ingest), "
        f"or leave one out: fintune-xr annotate MASKS {url} --restart, from a folder without its mask."
        f"{look if alike else ''}{shown}"
    )


def _second_look(tiles: xr.Dataset) -> SecondLook:
    """Reads the planes of two tiles again and holds their details against each other."""

    @lru_cache(maxsize=8)
    def picture(at: int) -> NDArray[np.generic]:
        return picture_of(tiles, at)

    def is_copy(one: int, other: int, channels: Sequence[int]) -> bool:
        return any(likeness(picture(one)[at], picture(other)[at]) >= COPY for at in channels)

    return is_copy


def _looked_at(tiles: xr.Dataset) -> tuple[Looks, Windows]:
    """Hashes of whole tiles, and of windows in them; each picture is read once."""
    sides = np.concatenate([tiles[name].values for name in (n.HEIGHT, n.WIDTH)])
    windows: list[Windows] = []

    def noted() -> Iterator[NDArray[np.generic]]:
        for planes in _pictures(tiles):
            windows.append(windows_of(planes, (int(sides.min()), int(sides.max()))))
            yield planes

    return looks(noted(), texts(tiles[n.CHANNEL])), windows_together(windows)


def _shown_by_both(tiles: xr.Dataset) -> Callable[[Shared], BothShow | None]:
    """Reads two tiles again and says what both show, as they lie; None where that is not the same."""
    channels = texts(tiles[n.CHANNEL])

    @lru_cache(maxsize=8)
    def picture(at: int) -> NDArray[np.generic]:
        return picture_of(tiles, at)

    def shown(shared: Shared) -> BothShow | None:
        ours, theirs = (picture(at)[channel] for at, channel in zip(shared.tiles, shared.channels, strict=True))
        one, other = shared_part(ours, theirs, shared)
        share = one.size / min(ours.size, theirs.size)
        if min(one.shape) < _FEWEST_PX or share < _LEAST_SHARE or likeness_in_place(one, other) < COPY:
            return None
        what = " as ".join(dict.fromkeys(channels[channel] for channel in shared.channels))
        is_certain = noise_likeness(one, other) >= SAME_NOISE
        noise = ", down to its noise" if is_certain else ""
        return BothShow(f"show the same field{noise} ({what}, {share:.0%} of the smaller tile)", is_certain)

    return shown


def copies_of_judges(cohort: Cohort, among: NDArray[np.bool_]) -> dict[str, str]:
    """Tiles `among` (tile,) those of the store that show what a val or test tile shows, and what each of them copies.

    The same file or nearly the same image, as in the leak check, which sees annotated tiles only.
    """
    images = cohort.images(lazy=False)
    parts = text_array(images[n.SPLIT])
    chosen = np.flatnonzero(among | np.isin(parts, [n.VAL, n.TEST]))
    tiles, sides = images.isel({n.TILE: chosen}), np.where(among, _OTHERS, parts)[chosen]
    names = texts(tiles[n.TILE])
    digests = [" ".join(row) for row in text_array(tiles[n.SHA256])]
    seen, second = looks(_pictures(tiles), texts(tiles[n.CHANNEL])), _second_look(tiles)
    leaks = find_leaks(names, sides.tolist(), donor=names, digest=digests, seen=seen, second_look=second)
    among_names = {f"{name} ({_OTHERS})": name for name in names}
    found = {among_names.get(told): leak for leak in leaks for told in (leak.first, leak.second)}
    return {name: str(leak) for name, leak in found.items() if name is not None}


def _pictures(tiles: xr.Dataset) -> Iterator[NDArray[np.generic]]:
    """The image (channel, y, x) of each tile without its padding, of a volume its middle plane; one at a time."""
    for at in range(tiles.sizes[n.TILE]):
        yield picture_of(tiles, at)
