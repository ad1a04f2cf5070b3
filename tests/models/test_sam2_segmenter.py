"""SAM 2's automatic masks: by the filters of SAM's generator, from published files alone."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from sam2_weights import SMALL, random_state, write_published

from fintune_xr.errors import CheckpointError, SettingsError
from fintune_xr.models.checkpoints import load_strictly
from fintune_xr.models.registry import load_segmenter, model_names, published_named, resolve_checkpoint
from fintune_xr.models.sam.masks import candidate_masks
from fintune_xr.models.sam2 import adapter
from fintune_xr.models.sam2.adapter import Sam2Prompts
from fintune_xr.models.sam2.keys import transformers_state
from fintune_xr.models.sam2.network import empty_sam2
from fintune_xr.models.sam2.settings import SAM2_SIZES, Sam2Settings
from fintune_xr.models.weights_cache import cached_weights
from fintune_xr.pixels.prompts import PROMPT_KINDS, prompt_of
from fintune_xr.seeds import stream
from fintune_xr.settings import validate
from fintune_xr.tasks.semantic import RGB_CHANNELS

LOOSE = Sam2Settings(points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, max_area_fraction=1, min_area_px=1)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL})
    return write_published(tmp_path / "small.pt", random_state(SMALL))


def image(shape: tuple[int, int] = (100, 140)) -> np.ndarray:
    return stream(0, "sam2").integers(0, 256, (3, *shape)).astype(np.uint8)


def test_a_published_file_is_known_and_segments(published: Path) -> None:
    checkpoint = resolve_checkpoint(published)
    assert checkpoint.kind == "sam2"
    segmenter = load_segmenter(checkpoint, channels=RGB_CHANNELS, settings=LOOSE, device="cpu", keep=False)
    tile = image()
    first, second = (segmenter.reconstruct(segmenter.predict([segmenter.normalise(tile)])[0]) for _ in range(2))
    assert first.shape == (100, 140)
    assert first.dtype == np.uint32
    assert set(np.unique(first)) - {0} == set(range(1, int(first.max()) + 1))
    np.testing.assert_array_equal(first, second)


def test_masks_of_the_grid_are_those_of_the_library() -> None:
    network = empty_sam2(SMALL)
    load_strictly(network, transformers_state(random_state(SMALL)), source="random")
    standardised = np.ascontiguousarray(image((128, 128)).astype(np.float32) / 128 - 1)
    prompts = Sam2Prompts(network)
    found = candidate_masks(prompts, prompts.see(standardised), points_per_side=2, loosest=(0.0, 0.0), options=LOOSE)
    points = torch.tensor([[[[32.0, 32.0]], [[96.0, 32.0]], [[32.0, 96.0]], [[96.0, 96.0]]]])
    with torch.no_grad():
        expected = network(
            pixel_values=torch.from_numpy(standardised)[None], input_points=points,
            input_labels=torch.ones(1, 4, 1, dtype=torch.int), multimask_output=True,
        )  # fmt: skip
        masks = torch.nn.functional.interpolate(expected.pred_masks[0], (128, 128), mode="bilinear") > 0
    assert len(found.predicted_iou) == 12
    torch.testing.assert_close(found.predicted_iou, expected.iou_scores.flatten(), atol=1e-6, rtol=1e-5)
    for index, mask in enumerate(masks.flatten(0, 1).numpy()):
        assert (found.full(index) != mask).mean() < 1e-3


def test_names_and_refusals(tmp_path: Path) -> None:
    assert set(SAM2_SIZES) <= set(model_names())
    large = published_named("sam2.1_hiera_large")
    assert large.address() == "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_large.pt"
    assert large.path.name == "sam2.1_hiera_large.pt"
    with pytest.raises(SettingsError, match="leave percentiles out"):
        validate(Sam2Settings, {"percentiles": (1, 99)})
    whole = write_published(tmp_path / "whole.pt", random_state(SMALL))
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="download is not complete"):
        resolve_checkpoint(cut)
    with pytest.raises(CheckpointError, match="SAM 2 of an unknown size"):
        load_segmenter(resolve_checkpoint(whole), channels=RGB_CHANNELS, settings=LOOSE, device="cpu", keep=False)


def test_weights_that_are_not_here_are_told_how_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"weights fetch sam2\.1_hiera_tiny"):
        cached_weights(published_named("sam2.1_hiera_tiny"))


def test_prompts_of_as_many_points_are_decoded_together_and_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    network = empty_sam2(SMALL)
    load_strictly(network, transformers_state(random_state(SMALL)), source="random")
    sam2 = Sam2Prompts(network)
    embedded = sam2.embed(np.moveaxis(image(), 0, -1))
    y, x = np.mgrid[:100, :140]
    pieces = [(y - 30) ** 2 + (x - at) ** 2 < size**2 for at, size in ((40, 12), (70, 20), (100, 15))]
    asked = [prompt_of(piece, kind, stream(at)) for kind in PROMPT_KINDS for at, piece in enumerate(pieces)]
    # As where all of a tile is one class: nothing lies beside it.
    asked.append(prompt_of(np.ones((100, 140), bool), "box_negative", stream(0)))
    alone = [sam2.asked(embedded, [one])[0] for one in asked]
    passes: list[int] = []
    decoded = adapter.decode
    monkeypatch.setattr(
        adapter, "decode", lambda *given, **told: passes.append(given[2].shape[1]) or decoded(*given, **told)
    )
    together = sam2.asked(embedded, asked)
    assert sorted(passes) == [3, 3, 3, 4]
    for one, other in zip(together, alone, strict=True):
        assert one.shape == (100, 140)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(one > 0, other > 0)
    # Random weights answer each prompt otherwise, by more than how it is decoded.
    assert min(np.abs(one - other).max() for one, other in combinations(alone[:-1], 2)) > 1e-5
    assert sam2.asked(embedded, []) == []
