"""A small U-Net of classes on published patches of stained tissue, from the raw files to scores on what was held out.

`python examples/real_tissue.py DATA OUT [SET ...]` makes a store of each set of patches below DATA under OUT, trains,
applies, scores and checks it, and prints the table of docs/results/real-images.md. Everything is seeded; run again, it
continues. What the sets are, and what their figures do not say, is written in that page.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.pipelines.semantic.evaluate import DICE_OF_CLASS, FOREGROUND_DICE, PRIMARY, with_interval
from fintune_xr.text import texts

RUN = "unet"
TRAINING = (
    "epochs=16", "patches_per_epoch=48", "patch_px=128", "batch_size=4", "learning_rate=3e-3", "validate_every=4",
    "threads=1", "seed=0",
)  # fmt: skip
NUCLEI = {"connective": 1, "inflammatory": 2, "neoplastic": 3}


def nuclei(data: Path, out: Path) -> dict[str, xr.Dataset]:
    """One field as three windows side by side: the right one is scored, of the others one is learnt and one chooses."""
    source, store = out / "windows", out / "nuclei.zarr"
    if not store.exists():
        write_windows(data / "histolytics-hgsc", source)
        fx.ingest(source, store, layout="classes", cut=500)
        fx.annotate(source, store, layout="classes", legend=source / "legend.tsv")
        keep_windows(store)
    classes = "{" + ",".join(f"{name}:[{code}]" for name, code in NUCLEI.items()) + "}"
    return learnt_and_scored(store, out, (f"classes={classes}",), parts=(n.VAL, n.TEST))


def write_windows(source: Path, folder: Path) -> None:
    """The field as three files of 1500 x 500 px, called by where they lie, with a legend."""
    field = np.asarray(Image.open(source / "hgsc_nest.jpg"))
    kinds = np.load(source / "hgsc_nest_type_mask.npz")["nuc_raster"].astype(np.uint8)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, place in enumerate(("left", "middle", "right")):
        columns = slice(500 * number, 500 * (number + 1))
        Image.fromarray(field[:, columns]).save(folder / "images" / f"{place}_window.png")
        Image.fromarray(kinds[:, columns]).save(folder / "masks" / f"{place}_window.png")
    rows = [("background", 0), *NUCLEI.items()]
    (folder / "legend.tsv").write_text("".join(f"{name}\t{code}\n" for name, code in rows))


def keep_windows(store: Path) -> None:
    """The right window is the test part, of the other two chance says which is learnt."""
    fx.split(store, fractions=(0.5, 0.5, 0), test="right")


def biopsies(data: Path, out: Path) -> dict[str, xr.Dataset]:
    """Patches of nine slides with one class each: all classes are one here, since no slide holds two."""
    source, store = data / "ebhi-seg", out / "biopsies.zarr"
    if not store.exists():
        fx.ingest(source, store, layout="ebhi")
        fx.annotate(source, store, layout="ebhi")
        fx.split(store, fractions=(0.6, 0.2, 0.2), seed=1)
    classes = "classes={classes:{lesion:[1,2,3,4,5,6]},confirm_codes:[1,2,3,4,5,6]}"
    return learnt_and_scored(store, out, (classes,), parts=(n.VAL, n.TEST))


def learnt_and_scored(
    store: Path, out: Path, settings: tuple[str, ...], *, parts: tuple[str, ...]
) -> dict[str, xr.Dataset]:
    """Scores of a U-Net in each of `parts`, after a training of which nothing but `settings` is special."""
    began = time.process_time()
    model = fx.train(
        store, model="semantic_unet", run_name=store.stem, out=out / "models", overrides=(*TRAINING, *settings)
    )
    print(f"{store.stem}: trained in {time.process_time() - began:.0f} CPU-s", flush=True)
    fx.infer(store, run=RUN, model=str(model))
    scores = {part: fx.evaluate(store, split=part) for part in parts}
    problems = fx.check(store)
    print(f"{store.stem}: {len(problems)} problem(s) found by check", flush=True)
    fx.report(store, out=out / f"{store.stem}.html")
    return scores


def print_scores(name: str, scores: Mapping[str, xr.Dataset]) -> None:
    """One line for each part: per-class Dice, Dice of each class, and foreground Dice."""
    for part, found in scores.items():
        one = found.sel({n.RUN: RUN})
        of_class = ", ".join(
            f"{c} {with_interval(one.sel({n.CLASS: c}), DICE_OF_CLASS)}" for c in texts(found[n.CLASS])
        )
        told = f"per-class Dice {with_interval(one, PRIMARY)} ({of_class})"
        of_any = f"foreground Dice {with_interval(one, FOREGROUND_DICE)}"
        print(f"{name}, {part} ({found.sizes[n.TILE]} tiles): {told}, {of_any}", flush=True)


def masks(data: Path, _: Path) -> dict[str, xr.Dataset]:
    """Two published masks without their images: what their codes are, and the class map that calls fat a vessel."""
    from fintune_xr.errors import SettingsError
    from fintune_xr.tasks.class_map import ClassMap, check_class_map
    from fintune_xr.tasks.legends import BCSS

    meanings = BCSS.meanings
    for path in sorted((data / "bcss" / "masks").glob("*.png")):
        codes, counts = np.unique(np.asarray(Image.open(path)), return_counts=True)
        shares = ", ".join(
            f"{meanings[int(code)]} {count / counts.sum():.2%}" for code, count in zip(codes, counts, strict=True)
        )
        print(f"{path.name}: {shares}", flush=True)
    try:
        check_class_map(ClassMap(classes={"blood_vessel": [9]}), BCSS)  # type: ignore[arg-type]
    except SettingsError as error:
        print(error, flush=True)
    return {}


SETS: Mapping[str, Callable[[Path, Path], dict[str, xr.Dataset]]] = {
    "masks": masks, "nuclei": nuclei, "biopsies": biopsies,
}  # fmt: skip


def main(words: list[str]) -> int:
    """Exit status; every set unless some are named."""
    data, out = Path(words[0]), Path(words[1])
    out.mkdir(parents=True, exist_ok=True)
    for name in words[2:] or SETS:
        print_scores(name, SETS[name](data, out))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
