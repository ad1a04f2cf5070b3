"""Threshold and a small U-Net on published microscope images, from the raw files to held-out scores.

`python examples/real_images.py DATA OUT` ingests each set of images below DATA into a store of its own under OUT,
splits, segments, trains and evaluates it, and prints the table of docs/results/real-images.md. Everything is seeded;
run again, it continues. What the sets are and what their groups mean is written in that page.
"""

from __future__ import annotations

import csv
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy import ndimage

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.analysis.figures.overlays import tile_figure
from fintune_xr.analysis.figures.style import figure_bytes
from fintune_xr.pipelines.steps.evaluate import score_table
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.split import split_table

THRESHOLD, UNET = "threshold", "flow_unet"
SEED = 0
TRAINING = ("epochs=12", "patches_per_epoch=96", "patch_px=128", "batch_size=4", "threads=1", f"seed={SEED}")
EVERY_THIRD = ("validate_every=3",)


@dataclass(frozen=True, slots=True)
class ImageSet:
    """One store: where its images and masks are, what it is split by, and how it is segmented.

    `layout` names a layout of images and of masks; patterns replace theirs. `scored` is the part that nothing was
    fitted to.
    """

    name: str
    folder: str
    layout: str
    fractions: tuple[float, float, float]
    image_pattern: str | None = None
    mask_pattern: str | None = None
    scored: str = n.TEST
    threshold: tuple[str, ...] = ()
    training: tuple[str, ...] = EVERY_THIRD


CFOS = ImageSet(
    "cfos", "deepflash-hippocampus", "custom", (0.5, 0.2, 0.3),
    image_pattern=r"(?P<donor>(?P<marker>cFOS|new)/(?P<tile>\d+))_(?:cFOS|new)\.tif",
    mask_pattern=r"(?P<donor>(?P<marker>cFOS|new)/(?P<tile>\d+))_expert\.tif",
)  # fmt: skip
PARV = ImageSet(
    "parv", "deepflash-hippocampus", "deepflash", (0.34, 0.33, 0.33), threshold=("model.channel=Parv",),
)  # fmt: skip
# Two recordings leave none for a choice between epochs: the only validation is at the end, so that the part `val`
# decides nothing and can be scored. The threshold's sizes suit whole microglia; they were set on the other recording.
MICROGLIA = ImageSet(
    "microglia", "microglia-morphometry", "microglia", (0.75, 0.25, 0.0), scored=n.VAL,
    threshold=("model.sigma_px=2", "model.split_px=25", "model.min_area_px=300"), training=("validate_every=12",),
)  # fmt: skip


def main(data: Path, out: Path) -> None:
    """Runs every set and prints what was measured."""
    sets = [CFOS, PARV, *nuclei_by_size(data / "dsb2018-fluo"), MICROGLIA]
    tables = [run(one, data / one.folder, out) for one in sets]
    print(pd.concat(tables).to_string(index=False))
    print(points_found(data / "cellfinder-brain", out).to_string(index=False))
    overlays(out)


def run(one: ImageSet, source: Path, out: Path) -> pd.DataFrame:
    """Scores of both models on the held-out part of one set: a row each, after every step of the route."""
    store = prepare(one, source, out)
    fx.infer(store, run=THRESHOLD, model="threshold", overrides=one.threshold)
    trained = fx.train(store, run_name=one.name, out=out / "models", overrides=(*TRAINING, *one.training))
    fx.infer(store, run=UNET, model=str(trained))
    scores = fx.evaluate(store, runs=(THRESHOLD, UNET), split=one.scored, seed=SEED)
    finish(store, out / one.name)
    table = score_table(scores).query("group == 'all'").drop(columns="group")
    table.insert(0, "set", one.name)
    table.insert(1, "tiles (donors)", sides(store, one.scored))
    return table


def prepare(one: ImageSet, source: Path, out: Path) -> Path:
    """The store of one set, with its images, annotations and split."""
    store = out / f"{one.name}.zarr"
    fx.ingest(source, store, layout=choose_layout(one.layout, pattern=one.image_pattern), title=one.name)
    masks = "rosmap" if one.layout == "custom" else one.layout
    fx.annotate(source, store, layout=masks, pattern=one.mask_pattern)
    fx.split(store, fractions=one.fractions, seed=SEED, force=True)
    return store


def finish(store: Path, folder: Path) -> None:
    """Verifies the store, writes masks and tables for other tools, and the report."""
    problems = fx.check(store)
    if problems:
        raise SystemExit("\n".join(map(str, problems)))
    for kind in ("masks", "tables"):
        fx.export(store, to=kind, out=folder / kind)
    fx.report(store, out=folder / "report.html", baseline=THRESHOLD)


