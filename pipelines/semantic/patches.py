"""What is annotated of a cohort of stained tissue: patches of a part, classes that fit the legend, their balance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.pipelines.console import say
from fintune_xr.provenance import provenance
from fintune_xr.store.annotations.class_patches import AnnotatedPatches
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.store.lineage.depends_on import rests_on
from fintune_xr.store.split import ALL, annotated_part, annotated_tiles
from fintune_xr.tasks.class_map import ClassMap, check_class_map, default_class_map, joined_codes
from fintune_xr.tasks.semantic import CLASS_BALANCE
from fintune_xr.text import text_array, texts


def patches_of(cohort: Cohort, tiles: xr.Dataset) -> AnnotatedPatches:
    """The annotated `tiles` (images with an annotation) as patches, opened and not read."""
    truth = cohort.annotations(lazy=False)
    place = {name: i for i, name in enumerate(texts(truth[n.TILE]))}
    codes = truth[n.CLASSES].isel({n.TILE: [place[name] for name in texts(tiles[n.TILE])]})
    return AnnotatedPatches(
        names=texts(tiles[n.TILE]),
        channels=tuple(texts(tiles[n.CHANNEL])),
        image=tiles[n.IMAGE],
        codes=codes,
        height=tiles[n.HEIGHT].values.tolist(),
        width=tiles[n.WIDTH].values.tolist(),
        ignored=annotated_legend(cohort).ignored,
    )


def patches_for_training(cohort: Cohort, part: str, markers: Sequence[str] = ()) -> AnnotatedPatches:
    """Annotated patches of one part of the split, without those whose pixels are all ignored.

    Raises UnknownNameError for a marker without annotated tiles, SplitError where none is left.
    """
    annotated = annotated_part(cohort, part, markers)
    found = patches_of(cohort, annotated.tiles)
    ignored = np.zeros(256, np.bool_)
    ignored[list(found.ignored)] = True
    usable = [i for i in range(len(found)) if not ignored[found.read_codes(i)].all()]
    if len(usable) == len(found):
        return found
    say(f"train: {len(found) - len(usable)} patches of part {part} are left out, all of their pixels are ignored")
    if not usable:
        meanings = annotated_legend(cohort).meanings
        codes = ", ".join(f"{code} {meanings[code]}" if code in meanings else str(code) for code in found.ignored)
        raise FintuneValueError(f"part {part}: every annotated pixel has an ignored code ({codes}); annotate more")
    return found.chosen(usable)


def stated_class_map(cohort: Cohort, asked: ClassMap | None) -> ClassMap:
    """`asked`, or the classes agreed on for these annotations, once they fit the legend; what they join is said.

    Raises SettingsError where they do not, or none are agreed on.
    """
    legend = annotated_legend(cohort)
    stated = check_class_map(default_class_map(legend) if asked is None else asked, legend)
    for told in joined_codes(stated, legend):
        say(f"classes: {told}")
    return stated


def require_classes(parts: dict[str, AnnotatedPatches], class_map: ClassMap) -> None:
    """Raises SettingsError for a class without a pixel in train; says so where one has none in another part."""
    for part, patches in parts.items():
        pixels = patches.pixels_of_classes(class_map).sum(axis=0)
        absent = [name for name, count in zip(class_map.names, pixels[1:], strict=True) if count == 0]
        if absent and part == n.TRAIN:
            raise SettingsError(
                f"part train has no pixel of {', '.join(absent)}: nothing can be learnt of it. Leave it out of "
                "classes, split with another --seed, or annotate more."
            )
        if absent:
            say(f"train: part {part} has no pixel of {', '.join(absent)}, so nothing is known of it there")


def class_balance(cohort: Cohort, class_map: ClassMap) -> xr.Dataset:
    """Pixels, shares and tiles (part, class) of the annotations in each part of the split and in all, and weights.

    `weight_auto` is the largest share of a class in train over that of each class, `weight_sqrt` its square root; both
    are of all annotated tiles where nothing is in train.
    """
    tiles = annotated_tiles(cohort)
    counts = patches_of(cohort, tiles).pixels_of_classes(class_map)
    of_tile = text_array(tiles[n.SPLIT])
    parts = [part for part in n.SPLITS if (of_tile == part).any()]
    chosen = [of_tile == part for part in parts] + [np.ones(of_tile.size, np.bool_)]
    pixels = np.array([counts[rows].sum(axis=0) for rows in chosen])
    valid = pixels.sum(axis=1)
    share = pixels / np.where(valid > 0, valid, 1)[:, None]
    n_tiles = np.array([(counts[rows] > 0).sum(axis=0) for rows in chosen])
    learnt = share[[*parts, ALL].index(n.TRAIN) if n.TRAIN in parts else -1, 1:]
    with np.errstate(divide="ignore"):
        weight = np.concatenate([[1.0], np.where(learnt > 0, learnt.max() / learnt, np.inf)])
    values = {
        n.CLASS_PX: pixels, n.SHARE: share, n.N_TILES: n_tiles, n.N_VALID: valid,
        f"{n.WEIGHT}_auto": weight, f"{n.WEIGHT}_sqrt": np.sqrt(weight),
    }  # fmt: skip
    return xr.Dataset(
        {name: (spec.dims, values[name], spec.attrs) for name, spec in CLASS_BALANCE.variables.items()},
        {n.PART: [*parts, ALL], n.CLASS: [n.REST, *class_map.names]},
        {n.CLASS_MAP: class_map.as_dict(), n.RESTS_ON: rests_on(cohort, tiles=texts(tiles[n.TILE]), split=""),
         n.PROVENANCE: provenance()},
    )  # fmt: skip


def store_balance(cohort: Cohort, class_map: ClassMap) -> xr.Dataset:
    """The stored balance of classes, made anew where classes, annotations or split have changed."""
    made = class_balance(cohort, class_map)
    cohort.write(n.CLASS_BALANCE_PATH, made, CLASS_BALANCE)
    return made
