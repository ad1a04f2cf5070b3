"""Losses that ignore unknown pixels: in value and in gradient, against MONAI and torch where none is unknown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.losses import DiceLoss, FocalLoss

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.dense_losses import combined_loss, cross_entropy, dice_loss, focal_loss
from fintune_xr.seeds import stream

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Loss] = {
    "focal": focal_loss,
    "dice": dice_loss,
    "cross_entropy": cross_entropy,
    "weighted": lambda logits, target: cross_entropy(logits, target, pos_weight=3.0),
    "combined": lambda logits, target: combined_loss(logits, target, pos_weight=2.0).total,
}


def drawn(seed: int, *, shape: tuple[int, ...] = (2, 1, 8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in double precision, and labels 0 and 1."""
    rng = stream(seed, "losses")
    logits = torch.from_numpy(rng.normal(0, 3, shape)).requires_grad_()
    return logits, torch.from_numpy(rng.integers(0, 2, shape).astype(np.float32))


@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 1000))
def test_ignored_pixels_do_not_exist(name: str, seed: int) -> None:
    loss = LOSSES[name]
    logits, target = drawn(seed)
    half = target.clone()
    half[..., 4:] = -1
    value = loss(logits, half)
    (gradient,) = torch.autograd.grad(value, logits)
    alone = logits.detach()[..., :4].clone().requires_grad_()
    expected = loss(alone, target[..., :4])
    (expected_gradient,) = torch.autograd.grad(expected, alone)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(gradient[..., :4], expected_gradient, rtol=1e-5, atol=1e-8)
    assert not gradient[..., 4:].any(), "a pixel that is unknown has a gradient"


@pytest.mark.parametrize("name", LOSSES)
def test_what_an_ignored_pixel_holds_does_not_matter(name: str) -> None:
    logits, target = drawn(1)
    target[0, 0, 0, :3] = -1
    wild = logits.detach().clone()
    wild[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -1e30], dtype=wild.dtype)
    wild.requires_grad_()
    torch.testing.assert_close(LOSSES[name](wild, target), LOSSES[name](logits, target))
    (gradient,) = torch.autograd.grad(LOSSES[name](wild, target), wild)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_known_teaches_nothing(name: str) -> None:
    logits, target = drawn(2)
    value = LOSSES[name](logits, torch.full_like(target, -1))
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == 0
    assert not gradient.any()


@given(seed=st.integers(0, 1000), gamma=st.floats(0, 5), alpha=st.floats(0.05, 0.95))
def test_focal_loss_is_that_of_monai(seed: int, gamma: float, alpha: float) -> None:
    logits, target = drawn(seed)
    ours = focal_loss(logits, target, alpha=alpha, gamma=gamma)
    theirs = FocalLoss(gamma=gamma, alpha=alpha)(logits.float(), target)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    (own,), (other,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-6)


@given(seed=st.integers(0, 1000))
def test_dice_loss_is_that_of_monai_over_the_batch(seed: int) -> None:
    logits, target = drawn(seed)
    theirs = DiceLoss(sigmoid=True, batch=True)(logits.float(), target)
    torch.testing.assert_close(dice_loss(logits, target), theirs, rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 1000), pos_weight=st.floats(0.1, 20))
def test_cross_entropy_is_that_of_torch(seed: int, pos_weight: float) -> None:
    logits, target = drawn(seed)
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(pos_weight))(logits.float(), target)
    torch.testing.assert_close(cross_entropy(logits, target, pos_weight=pos_weight), theirs, rtol=1e-5, atol=1e-6)
    without_focus = focal_loss(logits, target, alpha=0.5, gamma=0, pos_weight=pos_weight)
    torch.testing.assert_close(without_focus, theirs / 2, rtol=1e-4, atol=1e-6)


def test_the_parts_have_the_weights_of_the_study() -> None:
    logits, target = drawn(4)
    target[0, 0, :2] = -1
    found = combined_loss(logits, target)
    torch.testing.assert_close(found.total, 0.7 * found.focal + 0.3 * found.dice)
    torch.testing.assert_close(found.focal, focal_loss(logits, target, alpha=0.25, gamma=2))


def test_the_loss_goes_down_along_its_gradient() -> None:
    logits, target = drawn(5)
    before = combined_loss(logits, target).total
    (gradient,) = torch.autograd.grad(before, logits)
    assert combined_loss(logits - gradient, target).total < before


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[-1e4, 1e4, 1e4, -1e4]], requires_grad=True)
    value = combined_loss(logits, torch.tensor([[1.0, 0.0, 1.0, 0.0]])).total
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(FintuneValueError, match=r"differ in shape: \(2, 1, 8, 8\) and \(2, 8, 8\)"):
        focal_loss(drawn(0)[0], drawn(0, shape=(2, 8, 8))[1])
