"""Stained tissue: reading colours, counting classes, jitter of stains, `infer`, `train` and `sweep` beside plain loops.

All times are CPU seconds of the process, which other programs on the machine distort less than the clock. Networks are
a U-Net of default size and a SAM 2 of a million random parameters, on one thread; nothing here has run on a GPU.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from PIL import Image
from skimage.color import hed2rgb, rgb2hed
from sklearn.metrics import confusion_matrix
from table import Fact, Reach, Row, medians, print_table, row

from fintune_xr import names as n
from fintune_xr.finetune.engine import train
from fintune_xr.finetune.patches import PatchDataset
from fintune_xr.finetune.registry import trainable
from fintune_xr.finetune.semantic.settings import SMALL_SAM2, SemanticUnetTrainSettings
from fintune_xr.finetune.semantic.stain import draw_jitter, jitter_stain
from fintune_xr.finetune.semantic.tiles import with_class_pixels
from fintune_xr.metrics.semantic import confusion
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.colours import standardised_colours
from fintune_xr.models.sam2_semantic.adapter import save_sam2_semantic
from fintune_xr.models.sam2_semantic.network import Sam2Semantic
from fintune_xr.models.sam2_semantic.settings import Sam2SemanticArchitecture
from fintune_xr.models.semantic_unet.adapter import SemanticUnet, save_semantic_unet, unet_mapper
from fintune_xr.models.semantic_unet.settings import SemanticUnetArchitecture
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.studies.sweep import sweep
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings
from fintune_xr.simulation.tissue import slide_stain, tissue_patch
from fintune_xr.store.annotations.class_patches import AnnotatedPatches
from fintune_xr.store.raw.readers import read_plane_with_digest, read_planes_with_digest
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.semantic import RGB_CHANNELS

SIDE = 1024
N_FILES, N_APPLIED, APPLIED_SIDE = 24, 64, 512
N_PROMPTED, PROMPTED_SIDE = 6, 256
PROMPTS = ("centroid", "points", "box", "box_negative")
STEPS, BATCH, PATCH = 16, 4, 128
FEW, MANY = 8, 64
MEMORY_GROWTH = 1.1
CLASSES = ClassMap()

_CHILD = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tissue import trained_on
trained_on(int(sys.argv[2]), Path(sys.argv[3]))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def rows() -> list[Row | Fact]:
    """All of it; the slowest first."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-tissue-") as folder:
        work = Path(folder)
        return [
            *_ingest(work / "ingest"),
            *_confusion(),
            _stain(),
            _infer(work / "infer"),
            *_training_step(work / "train"),
            _training_memory(work / "memory"),
            _sweep(work / "sweep"),
        ]


def write_tissue(source: Path, n_tiles: int, side: int) -> list[Path]:
    """Paths of colour images named as those of BCSS, with their masks beside; one drawn patch, turned and rolled."""
    image, codes = tissue_patch(stream(0, "bench"), slide_stain(stream(0, "stain")), tile_px=max(side, 256))
    for name in ("images", "masks"):
        (source / name).mkdir(parents=True, exist_ok=True)
    paths = []
    for tile in range(n_tiles):
        name = f"TCGA-A1-S{tile % 4:03d}-DX1_xmin{tile * side}_ymin0_MPP-0.2500.png"
        seen, truth = (np.rot90(np.roll(one[:side, :side], 37 * tile, 1), tile) for one in (image, codes))
        Image.fromarray(seen).save(source / "images" / name, compress_level=1)
        Image.fromarray(truth).save(source / "masks" / name, compress_level=1)
        paths.append(source / "images" / name)
    return paths


def _ingest(work: Path) -> list[Row | Fact]:
    paths, out = write_tissue(work / "raw", N_FILES, SIDE), work / "out.zarr"

    def pillow_and_zarr() -> None:
        array = zarr.create_array(out, shape=(N_FILES, 3, SIDE, SIDE), chunks=(1, 3, SIDE, SIDE), dtype="uint8")
        for at, path in enumerate(paths):
            array[at] = np.moveaxis(np.asarray(Image.open(path)), -1, 0)

    ways = {"ours": lambda: ingest(work / "raw", out, layout="bcss"), "peer": pillow_and_zarr}
    found = _cpu(ways, repeats=3, before=lambda: shutil.rmtree(out, ignore_errors=True))
    read = _cpu(
        {
            "ours": lambda: read_planes_with_digest(str(paths[0]), pages=range(3)),
            "peer": lambda: [read_plane_with_digest(str(paths[0]), page=k, channels=True) for k in range(3)],
            "limit": lambda: np.asarray(Image.open(paths[0])),
        }
    )
    what = f"ingest {N_FILES} colour PNGs of {SIDE} px"
    return [
        row(what, found["ours"], ("Pillow + zarr default, one by one", found["peer"]), reach=Reach(faster=1)),
        row(
            f"three planes and digest of a colour PNG of {SIDE} px", read["ours"], ("plane by plane", read["peer"]),
            limit_s=read["limit"], reach=Reach(faster=2),
        ),
    ]  # fmt: skip


