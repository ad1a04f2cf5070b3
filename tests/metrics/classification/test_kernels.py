"""Scores of classes against scikit-learn, and by hand where scikit-learn gives something else."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve

from fintune_xr.metrics.classification import kernels
from fintune_xr.metrics.classification.units import most_probable, softmax


def draw(seed: int, n: int = 40, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Truth with every class, and probabilities that lean to it."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    return truth, softmax(rng.normal(size=(n, classes)) + 0.7 * np.eye(classes)[truth])


@given(seed=st.integers(0, 10_000))
def test_scores_of_confusions_are_scikit_learns(seed: int) -> None:
    truth, probability = draw(seed)
    predicted = most_probable(probability)
    counts = kernels.confusion(truth, predicted, 4)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(truth, predicted, labels=range(4)))
    assert kernels.balanced_accuracy(counts) == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    assert kernels.accuracy(counts) == pytest.approx(metrics.accuracy_score(truth, predicted))
    single = metrics.f1_score(truth, predicted, average=None, zero_division=0)
    np.testing.assert_allclose(kernels.class_f1(counts), single)
    assert kernels.macro_f1(counts) == pytest.approx(single.mean())


@given(seed=st.integers(0, 10_000))
def test_scores_of_probabilities_are_scikit_learns(seed: int) -> None:
    truth, probability = draw(seed)
    of_classes = kernels.class_auroc(probability, truth)
    expected = metrics.roc_auc_score(truth, probability, multi_class="ovr", average=None)
    np.testing.assert_allclose(of_classes, expected, rtol=1e-12)
    loss = kernels.unit_log_loss(probability, truth).mean()
    assert loss == pytest.approx(metrics.log_loss(truth, probability))
    brier = metrics.brier_score_loss(truth, probability, labels=range(4), scale_by_half=False)
    assert kernels.unit_brier(probability, truth).mean() == pytest.approx(brier)
    n_units, mean, right = kernels.calibration(probability, truth)
    is_right = most_probable(probability) == truth
    share, sure = calibration_curve(is_right, probability.max(1), n_bins=10)
    np.testing.assert_allclose(mean[n_units > 0], sure)
    np.testing.assert_allclose(right[n_units > 0], share)


@given(seed=st.integers(0, 10_000))
def test_weighted_auroc_is_scikit_learns_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, positive = rng.integers(6, size=30) / 5, rng.random(30) < 0.4
    positive[:2] = True, False
    weights = rng.integers(4, size=(5, 30)).astype(float)
    weights[:, :2] = 1
    expected = [metrics.roc_auc_score(positive, score, sample_weight=one) for one in weights]
    np.testing.assert_allclose(kernels.auroc(score, positive, weights), expected, rtol=1e-12)
    # A weight of two is the same unit twice.
    twice = np.repeat(np.arange(30), weights[0].astype(int))
    assert kernels.auroc(score, positive, weights[0]) == pytest.approx(
        metrics.roc_auc_score(positive[twice], score[twice])
    )


def test_a_class_that_is_absent_by_hand() -> None:
    # Two classes of three are there: 0, 0, 1. The second unit is taken for class 2.
    truth = np.array([0, 0, 1])
    probability = np.array([[0.7, 0.2, 0.1], [0.3, 0.2, 0.5], [0.2, 0.6, 0.2]])
    counts = kernels.confusion(truth, most_probable(probability), 3)
    np.testing.assert_array_equal(counts, [[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(kernels.class_recall(counts), [0.5, 1, np.nan])
    assert kernels.balanced_accuracy(counts) == 0.75
    # Class 2 was predicted and is never right; the mean is over the classes in truth.
    np.testing.assert_allclose(kernels.class_f1(counts), [2 / 3, 1, 0])
    assert kernels.macro_f1(counts) == pytest.approx(5 / 6)
    of_classes = kernels.class_auroc(probability, truth)
    np.testing.assert_array_equal(of_classes, [1, 1, np.nan])
    assert kernels.mean_auroc(of_classes) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(metrics.roc_auc_score(truth, probability, multi_class="ovr", labels=[0, 1, 2]))
    # Neither in truth nor predicted: no F1.
    assert np.isnan(kernels.class_f1(np.diag([2, 1, 0]))[2])
    # One class alone has no AUROC at all.
    assert np.isnan(kernels.mean_auroc(kernels.class_auroc(probability[:2], truth[:2])))


def test_certain_mistakes_and_empty_confusions() -> None:
    assert kernels.unit_log_loss([[0.0, 1.0]], [0])[0] == pytest.approx(36.04, abs=0.01)
    assert np.isnan(kernels.balanced_accuracy(np.zeros((3, 3))))
    assert np.isnan(kernels.accuracy(np.zeros((3, 3))))
    # Of two classes equally probable the lower is taken.
    assert most_probable([[0.4, 0.4, 0.2]])[0] == 0


@given(seed=st.integers(0, 10_000), data=st.data())
def test_names_of_classes_play_no_part(seed: int, data: st.DataObject) -> None:
    truth, probability = draw(seed)
    renamed = np.array(data.draw(st.permutations(range(4))))
    moved = np.empty_like(probability)
    moved[:, renamed] = probability
    before, after = (
        kernels.confusion(t, most_probable(p), 4) for t, p in ((truth, probability), (renamed[truth], moved))
    )
    assert kernels.balanced_accuracy(before) == pytest.approx(kernels.balanced_accuracy(after))
    assert kernels.macro_f1(before) == pytest.approx(kernels.macro_f1(after))
    np.testing.assert_allclose(
        kernels.class_auroc(probability, truth), kernels.class_auroc(moved, renamed[truth])[renamed]
    )
