"""Masks for prompts that are drawn from the truth: what a network could do that was told where to look.

Published scores of SAM 2 on stained tissue are of this kind. They are stored apart from those of runs, which nobody
told anything, and no difference is ever drawn between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fintune_xr import names as n
from fintune_xr.errors import CheckpointError
from fintune_xr.metrics.intervals import sum_over, with_donor_intervals
from fintune_xr.metrics.semantic import class_scores
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.classes.mapper import ORIENTATIONS, orient, restore
from fintune_xr.models.devices import resolve_device
from fintune_xr.models.registry import kind_named, resolve_checkpoint
from fintune_xr.pipelines.console import progress
from fintune_xr.pipelines.semantic.patches import patches_of, stated_class_map
from fintune_xr.pipelines.studies.study import Study, carry_out
from fintune_xr.pixels.prompts import PROMPT_KINDS, Prompt, PromptKind, close_mask, largest_piece, prompt_of
from fintune_xr.provenance import provenance
from fintune_xr.seeds import stream
from fintune_xr.settings import Settings, load_settings, require_each_once
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import rests_on
from fintune_xr.store.split import part_to_score
from fintune_xr.tasks.class_map import IGNORED, ClassMap, StatedClasses
from fintune_xr.tasks.semantic import PROMPTED_STUDY
from fintune_xr.text import text_array, texts

STORED: Final = f"{n.METRICS}/{n.PROMPTS}"
PROCESSINGS: Final = ("raw", "closed")
SHOWN: Final = ("perclass_dice_image_mean", "perclass_dice_pair_mean", "perclass_dice_pooled")


class PromptedSettings(Settings):
    """Which prompts are drawn from the truth, and how masks are made of them."""

    classes: StatedClasses = Field(default=None, description="Classes; default: those agreed on for the data.")
    prompts: tuple[PromptKind, ...] = Field(default=PROMPT_KINDS, min_length=1)
    tta: tuple[bool, ...] = Field(default=(False,), min_length=1, description="Mean over eight orientations, or not.")
    seed: int = Field(default=2024, ge=0, description="Seed of places beside a piece.")
    flips: int = Field(default=2000, ge=1, description="Sign flips of a test, as in evaluate.")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        require_each_once(self, "prompts", "tta")
        return self


def prompted_study(
    cohort: Cohort, *, model: str, split: str, config: Any, overrides: Sequence[str], device: str, restart: bool
) -> xr.Dataset:
    """Pixels right and wrong of the mask for each prompt, as PROMPTED_STUDY declares, stored in `metrics/prompts`.

    The largest piece of each class and tile is prompted for, and its mask is held against all of the class in the tile.
    A tile is embedded once for all prompts and both choices of `tta`, with it once for each orientation. Scores have
    intervals over donors.

    `model` is SAM 2 as published, or fine-tuned to classes, whose mask decoder is then asked by points and boxes.

    Raises CheckpointError for weights that cannot be asked so, RunMismatchError where another study is stored,
    RunBusyError where another process is at it.
    """
    settings = load_settings(PromptedSettings, config, overrides)
    class_map = stated_class_map(cohort, settings.classes)
    tiles = part_to_score(cohort, split).tiles
    checkpoint = resolve_checkpoint(model)
    names = texts(tiles[n.TILE])
    identity = {
        "checkpoint_sha256": checkpoint.sha256, "settings": settings.as_dict(), "classes": class_map.as_dict(),
        n.RESTS_ON: rests_on(cohort, tiles=names, split=""), "tiles": names,
    }  # fmt: skip
    study = Study(
        cohort=cohort, path=STORED, lock=n.PROMPTS, what="prompting", schema=PROMPTED_STUDY, identity=identity
    )  # fmt: skip

    def prompted(stored: xr.Dataset | None) -> Iterator[xr.Dataset]:
        if stored is None:
            network = _network(checkpoint, resolve_device(device))
            made = _with_scores(_counted(cohort, network, tiles, class_map, settings), settings)
            facts = provenance(checkpoint=checkpoint.as_dict(), split=split)
            yield made.assign_attrs(
                {
                    n.PROTOCOL: n.PROMPTED, n.CLASS_MAP: class_map.as_dict(),
                    n.RESTS_ON: identity[n.RESTS_ON], n.PROVENANCE: facts,
                }
            )  # fmt: skip

    return carry_out(study, prompted, restart=restart)


def prompted_table(found: xr.Dataset) -> pd.DataFrame:
    """A row for each prompt, with and without the eight orientations, as masks come and closed."""
    rows = []
    for prompt in texts(found[n.PROMPT]):
        for tta in found[n.TTA].values.tolist():
            for processing in texts(found[n.PROCESSING]):
                one = found.sel({n.PROMPT: prompt, n.TTA: tta, n.PROCESSING: processing})
                values = {name: round(float(one[name]), 3) for name in SHOWN}
                rows.append({n.PROMPT: prompt, n.TTA: bool(tta), n.PROCESSING: processing, **values})
    return pd.DataFrame(rows)


def masks_of_prompts(
    network: Any, image: NDArray[np.uint8], prompts: Sequence[Prompt], *, tta: Sequence[bool]
) -> list[list[NDArray[np.bool_]]]:
    """For each of `tta`, the mask (y, x) for each prompt in a colour image (colour, y, x).

    Without `tta` it is that of the image as it lies, with it that by the mean of the logits of eight orientations, of
    which the image as it lies is one: each of them is embedded once, whichever is asked for.
    """
    colours = image.astype(np.float32)
    sums = [np.zeros(image.shape[1:], np.float32) for _ in prompts]
    as_it_lies: list[NDArray[np.bool_]] = []
    for turns, mirrored in ORIENTATIONS if any(tta) else ORIENTATIONS[:1]:
        embedded = network.embed(np.moveaxis(orient(colours, turns, mirrored), 0, -1))
        turned = [turned_prompt(prompt, (image.shape[1], image.shape[2]), turns, mirrored) for prompt in prompts]
        for total, logits in zip(sums, network.asked(embedded, turned), strict=True):
            total += restore(logits[None], turns, mirrored)[0]
        # The first orientation is none.
        as_it_lies = as_it_lies or [total > 0 for total in sums]
    of_all = [total > 0 for total in sums]
    return [of_all if one else as_it_lies for one in tta]


def turned_prompt(prompt: Prompt, shape: tuple[int, int], turns: int, mirrored: bool) -> Prompt:
    """`prompt` in the image of `shape` as `orient` turns it."""
    points = _turned(prompt.points, shape, turns, mirrored)
    if prompt.box is None:
        return Prompt(points, prompt.labels)
    corners = _turned(prompt.box.reshape(2, 2), shape, turns, mirrored)
    return Prompt(points, prompt.labels, np.concatenate([corners.min(axis=0), corners.max(axis=0)]))


def _turned(points: NDArray[np.float64], shape: tuple[int, int], turns: int, mirrored: bool) -> NDArray[np.float64]:
    x, y = points[:, 0], points[:, 1]
    height, width = shape
    if mirrored:
        x = width - 1 - x
    for _ in range(turns):
        # A quarter turn from rows towards columns: what was on the right comes to the top.
        x, y, height, width = y, width - 1 - x, width, height
    return np.stack([x, y], axis=1)


def _network(checkpoint: Checkpoint, device: str) -> Any:
    load = kind_named(checkpoint.kind).promptable
    network = None if load is None else load(checkpoint, device)
    if not hasattr(network, "asked"):
        raise CheckpointError(
            f"{checkpoint.name} is a model of kind {checkpoint.kind}: expected SAM 2, published or fine-tuned to "
            "classes, which can be asked by boxes."
        )
    return network


def _counted(
    cohort: Cohort, network: Any, tiles: xr.Dataset, class_map: ClassMap, settings: PromptedSettings
) -> xr.Dataset:
    patches = patches_of(cohort, tiles)
    shape = (3, len(settings.prompts), len(settings.tta), len(PROCESSINGS), len(patches), class_map.n_classes)
    counts = np.zeros(shape, np.int64)
    with progress("sweep (prompted)", len(patches)) as advance:
        for at in range(len(patches)):
            labels = patches.labels(at, class_map)
            # A class that is nowhere has no prompt and no mask: all of its counts are 0, and it has no score there.
            pieces = {k: largest_piece(labels == k + 1) for k in range(class_map.n_classes) if (labels == k + 1).any()}
            asked = [
                (p, k, prompt_of(piece, kind, stream(settings.seed, "prompt", patches.names[at], k)))
                for p, kind in enumerate(settings.prompts)
                for k, piece in pieces.items()
            ]
            found = masks_of_prompts(network, patches.read(at)[0], [one for _, _, one in asked], tta=settings.tta)
            for t, masks in enumerate(found):
                for (p, k, _), mask in zip(asked, masks, strict=True):
                    for m, made in enumerate((mask, close_mask(mask))):
                        counts[:, p, t, m, at, k] = _right_and_wrong(labels, made, k + 1)
            advance(1)
    return _labelled(counts, tiles, class_map, settings)


def _right_and_wrong(labels: NDArray[np.uint8], mask: NDArray[np.bool_], label: int) -> tuple[int, int, int]:
    truth, known = labels == label, labels != IGNORED
    return int((mask & truth).sum()), int((mask & known & ~truth).sum()), int((~mask & truth).sum())


def _labelled(
    counts: NDArray[np.int64], tiles: xr.Dataset, class_map: ClassMap, settings: PromptedSettings
) -> xr.Dataset:
    specs = {name: PROMPTED_STUDY[name] for name in (n.TP, n.FP, n.FN)}
    return xr.Dataset(
        {name: (spec.dims, values, spec.attrs) for (name, spec), values in zip(specs.items(), counts, strict=True)},
        {
            n.PROMPT: list(settings.prompts), n.TTA: np.array(settings.tta, np.int64), n.PROCESSING: list(PROCESSINGS),
            n.TILE: text_array(tiles[n.TILE]), n.CLASS: list(class_map.names),
            n.DONOR: (n.TILE, text_array(tiles[n.DONOR])),
        },
    )  # fmt: skip


def _with_scores(counts: xr.Dataset, settings: PromptedSettings) -> xr.Dataset:
    donor = counts[n.DONOR].reset_coords(drop=True)
    bare = counts.drop_vars(n.DONOR)
    if len(set(texts(donor))) < 2:
        return xr.merge([counts, class_scores(bare.drop_vars(n.TILE), sum_over(n.TILE))])
    scored = with_donor_intervals(bare, donor, class_scores, n_flips=settings.flips, seed=settings.seed)
    ends = [str(name) for name in scored if str(name).endswith(n.INTERVAL)]
    return xr.merge([counts, scored.assign({name: scored[name].clip(0.0, 1.0) for name in ends})])
