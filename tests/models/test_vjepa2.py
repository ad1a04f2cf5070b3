"""Encoders of volumes from weights that others wrote: found, translated, and equal to what they were."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volume_weights import DEPTH, GRID, HEADS, N_TOKENS, PATCH, WIDTH, learned_state, meta_state, reference_embedding

from fintune_xr.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    FintuneValueError,
    SettingsError,
    TileReadError,
)
from fintune_xr.models.registry import kind_named, load_model, resolve_checkpoint
from fintune_xr.models.vjepa2.adapter import load_vjepa2_encoder, random_encoder
from fintune_xr.models.vjepa2.checkpoint import find_encoder
from fintune_xr.models.vjepa2.keys import architecture_of, with_names_of_transformers, with_our_names
from fintune_xr.models.vjepa2.settings import RandomEncoderSettings, VolumeArchitecture, VolumeEncoderSettings
from fintune_xr.models.vjepa2.vit3d import Vit3d
from fintune_xr.settings import validate

THREE_HEADS = VolumeEncoderSettings(heads=HEADS)
CROP = 16
ROTARY = VolumeEncoderSettings(heads=2, crop_px=CROP)
# Heads of 12: rotary positions take a third of a head for each axis, in pairs.
ROTARY_SIZE: dict[str, Any] = {"width": 24, "patch": (2, 4, 4)}


def volumes(n: int = 2, grid: tuple[int, ...] = GRID, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 1, *grid)).astype(np.float32)


def saved(path: Path, entries: Any) -> Path:
    torch.save(entries, path)
    return path


def embedded(path: Path, chosen: VolumeEncoderSettings = THREE_HEADS, **given: Any) -> np.ndarray:
    encoder = load_vjepa2_encoder(path, settings=chosen)
    with torch.inference_mode():
        return encoder(torch.from_numpy(volumes(**given))).numpy()


def test_learned_positions_against_plain_numpy(tmp_path: Path) -> None:
    state = learned_state()
    found = embedded(saved(tmp_path / "w.pt", state))
    expected = [reference_embedding(state, volume[0]) for volume in volumes()]
    assert found.shape == (2, WIDTH)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_shuffled_positions_change_the_embedding(tmp_path: Path) -> None:
    state = learned_state()
    moved = {**state, "pos_embed": state["pos_embed"].flip(1)}
    first, second = (embedded(saved(tmp_path / f"{i}.pt", one)) for i, one in enumerate((state, moved)))
    assert np.abs(first - second).max() > 0.05


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


LAYOUTS = {
    "bare": lambda own, other: own,
    "stacked prefixes": lambda own, other: prefixed(own, "_orig_mod.module.backbone."),
    "entry": lambda own, other: {"encoder": prefixed(own, "module.backbone."), "target_encoder": other, "epoch": 3},
    "prefix": lambda own, other: {
        "model_state_dict": {
            **prefixed(own, "context_encoder."),
            **prefixed(other, "target_encoder.encoder."),
            "predictor.net.0.weight": torch.zeros(2, 2),
        },
        "optimizer_state_dict": {"state": {}, "param_groups": []},
    },
    "prefix in a wrapped module": lambda own, other: {
        "state_dict": {**prefixed(other, "module.ema_encoder."), **prefixed(own, "module.encoder.encoder.")}
    },
    "nested": lambda own, other: {"full_model_state_dict": {"model_state_dict": {"ema_encoder": own}}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_encoder_is_found_in_any_layout(tmp_path: Path, layout: str) -> None:
    own, other = learned_state(0), learned_state(1)
    found = find_encoder(saved(tmp_path / "w.pt", LAYOUTS[layout](own, other)))
    assert set(found.state) == set(own)
    assert all(torch.equal(found.state[key], own[key]) for key in own)


def test_another_encoder_of_the_file_can_be_asked_for(tmp_path: Path) -> None:
    own, other = learned_state(0), learned_state(1)
    path = saved(tmp_path / "w.pt", LAYOUTS["prefix"](own, other))
    found = find_encoder(path, which="target_encoder")
    assert (found.taken, found.offered) == ("target_encoder", ("context_encoder", "target_encoder"))
    assert torch.equal(found.state["norm.weight"], other["norm.weight"])
    with pytest.raises(CheckpointError, match=r"no encoder 'teacher'; encoders in it: context_encoder, target_encoder"):
        find_encoder(path, which="teacher")


class Attack:
    """Leaves a file behind where unpickling runs it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    state = learned_state()
    path = saved(tmp_path / "w.pt", {"context_encoder": state, "config": {"deep": [Attack(marker)]}})
    found = find_encoder(path)
    assert not marker.exists()
    assert found.replaced == (f"{os.system.__module__}.system",)
    assert all(torch.equal(found.state[key], state[key]) for key in state)
    # The file does run it where it is opened the usual way.
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_objects_of_a_configuration_become_placeholders(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    state = {key: torch.nn.Parameter(value) for key, value in learned_state().items()}
    config = OmegaConf.create({"model": {"width": 24, "blocks": [1, 2]}, "rate": 1e-4})
    path = saved(tmp_path / "w.pt", {"model_state_dict": prefixed(state, "encoder."), "config": config, "epoch": 7})
    found = find_encoder(path)
    assert "omegaconf.dictconfig.DictConfig" in found.replaced
    assert torch.equal(found.state["norm.weight"], state["norm.weight"])


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = learned_state()
    save_file(prefixed(state, "encoder."), tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    np.testing.assert_array_equal(embedded(tmp_path / "w.safetensors"), embedded(tmp_path / "w.pt"))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:4000])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        find_encoder(tmp_path / "cut.safetensors")


