"""SAM: weights of any size by the same loader, and masks equal to segment_anything's own generator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.modeling import Sam

from fintune_xr.errors import CheckpointError, CheckpointNotFoundError, SettingsError, UnknownNameError
from fintune_xr.models.checkpoints import load_weights_file
from fintune_xr.models.protocol import Segmenter, segment
from fintune_xr.models.registry import kind_named, load_segmenter, published_named, resolve_checkpoint
from fintune_xr.models.sam import kind as sam_kind
from fintune_xr.models.sam.adapter import SamSize, build_sam, empty_sam, load_sam, sam_size
from fintune_xr.models.sam.colours import composite, sam_channels
from fintune_xr.models.sam.keys import sam_state
from fintune_xr.models.sam.masks import Candidates, candidate_masks, paint, select
from fintune_xr.models.sam.prompts import SamPrompts
from fintune_xr.models.sam.settings import SamInputSettings, SamSettings, SamSweepSettings
from fintune_xr.models.weights_cache import fetch_weights
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings, validate

SMALL = SamSize(width=64, depth=2, heads=4, global_blocks=(1,), image_px=256)


def small_network(seed: int = 0) -> Sam:
    """A reduced SAM whose random masks differ in place, size, stability and score, so that every filter has work."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = empty_sam(SMALL)
        with torch.no_grad():
            network.image_encoder.pos_embed.normal_()
            decoder = network.mask_decoder
            decoder.iou_prediction_head.layers[-1].weight *= 2
            decoder.iou_prediction_head.layers[-1].bias += 0.4
            for norm in (m for m in decoder.transformer.modules() if isinstance(m, torch.nn.LayerNorm)):
                norm.weight *= 2
            # One feature that is the same everywhere lowers all logits, so that masks are small.
            decoder.output_upscaling[3].bias[0] = 10
            for head in decoder.output_hypernetworks_mlps:
                head.layers[-1].weight *= 180
                head.layers[-1].weight[0] = 0
                head.layers[-1].bias[0] = -4
    return network


@pytest.fixture(scope="module")
def network() -> Sam:
    return small_network()


