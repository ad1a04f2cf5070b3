"""The particle U-Net applied: normalisation, windows without seams, candidates, its weights file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from micrographs import DIAMETER_PX

from fintune_xr.errors import CheckpointError, DeviceError, FintuneValueError, SettingsError, UnknownNameError
from fintune_xr.metrics.detection import match_points
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.dynunet import reach_px, stride_px
from fintune_xr.models.particle_unet.adapter import ParticleUnet, UnetDetector, probability, save_unet, standardise
from fintune_xr.models.particle_unet.settings import ParticleUnetArchitecture, ParticleUnetSettings
from fintune_xr.models.protocol import Detector
from fintune_xr.models.registry import load_model, load_segmenter, resolve_checkpoint
from fintune_xr.models.threshold.settings import ThresholdSettings
from fintune_xr.models.windows import windows
from fintune_xr.seeds import stream

CHANNELS = ("micrograph",)
ONE = ChannelChoice(CHANNELS, (0,), (False,))


def network(filters: tuple[int, ...] = (4, 8, 8)) -> ParticleUnet:
    """Random weights, with norm layers that have seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ParticleUnet(
            ParticleUnetArchitecture(channels=CHANNELS, filters=filters, diameter_px=DIAMETER_PX, disc_fraction=0.6)
        )
        made.train()
        made(torch.randn(4, 1, 64, 64))
    return made.eval()


def detector(net: ParticleUnet, **settings: float) -> UnetDetector:
    return UnetDetector(net, ParticleUnetSettings(**settings), choice=ONE)


@pytest.mark.parametrize("shape", [(301, 277), (64, 512), (33, 40)])
@pytest.mark.parametrize("filters", [(4, 8, 8), (4, 4, 4, 8)])
def test_windows_give_what_the_whole_micrograph_gives(shape: tuple[int, int], filters: tuple[int, ...]) -> None:
    net = network(filters)
    image = stream(1).normal(size=(1, *shape)).astype(np.float32)
    (whole,) = detector(net, window_px=4096).predict([image])
    (parts,) = detector(net, window_px=64, patch_batch=3).predict([image])
    assert whole.shape == (1, *shape)
    assert whole.std() > 0.05
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_the_halo_is_as_far_as_the_network_sees() -> None:
    for filters in ((4, 8, 8), (4, 4, 4, 8)):
        net, reach, farthest = network(filters), reach_px(len(filters)), 0
        for pixel in range(96, 96 + stride_px(len(filters))):
            image = torch.zeros(1, 1, 192, 192, requires_grad=True)
            (gradient,) = torch.autograd.grad(net(image)[0, 0, pixel, pixel], image)
            farthest = max(farthest, int((gradient[0, 0].nonzero() - pixel).abs().max()))
        assert farthest == reach


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 5), st.sampled_from([1, 2, 4, 8]))
def test_every_pixel_is_kept_once(n_steps: int, window_px: int, halo_steps: int, stride: int) -> None:
    length, halo = n_steps * stride, halo_steps * stride
    made = list(windows(length, window_px, stride, halo))
    kept = np.concatenate([np.arange(length)[one.kept] for one in made])
    np.testing.assert_array_equal(kept, np.arange(length))
    assert len({one.seen.stop - one.seen.start for one in made}) == 1
    for one in made:
        np.testing.assert_array_equal(np.arange(length)[one.seen][one.inside], np.arange(length)[one.kept])
        assert one.seen.start % stride == 0
        assert one.seen.start <= max(0, one.kept.start - halo)
        assert one.seen.stop >= min(length, one.kept.stop + halo)


@given(st.floats(0.1, 1000), st.floats(-1e3, 1e3))
def test_normalisation_forgets_gain_and_offset(gain: float, offset: float) -> None:
    image = stream(2).normal(0, 1, (40, 50)).astype(np.float32)
    image[:2, :2] = 500
    plain = standardise(image)
    inside = plain[(image >= np.percentile(image, 0.5)) & (image <= np.percentile(image, 99.5))]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-3)
    assert float(inside.std()) == pytest.approx(1, abs=1e-3)
    assert plain.max() == 6, "what is far outside must not stretch the rest"
    np.testing.assert_allclose(standardise(image * np.float32(gain) + np.float32(offset)), plain, atol=0.05)


