"""Weights with NaN or infinite numbers are refused by every kind, as all pass through one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from class_networks import KINDS, TWO, saved, small
from sam2_weights import SMALL, random_state, write_published
from sam_weights import TINY, save_random_cpsam
from volume_weights import GRID, HEADS, learned_state, meta_state

import fintune_xr
from fintune_xr.errors import CheckpointError
from fintune_xr.finetune.registry import train_settings, trainable
from fintune_xr.models.checkpoints import load_strictly
from fintune_xr.models.clip.adapter import load_clip
from fintune_xr.models.clip.random_folder import write_random_clip
from fintune_xr.models.flow_unet.adapter import FlowUnet, save_flow_unet
from fintune_xr.models.flow_unet.settings import FlowUnetArchitecture
from fintune_xr.models.particle_unet.adapter import ParticleUnet, save_unet
from fintune_xr.models.particle_unet.settings import ParticleUnetArchitecture
from fintune_xr.models.registry import kind_named, load_model, resolve_checkpoint
from fintune_xr.models.sam.adapter import SamSize, empty_sam
from fintune_xr.models.vjepa2.adapter import load_vjepa2_encoder
from fintune_xr.models.vjepa2.classifier import ClassifierArchitecture, VolumeClassifier, save_classifier
from fintune_xr.models.vjepa2.settings import VolumeEncoderSettings

HE = ("R", "G", "B")
CELLS = ("DAPI", "marker")
MICROGRAPH = ("micrograph",)
VOLUME = VolumeEncoderSettings(heads=HEADS, crop_px=GRID[1])


def flow_unet(path: Path) -> None:
    save_flow_unet(FlowUnet(FlowUnetArchitecture(channels=CELLS, filters=(4, 8, 8))), {}, path)


def particle_unet(path: Path) -> None:
    size = ParticleUnetArchitecture(channels=MICROGRAPH, filters=(4, 8, 8), diameter_px=20.0, disc_fraction=0.6)
    save_unet(ParticleUnet(size), {}, path)


def sam(path: Path) -> None:
    torch.save(empty_sam(SamSize(width=64, depth=2, heads=4, global_blocks=(1,), image_px=256)).state_dict(), path)


def cpsam(path: Path) -> None:
    save_random_cpsam(path, TINY)


def of_classes(name: str) -> Callable[[Path], None]:
    return lambda path: KINDS[name].save(small(name), {}, path)


def volume_classifier(path: Path) -> None:
    torch.save(learned_state(), path)
    encoder = load_vjepa2_encoder(path, settings=VOLUME)
    size = ClassifierArchitecture(channels=("oct",), encoder=encoder.size, classes=("healthy", "ill"))
    save_classifier(VolumeClassifier(encoder, size), {}, path)


SAVE: dict[str, tuple[Callable[[Path], Any], tuple[str, ...], dict[str, Any]]] = {
    "flow_unet": (flow_unet, CELLS, {}),
    "cpsam": (cpsam, CELLS, {"channels": ["DAPI", "marker"]}),
    "sam": (sam, CELLS, {}),
    "sam2": (lambda path: write_published(path, random_state(SMALL)), HE, {}),
    "particle_unet": (particle_unet, MICROGRAPH, {}),
    **{name: (of_classes(name), HE, {}) for name in KINDS},
    "vit3d": (lambda path: torch.save(learned_state(), path), ("oct",), {"heads": HEADS}),
    "vjepa2": (
        lambda path: torch.save(meta_state(width=48, patch=(2, 8, 8)), path),
        ("oct",),
        {"heads": HEADS, "crop_px": GRID[1]},
    ),
    "volume_classifier": (volume_classifier, ("oct",), {}),
}


def tensors(entries: dict[str, Any]) -> dict[str, Any]:
    """The dictionary of tensors of a weights file, whichever entry it lies under."""
    for key in ("state", "model"):
        if isinstance(entries.get(key), dict):
            return entries[key]  # type: ignore[no-any-return]
    return entries


def damage(path: Path, number: float) -> None:
    """Puts `number` into every tensor of a weights file, as not all of them reach the network."""
    entries = torch.load(path, weights_only=True)
    for value in tensors(entries).values():
        if torch.is_tensor(value) and value.is_floating_point():
            value[(0,) * value.ndim] = number
    torch.save(entries, path)


def load(path: Path, channels: tuple[str, ...], settings: dict[str, Any]) -> Any:
    checkpoint = resolve_checkpoint(path)
    chosen = kind_named(checkpoint.kind).settings(**settings)
    return load_model(checkpoint, channels=channels, settings=chosen, device="cpu", keep=False)


@pytest.mark.parametrize("name", SAVE)
def test_every_kind_refuses_weights_that_are_no_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL})
    save, channels, settings = SAVE[name]
    path = tmp_path / "weights.pt"
    for number in (float("nan"), float("-inf")):
        save(path)
        load(path, channels, settings)
        damage(path, number)
        with pytest.raises(CheckpointError, match=r"weights\.pt.*expected finite numbers, but \d+ of the \d+ in \w+"):
            load(path, channels, settings)


def test_every_kind_with_weights_is_tried() -> None:
    from fintune_xr.models.registry import KINDS as known

    assert {kind.name for kind in known if kind.has_weights} == set(SAVE)


def test_a_folder_of_clip_is_held_to_the_same(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = write_random_clip(tmp_path / "clip", ["a patch of tumour"]) / "model.safetensors"
    state = load_file(file)
    state["visual_projection.weight"][0, 0] = float("inf")
    save_file(state, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*1 of the 512 in visual_projection\.weight"):
        load_clip(tmp_path / "clip", device="cpu")


def test_the_start_of_a_training_is_held_to_the_same(tmp_path: Path) -> None:
    path = saved("semantic_unet", tmp_path)
    entries = torch.load(path, weights_only=True)
    first = next(iter(entries["state"]))
    damage(path, float("nan"))
    settings = train_settings("semantic_unet")(classes=TWO)  # type: ignore[call-arg]
    with pytest.raises(CheckpointError, match=first.replace(".", r"\.")):
        trainable(settings, start=resolve_checkpoint(path), channels=HE, device="cpu")


def test_a_number_that_the_network_cannot_hold_is_none() -> None:
    layer = torch.nn.Linear(1, 1)
    state = {"weight": torch.full((1, 1), 1e300, dtype=torch.float64), "bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="1 of the 1 in weight are NaN or infinite"):
        load_strictly(layer, state, source="here")


def test_networks_are_filled_in_one_place() -> None:
    """What fills a network by itself would let anything in; a head fits its own weights and reads none."""
    root = Path(fintune_xr.__file__).parent
    rooms = [root, *(root / name for name in ("store", "analysis", "cluster", "pipelines"))]
    files = {path.resolve() for room in rooms for path in room.rglob("*.py")}
    calling = {path.name for path in files if ".load_state_dict(" in path.read_text(encoding="utf-8")}
    assert calling == {"checkpoints.py", "gradient.py"}