@pytest.fixture(scope="module")
def saved(network: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "tiny.pth"
    torch.save(network.state_dict(), path)
    return path


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Bright discs on noise (y, x, 3) uint8."""
    rng = stream(seed, "sam picture")
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    rows, columns = np.ogrid[:height, :width]
    for _ in range(12):
        y, x, radius = rng.integers(0, height), rng.integers(0, width), rng.integers(5, 25)
        image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.integers(100, 255, 3)
    return image


def candidates_of(network: Sam, image: np.ndarray, side: int, loosest: tuple[float, float]) -> Candidates:
    asked = SamPrompts(network)
    return candidate_masks(asked, asked.embed(image), points_per_side=side, loosest=loosest, options=SamInputSettings())


def test_a_file_says_that_it_is_sam(saved: Path, network: Sam) -> None:
    checkpoint = resolve_checkpoint(saved)
    assert (checkpoint.kind, checkpoint.name) == ("sam", "tiny")
    loaded = load_sam(checkpoint, device="cpu")
    assert not loaded.training
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize("prefix", ["", "sam.", "module.sam."])
@pytest.mark.parametrize("nested", [False, True])
def test_states_of_micro_sam_need_no_conversion(network: Sam, tmp_path: Path, prefix: str, nested: bool) -> None:
    state = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    other = {"decoder_state": {"out_conv.weight": torch.ones(3)}}
    path = tmp_path / "best.pt"
    torch.save({"model_state": state, "epoch": 3, **other} if nested else {**state, **other}, path)
    assert resolve_checkpoint(path).kind == "sam"
    built = build_sam(sam_state(load_weights_file(path)), source=str(path))
    assert torch.equal(built.mask_decoder.iou_token.weight, network.mask_decoder.iou_token.weight)


@pytest.mark.parametrize(("name", "heads"), [("vit_b", 12), ("vit_l", 16), ("vit_h", 16)])
def test_published_sizes_are_read_off_their_weights(name: str, heads: int) -> None:
    with torch.device("meta"):
        published = sam_model_registry[name]()
        size = sam_size(published.state_dict(), source=name)
        assert (size.heads, size.image_px, size.window) == (heads, 1024, 14)
        ours = {key: value.shape for key, value in empty_sam(size).state_dict().items()}
    assert ours == {key: value.shape for key, value in published.state_dict().items()}
    spans = [block.window_size for block in published.image_encoder.blocks]
    assert size.global_blocks == tuple(i for i, span in enumerate(spans) if span == 0)


def test_weights_that_do_not_fit_are_named(network: Sam) -> None:
    state = dict(network.state_dict())
    del state["mask_decoder.iou_token.weight"]
    state["extra"] = torch.ones(1)
    with pytest.raises(CheckpointError, match=r"(?s)missing: mask_decoder\.iou_token\.weight.*unknown: extra"):
        build_sam(state, source="broken.pth")
    tiny_vit = {"image_encoder.layers.0.blocks.0.conv1.c.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"image_encoder\.pos_embed.*vit_t.*SAM 2"):
        build_sam(tiny_vit, source="mobile.pt")
    odd = {**network.state_dict(), "image_encoder.blocks.1.attn.rel_pos_h": torch.ones(9, 16)}
    with pytest.raises(CheckpointError, match="windows of several sizes"):
        build_sam(odd, source="odd.pt")


def test_published_names_come_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setenv(sam_kind.TORCH_HOME_VARIABLE, str(tmp_path / "torch"))
    with pytest.raises(CheckpointNotFoundError, match=r"'sam_vit_b'.*sam_vit_b_01ec64\.pth.*fetch sam_vit_b.*TORCH"):
        resolve_checkpoint("sam_vit_b")
    source = tmp_path / "published"
    source.mkdir()
    (source / "sam_vit_b_01ec64.pth").write_bytes(saved.read_bytes())
    monkeypatch.setattr(sam_kind, "SAM_ADDRESS", f"{source.as_uri()}/")
    with pytest.raises(CheckpointError, match="SHA-256 that begins with 01ec64"):
        fetch_weights(published_named("sam_vit_b"))
    assert resolve_checkpoint("sam_vit_b").name == "sam_vit_b"


# Points per side, predicted IoU, stability, overlap of boxes. Sides that repeat share one pass.
SETTINGS = [
    (8, 0.0, 0.0, 0.7),
    (8, 0.6, 0.0, 0.9),
    (8, 0.6, 0.65, 0.5),
    (5, 0.0, 0.7, 0.7),
    (5, 0.7, 0.7, 0.3),
    (4, 1.0, 0.5, 0.7),
]


@pytest.mark.parametrize("shape", [(256, 256), (200, 331)])
def test_masks_are_those_of_the_reference(network: Sam, shape: tuple[int, int]) -> None:
    """One pass with the loosest filters serves every setting, bit for bit."""
    image = picture(*shape, seed=shape[1])
    found = {side: candidates_of(network, image, side, (0.0, 0.0)) for side in {one[0] for one in SETTINGS}}
    kept_counts = []
    for side, iou, stability, overlap in SETTINGS:
        reference = SamAutomaticMaskGenerator(
            network, points_per_side=side, pred_iou_thresh=iou, stability_score_thresh=stability,
            box_nms_thresh=overlap,
        ).generate(image)  # fmt: skip
        kept = select(found[side], (iou, stability), box_nms_thresh=overlap)
        assert len(kept) == len(reference)
        kept_counts.append(len(kept))
        for index, expected in zip(kept, reference, strict=True):
            assert np.array_equal(found[side].full(index), expected["segmentation"])
            assert found[side].predicted_iou[index].item() == expected["predicted_iou"]
            np.testing.assert_equal(found[side].stability[index].item(), expected["stability_score"])
            assert found[side].area_px[index] == expected["area"]
            left, top, right, bottom = found[side].boxes[index].tolist()
            assert [left, top, right - left, bottom - top] == expected["bbox"]
    assert len(set(kept_counts)) >= 4, kept_counts
    assert min(kept_counts) == 0


def test_the_loosest_filter_changes_nothing_but_what_it_drops(network: Sam) -> None:
    image = picture(128, 160, seed=5)
    everything = candidates_of(network, image, 6, (0.0, 0.0))
    fewer = candidates_of(network, image, 6, (0.6, 0.6))
    assert 0 < len(fewer.bits) < len(everything.bits)
    for thresholds in ((0.6, 0.6), (0.7, 0.7)):
        one, other = (select(c, thresholds, box_nms_thresh=0.7) for c in (everything, fewer))
        assert [everything.bits[i].tobytes() for i in one] == [fewer.bits[i].tobytes() for i in other]


def test_masks_at_the_edge_of_the_tile_stay(network: Sam) -> None:
    found = candidates_of(network, picture(96, 96, seed=2), 6, (0.0, 0.0))
    boxes = found.boxes[select(found, (0.0, 0.0), box_nms_thresh=1.0)]
    assert (boxes[:, :2].min(), boxes[:, 2:].max()) == (0, 95)


@st.composite
def masks_to_paint(draw: st.DrawFn) -> np.ndarray:
    """Masks (mask, y, x), best first: boxes with a hole in some of them."""
    masks = np.zeros((draw(st.integers(0, 6)), 12, 12), bool)
    for mask in masks:
        top, left = draw(st.integers(0, 10)), draw(st.integers(0, 10))
        height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        mask[top : top + height, left : left + width] = True
        mask[top + 1, left + 1] &= draw(st.booleans())
    return masks


def as_candidates(masks: np.ndarray) -> Candidates:
    boxes = [(c.min(), r.min(), c.max(), r.max()) for r, c in (np.nonzero(mask) for mask in masks)]
    pairs = zip(masks, boxes, strict=True)
    crops = [mask[top : bottom + 1, left : right + 1] for mask, (left, top, right, bottom) in pairs]
    scores = torch.linspace(1, 0.5, len(masks))
    return Candidates(
        scores, scores, torch.tensor(np.array(boxes).reshape(-1, 4)), masks.sum((1, 2)),
        tuple(np.packbits(crop) for crop in crops), (12, 12),
    )  # fmt: skip


@given(masks_to_paint(), st.integers(1, 20), st.floats(0.05, 1))
def test_the_better_mask_wins_pixel_by_pixel(masks: np.ndarray, least: int, fraction: float) -> None:
    rule = SamInputSettings(min_area_px=least, max_area_fraction=fraction)
    got = paint(as_candidates(masks), range(len(masks)), rule)
    wanted = np.zeros((12, 12), int)
    cells = [mask for mask in masks if mask.sum() <= fraction * 144]
    for y, x in np.ndindex(12, 12):
        wanted[y, x] = next((label for label, mask in enumerate(cells, start=1) if mask[y, x]), 0)
    for label in range(1, len(cells) + 1):
        if (wanted == label).sum() < least:
            wanted[wanted == label] = 0
    renamed = np.searchsorted(np.unique(np.append(wanted, 0)), wanted)
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, renamed)


def test_planes_become_colours() -> None:
    tile = np.stack([np.arange(10000).reshape(100, 100), np.full((100, 100), 7), np.eye(100) * 9]).astype(np.uint16)
    available = ("DAPI", "marker", "third")
    image = composite(tile, sam_channels(available, SamSettings()), SamSettings(percentiles=(0, 100)))
    assert image.shape == (100, 100, 3)
    assert image[..., 0].max() == 0, "a flat plane stays black"
    assert image[..., 2].max() == 0
    np.testing.assert_allclose(image[..., 1], np.arange(10000).reshape(100, 100) / 9999 * 255, atol=0.51)
    grey = SamSettings(channels=("third",))
    image = composite(tile, sam_channels(available, grey), grey)
    assert (image == image[..., :1]).all()
    assert image.max() == 255
    blank = SamSettings(zero_channels=("DAPI",))
    assert composite(tile, sam_channels(available, blank), blank).max() == 0
    with pytest.raises(UnknownNameError, match="no channel 'marker'"):
        sam_channels(("DAPI",), SamSettings())


def test_sam_is_a_segmenter_like_any_other(saved: Path) -> None:
    settings = SamSettings(points_per_side=6, pred_iou_thresh=0.6, stability_score_thresh=0.5, max_area_fraction=1)
    segmenter = load_segmenter(resolve_checkpoint(saved), channels=("DAPI", "marker"), settings=settings, device="cpu")
    assert isinstance(segmenter, Segmenter)
    tile = np.moveaxis(picture(120, 90, seed=1), -1, 0)[:2].astype(np.uint16)
    (mask,) = segment(segmenter, [tile])
    assert (mask.shape, mask.dtype) == ((120, 90), np.uint32)
    assert set(np.unique(mask)) == set(range(mask.max() + 1))
    assert mask.max() > 0


def test_settings_are_checked() -> None:
    assert kind_named("sam").settings is SamSettings
    with pytest.raises(SettingsError, match=r"percentiles.*low < high"):
        validate(SamSettings, {"percentiles": [60, 40]})
    with pytest.raises(SettingsError, match=r"points_per_crop: no such setting.*Did you mean 'points_per_"):
        load_settings(SamSweepSettings, overrides=["points_per_crop=64"])
    with pytest.raises(SettingsError, match=r"pred_iou_thresh: expected different values"):
        validate(SamSweepSettings, {"pred_iou_thresh": [0.5, 0.5]})


class Regions:
    """Anything but SAM: the mask of a point is the bright region that it lies in, at the size of the image."""

    mask_threshold = 0.0

    def embed(self, image: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(shape=image.shape[:2], regions=ndimage.label(image[..., 0] > 100)[0])

    def decode(self, embedded: SimpleNamespace, points: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        at = embedded.regions[points[:, 1].astype(int), points[:, 0].astype(int)]
        masks = (embedded.regions == at[:, None, None]) & (at > 0)[:, None, None]
        return torch.from_numpy(np.where(masks, np.float32(10), np.float32(-10))), torch.from_numpy(
            np.where(at > 0, np.float32(0.9), np.float32(0.1))
        )

    def at_full_size(self, embedded: SimpleNamespace, logits: torch.Tensor) -> torch.Tensor:
        return logits


def test_any_network_that_takes_points_can_be_asked() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[10:25, 10:30] = image[35:50, 50:80] = 200
    asked, options = Regions(), SamInputSettings(points_per_batch=7)
    found = candidate_masks(asked, asked.embed(image), points_per_side=8, loosest=(0.5, 0.5), options=options)
    kept = select(found, (0.5, 0.5), box_nms_thresh=0.7)
    expected = ndimage.label(image[..., 0] > 100)[0]
    got = paint(found, kept, options)
    assert sorted(np.unique(got)) == [0, 1, 2]
    np.testing.assert_array_equal(got > 0, expected > 0)
    assert len(np.unique(got[expected == 1])) == len(np.unique(got[expected == 2])) == 1