# Without positions, and with other patches, an encoder is a valid one of another kind or size.
CHANGES = [
    (key, change)
    for key in learned_state()
    for change in ("drop", "rename", "reshape")
    if (key, change) not in [("pos_embed", "drop"), ("pos_embed", "rename"), ("patch_embed.proj.weight", "reshape")]
]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(CHANGES))
def test_every_entry_must_fit(tmp_path: Path, case: tuple[str, str]) -> None:
    key, change = case
    state = learned_state()
    value = state.pop(key)
    if change == "rename":
        state[f"{key}_old"] = value
    elif change == "reshape":
        state[key] = torch.zeros(*value.shape[:-1], value.shape[-1] + 1)
    path = saved(tmp_path / "w.pt", {"encoder": state})
    with pytest.raises(CheckpointError, match=re.escape(key)):
        load_vjepa2_encoder(path, settings=THREE_HEADS)


def test_a_prefix_on_some_entries_alone_is_no_prefix(tmp_path: Path) -> None:
    state = learned_state()
    state["module.norm.bias"] = state.pop("norm.bias")
    with pytest.raises(CheckpointError, match=r"(?s)missing: norm\.bias.*unknown: module\.norm\.bias"):
        load_vjepa2_encoder(saved(tmp_path / "w.pt", {"encoder": state}), settings=THREE_HEADS)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"optimizer": {"state": {}}, "epoch": 1}, r"holds no encoder.*It holds: epoch, optimizer"),
        ({"classifier.weight": torch.zeros(2, 2)}, r"holds no encoder.*classifier"),
        ({}, r"It holds: nothing"),
        ([torch.zeros(1)], r"expected named tensors, got list"),
        ({"encoder": {"norm.weight": torch.ones(24)}}, r"missing: patch_embed\.proj\.weight"),
        ({"encoder": {"norm.weight": "ones"}}, r"are no tensors: norm\.weight"),
    ],
)
def test_files_without_an_encoder_are_refused(tmp_path: Path, entries: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_vjepa2_encoder(saved(tmp_path / "w.pt", entries))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "w.pt", {"encoder": learned_state(), "config": Attack(tmp_path / "marker")}).read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"<html>not found</html>"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as weights"):
            load_vjepa2_encoder(tmp_path / name)
    with pytest.raises(CheckpointNotFoundError):
        load_vjepa2_encoder(tmp_path / "gone.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_came_in_place_of_weights_is_named(tmp_path: Path, suffix: str) -> None:
    instead = {
        b"": "it is an empty file",
        b"\n<!DOCTYPE html><html>Sign in</html>": "it is a web page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n": "pointer of Git LFS",
    }
    for content, said in instead.items():
        (tmp_path / f"w{suffix}").write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            load_vjepa2_encoder(tmp_path / f"w{suffix}")


def test_tensors_as_torch_wrote_them_before_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"encoder": learned_state()}, path, _use_new_zipfile_serialization=False)
    whole = saved(tmp_path / "new.pt", {"encoder": learned_state()})
    old, new = (load_vjepa2_encoder(one, settings=THREE_HEADS).state_dict() for one in (path, whole))
    assert all(torch.equal(old[key], new[key]) for key in new)


