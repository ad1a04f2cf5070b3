"""Losses of class maps: unknown pixels do not exist, values worked by hand, torch's and SAM 2's own formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.semantic.loss import CLASS, DICE, IOU, MASK, LossRule, class_weights, mean_one, semantic_loss
from fintune_xr.models.classes.logits import ClassLogits, probabilities, winners
from fintune_xr.seeds import stream

K = 3
WEIGHTS = (0.5, 1.0, 1.5)


def drawn(seed: int, *, shape: tuple[int, int] = (6, 8), n: int = 2) -> tuple[ClassLogits, torch.Tensor]:
    """An output that everything can be learnt from, and labels 0 to K."""
    rng = stream(seed, "class losses")

    def normal(*size: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(0, 2, size).astype(np.float32)).requires_grad_()

    target = torch.from_numpy(rng.integers(0, K + 1, (n, 1, *shape)).astype(np.float32))
    return ClassLogits(normal(n, K, *shape), normal(n, K), normal(n, K)), target


def rule(competition: str = "softmax", gamma: float = 2.0, weights: tuple[float, ...] = WEIGHTS) -> LossRule:
    return LossRule(weights, gamma=gamma, competition=competition)  # type: ignore[arg-type]


@pytest.mark.parametrize("competition", ["softmax", "sigmoid"])
@pytest.mark.parametrize("part", [MASK, DICE, IOU, CLASS, "total"])
@given(seed=st.integers(0, 1000))
def test_a_half_that_is_unknown_does_not_exist(competition: str, part: str, seed: int) -> None:
    output, target = drawn(seed)
    half = target.clone()
    half[..., 4:] = -1
    total, parts = semantic_loss(output, half, rule(competition))
    value = {**parts, "total": total}[part]
    alone = ClassLogits(output.logits.detach()[..., :4].clone().requires_grad_(), output.iou, output.presence)
    cropped, cropped_parts = semantic_loss(alone, target[..., :4], rule(competition))
    expected = {**cropped_parts, "total": cropped}[part]
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    found = torch.autograd.grad(value, [*output], allow_unused=True)
    true = torch.autograd.grad(expected, [*alone], allow_unused=True)
    for ours, theirs in zip(found[1:], true[1:], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    if found[0] is not None:
        torch.testing.assert_close(found[0][..., :4], true[0], rtol=1e-5, atol=1e-7)
        assert not found[0][..., 4:].any(), "a pixel that is unknown has a gradient"


def test_what_stands_at_unknown_pixels_changes_no_bit() -> None:
    output, target = drawn(0)
    target[..., ::2] = -1
    total, _ = semantic_loss(output, target, rule())
    other = output.logits.detach().clone()
    other[..., ::2] = torch.inf
    again, _ = semantic_loss(output._replace(logits=other), target, rule())
    assert torch.equal(total, again)


def test_without_focus_and_weights_it_is_the_cross_entropy_of_torch() -> None:
    output, target = drawn(1)
    target[0, 0, :2] = -1
    _, parts = semantic_loss(output, target, rule(gamma=0, weights=(1, 1, 1)))
    with_none = torch.cat([torch.zeros_like(output.logits[:, :1]), output.logits], 1)
    expected = torch.nn.functional.cross_entropy(with_none, target[:, 0].long(), ignore_index=-1)
    torch.testing.assert_close(parts[MASK], expected)


def test_a_focal_loss_worked_by_hand() -> None:
    # Against the fixed 0 of "none", a logit of ln 3 has three quarters, and one of -ln 3 a quarter.
    logits = torch.tensor([[math.log(3), -math.log(3)], [math.log(3), 0.0]])[None, None]
    target = torch.tensor([[1.0, 1.0], [0.0, -1.0]])[None, None]
    _, parts = semantic_loss(ClassLogits(logits), target, LossRule((2.0,)))
    by_hand = (2 * 0.25**2 * math.log(4 / 3) + 2 * 0.75**2 * math.log(4) + 0.75**2 * math.log(4)) / 3
    assert parts[MASK].item() == pytest.approx(by_hand, rel=1e-6)
    assert parts[DICE].item() == pytest.approx(1 - (2 * 1 + 1) / (1.75 + 2 + 1), rel=1e-6)


def test_with_sigmoid_the_focal_loss_is_that_of_sam2() -> None:
    output, target = drawn(2)
    _, parts = semantic_loss(output, target, rule("sigmoid"))
    expected = 0.0
    for k in range(K):
        truth = (target[:, 0] == k + 1).float()
        expected += WEIGHTS[k] * sigmoid_focal_loss(output.logits[:, k], truth, alpha=0.25, gamma=2, reduction="mean")
    torch.testing.assert_close(parts[MASK], torch.as_tensor(expected) / K)


def test_dice_over_the_batch_counts_absent_classes() -> None:
    output, target = drawn(3)
    target[target == 3] = 0
    _, parts = semantic_loss(output, target, rule())
    found = torch.cat([torch.zeros_like(output.logits[:, :1]), output.logits], 1).softmax(1)
    losses = []
    for k in range(1, K + 1):
        truth = (target[:, 0] == k).float()
        losses.append(1 - (2 * (found[:, k] * truth).sum() + 1) / (found[:, k].sum() + truth.sum() + 1))
    expected = sum(w * loss for w, loss in zip(WEIGHTS, losses, strict=True)) / sum(WEIGHTS)
    torch.testing.assert_close(parts[DICE], expected)
    assert losses[2] > 0.5


def test_the_predicted_iou_is_judged_where_the_class_is() -> None:
    logits = torch.full((1, 2, 2, 2), -1.0)
    logits[0, 0, 0] = 1.0  # class 1 in the upper row; truth: in the left column
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]])[None, None]
    predicted = torch.tensor([[0.5, 0.9]], requires_grad=True)
    output = ClassLogits(logits.requires_grad_(), predicted)
    _, parts = semantic_loss(output, target, LossRule((1.5, 0.5)))
    assert parts[IOU].item() == pytest.approx((0.5 - 1 / 3) ** 2, rel=1e-6)
    assert torch.autograd.grad(parts[IOU], [logits], allow_unused=True, retain_graph=True) == (None,)
    (gradient,) = torch.autograd.grad(parts[IOU], [predicted])
    assert gradient[0, 1] == 0


def test_presence_is_that_among_known_pixels() -> None:
    target = torch.zeros(2, 1, 2, 2)
    target[0, 0, 0] = torch.tensor([1.0, -1.0])
    target[1] = -1
    presence = torch.tensor([[2.0, -1.0], [50.0, 50.0]], requires_grad=True)
    output = ClassLogits(torch.zeros(2, 2, 2, 2), presence=presence)
    _, parts = semantic_loss(output, target, LossRule((1.5, 0.5)))
    by_hand = (1.5 * math.log(1 + math.exp(-2)) + 0.5 * math.log(1 + math.exp(-1))) / 2
    assert parts[CLASS].item() == pytest.approx(by_hand, rel=1e-6)
    (gradient,) = torch.autograd.grad(parts[CLASS], [presence])
    assert not gradient[1].any()


def test_the_total_is_five_two_one_one() -> None:
    output, target = drawn(4)
    total, parts = semantic_loss(output, target, rule())
    expected = 5 * parts[MASK] + 2 * parts[DICE] + parts[IOU] + parts[CLASS]
    torch.testing.assert_close(total, expected)
    alone, fewer = semantic_loss(ClassLogits(output.logits), target, rule())
    assert set(fewer) == {MASK, DICE}
    torch.testing.assert_close(alone, 5 * parts[MASK] + 2 * parts[DICE])


def test_a_batch_without_a_known_pixel_teaches_nothing() -> None:
    output, target = drawn(5)
    total, _ = semantic_loss(output, torch.full_like(target, -1), rule())
    assert total.item() == 0
    gradients = torch.autograd.grad(total, [*output], allow_unused=True)
    assert not any(gradient.any() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("competition", ["softmax", "sigmoid"])
def test_pixels_that_are_certain_have_finite_gradients(competition: str) -> None:
    output, target = drawn(6)
    logits = (output.logits.detach() * 1000).requires_grad_()
    total, _ = semantic_loss(output._replace(logits=logits), target, rule(competition))
    (gradient,) = torch.autograd.grad(total, [logits])
    assert torch.isfinite(total)
    assert torch.isfinite(gradient).all()


def test_coarse_logits_are_brought_to_the_size_of_the_labels() -> None:
    output, target = drawn(7)
    coarse = output.logits[..., ::2, ::2]
    fine = torch.nn.functional.interpolate(coarse, (6, 8), mode="bilinear", align_corners=False)
    ours, _ = semantic_loss(ClassLogits(coarse), target, rule())
    theirs, _ = semantic_loss(ClassLogits(fine), target, rule())
    torch.testing.assert_close(ours, theirs)


def test_weights_of_the_published_shares() -> None:
    shares = np.array([2713, 2349, 705, 776, 171])
    auto = class_weights(shares, "auto")
    assert [round(weight, 3) for weight in auto] == [1.0, 1.155, 3.848, 3.496, 15.865]
    assert class_weights(shares, "sqrt") == pytest.approx([math.sqrt(weight) for weight in auto])
    assert class_weights(shares, "none") == (1,) * 5
    assert class_weights(shares, [1, 1.2, 3.9, 3.5, 15.9]) == (1, 1.2, 3.9, 3.5, 15.9)
    assert np.mean(mean_one(auto)) == pytest.approx(1)
    assert mean_one(auto)[4] / mean_one(auto)[0] == pytest.approx(auto[4])


def test_weights_that_cannot_be_are_refused() -> None:
    with pytest.raises(FintuneValueError, match="without a pixel"):
        class_weights(np.array([5, 0]), "auto")
    with pytest.raises(FintuneValueError, match="2 numbers above 0"):
        class_weights(np.array([5, 4]), [1.0])
    with pytest.raises(FintuneValueError, match="2 numbers above 0"):
        class_weights(np.array([5, 4]), [1.0, 0.0])
    output, target = drawn(8)
    with pytest.raises(FintuneValueError, match="weight for each of 3 classes"):
        semantic_loss(output, target, LossRule((1.0, 1.0)))
    with pytest.raises(FintuneValueError, match="shapes"):
        semantic_loss(output, target[:, 0], rule())


@pytest.mark.parametrize("competition", ["softmax", "sigmoid"])
@given(seed=st.integers(0, 1000))
def test_the_most_probable_is_the_winner(competition: str, seed: int) -> None:
    output, _ = drawn(seed)
    found = probabilities(output.logits.detach(), competition)  # type: ignore[arg-type]
    assert torch.equal(found.argmax(1), winners(output.logits.detach(), dim=1))
    if competition == "softmax":
        torch.testing.assert_close(found.sum(1), torch.ones(2, 6, 8))
