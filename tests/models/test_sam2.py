"""SAM 2: published names and shapes fit strictly; on any grid its parts give what the library gives on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from sam2_weights import SMALL, published_shapes, random_state
from transformers import Sam2Model

from fintune_xr.errors import CheckpointError, FintuneValueError
from fintune_xr.models.checkpoints import load_strictly
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.models.sam2.adapter import load_sam2
from fintune_xr.models.sam2.keys import published_size, published_state, transformers_state
from fintune_xr.models.sam2.network import (
    box_tokens,
    decode,
    empty_sam2,
    encoder_stem,
    grid_positions,
    point_tokens,
    published_sam2,
    pyramid,
    stage_of_block,
)
from fintune_xr.models.sam2.settings import SAM2_SIZES


@pytest.fixture(scope="module")
def network() -> Sam2Model:
    found = empty_sam2(SMALL)
    load_strictly(found, transformers_state(random_state(SMALL)), source="random")
    return found


def images(shape: tuple[int, int] = (128, 128), n: int = 1) -> torch.Tensor:
    return torch.randn((n, 3, *shape), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SAM2_SIZES)
def test_every_published_size_is_known_by_its_weights_and_fits(name: str) -> None:
    architecture = SAM2_SIZES[name]
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in published_shapes(architecture).items()}
        assert published_size(state, source=name) == architecture
        expected = empty_sam2(architecture).state_dict()
    found = transformers_state(state)
    assert set(found) == set(expected)
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in expected.items()}


@pytest.mark.parametrize(
    ("name", "millions"),
    [("sam2.1_hiera_tiny", 31.4), ("sam2.1_hiera_small", 38.5), ("sam2.1_hiera_base_plus", 73.3)],
)
def test_sizes_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        n_parameters = sum(value.numel() for value in empty_sam2(SAM2_SIZES[name]).parameters())
    assert n_parameters / 1e6 == pytest.approx(millions, abs=0.05)


def test_values_land_where_their_names_say(network: Sam2Model) -> None:
    state = random_state(SMALL)
    decoder, encoder = network.mask_decoder, network.vision_encoder
    pairs = {
        "image_encoder.trunk.blocks.1.mlp.layers.1.bias": encoder.backbone.blocks[1].mlp.proj_out.bias,
        "image_encoder.neck.convs.0.conv.weight": encoder.neck.convs[0].weight,
        "sam_mask_decoder.iou_prediction_head.layers.1.weight": decoder.iou_prediction_head.layers[0].weight,
        "sam_mask_decoder.transformer.layers.1.norm3.bias": decoder.transformer.layers[1].layer_norm3.bias,
        "sam_prompt_encoder.mask_downscaling.4.weight": network.prompt_encoder.mask_embed.layer_norm2.weight,
        "no_mem_embed": network.no_memory_embedding,
    }
    for name, found in pairs.items():
        assert torch.equal(found, state[name]), name
    for point in range(4):
        name = f"sam_prompt_encoder.point_embeddings.{point}.weight"
        assert torch.equal(network.prompt_encoder.point_embed.weight[point], state[name][0])
    matrix = state["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    assert torch.equal(network.shared_image_embedding.positional_embedding, matrix)
    assert torch.equal(network.prompt_encoder.shared_embedding.positional_embedding, matrix)


def test_entries_must_fit_one_by_one() -> None:
    state = random_state(SMALL)
    with pytest.raises(CheckpointError, match=r"missing: mask_decoder\.conv_s0\.bias"):
        load_strictly(
            empty_sam2(SMALL), transformers_state({k: v for k, v in state.items() if "s0.b" not in k}), source="s"
        )
    with pytest.raises(CheckpointError, match="unknown: something"):
        load_strictly(empty_sam2(SMALL), transformers_state({**state, "something": torch.ones(1)}), source="s")


def test_other_files_are_refused() -> None:
    with pytest.raises(CheckpointError, match="unknown size, 16 wide with 1-1-2-1 blocks"):
        published_sam2(random_state(SMALL), source="small.pt")
    with pytest.raises(CheckpointError, match="the first SAM"):
        published_state({"image_encoder.blocks.0.norm1.weight": torch.ones(1)}, source="sam.pth")
    with pytest.raises(CheckpointError, match="found entries a, b"):
        published_state({"a": 1, "b": {}}, source="other.pt")
    with pytest.raises(CheckpointError, match="Is the file complete"):
        state = {key: value for key, value in random_state(SMALL).items() if "blocks.2" not in key}
        published_size(state, source="cut.pt")


def test_files_of_safetensors_hold_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL})
    state = random_state(SMALL)
    expected = transformers_state(state)
    # As the image network is saved by transformers, as the video network is, which keeps shared positions once, and
    # under SAM 2's own names.
    empty_sam2(SMALL).save_pretrained(tmp_path / "library")
    names = set(safetensors.torch.load_file(tmp_path / "library" / "model.safetensors"))
    assert names == set(expected)
    images = {key: value.clone() for key, value in expected.items()}
    videos = {key: value for key, value in images.items() if not key.startswith("shared_image_embedding")}
    videos |= {f"{name}.weight": torch.ones(1) for name in ("memory_attention.norm", "object_pointer_proj.proj_in")}
    videos |= {"no_memory_positional_encoding": torch.ones(1), "occlusion_spatial_embedding_parameter": torch.ones(1)}
    for name, entries in (("images", images), ("videos", videos), ("own", state)):
        path = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file(entries, path)
        found = resolve_checkpoint(path)
        assert found.kind == "sam2", name
        loaded = load_sam2(found, device="cpu").state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in loaded.items()), name
    del images["mask_decoder.conv_s0.bias"]
    safetensors.torch.save_file(images, path)
    with pytest.raises(CheckpointError, match=r"missing: mask_decoder\.conv_s0\.bias"):
        load_sam2(resolve_checkpoint(path), device="cpu")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="download is not complete"):
        resolve_checkpoint(path)


def test_positions_at_the_configured_grid_are_the_librarys(network: Sam2Model) -> None:
    expected = network.get_image_wide_positional_embeddings()
    assert torch.equal(grid_positions(network, (8, 8)), expected)
    assert grid_positions(network, (8, 12)).shape == (1, 64, 8, 12)


@torch.no_grad()
def test_points_boxes_and_three_masks_are_as_by_the_library(network: Sam2Model) -> None:
    pixels = images(n=2)
    points = torch.tensor([[[[20.0, 30.0], [90.0, 12.0]], [[5.0, 7.0], [64.0, 64.0]]]] * 2)
    labels = torch.tensor([[[1, 0], [1, 1]]] * 2)
    boxes = torch.tensor([[[10.0, 20.0, 50.0, 90.0], [0.0, 0.0, 30.0, 30.0]]] * 2)
    seen = pyramid(network, pixels)
    asked = {
        "points": (point_tokens(network, points, labels, (128, 128)), {"input_points": points, "input_labels": labels}),
        "boxes": (box_tokens(network, boxes, (128, 128)), {"input_boxes": boxes}),
        "both": (
            box_tokens(network, boxes, (128, 128), points=points, labels=labels),
            {"input_points": points, "input_labels": labels, "input_boxes": boxes},
        ),
    }
    for name, (tokens, given) in asked.items():
        for multimask in (True, False):
            found = decode(network, seen, tokens, multimask=multimask)
            expected = network(pixel_values=pixels, multimask_output=multimask, **given)
            message = f"{name}, multimask {multimask}"
            assert torch.allclose(found.masks, expected.pred_masks, atol=1e-5), message
            assert torch.allclose(found.iou, expected.iou_scores, atol=1e-6), message
            assert torch.allclose(found.presence, expected.object_score_logits[..., 0], atol=1e-6), message


@pytest.mark.parametrize("shape", [(128, 128), (192, 192), (256, 256), (128, 192)])
def test_images_of_many_sizes_have_masks_at_a_stride_of_four(network: Sam2Model, shape: tuple[int, int]) -> None:
    with torch.no_grad():
        seen = pyramid(network, images(shape))
        points = torch.tensor([[[[shape[1] / 2, shape[0] / 2]]]])
        tokens = point_tokens(network, points, torch.ones(1, 1, 1, dtype=torch.long), shape)
        found = decode(network, seen, tokens, multimask=False)
    assert found.masks.shape == (1, 1, 1, shape[0] // 4, shape[1] // 4)
    assert seen.coarse.shape[-2:] == (shape[0] // 16, shape[1] // 16)
    with pytest.raises(FintuneValueError, match="multiples of 32"):
        pyramid(network, images((shape[0] + 4, shape[1])))


def test_an_unstable_mask_is_not_swapped_for_another(network: Sam2Model) -> None:
    pixels = images()
    tokens = point_tokens(network, torch.tensor([[[[20.0, 30.0]]]]), torch.ones(1, 1, 1, dtype=torch.long), (128, 128))
    with torch.no_grad():
        seen = pyramid(network, pixels)
        evaluated = decode(network, seen, tokens, multimask=False).masks
        network.train()
        trained = decode(network, seen, tokens, multimask=False).masks
        network.eval()
    assert torch.equal(evaluated, trained)


def test_gradients_reach_every_part(network: Sam2Model) -> None:
    network.zero_grad()
    tokens = point_tokens(network, torch.tensor([[[[20.0, 30.0]]]]), torch.ones(1, 1, 1, dtype=torch.long), (128, 128))
    found = decode(network, pyramid(network, images()), tokens, multimask=False)
    (found.masks.square().sum() + found.iou.sum() + found.presence.sum()).backward()
    without = {name for name, value in network.named_parameters() if value.grad is None}
    network.zero_grad()
    unused = ("prompt_encoder.mask_embed.", "mask_decoder.output_hypernetworks_mlps.")
    assert all(name.startswith(unused) for name in without), sorted(without)


def test_blocks_belong_to_the_stages_of_their_width(network: Sam2Model) -> None:
    stages = [stage_of_block(network, block) for block in range(SMALL.n_blocks)]
    assert stages == [1, 2, 3, 3, 4]
    inside = {id(value) for value in encoder_stem(network)}
    blocks = {id(value) for block in network.vision_encoder.backbone.blocks for value in block.parameters()}
    assert inside | blocks == {id(value) for value in network.vision_encoder.backbone.parameters()}