def sides(store: Path, scored: str) -> str:
    """Tiles and donors that were learned from, and those that were scored."""
    count = split_table(fx.open_cohort(store)).groupby(n.SPLIT)[["tiles", "donors"]].sum()
    return ", ".join(f"{part} {count.tiles[part]} ({count.donors[part]})" for part in (n.TRAIN, scored))


def nuclei_by_size(folder: Path) -> list[ImageSet]:
    """The sets `nuclei-small` and `nuclei-medium`: images of one store differ by less than a factor of two in size.

    The one image that is larger than both is left out: alone it cannot be held out from anything.
    """
    with (folder / "index.csv").open(newline="") as file:
        height = {row["file_stem"]: int(row["shape"].partition("x")[0]) for row in csv.DictReader(file)}
    groups = {"nuclei-small": range(500), "nuclei-medium": range(500, 1000)}
    found = []
    for name, heights in groups.items():
        stems = "|".join(stem for stem, px in height.items() if px in heights)
        images, masks = (rf"{kind}/(?P<tile>(?P<donor>{stems}))\.tif" for kind in ("images", "labels"))
        found.append(ImageSet(name, folder.name, "dsb2018", (0.5, 0.2, 0.3), images, masks))
    return found


def points_found(source: Path, out: Path) -> pd.DataFrame:
    """How many marked cells of light-sheet planes lie in a thresholded instance, or at most 2 px from one.

    `expected` is the share of all pixels that do: what points thrown at random would reach. There are no masks to
    score instances by, and the points do not mark every cell, so nothing can be said of precision.
    """
    store = out / "cellfinder.zarr"
    fx.ingest(source, store, layout="cellfinder", title="cellfinder")
    # Cells of 10 to 15 um are 5 to 7 px wide here.
    sizes = ("model.channel=signal", "model.split_px=3", "model.min_area_px=12")
    fx.infer(store, run=THRESHOLD, model="threshold", overrides=sizes)
    finish(store, out / "cellfinder")
    found = fx.open_cohort(store).run(THRESHOLD)
    reached = {
        str(tile).rpartition("/")[2]: ndimage.binary_dilation(found[n.MASK].sel({n.TILE: tile}) > 0, iterations=2)
        for tile in found[n.TILE].values
    }
    marked = marked_cells(source / "cell_classification.xml")
    hits = sum(bool(reached[plane][y, x]) for plane, y, x in marked)
    row = {"set": "cellfinder", "points": len(marked), "found": hits, "share": hits / len(marked)}
    row |= {"expected": np.mean([plane.mean() for plane in reached.values()]), "instances": int(found[n.N_CELLS].sum())}
    return pd.DataFrame([row]).round(3)


def marked_cells(path: Path) -> list[tuple[str, int, int]]:
    """Plane, row and column of every marker in a Cell Counter file."""
    marks = ET.parse(path).getroot().iter("Marker")  # noqa: S314 - a file that comes with the images
    places = [[int(mark.findtext(f"Marker{axis}", "")) for axis in "ZYX"] for mark in marks]
    return [(f"{z:04d}", y, x) for z, y, x in places]


def overlays(out: Path) -> None:
    """Pictures of held-out tiles with both models' outlines, as the documentation shows them."""
    for name, corner, edge in (("cfos", (250, 350), 384), ("microglia", (0, 0), 512)):
        tile = held_out_tile(out / f"{name}.zarr", (THRESHOLD, UNET))
        height, width = (min(edge, int(tile[side])) for side in (n.HEIGHT, n.WIDTH))
        top, left = corner
        window = {n.Y: slice(top, top + height), n.X: slice(left, left + width)}
        tile = tile.isel(window).assign_coords({n.HEIGHT: height, n.WIDTH: width})
        (out / f"{name}.png").write_bytes(figure_bytes(tile_figure(tile), "png", dpi=80))


def held_out_tile(store: Path, runs: Sequence[str]) -> xr.Dataset:
    """The first tile that no model learned from: image, annotation, and the mask (run, y, x) of each run."""
    cohort = fx.open_cohort(store)
    images = cohort.images()
    parts = images[n.SPLIT].values
    at = int(np.flatnonzero(parts == (n.TEST if n.TEST in parts else n.VAL))[0])
    tile = images.isel({n.TILE: at}).load()
    name = str(tile[n.TILE].item())
    masks = [cohort.run(run)[n.MASK].sel({n.TILE: name}).load().reset_coords(drop=True) for run in runs]
    truth = cohort.annotations()[n.MASK].sel({n.TILE: name}).values
    found = xr.concat(masks, n.RUN).assign_coords({n.RUN: list(runs)})
    return tile.assign({n.MASK: found, n.ANNOTATED: ((n.Y, n.X), truth)})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} DATA OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
