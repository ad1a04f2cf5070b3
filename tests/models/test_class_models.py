"""Networks of classes applied: tiles of any size, windows, orientations; and their weights files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_networks import KINDS, TWO, saved, small, small_mask2former
from hypothesis import given
from hypothesis import strategies as st
from sam2_weights import SMALL

from fintune_xr.errors import CheckpointError, FintuneValueError, UnknownNameError
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.checkpoints import Checkpoint, load_weights_file
from fintune_xr.models.classes import checkpoint as class_checkpoint
from fintune_xr.models.classes.checkpoint import class_attrs, class_sizes, trained_classes
from fintune_xr.models.classes.logits import ClassLogits, winners
from fintune_xr.models.classes.mapper import ClassMapper, orient, restore, whole_or_blended
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.mask2former.network import Mask2FormerSemantic, MaskQueries, matching_loss, weigh_classes
from fintune_xr.models.sam2.network import decode, point_tokens, pyramid
from fintune_xr.models.sam2_semantic.network import Sam2Semantic
from fintune_xr.models.sam2_semantic.settings import Sam2SemanticArchitecture
from fintune_xr.provenance import file_sha256
from fintune_xr.seeds import stream
from fintune_xr.tasks.semantic import RGB_CHANNELS

WINDOWS = ClassSettings(window_px=64, overlap_px=16)


def tile(seed: int, shape: tuple[int, int]) -> np.ndarray:
    return stream(seed, "tile").integers(0, 256, (3, *shape)).astype(np.uint8)


def checkpoint(path: Path, kind: str) -> Checkpoint:
    return Checkpoint(kind, path.stem, str(path), file_sha256(path))


class PixelByPixel(torch.nn.Module):
    """Logits that depend on the colours of the pixel and on nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = torch.nn.Conv2d(3, 2, 1)

    def forward(self, patches: torch.Tensor) -> ClassLogits:
        return ClassLogits(self.mixed(patches))


def pixel_by_pixel(settings: ClassSettings) -> ClassMapper:
    torch.manual_seed(0)
    choice = ChannelChoice(RGB_CHANNELS, (0, 1, 2), (False,) * 3)
    return ClassMapper(PixelByPixel(), settings, choice, "softmax", whole_or_blended(settings, stride=32))


