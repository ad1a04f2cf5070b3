"""Weights of scans and folds of participants, against scikit-learn and by arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.classification.features import Labelled, first_scans, folds_of, scan_weights
from fintune_xr.finetune.classification.loss import weighted_loss


def cohort(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Labels and participants of scans, one to three of each participant, in any order."""
    rng = np.random.default_rng(seed)
    of_participant = np.concatenate([np.repeat(np.arange(4), 5), rng.choice(4, n - 20, p=[0.5, 0.3, 0.1, 0.1])])
    which = rng.permutation(np.repeat(np.arange(n), rng.integers(1, 4, size=n)))
    return of_participant[which], np.array([f"p{one:03d}" for one in which])


def test_one_scan_each_is_scikit_learns_balanced() -> None:
    label = np.repeat(np.arange(4), (290, 162, 233, 58))
    participant = np.arange(label.size)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=label)
    found = scan_weights(label, participant, 4)
    np.testing.assert_allclose(found, expected[label])
    np.testing.assert_allclose(expected, [0.641, 1.147, 0.797, 3.203], atol=5e-4)


@given(seed=st.integers(0, 10_000))
def test_classes_count_alike_and_participants_of_a_class_too(seed: int) -> None:
    label, participant = cohort(seed)
    weights = scan_weights(label, participant, 4)
    assert weights.mean() == pytest.approx(1)
    of_class = np.bincount(label, weights)
    np.testing.assert_allclose(of_class, of_class[0])
    names, of_scan = np.unique(participant, return_inverse=True)
    of_participant = np.bincount(of_scan, weights)
    for one in range(4):
        members = np.unique(of_scan[label == one])
        np.testing.assert_allclose(of_participant[members], of_participant[members[0]])
    alike = np.bincount(of_scan, scan_weights(label, participant, 4, "none"))
    np.testing.assert_allclose(alike, alike[0])
    assert len(names) == alike.size


def test_weights_given_as_numbers_and_what_does_not_fit() -> None:
    label, participant = np.array([0, 0, 1]), np.array(["a", "b", "c"])
    np.testing.assert_allclose(scan_weights(label, participant, 2, (1.0, 4.0)), [0.5, 0.5, 2])
    with pytest.raises(FintuneValueError, match="expected 2 numbers, got 3"):
        scan_weights(label, participant, 2, (1.0, 1.0, 1.0))
    with pytest.raises(FintuneValueError, match="no scan of class 2"):
        scan_weights(label, participant, 3)
    with pytest.raises(FintuneValueError, match="finite"):
        Labelled(np.array([[np.nan]]), np.array([0]), np.array(["a"]))


@given(seed=st.integers(0, 10_000), n_folds=st.integers(2, 5))
def test_folds_keep_participants_whole_and_classes_even(seed: int, n_folds: int) -> None:
    label, participant = cohort(seed)
    fold = folds_of(label, participant, n_folds, seed)
    assert {len(set(fold[participant == name])) for name in set(participant)} == {1}
    for one in range(4):
        counts = [len(set(participant[(label == one) & (fold == at)])) for at in range(n_folds)]
        assert max(counts) - min(counts) <= 1
    order = np.random.default_rng(0).permutation(label.size)
    np.testing.assert_array_equal(folds_of(label[order], participant[order], n_folds, seed), fold[order])
    with pytest.raises(FintuneValueError, match="each fold needs one"):
        folds_of(label, participant, 60, seed)


def test_first_scans() -> None:
    participant, tile = np.array(["b", "a", "b", "a"]), np.array(["b/2", "a/9", "b/1", "a/3"])
    assert first_scans(participant, tile).tolist() == [False, False, True, True]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_classes_have_equal_shares_of_the_gradient(batch: int) -> None:
    """Summed over an epoch the size of the batch plays no part; torch's own weighted mean differs."""
    label = np.repeat(np.arange(4), (290, 162, 233, 58))
    order = np.random.default_rng(0).permutation(label.size)
    label = label[order]
    weights = torch.from_numpy(scan_weights(label, np.arange(label.size), 4))
    logits = torch.zeros(label.size, 4, dtype=torch.float64, requires_grad=True)
    target = torch.from_numpy(label)
    for some in torch.arange(label.size).split(batch):
        (weighted_loss(logits[some], target[some], weights[some]) * len(some)).backward()
    assert logits.grad is not None
    of_class = np.bincount(label, logits.grad.abs().sum(1).numpy())
    np.testing.assert_allclose(of_class / of_class.sum(), 0.25)


def test_loss_by_hand() -> None:
    logits, label = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    expected = (3 * np.log(1 + np.exp(-2)) + 0.5 * np.log(1 + np.e)) / 2
    assert float(weighted_loss(logits, label, torch.tensor([3.0, 0.5]))) == pytest.approx(expected, rel=1e-6)


def test_errors_name_classes_by_number_and_name() -> None:
    label, participant, names = np.array([0, 0, 2]), np.array(["a", "b", "c"]), ("healthy", "pre", "ill")
    with pytest.raises(FintuneValueError, match="no scan of class 1 pre:"):
        scan_weights(label, participant, 3, classes=names)
    with pytest.raises(FintuneValueError, match="3 numbers, of 0 healthy, 1 pre, 2 ill, got 2"):
        scan_weights(np.array([0, 1, 2]), participant, 3, (1.0, 2.0), classes=names)
    with pytest.raises(FintuneValueError, match=r"class 2 ill has 1 participant\(s\)"):
        folds_of(label, participant, 2, 0, names)
    kept = Labelled(np.ones((3, 1)), label, participant, names).only(np.array([0]))
    assert kept.classes == names