def test_another_grid_is_refused_with_those_that_fit(tmp_path: Path) -> None:
    encoder = load_vjepa2_encoder(saved(tmp_path / "w.pt", learned_state()), settings=THREE_HEADS)
    with pytest.raises(FintuneValueError, match=rf"has learned {N_TOKENS} positions.*8 x 16 x 16"):
        encoder(torch.zeros(1, 1, 16, 16, 16))
    with pytest.raises(FintuneValueError, match="expected multiples"):
        encoder(torch.zeros(1, 1, 8, 16, 12))
    with pytest.raises(FintuneValueError, match=r"expected \(n, 1, z, y, x\)"):
        encoder(torch.zeros(1, 3, *GRID))


def test_a_square_for_rotary_positions_is_told_to_change_nothing_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "w.pt", learned_state())
    load_vjepa2_encoder(path, settings=THREE_HEADS)
    assert "crop_px" not in caplog.text
    load_vjepa2_encoder(path, settings=VolumeEncoderSettings(heads=HEADS, crop_px=64))
    assert "crop_px=64 changes nothing: this encoder has learned positions" in caplog.text


def test_sizes_of_the_published_networks() -> None:
    def size(width: int, depth: int, positions: int = 0, patch: tuple[int, ...] = (2, 16, 16)) -> Any:
        shapes = {"patch_embed.proj.weight": (width, 3, *patch), "blocks.0.mlp.fc1.weight": (4 * width, width)}
        shapes |= {f"blocks.{depth - 1}.norm1.weight": (width,)} | (
            {"pos_embed": (1, positions, width)} if positions else {}
        )
        with torch.device("meta"):
            return architecture_of(
                {key: torch.empty(shape) for key, shape in shapes.items()}, heads=None, source="file"
            )

    assert [size(*one).heads for one in ((1024, 24), (1280, 32), (1408, 40))] == [16, 16, 22]
    study = size(768, 12, 9216, (4, 16, 16))
    assert (study.kind, study.heads, study.patch, study.positions) == ("vit3d", 12, (4, 16, 16), 9216)
    with pytest.raises(CheckpointError, match="Give heads=N"):
        size(96, 2)


def test_size_of_the_study() -> None:
    size = VolumeArchitecture(
        kind="vit3d", width=768, depth=12, heads=12, mlp_width=3072, patch=(4, 16, 16), positions=9216
    )
    with torch.device("meta"):
        assert sum(value.numel() for value in Vit3d(size).parameters()) == 92_921_088


