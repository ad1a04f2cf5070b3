"""No setting of a training is taken without a word and then ignored: each one is read, or refused as without a part."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_tiles import class_tiles, settings_for
from labelled_volumes import CLASSES, GRID, volume
from micrographs import DIAMETER_PX, micrograph, particles
from volume_weights import HEADS, learned_state

from fintune_xr.errors import SettingsError
from fintune_xr.finetune.classification.volumes import VolumeTiles
from fintune_xr.finetune.detection.tiles import ParticleTiles
from fintune_xr.finetune.engine import train
from fintune_xr.finetune.instance.tiles import AnnotatedTiles
from fintune_xr.finetune.registry import TRAINERS, train_settings
from fintune_xr.finetune.settings import FitSettings
from fintune_xr.finetune.trainable import late_steps
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.flow_unet.adapter import FlowUnet, save_flow_unet
from fintune_xr.models.flow_unet.settings import FlowUnetArchitecture
from fintune_xr.models.particle_unet.adapter import ParticleUnet, save_unet
from fintune_xr.models.particle_unet.settings import ParticleUnetArchitecture
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.seeds import stream
from fintune_xr.settings import Settings, dotted_names, load_settings
from fintune_xr.simulation.phantoms import phantom_tile

SMALL: dict[str, Any] = {"epochs": 1, "patches_per_epoch": 2, "batch_size": 2, "patch_px": 64, "threads": 1}
OF_KIND: dict[str, dict[str, Any]] = {
    # The last validation reconstructs masks whatever the limit is.
    "flow_unet": {**SMALL, "epochs": 2, "filters": [4, 8, 8], "validate_every": 1, "reconstruct_below": 1e9},
    "particle_unet": {**SMALL, "filters": [4, 8, 8], "validate_every": 1, "diameter_px": DIAMETER_PX},
    "semantic_unet": {**SMALL, "filters": [4, 8, 8], "window_px": 128},
    "sam2_semantic": {**SMALL, "warmup_steps": 1, "window_px": 128},
    "swin_unetr": {**SMALL, "features": 8, "heads": [1, 1, 2, 2], "window_px": 128},
    "mask2former": {
        **SMALL, "width": 12, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4, "features": 32, "queries": 6,
        "pixel_layers": 1, "decoder_layers": 3, "decoder_heads": 4, "points": 256, "window_px": 128,
    },
    "volume_classifier": {
        "classes": CLASSES, "encoder": {"heads": HEADS}, "epochs": 1, "freeze_encoder_blocks": 0, "batch_size": 4,
        "volume_augmentation": {"gain": 0.1}, "threads": 1,
    },
}  # fmt: skip
# Read by others than the training itself, or under conditions that these small ones do not meet.
ELSEWHERE = {
    "wandb_project": "with wandb alone",
    "wandb_entity": "with wandb alone",
    "prefetch": "with processes that prepare patches",
    "warmup_epochs": "without warmup_steps",
    "scans": "by the pipeline, which chooses the scans",
    "overfit": "by the pipeline, which chooses the scans",
    "encoder.seen": "by the pipeline, which asks what was seen",
    "encoder.volumes_per_batch": "while the encoder rests",
    "encoder.crop_px": "by encoders with rotary positions",
    "augmentation.gain": "of colours: takes nothing but 0",
    "augmentation.offset": "of colours: takes nothing but 0",
    "augmentation.noise": "of colours: takes nothing but 0",
    "classes.confirm_codes": "by the pipeline, which holds classes against the legend",
}


def _flows() -> tuple[Any, Any]:
    tile = phantom_tile(stream(1, 0), marker="GFAP", ratio=0.3, tile_px=64)
    tiles = AnnotatedTiles(["a"], ("DAPI", "marker"), tile.image[None], tile.mask[None], [64], [64])
    return tiles, tiles


def _particles() -> tuple[Any, Any]:
    tiles = ParticleTiles(["a"], ("micrograph",), micrograph("a", 96)[None], [particles("a", 96)], [96], [96])
    return tiles, tiles


def _classes() -> tuple[Any, Any]:
    return class_tiles(2), class_tiles(1, first=10)


def _volumes() -> tuple[Any, Any]:
    label = np.arange(4)
    names = [f"v{one}/0" for one in label]
    image = np.stack([volume(name, int(one)) for name, one in zip(names, label, strict=True)])
    tiles = VolumeTiles(names, ("oct",), image, label, label, np.array(names), CLASSES)
    assert image.shape[1:][-3:] == GRID
    return tiles, tiles


MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "flow_unet": _flows,
    "particle_unet": _particles,
    "volume_classifier": _volumes,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save({"context_encoder": learned_state()}, path)
    return resolve_checkpoint(path)


def _settings(kind: str, tiles: Any) -> FitSettings:
    if kind in MAKERS:
        return load_settings(train_settings(kind), OF_KIND[kind])
    made: FitSettings = settings_for(train_settings(kind), tiles, **OF_KIND[kind])  # type: ignore[type-var]
    return made


def _noting(read: set[tuple[type, str]]) -> Callable[[Any, str], Any]:
    def spy(self: Any, name: str) -> Any:
        # What is only stored is not used.
        if not name.startswith("_") and sys._getframe(1).f_code.co_name != "_without_what_was_added":
            read.add((type(self), name))
        return object.__getattribute__(self, name)

    return spy


def _unread(settings: Settings, read: set[tuple[type, str]], above: str = "") -> set[str]:
    """Settings, by whole name, that nobody has asked for."""
    found: set[str] = set()
    for name in type(settings).model_fields:
        value = object.__getattribute__(settings, name)
        if (type(settings), name) not in read:
            found.add(above + name)
        elif isinstance(value, Settings):
            found |= _unread(value, read, f"{above}{name}.")
    return found


@pytest.mark.parametrize("kind", OF_KIND)
def test_every_setting_is_read_or_refused(
    kind: str, tmp_path: Path, encoder: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, held_out = MAKERS.get(kind, _classes)()
    settings = _settings(kind, tiles)
    read: set[tuple[type, str]] = set()
    with monkeypatch.context() as patch:
        patch.setattr(Settings, "__getattribute__", _noting(read), raising=False)
        start = encoder if kind == "volume_classifier" else None
        train(tiles, held_out, settings=settings, out=tmp_path, start=start)
    idle = settings.no_part()
    ignored = {
        name for name in _unread(settings, read) if not any(f"{name}.".startswith(f"{one}.") for one in idle)
    } - set(ELSEWHERE)
    assert not ignored


def test_the_kinds_are_all_that_can_be_trained() -> None:
    tried = {train_settings(kind) for kind in OF_KIND}
    # Cellpose-SAM has the settings of flow_unet, and two more that its own tests have.
    assert tried == {trainer.settings for trainer in TRAINERS.values()} - {train_settings("cpsam")}


OTHER = {"filters": [4, 8, 16], "loss.iou": 3.0, "loss.presence": 3.0, "warmup_epochs": 3.0}


@pytest.mark.parametrize("kind", TRAINERS)
def test_what_plays_no_part_is_refused_with_what_does(kind: str) -> None:
    cls = train_settings(kind)
    base = OF_KIND.get(kind, {})
    for name in load_settings(cls, base).no_part():
        if name not in OTHER:
            continue
        with pytest.raises(SettingsError, match=f"{name} plays no part in this training: "):
            load_settings(cls, base, [f"{name}={str(OTHER[name]).replace(' ', '')}"])


@pytest.mark.parametrize(
    ("kind", "asked", "idle"),
    [
        ("swin_unetr", ["filters=[8,16,32]"], "filters"),
        ("mask2former", ["filters=[8,16,32]"], "filters"),
        ("sam2_semantic", ["filters=[8,16,32]"], "filters"),
        ("sam2_semantic", ["warmup_epochs=3"], "warmup_epochs"),
        ("sam2_semantic", ["head=dense", "tokens=3"], "tokens"),
        ("sam2_semantic", ["head=dense", "loss.iou=0.5"], "loss.iou"),
        ("sam2_semantic", ["head=dense", "loss.presence=0.5"], "loss.presence"),
        ("semantic_unet", ["loss.presence=3"], "loss.presence"),
        ("particle_unet", ["loss=cross_entropy", "focal_gamma=3"], "focal_gamma"),
        ("volume_classifier", ["encoder.precision=bfloat16"], "encoder.precision"),
        ("cpsam", ["filters=[8,16,32]"], "filters"),
    ],
)
def test_settings_that_were_once_ignored(kind: str, asked: list[str], idle: str) -> None:
    with pytest.raises(SettingsError, match=f"{idle} plays no part in this training: "):
        load_settings(train_settings(kind), None, asked)


def _flow_weights(path: Path) -> Path:
    save_flow_unet(FlowUnet(FlowUnetArchitecture(channels=("DAPI", "marker"), filters=(4, 8, 8))), {}, path)
    return path


def _unet_weights(path: Path) -> Path:
    made = ParticleUnetArchitecture(channels=("micrograph",), filters=(4, 8, 8), diameter_px=12.0, disc_fraction=0.6)
    save_unet(ParticleUnet(made), {}, path)
    return path


WEIGHTS = {"flow_unet": (_flow_weights, ("DAPI", "marker")), "particle_unet": (_unet_weights, ("micrograph",))}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_sizes_of_trained_weights_are_not_asked_for_otherwise_without_a_word(kind: str, tmp_path: Path) -> None:
    write, channels = WEIGHTS[kind]
    start = resolve_checkpoint(write(tmp_path / "w.pt"))
    begin = partial(TRAINERS[kind].build, start=start, channels=channels, device="cpu")
    made = begin(load_settings(train_settings(kind), None, ["filters=[4,8,8]"]))
    assert made.settings.filters == (4, 8, 8)
    # What is a default was not asked for.
    begin(load_settings(train_settings(kind)))
    with pytest.raises(SettingsError, match=r"is a network with filters=\(4, 8, 8\), which cannot be changed"):
        begin(load_settings(train_settings(kind), None, ["filters=[8,16,16]"]))


def test_steps_after_the_last_epoch_are_told() -> None:
    few = ["epochs=3", "freeze_encoder_blocks=all", "unfreeze_at_epoch=3"]
    assert late_steps(load_settings(train_settings("flow_unet"), None, few)) == [
        "unfreeze_at_epoch: epoch 3 does not come, as epochs=3 are counted from 0; what it says is not done"
    ]
    assert not late_steps(load_settings(train_settings("flow_unet"), None, ["epochs=4", *few[1:]]))
    staged = load_settings(train_settings("sam2_semantic"), "he_v3", ["epochs=12"])
    assert [line.split(":")[0] for line in late_steps(staged)] == ["unfreezing"]
    assert not late_steps(load_settings(train_settings("sam2_semantic"), "he_v3"))


def test_settings_come_back_as_they_were_stored() -> None:
    for kind in TRAINERS:
        made = load_settings(train_settings(kind), OF_KIND.get(kind, {}))
        assert load_settings(train_settings(kind), made.as_dict()) == made


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("value", ["1e30", "inf", "nan", "-1", "abc", "[1,2]", "0"])
def test_rates_that_no_training_has_are_refused(kind: str, value: str) -> None:
    for name in ("learning_rate", "encoder_learning_rate", "batch_size"):
        with pytest.raises(SettingsError, match=f"{name}: "):
            load_settings(train_settings(kind), None, [f"{name}={value}"])


def test_every_whole_name_is_one_of_the_settings() -> None:
    for kind in TRAINERS:
        known = dotted_names(train_settings(kind))
        for name in load_settings(train_settings(kind)).no_part():
            assert any(f"{one}.".startswith(f"{name}.") for one in known), name