@pytest.mark.parametrize("name", KINDS)
def test_tiles_of_any_size_get_classes(name: str) -> None:
    mapper = KINDS[name].mapper(small(name), ClassSettings(), channels=RGB_CHANNELS)
    tiles = [tile(0, (64, 64)), tile(1, (70, 50)), tile(2, (33, 96))]
    maps = mapper.predict([mapper.normalise(one) for one in tiles])
    for one, found in zip(tiles, maps, strict=True):
        assert found.shape == (3, *one.shape[1:])
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
        labels = mapper.reconstruct(found).classes
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, found.argmax(0))
    alone = mapper.predict([mapper.normalise(tiles[1])])[0]
    np.testing.assert_allclose(alone, maps[1], atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_weights_file_gives_the_same_network(name: str, tmp_path: Path) -> None:
    path = saved(name, tmp_path)
    loaded = KINDS[name].load(checkpoint(path, name), ClassSettings(), channels=RGB_CHANNELS, device="cpu")
    built = KINDS[name].mapper(small(name), ClassSettings(), channels=RGB_CHANNELS)
    image = built.normalise(tile(0, (64, 64)))
    np.testing.assert_array_equal(loaded.predict([image])[0], built.predict([image])[0])
    assert loaded.network.architecture.class_map == TWO  # type: ignore[union-attr]
    assert not loaded.network.training
    assert load_weights_file(path)["kind"] == name
    entries = load_weights_file(path)
    entries["state"] = dict(list(entries["state"].items())[1:])
    torch.save(entries, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match="missing"):
        KINDS[name].load(checkpoint(tmp_path / "less.pt", name), ClassSettings(), channels=RGB_CHANNELS, device="cpu")


def test_weights_are_asked_for_their_classes_once_until_they_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> dict[str, Any]:
        read.append(path)
        return load_weights_file(path)

    monkeypatch.setattr(class_checkpoint, "load_weights_file", counted)
    path = saved("semantic_unet", tmp_path)
    for _ in range(3):
        asked = checkpoint(path, "semantic_unet")
        assert trained_classes(asked) == TWO
        assert class_sizes(asked, None, ())["class"] == list(TWO.names)
        assert class_attrs(asked)["classes"] == TWO.flags
    assert read == [path]
    entries = torch.load(path, weights_only=True)
    entries["architecture"]["class_map"]["classes"] = [["tumor", [1]], ["necrosis", [4]]]
    torch.save(entries, path)
    assert trained_classes(checkpoint(path, "semantic_unet")).names == ("tumor", "necrosis")
    assert read == [path, path]


def test_colours_are_found_by_name() -> None:
    network = small("semantic_unet")
    image = tile(0, (32, 32))
    ours = KINDS["semantic_unet"].mapper(network, ClassSettings(), channels=RGB_CHANNELS)
    turned = KINDS["semantic_unet"].mapper(network, ClassSettings(), channels=RGB_CHANNELS[::-1])
    np.testing.assert_array_equal(ours.normalise(image), turned.normalise(image[::-1]))
    with pytest.raises(UnknownNameError):
        KINDS["semantic_unet"].mapper(network, ClassSettings(), channels=("DAPI",))


@given(shape=st.tuples(st.integers(20, 260), st.integers(20, 260)), seed=st.integers(0, 100))
def test_blended_windows_of_a_network_without_surroundings_are_the_whole(shape: tuple[int, int], seed: int) -> None:
    whole, windows = pixel_by_pixel(ClassSettings()), pixel_by_pixel(WINDOWS)
    image = whole.normalise(tile(seed, shape))
    np.testing.assert_allclose(windows.predict([image])[0], whole.predict([image])[0], atol=1e-5)


def test_large_tiles_are_seen_in_windows_and_smaller_ones_whole() -> None:
    cut = whole_or_blended(WINDOWS, stride=32)
    for shape, n_windows, seen in [((96, 90), 1, (96, 96)), ((97, 64), 2, (64, 64)), ((160, 160), 9, (64, 64))]:
        made = cut(np.zeros((3, *shape), np.float32))
        patches = list(made.patches)
        assert made.n_patches == len(patches) == n_windows
        assert {one.shape[1:] for one in patches} == {(seen[0], seen[1] if n_windows == 1 else 64)}


def test_a_unet_sees_tiles_whole_until_windows_would_be_less_work() -> None:
    mapper = KINDS["semantic_unet"].mapper(small("semantic_unet"), WINDOWS, channels=RGB_CHANNELS)
    for shape, n_windows in [((96, 90), 1), ((93, 95), 1), ((97, 64), 2), ((160, 160), 9)]:
        made = mapper.cut(np.zeros((3, *shape), np.float32))
        assert made.n_patches == n_windows, shape
        seen = sum(one[0].size for one in made.patches)
        assert n_windows > 1 or seen == 96 * 96 or seen == 96 * 92, shape


def test_a_unet_in_windows_leaves_no_seams() -> None:
    network = small("semantic_unet")
    whole, windows = (
        KINDS["semantic_unet"].mapper(network, ClassSettings(window_px=px), channels=RGB_CHANNELS) for px in (1024, 64)
    )
    image = whole.normalise(tile(3, (150, 201)))
    np.testing.assert_allclose(windows.predict([image])[0], whole.predict([image])[0], atol=1e-5)


@given(turns=st.integers(0, 3), mirrored=st.booleans(), seed=st.integers(0, 100))
def test_orientations_can_be_undone(turns: int, mirrored: bool, seed: int) -> None:
    image = tile(seed, (5, 7)).astype(np.float32)
    np.testing.assert_array_equal(restore(orient(image, turns, mirrored), turns, mirrored), image)


@pytest.mark.parametrize("name", ["semantic_unet", "sam2_semantic"])
def test_with_tta_a_turned_tile_gives_the_turned_map(name: str) -> None:
    mapper = KINDS[name].mapper(small(name), ClassSettings(tta=True), channels=RGB_CHANNELS)
    image = mapper.normalise(tile(0, (64, 64)))
    found = mapper.predict([image, orient(image, 1, True)])
    np.testing.assert_allclose(found[1], orient(found[0], 1, True), atol=1e-5)
    plain = KINDS[name].mapper(small(name), ClassSettings(), channels=RGB_CHANNELS)
    one, other = plain.predict([image, orient(image, 1, True)])
    assert np.abs(other - orient(one, 1, True)).max() > 1e-3


@torch.no_grad()
def test_tokens_of_a_point_give_the_mask_of_the_point() -> None:
    torch.manual_seed(0)
    network = Sam2Semantic(Sam2SemanticArchitecture(class_map=TWO, sam2=SMALL, head="prompts")).eval()
    images = torch.randn(2, 3, 128, 128)
    points = torch.tensor([[[[20.0, 30.0]], [[90.0, 64.0]]]])
    embedded = point_tokens(network.sam2, points, torch.ones(1, 2, 1, dtype=torch.long), (128, 128))
    assert network.tokens is not None
    assert network.tokens.shape == embedded[0].shape
    network.tokens.copy_(embedded[0])
    found = network(images)
    expected = decode(network.sam2, pyramid(network.sam2, images), embedded.expand(2, -1, -1, -1), multimask=False)
    assert torch.equal(found.logits, expected.masks[:, :, 0])
    assert torch.equal(found.iou, expected.iou[..., 0])
    assert torch.equal(found.presence, expected.presence)


@torch.no_grad()
def test_heads_of_sam2() -> None:
    made = {}
    for head in ("prompts", "dense", "both"):
        torch.manual_seed(0)
        made[head] = Sam2Semantic(Sam2SemanticArchitecture(class_map=TWO, sam2=SMALL, head=head)).eval()
    images = torch.randn(1, 3, 64, 96)
    prompts, dense, both = (made[head](images) for head in ("prompts", "dense", "both"))
    assert torch.equal(prompts.logits, both.logits), "the dense head starts at zero"
    assert dense.iou is None
    assert dense.presence is None
    assert dense.logits.shape == both.logits.shape == (1, 2, 16, 24)
    assert dense.logits.abs().max() > 0
    n_parameters = sum(value.numel() for value in made["both"].parameters())
    assert n_parameters < 1_000_000


def test_semantic_inference_of_queries_by_hand() -> None:
    # Two queries, one pixel; classes: none, tumor, nothing at all.
    classes = torch.log(torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]]))
    masks = torch.logit(torch.tensor([0.9, 0.4])).reshape(1, 2, 1, 1)
    found = MaskQueries(classes, masks, ()).logits
    none, tumor = 0.7 * 0.9 + 0.1 * 0.4, 0.2 * 0.9 + 0.8 * 0.4
    assert found.item() == pytest.approx(np.log(tumor / none), rel=1e-5)
    assert winners(found, dim=1).item() == 0


