"""What lies behind the scores of classes: balance, examples, confusion, spread over images, small pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.figures.classes import balance_figure, confusion_figure, patch_figure
from fintune_xr.analysis.figures.style import data_uri
from fintune_xr.analysis.report.contents import Note, Picture, Section, Table, fold
from fintune_xr.analysis.report.numbers import count_text, decimals, percent
from fintune_xr.text import texts

EVALUATE: Final = "fintune-xr evaluate STORE --split test"
# A class rarer than this in train is said to be rare: plain weights by inverse frequency then exceed 10 or so.
RARE: Final = 0.02


def balance_section(balance: xr.Dataset | None) -> Section:
    """How much of the annotations each class is, in each part, and the weights that follow from it."""
    if balance is None:
        return Section("balance", "Balance of classes", command=EVALUATE)
    parts, classes = texts(balance[n.PART]), texts(balance[n.CLASS])
    frame = pd.DataFrame({n.CLASS: classes})
    for part in parts:
        one = balance.sel({n.PART: part})
        frame[f"share_{part}"] = one[n.SHARE].values
        frame[f"tiles_{part}"] = one[n.N_TILES].values
    frame["pixels"] = balance[n.CLASS_PX].isel({n.PART: -1}).values
    for rule in ("auto", "sqrt"):
        frame[f"weight_{rule}"] = balance[f"{n.WEIGHT}_{rule}"].values
    formats = {f"share_{part}": percent for part in parts} | dict.fromkeys(("weight_auto", "weight_sqrt"), decimals(1))
    figure = balance_figure(balance[n.SHARE])
    caption = (
        "Pixels of each class that count, and weights: the largest share of a class in train over that of the class, "
        "and its square root; 1 for what is none of them"
    )
    rare = _rare(balance)
    return Section(
        "balance",
        "Balance of classes",
        (
            *rare,
            Picture(data_uri(figure, "svg"), "Share of each class by part", "Share of each class in each part."),
            Table("balance", caption, frame, formats),
        ),
        findings=rare,
    )


def examples_section(patches: Sequence[Mapping[str, object]]) -> Section:
    """Patches beside their annotation and the map of every run; each record holds tile, image, maps, classes."""
    if not patches:
        return Section("examples", "Example patches", command="fintune-xr infer STORE --run RUN --model MODEL")
    pictures = tuple(_example(one) for one in patches)
    more = fold(f"{count_text(len(pictures) - 1, 'patch', 'patches')} more", pictures[1:])
    return Section("examples", "Example patches", (*pictures[:1], *more))


def confusion_section(scores: xr.Dataset | None) -> Section:
    """What pixels of each class were called, by run, and the most frequent confusion of each class."""
    if scores is None:
        return Section("confusion", "Confusion of classes", command=EVALUATE)
    summed = scores[n.CONFUSION].sum(n.TILE)
    figure = confusion_figure(summed)
    rows = [
        {n.RUN: run, "annotated": truth, "predicted": found,
         "pixels": int(summed.sel({n.RUN: run, n.TRUTH: truth, n.PREDICTED: found}))}
        for run in texts(summed[n.RUN]) for truth in texts(summed[n.TRUTH]) for found in texts(summed[n.PREDICTED])
    ]  # fmt: skip
    caption = (
        "Of the pixels annotated as a row's class, per cent that were called as the column says; pixels that count."
    )
    page = _worst_confusions(summed)
    return Section(
        "confusion",
        "Confusion of classes",
        (
            Picture(data_uri(figure, "svg"), "Confusion of classes by run", caption),
            Table("confusion", "The most frequent confusion of each class", pd.DataFrame(rows), {"share": percent},
                  page=page),
        ),
    )  # fmt: skip


def spread_section(scores: xr.Dataset | None) -> Section:
    """How Dice differs between images, and how many small and large annotated pieces were found."""
    if scores is None:
        return Section("spread", "Spread and small pieces", command=EVALUATE)
    hidden = fold("Dice over the images, and pieces found by size", [_spread_table(scores), _pieces_table(scores)])
    return Section("spread", "Spread and small pieces", hidden)


def _rare(balance: xr.Dataset) -> tuple[Note, ...]:
    parts = texts(balance[n.PART])
    part = n.TRAIN if n.TRAIN in parts else parts[-1]
    share = balance[n.SHARE].sel({n.PART: part})
    names = [name for name in texts(balance[n.CLASS])[1:] if 0 < float(share.sel({n.CLASS: name})) < RARE]
    listed = ", ".join(f"{name} {percent(float(share.sel({n.CLASS: name})))}" for name in names)
    return (Note(f"Rare in part {part}: {listed} of the pixels that count.", "doubtful"),) if names else ()


def _example(one: Mapping[str, object]) -> Picture:
    image, maps, classes = one["image"], one["maps"], one["classes"]
    figure = patch_figure(image, maps, classes, side_um=one["side_um"])  # type: ignore[arg-type]
    return Picture(data_uri(figure, "png", dpi=110), f"Patch {one[n.TILE]} with maps of classes", _example_caption(one))


def _example_caption(one: Mapping[str, object]) -> str:
    part = one.get(n.SPLIT, n.UNASSIGNED)
    return f"{one[n.TILE]}, {part if part == n.UNASSIGNED else f'part {part} of the split'}."


def _worst_confusions(summed: xr.DataArray) -> pd.DataFrame:
    rows = []
    labels = texts(summed[n.TRUTH])
    for run in texts(summed[n.RUN]):
        counts: NDArray[np.int64] = summed.sel({n.RUN: run}).transpose(n.TRUTH, n.PREDICTED).values.copy()
        totals = counts.sum(axis=1)
        np.fill_diagonal(counts, 0)
        for at, name in enumerate(labels):
            if totals[at]:
                other = int(counts[at].argmax())
                share = counts[at, other] / totals[at]
                rows.append({n.RUN: run, "annotated": name, "mostly called": labels[other], "share": share})
    return pd.DataFrame(rows)


def _spread_table(scores: xr.Dataset) -> Table:
    table = scores[f"{n.DICE}_{n.SPREAD}"]
    rows = []
    for run in texts(scores[n.RUN]):
        for name in texts(scores[n.CLASS]):
            one = table.sel({n.RUN: run, n.CLASS: name})
            values = {str(s): float(one.sel({n.STATISTIC: s})) for s in table[n.STATISTIC].values}
            worst = str(scores[n.WORST_TILE].sel({n.RUN: run, n.CLASS: name}).item())
            rows.append({n.RUN: run, n.CLASS: name, **values, n.WORST_TILE: worst})
    caption = "Dice of each class over the images that hold it: standard deviation, quartiles, and the worst image"
    return Table("spread", caption, pd.DataFrame(rows), code=(n.WORST_TILE,))


def _pieces_table(scores: xr.Dataset) -> Table:
    rows, page = [], []
    for run in texts(scores[n.RUN]):
        for name in texts(scores[n.CLASS]):
            text: dict[str, object] = {n.RUN: run, n.CLASS: name}
            for size in texts(scores[n.SIZE_BIN]):
                one = scores.sel({n.RUN: run, n.CLASS: name, n.SIZE_BIN: size})
                there, found = int(one[n.N_PIECES]), int(one[n.N_FOUND])
                rows.append({n.RUN: run, n.CLASS: name, "size": size, "pieces": there, "found": found})
                text[size] = f"{found} of {there}"
            page.append(text)
    caption = (
        "Annotated pieces by size that were found, which is half of their pixels or more with their class; pieces are "
        "8-connected"
    )
    formats = dict.fromkeys(texts(scores[n.SIZE_BIN]), str)
    return Table("pieces", caption, pd.DataFrame(rows), formats, page=pd.DataFrame(page))