def test_a_micrograph_without_contrast_is_zero_and_one_without_pixels_refused() -> None:
    assert not standardise(np.full((8, 8), 7, np.uint8)).any()
    with pytest.raises(FintuneValueError, match=r"expected \(y, x\) with pixels, got shape \(0, 8\)"):
        standardise(np.empty((0, 8), np.float32))


def test_candidates_are_picked_from_what_is_stored() -> None:
    y, x = np.mgrid[:80, :90]
    centres = np.array([[20.0, 20.0], [20.0, 40.0], [60.0, 70.0]])
    logits = np.full((1, 80, 90), -6, np.float32)
    for cy, cx in centres:
        logits[0][(y - cy) ** 2 + (x - cx) ** 2 <= 3.6**2] = 5
    made = detector(network()).reconstruct(logits)
    assert made.probability.dtype == np.uint16
    np.testing.assert_allclose(made.probability / 65535, probability(logits), atol=1 / 65535)
    table = made.candidates
    assert table.n_cells == 3
    assert table.label.tolist() == [1, 2, 3]
    assert (table.score > 0.9).all()
    found = np.column_stack([table.centroid_y, table.centroid_x])
    assert match_points(centres, found, table.score, distance_px=1).counts() == (3, 0, 0)
    assert (np.diff(table.score) <= 0).all()


def test_memory_that_is_full_makes_windows_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    image = stream(3).normal(size=(1, 200, 200)).astype(np.float32)
    (expected,) = detector(net, window_px=4096).predict([image])
    run = UnetDetector._run

    def full(self: UnetDetector, patches: np.ndarray) -> np.ndarray:
        if patches[:, 0].size > 130 * 130:
            raise torch.cuda.OutOfMemoryError("full")
        return run(self, patches)

    monkeypatch.setattr(UnetDetector, "_run", full)
    (found,) = detector(net, window_px=256, patch_batch=2).predict([image])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    monkeypatch.setattr(UnetDetector, "_run", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("full")))
    with pytest.raises(DeviceError, match="out of memory with a single window of 64 px"):
        detector(net, window_px=256, patch_batch=2).predict([image])


def test_the_weights_file_says_what_it_is(tmp_path: Path) -> None:
    net = network()
    save_unet(net, {"loss": "combined"}, tmp_path / "particles.pt")
    checkpoint = resolve_checkpoint(tmp_path / "particles.pt")
    assert (checkpoint.kind, checkpoint.channels) == ("particle_unet", CHANNELS)
    loaded = load_model(checkpoint, channels=("other", "micrograph"), settings=ParticleUnetSettings(), device="cpu")
    assert isinstance(loaded, Detector)
    assert isinstance(loaded, UnetDetector)
    assert loaded.diameter_px == DIAMETER_PX
    tile = stream(4).normal(size=(2, 48, 48)).astype(np.float32)
    (found,) = loaded.predict([loaded.normalise(tile)])
    (expected,) = detector(net).predict([standardise(tile[1])[None]])
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(UnknownNameError, match="no channel 'micrograph'"):
        load_model(checkpoint, channels=("DAPI",), settings=ParticleUnetSettings(), device="cpu")
    with pytest.raises(SettingsError, match="kind particle_unet takes ParticleUnetSettings"):
        load_model(checkpoint, channels=CHANNELS, settings=ThresholdSettings(), device="cpu")
    with pytest.raises(FintuneValueError, match="runs store probability: expected one that gives instance masks"):
        load_segmenter(checkpoint, channels=CHANNELS, settings=ParticleUnetSettings(), device="cpu")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    net = network()
    save_unet(net, {}, tmp_path / "a.pt")
    entries = torch.load(tmp_path / "a.pt", weights_only=True)
    entries["architecture"]["filters"] = [4, 8, 16]
    torch.save(entries, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="does not fit ParticleUnet"):
        load_model(
            resolve_checkpoint(tmp_path / "b.pt"), channels=CHANNELS, settings=ParticleUnetSettings(), device="cpu"
        )