def queries(network: Mask2FormerSemantic, seed: int = 0) -> MaskQueries:
    return network(torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(seed)))


def test_labels_under_unknown_pixels_change_no_bit_of_the_matching_loss() -> None:
    network = Mask2FormerSemantic(small_mask2former()).eval()
    target = torch.from_numpy(stream(0, "labels").integers(0, 3, (2, 1, 64, 64)).astype(np.float32))
    unknown = target.clone()
    unknown[..., 32:] = -1
    output = queries(network)
    changed = MaskQueries(
        output.classes,
        torch.where(torch.arange(16) >= 8, 5.0, output.masks),
        tuple(
            {**one, "masks_queries_logits": torch.where(torch.arange(16) >= 8, -3.0, one["masks_queries_logits"])}
            for one in output.earlier
        ),
    )
    losses = []
    for proposed in (output, changed):
        torch.manual_seed(1)
        losses.append(matching_loss(network, proposed, unknown)[0])
    assert torch.equal(*losses)
    (gradient,) = torch.autograd.grad(losses[0], [output.masks])
    assert gradient[..., :8].any()
    assert not gradient[..., 8:].any()


def test_the_classes_of_queries_are_weighed_as_cross_entropy_is() -> None:
    network = Mask2FormerSemantic(small_mask2former()).eval()
    target = torch.from_numpy(stream(0, "labels").integers(0, 3, (2, 1, 64, 64)).astype(np.float32))
    output = queries(network)
    last = MaskQueries(output.classes, output.masks, ())

    def parts() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return matching_loss(network, last, target)[1]

    plain = parts()
    weigh_classes(network, (0.5, 1.5))
    weighed = parts()
    assert torch.equal(plain["mask"], weighed["mask"])
    assert torch.equal(plain["dice"], weighed["dice"])
    torch.manual_seed(1)
    matched = network.proposer.criterion.matcher(
        last.masks, last.classes, [(target[i] == torch.arange(3)[:, None, None]).float() for i in range(2)],
        [torch.arange(3)] * 2,
    )  # fmt: skip
    chosen = torch.full((2, 6), 3)
    for image, (query, label) in enumerate(matched):
        chosen[image, query] = label
    weight = torch.tensor([1.0, 0.5, 1.5, 0.1])[chosen]
    wrong = -output.classes.log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
    factor = network.proposer.weight_dict["loss_cross_entropy"]
    torch.testing.assert_close(weighed["cross_entropy"], factor * (weight * wrong).sum() / weight.sum())
    with pytest.raises(FintuneValueError, match="expected 2 weights, one for each class, got 3"):
        weigh_classes(network, (1, 2, 3))


def test_an_image_of_which_nothing_is_known_is_left_out() -> None:
    network = Mask2FormerSemantic(small_mask2former()).eval()
    target = torch.from_numpy(stream(1, "labels").integers(0, 3, (2, 1, 64, 64)).astype(np.float32))
    target[1] = -1
    output = queries(network)
    torch.manual_seed(1)
    with_it, parts = matching_loss(network, output, target)
    first = MaskQueries(
        output.classes[:1], output.masks[:1], tuple({k: v[:1] for k, v in one.items()} for one in output.earlier)
    )
    torch.manual_seed(1)
    without, _ = matching_loss(network, first, target[:1])
    torch.testing.assert_close(with_it, without)
    assert set(parts) == {"mask", "dice", "cross_entropy"}
    torch.testing.assert_close(with_it, sum(parts.values()))
    nothing, none = matching_loss(network, output, torch.full_like(target, -1))
    assert nothing.item() == 0
    assert none == {}
