"""Patches of stained tissue: exact where nothing shall change, against scikit-image and SciPy where something does."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import map_coordinates
from skimage.color import combine_stains, separate_stains
from torchvision.transforms.functional import gaussian_blur

from fintune_xr.finetune.augmentation import Geometry, cut_labels
from fintune_xr.finetune.semantic.augmentation import cut_colours, draw_bent, drawn_bend, vary_colours
from fintune_xr.finetune.semantic.settings import ColourAugmentationSettings
from fintune_xr.finetune.semantic.stain import StainJitter, draw_jitter, jitter_stain, stain_rows
from fintune_xr.models.colours import IMAGENET_MEAN, IMAGENET_SD, standardised_colours
from fintune_xr.seeds import stream

NOTHING = ColourAugmentationSettings(
    rotation="none", flip=False, elastic=0, stain_alpha=0, stain_beta=0, colour=0, blur_probability=0
)
# scikit-image divides natural logarithms by that of its least value, 1e-6.
UNIT = -np.log(1e-6)


def coloured(seed: int, shape: tuple[int, int] = (40, 48)) -> np.ndarray:
    return stream(seed, "colours").integers(0, 256, (3, *shape)).astype(np.float32)


@given(seed=st.integers(0, 1000))
def test_a_jitter_of_nothing_changes_no_bit(seed: int) -> None:
    image = torch.from_numpy(coloured(seed))
    assert torch.equal(jitter_stain(image, StainJitter((1, 1), (0, 0))), image)
    assert draw_jitter(stream(seed), alpha=0, beta=0) == StainJitter((1, 1), (0, 0))


def test_glass_and_black_stay_what_they_are() -> None:
    strong = StainJitter((1.3, 0.7), (0.3, 0.3))
    for value in (255.0, 0.0):
        image = torch.full((3, 4, 4), value)
        assert torch.equal(jitter_stain(image, strong), image)


def test_stain_rows_are_unit_lengths_of_the_published_ones() -> None:
    rows = stain_rows()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)
    np.testing.assert_allclose(rows[0] / rows[0, 0] * 0.65, [0.65, 0.70, 0.29])
    np.testing.assert_allclose(rows[1] / rows[1, 0] * 0.07, [0.07, 0.99, 0.11])
    np.testing.assert_allclose(rows[2] @ rows[:2].T, 0, atol=1e-12)


@given(seed=st.integers(0, 1000))
def test_stained_pixels_change_as_in_scikit_image(seed: int) -> None:
    rng = stream(seed, "stained")
    # Amounts of stain that leave all three colours between 1 and 255, and a mean density over the limit.
    amounts = np.concatenate([rng.uniform(0.4, 1.0, (8, 8, 2)), np.zeros((8, 8, 1))], -1)
    image = 255 * np.exp(-amounts @ stain_rows())
    jitter = draw_jitter(rng, alpha=0.3, beta=0.3)
    found = jitter_stain(torch.from_numpy(image).movedim(-1, 0).double(), jitter).movedim(0, -1).numpy()
    separated = separate_stains(image / 255, np.linalg.inv(stain_rows())) * UNIT
    np.testing.assert_allclose(separated[..., :2], amounts[..., :2], atol=1e-9)
    changed = separated * [*jitter.alpha, 1] + [*jitter.beta, 0]
    expected = 255 * combine_stains(changed / UNIT, stain_rows())
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_pale_pixels_change_in_proportion() -> None:
    pale = torch.full((3, 1, 1), 255 * float(np.exp(-0.075)), dtype=torch.float64)
    jitter = StainJitter((1, 1), (0.2, 0))
    expected = pale[:, 0, 0] * torch.exp(torch.from_numpy(-0.5 * 0.2 * stain_rows()[0]))
    torch.testing.assert_close(jitter_stain(pale, jitter)[:, 0, 0], expected)


def test_batches_are_stained_image_by_image() -> None:
    images = torch.from_numpy(np.stack([coloured(0), coloured(1)]))
    jitter = StainJitter((1.2, 0.8), (0.1, -0.2))
    torch.testing.assert_close(jitter_stain(images, jitter)[1], jitter_stain(images[1], jitter))


def test_a_real_patch_is_jittered_strongly_and_soon(real_data) -> None:
    image = np.asarray(Image.open(next((real_data / "bcss" / "patches").glob("*_image.png"))))[:256, :256]
    patch = torch.from_numpy(np.moveaxis(image, -1, 0).astype(np.float32))
    rng = stream(0, "real")
    moved = [
        float((jitter_stain(patch, draw_jitter(rng, alpha=0.3, beta=0.3)) - patch).abs().mean()) for _ in range(30)
    ]
    assert 8 < np.mean(moved) < 30
    started = time.process_time()
    for _ in range(5):
        jitter_stain(patch, StainJitter((1.2, 0.8), (0.1, -0.2)))
    assert (time.process_time() - started) / 5 < 0.1


@given(seed=st.integers(0, 1000))
def test_bent_labels_are_labels_that_were_there(seed: int) -> None:
    rng = stream(seed, "bent")
    labels = rng.choice([0, 2, 5], (1, 60, 70)).astype(np.float32)
    geometry = draw_bent(rng, (60, 70), 48, ColourAugmentationSettings(rotation="any", scale=(0.7, 1.4)))
    image, moved = cut_colours(coloured(seed, (60, 70)), labels, geometry, 48)
    assert set(np.unique(moved)) <= {-1, 0, 2, 5}
    assert image.min() >= -1e-3
    assert image.max() <= 255 + 1e-3


def test_bending_is_that_of_scipy() -> None:
    rng = stream(3, "bend")
    image, labels = coloured(3, (64, 64)), rng.integers(0, 4, (1, 64, 64)).astype(np.float32)
    bend = drawn_bend(rng, 32, 30, 4)
    geometry = Geometry((31.5, 31.5), np.eye(2), 1.0, bend)
    cut, moved = cut_labels(image, labels, geometry, 32)
    places = np.stack(np.meshgrid(np.arange(32.0) + 16, np.arange(32.0) + 16, indexing="ij")) + np.moveaxis(bend, -1, 0)
    for plane, found in zip(image, cut, strict=True):
        np.testing.assert_allclose(found, map_coordinates(plane, places, order=1), atol=0.01)
    # Where a place lies half way between two pixels, either is nearest.
    clear = (np.abs(places % 1 - 0.5) > 1e-3).all(0)
    np.testing.assert_array_equal(moved[0][clear], map_coordinates(labels[0], np.rint(places), order=0)[clear])


def test_the_bend_has_the_size_that_was_measured() -> None:
    bend = drawn_bend(stream(0, "size"), 256, 30, 4)
    assert np.sqrt((bend**2).mean()) == pytest.approx(1.2, abs=0.1)


def test_beyond_the_tile_lie_glass_and_the_unknown() -> None:
    geometry = draw_bent(stream(0), (40, 40), 64, NOTHING)
    image, labels = cut_colours(coloured(0, (40, 40)), np.ones((1, 40, 40), np.float32), geometry, 64)
    assert (image[:, :11] == 255).all()
    assert (labels[:, :11] == -1).all()
    assert (labels[:, 13:51, 13:51] == 1).all()


def test_without_augmentation_a_patch_is_the_standardised_tile() -> None:
    image = coloured(1, (32, 32))
    geometry = draw_bent(stream(0), (32, 32), 32, NOTHING)
    cut, _ = cut_colours(image, np.zeros((1, 32, 32), np.float32), geometry, 32)
    np.testing.assert_allclose(cut, image, atol=1e-3)
    found = vary_colours(stream(1), image, NOTHING)
    mean, sd = np.array(IMAGENET_MEAN)[:, None, None], np.array(IMAGENET_SD)[:, None, None]
    np.testing.assert_allclose(found, (image / 255 - mean) / sd, atol=1e-5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, standardised_colours(image.astype(np.uint8)))


def test_a_blur_is_the_last_that_happens_to_colours() -> None:
    image = coloured(2, (64, 64))
    settings = NOTHING.model_copy(update={"blur": (1.5, 1.5), "blur_probability": 1.0})
    expected = gaussian_blur(torch.from_numpy(image), [11, 11], [1.5, 1.5])
    found = vary_colours(stream(1), image, settings)
    np.testing.assert_allclose(found, standardised_colours(expected.numpy()), atol=1e-4)


@given(seed=st.integers(0, 1000))
def test_the_same_stream_gives_the_same_patch(seed: int) -> None:
    image = coloured(seed, (32, 32))
    settings = ColourAugmentationSettings()
    first, second = (vary_colours(stream(seed, "patch"), image, settings) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, standardised_colours(image))
    lowest, highest = standardised_colours(np.zeros((3, 1, 1))), standardised_colours(np.full((3, 1, 1), 255))
    assert ((first >= lowest - 1e-4) & (first <= highest + 1e-4)).all()