def transformers_model(state: dict[str, torch.Tensor]) -> Any:
    """`VJEPA2Model` filled with `state` under Meta's names, by the library's own loading."""
    from transformers import VJEPA2Config, VJEPA2Model

    n_channels = state["patch_embed.proj.weight"].shape[1]
    config = VJEPA2Config(
        patch_size=4, tubelet_size=2, crop_size=CROP, in_chans=n_channels, hidden_size=24,
        num_hidden_layers=DEPTH, num_attention_heads=2, pred_hidden_size=12, pred_num_attention_heads=1,
        pred_num_hidden_layers=1,
    )  # fmt: skip
    model = VJEPA2Model(config).eval()
    own = model.state_dict()
    thirds = {"query": 0, "key": 1, "value": 2}
    for key in own:
        name = key.removeprefix("encoder.")
        if name == key:
            continue
        if part := re.fullmatch(r"layer\.(\d+)\.attention\.(query|key|value)\.(\w+)", name):
            fused = state[f"blocks.{part[1]}.attn.qkv.{part[3]}"]
            own[key] = fused[thirds[part[2]] * 24 : (thirds[part[2]] + 1) * 24]
            continue
        name = name.replace("embeddings.patch_embeddings.", "patch_embed.").replace("layernorm.", "norm.")
        own[key] = state[name.replace("layer.", "blocks.").replace("attention.", "attn.")]
    model.load_state_dict(own)
    return model


def test_rotary_encoder_against_transformers(tmp_path: Path) -> None:
    state = meta_state(**ROTARY_SIZE)
    model = transformers_model(state)
    seen = torch.from_numpy(volumes(grid=(8, CROP, CROP)))
    with torch.inference_mode():
        expected = model(seen.permute(0, 2, 1, 3, 4), skip_predictor=True).last_hidden_state.mean(1).numpy()
    under_meta = saved(tmp_path / "meta.pt", {"encoder": prefixed(state, "module.backbone.")})
    under_theirs = saved(tmp_path / "theirs.pt", model.state_dict())
    for path in (under_meta, under_theirs):
        np.testing.assert_array_equal(embedded(path, ROTARY, grid=(8, CROP, CROP)), expected)
    encoder = load_vjepa2_encoder(under_meta, settings=ROTARY)
    assert (encoder.size.kind, len(encoder.blocks), encoder.width) == ("vjepa2", DEPTH, 24)
    with pytest.raises(FintuneValueError, match=f"square of {CROP} px.*crop_px=32"):
        encoder(torch.zeros(1, 1, 8, 32, 32))