def _confusion() -> list[Row | Fact]:
    rng = np.random.default_rng(0)
    truth, predicted = (rng.integers(0, 6, (SIDE, SIDE), dtype=np.uint8) for _ in range(2))

    def library() -> Any:
        return confusion_matrix(truth.ravel(), predicted.ravel(), labels=range(6))

    found = _cpu({"ours": lambda: confusion(truth, predicted, 5), "peer": library})
    wrong = int(np.abs(confusion(truth, predicted, 5) - library()).sum())
    return [
        row(
            f"confusion of {SIDE} px square, six labels", found["ours"], ("sklearn confusion_matrix", found["peer"]),
            reach=Reach(faster=5, seconds=0.010),
        ),
        Fact(what="pixels that it counts otherwise", ours=str(wrong), reach="0", reached=wrong == 0),
    ]  # fmt: skip


def _stain() -> Row:
    image = tissue_patch(stream(1, "bench"), slide_stain(stream(1, "stain")), tile_px=256)[0]
    patch = torch.from_numpy(np.moveaxis(image, -1, 0).astype(np.float32))

    def scaled() -> NDArray[Any]:
        return hed2rgb(rgb2hed(image) * [1.2, 0.8, 1.0])

    jitter = draw_jitter(np.random.default_rng(0), alpha=0.3, beta=0.3)
    found = _cpu({"ours": lambda: jitter_stain(patch, jitter), "peer": scaled}, repeats=21)
    return row(
        "stain jitter of 256 px square", found["ours"], ("scikit-image rgb2hed, scaled, hed2rgb", found["peer"]),
        reach=Reach(faster=1, seconds=0.010),
    )  # fmt: skip


def _infer(work: Path) -> Fact:
    write_tissue(work / "raw", N_APPLIED, APPLIED_SIDE)
    ingest(work / "raw", work / "he.zarr", layout="bcss")
    network, weights = SemanticUnet(SemanticUnetArchitecture(class_map=CLASSES)).eval(), work / "unet.pt"
    save_semantic_unet(network, {}, weights)
    mapper = unet_mapper(network, ClassSettings(), channels=RGB_CHANNELS)
    image = zarr.open_array(str(work / "he.zarr"), path=f"{n.IMAGES}/{n.IMAGE}", mode="r")

    def plain() -> None:
        for tile in range(N_APPLIED):
            seen = torch.from_numpy(standardised_colours(np.asarray(image[tile])))[None]
            with torch.inference_mode():
                network(seen.contiguous(memory_format=torch.channels_last)).logits.argmax(1).numpy()

    def ours() -> None:
        infer(work / "he.zarr", run="r", model=str(weights), overrides=["device=cpu"], restart=True)

    mapper.predict([mapper.normalise(np.asarray(image[0]))])
    found = _cpu({"ours": ours, "peer": plain}, repeats=1)
    return _ratio(f"infer {N_APPLIED} tiles of {APPLIED_SIDE} px, with start and commits", found, "a loop of torch")


def _training_step(work: Path) -> list[Fact]:
    """`train` but for what comes before the first step and validation, beside a loop over the same patches."""
    tiles = drawn_tiles(FEW)
    settings = _settings(tiles)
    model = trainable(settings, start=None, channels=tiles.channels, device="cpu")
    patches = PatchDataset(model.objective.prepare(tiles, work / "prepared"), settings, recipe=model.objective.recipe)
    optimiser = torch.optim.AdamW(model.network.parameters(), lr=settings.learning_rate)
    model.network.train()

    def drawn(step: int) -> list[torch.Tensor]:
        found = [patches[0, step * BATCH + at] for at in range(BATCH)]
        return [torch.stack(one) for one in zip(*found, strict=True)]

    def learn(images: torch.Tensor, target: torch.Tensor) -> None:
        loss = model.objective.loss(model.network(images), target)[0]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    ready = [drawn(step) for step in range(STEPS)]

    def ours(epochs: int) -> None:
        out = work / "out"
        shutil.rmtree(out, ignore_errors=True)
        chosen = settings.model_copy(update={"epochs": epochs, "validate_every": epochs})
        train(tiles, _first(tiles), settings=chosen, out=out)

    ways: dict[str, Callable[[], Any]] = {
        "three": lambda: ours(3), "one": lambda: ours(1),
        "peer": lambda: [learn(*drawn(step)) for step in range(STEPS)],
        "ready": lambda: [learn(images, target) for images, target in ready],
    }  # fmt: skip
    found = _cpu(ways, repeats=2)
    # What three epochs take more than one is two epochs, without start, validation and end.
    seconds = (found["three"] - found["one"]) / 2
    what = f"{STEPS} steps of training, {BATCH} patches of {PATCH} px"
    return [
        _ratio(what, {"ours": seconds, "peer": found["peer"]}, "a loop of torch, same patches"),
        _images_per_second(seconds, found["ready"]),
    ]


