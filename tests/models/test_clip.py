"""CLIP from a local folder: what transformers makes of the same folder; refusals; ensembles by identities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPModel

from fintune_xr.errors import CheckpointError, CheckpointNotFoundError, FintuneValueError, SettingsError
from fintune_xr.models.clip.adapter import load_clip
from fintune_xr.models.clip.random_folder import write_random_clip
from fintune_xr.models.clip.scoring import class_scores_of_regions, prompt_classes, read_prompts
from fintune_xr.seeds import stream

TEXTS = ("a patch of tumour", "a patch of stroma with spindle nuclei", "lymphocytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_clip(tmp_path_factory.mktemp("clip"), TEXTS)


def test_embeddings_are_those_of_the_library(folder: Path) -> None:
    clip = load_clip(folder, device="cpu")
    network = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    images = [stream(i, "clip").integers(0, 256, (3, 32, 32)).astype(np.uint8) for i in range(3)]
    pixels = torch.from_numpy(np.stack(images)).float() / 255
    pixels = (pixels - torch.tensor(clip.mean)[:, None, None]) / torch.tensor(clip.sd)[:, None, None]
    tokens = clip.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = network(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    np.testing.assert_allclose(clip.of_images(images), expected.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(clip.of_texts(TEXTS), expected.text_embeds.numpy(), atol=1e-5)
    similarity = clip.scale * clip.of_images(images) @ clip.of_texts(TEXTS).T
    np.testing.assert_allclose(similarity, expected.logits_per_image.numpy(), atol=1e-4)


def test_texts_alone_are_embedded_as_in_company(folder: Path) -> None:
    clip = load_clip(folder, device="cpu")
    together = clip.of_texts(TEXTS)
    for text, found in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(clip.of_texts([text])[0], found, atol=1e-5)


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors", "preprocessor_config.json", "config.json"])
def test_a_folder_that_lacks_a_part_is_refused(folder: Path, tmp_path: Path, missing: str) -> None:
    for file in folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=missing.replace(".", r"\.")):
        load_clip(tmp_path, device="cpu")


def test_other_networks_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no folder"):
        load_clip(tmp_path / "nowhere", device="cpu")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="BiomedCLIP or CONCH"):
        load_clip(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(CheckpointError, match="found 'siglip'"):
        load_clip(tmp_path, device="cpu")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="download is not complete"):
        load_clip(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("tokenizer.json", '{"version": "1.0",', r"tokenizer\.json is not as CLIP has it"),
        ("tokenizer.json", '{"version": "1.0", "model": {}}', r"tokenizer\.json is not as CLIP has it"),
        ("preprocessor_config.json", "{}", "expected image_mean of 3 numbers, found None"),
        ("preprocessor_config.json", '{"image_mean": [0.5], "image_std": [1, 1, 1]}', r"found \[0\.5\]"),
        ("preprocessor_config.json", '{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}', "image_std above 0"),
        ("config.json", '{"model_type": "clip", "vision_config": {"hidden_size": "x"}}', r"config\.json is not"),
    ],
)  # fmt: skip
def test_a_damaged_part_is_named(folder: Path, tmp_path: Path, file: str, content: str, match: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=match):
        load_clip(tmp_path, device="cpu")


def test_weights_that_are_no_numbers_are_found(folder: Path) -> None:
    clip = load_clip(folder, device="cpu")
    with torch.no_grad():
        clip.network.visual_projection.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="embeddings that are no numbers"):
        clip.of_images([np.zeros((3, 32, 32), np.uint8)])


def test_a_sentence_is_never_cut_off(folder: Path) -> None:
    clip = load_clip(folder, device="cpu")
    longest = clip.network.config.text_config.max_position_embeddings
    # A word of this tokenizer, between the tokens of start and end.
    fits = " ".join(["lymphocytes"] * 200)
    while len(clip.tokenizer(fits)["input_ids"]) > longest:
        fits = fits[:-1]
    assert np.isfinite(clip.of_texts([fits])).all()
    with pytest.raises(FintuneValueError, match=f"reads up to {longest}; make it shorter"):
        clip.of_texts([TEXTS[0], fits + " lymphocytes"])


def test_the_digest_is_that_of_all_parts(folder: Path, tmp_path: Path) -> None:
    other = write_random_clip(tmp_path / "other", TEXTS, seed=1)
    assert load_clip(folder, device="cpu").sha256 != load_clip(other, device="cpu").sha256
    assert load_clip(folder, device="cpu").sha256 == load_clip(folder, device="cpu").sha256


def as_older_files(folder: Path) -> None:
    """The tokenizer of `folder` as vocabulary and merges, the form that CLIP was published in."""
    told = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(told["vocab"]))
    merges = [one if isinstance(one, str) else " ".join(one) for one in told["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    words = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **words}))
    (folder / "special_tokens_map.json").write_text(json.dumps(words))


@pytest.mark.parametrize("is_older", [False, True])
def test_the_digest_covers_every_file_of_the_folder(folder: Path, tmp_path: Path, is_older: bool) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    if is_older:
        as_older_files(tmp_path)
    before = load_clip(tmp_path, device="cpu").sha256
    for file in sorted(tmp_path.glob("*.json")) + sorted(tmp_path.glob("*.txt")):
        content = file.read_bytes()
        file.write_bytes(content.replace(b"0.2", b"0.3") if file.suffix == ".txt" else content + b"\n")
        assert load_clip(tmp_path, device="cpu").sha256 != before, file.name
        file.write_bytes(content)
    (tmp_path / "README.md").write_text("for people")
    assert load_clip(tmp_path, device="cpu").sha256 == before


def test_other_merges_are_other_tokens_and_another_digest(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    as_older_files(tmp_path)
    first = load_clip(tmp_path, device="cpu")
    merges = tmp_path / "merges.txt"
    lines = merges.read_text().splitlines()
    merges.write_text("\n".join([*lines[: len(lines) // 2], ""]))
    second = load_clip(tmp_path, device="cpu")
    assert np.abs(first.of_texts(TEXTS) - second.of_texts(TEXTS)).max() > 0.01
    assert first.sha256 != second.sha256
    assert first.former_sha256 == second.former_sha256


def unit(seed: int, n: int) -> np.ndarray:
    drawn = stream(seed, "unit").normal(size=(n, 8))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 100))
def test_with_one_prompt_a_class_both_ensembles_are_the_softmax(seed: int, scale: float) -> None:
    regions, prompts = unit(seed, 5), unit(seed + 1, 3)
    logits = scale * regions.astype(float) @ prompts.astype(float).T
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    for ensemble in ("embeddings", "probabilities"):
        found = class_scores_of_regions(regions, prompts, np.arange(3), scale=scale, ensemble=ensemble)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@given(seed=st.integers(0, 1000))
def test_a_prompt_said_twice_counts_once(seed: int) -> None:
    regions, prompts = unit(seed, 5), unit(seed + 1, 3)
    once = class_scores_of_regions(regions, prompts, np.arange(3), scale=10, ensemble="embeddings")
    twice = class_scores_of_regions(
        regions, prompts[[0, 0, 1, 1, 2, 2]], np.array([0, 0, 1, 1, 2, 2]), scale=10, ensemble="embeddings"
    )
    np.testing.assert_allclose(once, twice, atol=1e-6)


def test_prompts_are_of_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"stroma": ["b", "c"], "tumor": ["a"]}))
    found = read_prompts(path, ("tumor", "stroma"))
    assert found == {"tumor": ("a",), "stroma": ("b", "c")}
    assert prompt_classes(found).tolist() == [0, 1, 1]
    for wrong, match in [
        ({"tumor": ["a"]}, "no prompt of stroma"),
        ({"tumor": ["a"], "stroma": ["b"], "fat": ["c"]}, "fat is no class"),
        ({"tumor": ["a"], "stroma": []}, "a sentence or more"),
        ({"tumor": "a", "stroma": ["b"]}, "a sentence or more"),
    ]:
        path.write_text(json.dumps(wrong))
        with pytest.raises(SettingsError, match=match):
            read_prompts(path, ("tumor", "stroma"))
    for text, match in [
        ('{"tumor": ["a"], "stroma": ["b"], "tumor": ["c"]}', "'tumor' is there twice"),
        ('{"tumor": ["a"], "stroma": ["b", "a "]}', "'a' is there twice, for tumor and for stroma"),
        ('{"tumor": ["a"', "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
    ]:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(SettingsError, match=match):
            read_prompts(path, ("tumor", "stroma"))
    path.write_text(json.dumps({"stroma": ["b"], "tumor": ["a"]}), encoding="utf-8-sig")
    assert read_prompts(path, ("tumor", "stroma")) == {"tumor": ("a",), "stroma": ("b",)}