def test_names_go_there_and_back() -> None:
    state = meta_state(**ROTARY_SIZE)
    back = with_our_names(with_names_of_transformers(state))
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("normalisation", ["zscore", "imagenet"])
def test_three_channels_fold_into_one(tmp_path: Path, normalisation: str) -> None:
    state = meta_state(channels=3, **ROTARY_SIZE)
    model = transformers_model(state)
    seen = torch.from_numpy(volumes(grid=(8, CROP, CROP)))
    equal = seen.expand(-1, 3, -1, -1, -1)
    if normalisation == "imagenet":
        mean, sd = (torch.tensor(one).view(1, 3, 1, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        equal = (equal - mean) / sd
    with torch.inference_mode():
        expected = model(equal.permute(0, 2, 1, 3, 4), skip_predictor=True).last_hidden_state.mean(1).numpy()
    path = saved(tmp_path / "w.pt", {"encoder": state})
    chosen = ROTARY.model_copy(update={"normalisation": normalisation})
    np.testing.assert_allclose(embedded(path, chosen, grid=(8, CROP, CROP)), expected, atol=1e-4)
    one_channel = saved(tmp_path / "one.pt", {"encoder": meta_state(**ROTARY_SIZE)})
    with pytest.raises(SettingsError, match="one channel"):
        load_vjepa2_encoder(one_channel, settings=VolumeEncoderSettings(heads=2, normalisation="imagenet"))
    two = saved(tmp_path / "two.pt", {"encoder": meta_state(channels=2, **ROTARY_SIZE)})
    with pytest.raises(CheckpointError, match="1 or 3 channels, got 2"):
        load_vjepa2_encoder(two, settings=ROTARY)


def test_freezing(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", learned_state())
    at_rest = load_vjepa2_encoder(path, settings=THREE_HEADS)
    learning = load_vjepa2_encoder(path, freeze=False, settings=THREE_HEADS)
    assert not any(value.requires_grad for value in at_rest.parameters())
    assert all(value.requires_grad for value in learning.parameters())
    # All parameters are the stem's, a block's or the last norm's.
    inside = [*learning.stem, *(value for block in learning.blocks for value in block.parameters())]
    assert len(inside) + 2 == len(list(learning.parameters()))


def test_random_encoders_depend_on_their_seed_alone() -> None:
    chosen = RandomEncoderSettings(width=24, depth=2, heads=3, patch=PATCH, random=4)
    before = torch.random.get_rng_state()
    first, again = random_encoder(chosen, GRID), random_encoder(chosen, GRID)
    other = random_encoder(chosen.model_copy(update={"random": 5}), GRID)
    assert torch.equal(before, torch.random.get_rng_state())
    for one, same, changed in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
        assert torch.equal(one, changed) == (one.ndim < 2)
    assert first(torch.zeros(1, 1, *GRID)).shape == (1, 24)
    with pytest.raises(SettingsError, match="expected divisors of the grid"):
        random_encoder(chosen, (9, 16, 16))


def test_kinds_are_told_apart_by_what_files_hold(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    state = learned_state()
    files = {
        "study.pt": {"model_state_dict": prefixed(state, "context_encoder."), "config": Attack(marker)},
        "plain.pt": {"encoder": state},
        "meta.pt": {"encoder": prefixed(meta_state(**ROTARY_SIZE), "module.backbone."), "opt": {}},
    }
    kinds = [resolve_checkpoint(saved(tmp_path / name, entries)).kind for name, entries in files.items()]
    assert kinds == ["vit3d", "vit3d", "vjepa2"]
    assert not marker.exists()
    # What no kind knows is refused as before, whatever it holds.
    with pytest.raises(CheckpointError, match="not a weights file that can be read safely"):
        resolve_checkpoint(saved(tmp_path / "other.pt", {"state": torch.zeros(1), "config": Attack(marker)}))
    assert not marker.exists()


def test_stages_of_a_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", learned_state())
    checkpoint = resolve_checkpoint(path)
    kind = kind_named(checkpoint.kind)
    chosen = validate(kind.settings, {"heads": HEADS})
    model = load_model(checkpoint, channels=("oct",), settings=chosen, device="cpu", keep=False)
    tiles = np.random.default_rng(1).integers(0, 255, (3, 1, *GRID), dtype=np.uint8)
    found = [model.reconstruct(one) for one in model.predict([model.normalise(tile) for tile in tiles])]
    state = learned_state()
    for made, tile in zip(found, tiles, strict=True):
        values = (tile[0] - tile[0].mean()) / tile[0].std()
        np.testing.assert_allclose(made.columns["embedding"], reference_embedding(state, values), atol=2e-5)
    assert kind.sizes is not None
    assert kind.sizes(checkpoint, chosen, GRID) == {"feature": WIDTH}
    with pytest.raises(FintuneValueError, match="has learned"):
        kind.sizes(checkpoint, chosen, (16, 16, 16))
    with pytest.raises(TileReadError, match="constant volume"):
        model.normalise(np.zeros((1, *GRID), np.uint8))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="other weights than the run refers to"):
        load_model(checkpoint, channels=("oct",), settings=chosen, device="cpu", keep=False)


@pytest.mark.parametrize(
    ("name", "given", "width"),
    [
        ("vit3d_random", {"width": 24, "depth": 1, "heads": 3, "patch": PATCH, "random": 3}, 24),
        ("volume_profile", {}, 2 * (8 + 16 + 16)),
    ],
)
def test_floors_are_models_by_name(name: str, given: dict[str, Any], width: int) -> None:
    checkpoint, kind = resolve_checkpoint(name), kind_named(name)
    chosen = validate(kind.settings, given)
    model = load_model(checkpoint, channels=("oct",), settings=chosen, device="cpu", keep=False)
    tile = np.random.default_rng(1).integers(0, 255, (1, *GRID), dtype=np.uint8)
    (maps,) = model.predict([model.normalise(tile)])
    assert model.reconstruct(maps).columns["embedding"].shape == (width,)
    assert kind.sizes is not None
    assert kind.sizes(checkpoint, chosen, GRID) == {"feature": width}