def _images_per_second(ours_s: float, ready_s: float) -> Fact:
    """Patches of an epoch, and what their drawing takes from the pace of a loop for which they lie ready."""
    n_images, share = STEPS * BATCH, ready_s / ours_s
    return Fact(
        what="the same, patches learned from in a CPU second", ours=f"{n_images / ours_s:.1f} ({share:.2f}x)",
        peer=f"{n_images / ready_s:.1f} (a loop of torch over tensors that lie ready)", reach=">= 0.9x peer",
        reached=share >= 0.9,
    )  # fmt: skip


def _training_memory(work: Path) -> Fact:
    few, many = (_peak_mb(number, work / str(number)) for number in (FEW, MANY))
    return Fact(
        what=f"peak memory of a training on {MANY} tiles of {PROMPTED_SIDE} px", ours=f"{many:.0f} MB",
        peer=f"{few:.0f} MB (ours on {FEW} tiles)", reach=f"<= {MEMORY_GROWTH}x", reached=many <= MEMORY_GROWTH * few,
    )  # fmt: skip


def trained_on(n_tiles: int, out: Path) -> None:
    """A short training whose tiles are drawn when they are read; for the memory of a process of its own."""
    tiles = drawn_tiles(n_tiles)
    train(tiles, _first(tiles), settings=_settings(tiles).model_copy(update={"epochs": 1}), out=out)


def _sweep(work: Path) -> Fact:
    write_tissue(work / "raw", N_PROMPTED, PROMPTED_SIDE)
    ingest(work / "raw", work / "he.zarr", layout="bcss")
    annotate(work / "raw", work / "he.zarr", layout="bcss")
    network = Sam2Semantic(Sam2SemanticArchitecture(sam2=SMALL_SAM2, class_map=CLASSES, channels=RGB_CHANNELS))
    save_sam2_semantic(network, {}, work / "sam2.pt")

    def asked(*prompts: str) -> None:
        told = [f"prompts=[{','.join(prompts)}]", "flips=1"]
        sweep(work / "he.zarr", model=str(work / "sam2.pt"), split="all", overrides=told, device="cpu", restart=True)

    ways: dict[str, Callable[[], Any]] = {name: functools.partial(asked, name) for name in PROMPTS}
    found = _cpu({**ways, "all": lambda: asked(*PROMPTS)}, repeats=3)
    dearest = max(PROMPTS, key=lambda name: found[name])
    ratio = found["all"] / found[dearest]
    return Fact(
        what=f"sweep of {len(PROMPTS)} kinds of prompts, {N_PROMPTED} tiles of {PROMPTED_SIDE} px",
        ours=f"{found['all']:.2f} s ({ratio:.2f}x)", peer=f"{found[dearest]:.2f} s (the dearest alone, {dearest})",
        reach="<= 1.3x", reached=ratio <= 1.3,
    )  # fmt: skip


def drawn_tiles(n_tiles: int) -> AnnotatedPatches:
    """Tiles that share their pixels, so that memory holds one of them however many there are."""
    image, codes = tissue_patch(stream(2, "bench"), slide_stain(stream(2, "stain")), tile_px=PROMPTED_SIDE)
    planes = np.moveaxis(image, -1, 0)
    return AnnotatedPatches(
        names=[f"t{tile}" for tile in range(n_tiles)], channels=RGB_CHANNELS,
        image=np.broadcast_to(planes, (n_tiles, *planes.shape)),
        codes=np.broadcast_to(codes, (n_tiles, *codes.shape)),
        height=[PROMPTED_SIDE] * n_tiles, width=[PROMPTED_SIDE] * n_tiles, ignored=(0,),
    )  # fmt: skip


def _first(tiles: AnnotatedPatches) -> AnnotatedPatches:
    return AnnotatedPatches(
        names=tiles.names[:1], channels=tiles.channels, image=tiles.image[:1], codes=tiles.codes[:1],
        height=tiles.height[:1], width=tiles.width[:1], ignored=tiles.ignored,
    )  # fmt: skip


def _settings(tiles: AnnotatedPatches) -> SemanticUnetTrainSettings:
    present = {name: codes for name, codes in CLASSES.classes if np.isin(tiles.codes[0], codes).any()}
    chosen = {
        "classes": {"classes": {name: list(codes) for name, codes in present.items()}}, "patch_px": PATCH,
        "batch_size": BATCH, "patches_per_epoch": STEPS * BATCH, "threads": 1, "device": "cpu",
    }  # fmt: skip
    return with_class_pixels(load_settings(SemanticUnetTrainSettings, chosen), tiles)


def _ratio(what: str, found: dict[str, float], peer: str) -> Fact:
    ratio = found["ours"] / found["peer"]
    return Fact(
        what=what, ours=f"{found['ours']:.2f} s ({ratio:.2f}x)", peer=f"{found['peer']:.2f} s ({peer})",
        reach="<= 1.1x peer", reached=ratio <= 1.1,
    )  # fmt: skip


def _cpu(
    ways: dict[str, Callable[[], Any]], *, repeats: int = 7, before: Callable[[], Any] = lambda: None
) -> dict[str, float]:
    return medians(ways, repeats, before=before, clock=time.process_time)


def _peak_mb(n_tiles: int, out: Path) -> float:
    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parent), str(n_tiles), str(out)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"(\d+)\s*$", child.stdout)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


if __name__ == "__main__":
    print_table(rows())
