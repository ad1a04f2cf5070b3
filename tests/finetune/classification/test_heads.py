"""Heads against scikit-learn, and that no label outside of train moves them."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.finetune.classification.features import Labelled, participants_balanced_accuracy, scan_weights
from fintune_xr.finetune.classification.heads import fit_head
from fintune_xr.finetune.classification.probe_settings import ProbeSettings
from fintune_xr.metrics.classification.units import softmax
from fintune_xr.settings import validate


def scans(seed: int, n: int = 120, width: int = 12, strength: float = 1.0, prefix: str = "p") -> Labelled:
    """Two scans of every participant, whose classes overlap; one feature is constant."""
    rng = np.random.default_rng(seed)
    of_participant = np.concatenate([np.arange(4), rng.choice(4, n // 2 - 4, p=[0.4, 0.3, 0.2, 0.1])])
    label = np.repeat(np.sort(of_participant), 2)
    centre = np.random.default_rng(99).normal(size=(4, width)) * strength
    value = (rng.normal(size=(label.size, width)) + centre[label]) * np.linspace(0.5, 30, width) + 100
    value[:, 3] = 7
    names = np.array([f"{prefix}{one:03d}" for one in np.repeat(np.arange(label.size // 2), 2)])
    return Labelled(value.astype(np.float32), label, names)


def settings(**given: object) -> ProbeSettings:
    return validate(ProbeSettings, given)


def test_logistic_is_scikit_learns() -> None:
    train, test = scans(0), scans(1, prefix="t")
    head = fit_head("logistic", train, None, settings(c=[0.03]), n_classes=4)
    scaler = StandardScaler().fit(train.value.astype(np.float64))
    weights = scan_weights(train.label, train.participant, 4)
    model = LogisticRegression(C=0.03, tol=1e-6, max_iter=5000)
    learnt, asked = (scaler.transform(one.value.astype(np.float64)) for one in (train, test))
    model.fit(learnt, train.label, sample_weight=weights)
    np.testing.assert_allclose(softmax(head.logits(test.value)), model.predict_proba(asked), atol=1e-6)


def test_logistic_of_two_classes() -> None:
    train = scans(0)
    two = Labelled(train.value, (train.label > 0).astype(np.int64), train.participant)
    head = fit_head("logistic", two, None, settings(c=[0.1], class_weights="none"), n_classes=2)
    x = StandardScaler().fit_transform(train.value.astype(np.float64))
    model = LogisticRegression(C=0.1, tol=1e-6, max_iter=5000).fit(x, two.label)
    np.testing.assert_allclose(softmax(head.logits(train.value)), model.predict_proba(x), atol=1e-6)


def test_neighbours_are_scikit_learns() -> None:
    train, test = scans(0), scans(1, prefix="t")
    head = fit_head("knn", train, None, settings(k=[5]), n_classes=4)
    scaler = StandardScaler().fit(train.value.astype(np.float64))
    learnt = scaler.transform(train.value.astype(np.float64))
    model = KNeighborsClassifier(5, weights="distance").fit(learnt, train.label)
    both = np.concatenate([test.value, train.value[:5]])
    expected = model.predict_proba(scaler.transform(both.astype(np.float64)))
    np.testing.assert_allclose(softmax(head.logits(both)), expected, atol=1e-5)


def test_linear_run_long_reaches_the_optimum() -> None:
    train = scans(0, strength=0.3)
    chosen = settings(weight_decay=[0.0], learning_rate=0.05, epochs=400, batch_size=1000)
    head = fit_head("linear", train, None, chosen, n_classes=4)
    weights = scan_weights(train.label, train.participant, 4)
    x = StandardScaler().fit_transform(train.value.astype(np.float64))
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=5000).fit(x, train.label, sample_weight=weights)
    best = log_loss(train.label, model.predict_proba(x), sample_weight=weights)
    found = log_loss(train.label, softmax(head.logits(train.value)), sample_weight=weights)
    assert best - 1e-9 <= found <= best + 1e-3


@pytest.mark.parametrize("name", ["logistic", "linear", "mlp", "knn"])
def test_every_head_learns_and_repeats_itself(name: str) -> None:
    train, val, test = scans(0, strength=1.5), scans(1, strength=1.5, prefix="v"), scans(2, strength=1.5, prefix="t")
    chosen = settings(learning_rate=1e-2, epochs=30, hidden=16)
    first, again = (fit_head(name, train, val, chosen, n_classes=4) for _ in range(2))
    assert participants_balanced_accuracy(first.logits(test.value), test) > 0.8
    assert first.arrays.keys() == again.arrays.keys()
    assert all(np.array_equal(first.arrays[key], again.arrays[key]) for key in first.arrays)
    assert first.chosen == again.chosen


@pytest.mark.parametrize("name", ["logistic", "knn", "linear", "mlp"])
def test_labels_of_val_do_not_reach_the_weights(name: str) -> None:
    train, val = scans(0), scans(1, prefix="v")
    chosen = settings(epochs=6, weight_decay=[1e-4, 1e-1], hidden=8, patience=100)
    rng = np.random.default_rng(5)
    participants, of_scan = np.unique(val.participant, return_inverse=True)
    shuffled = rng.permutation(val.label[::2])[of_scan]
    first = fit_head(name, train, val, chosen, n_classes=4)
    other = fit_head(name, train, Labelled(val.value, shuffled, val.participant), chosen, n_classes=4)
    key = {"logistic": "c", "knn": "k"}.get(name, "weight_decay")
    assert first.chosen[key] == other.chosen[key]
    assert first.chosen["tried"] == other.chosen["tried"]
    if name in ("logistic", "knn") or first.chosen["epoch"] == other.chosen["epoch"]:
        assert all(np.array_equal(first.arrays[one], other.arrays[one]) for one in first.arrays)
    assert participants.size == 60


def test_the_stronger_penalty_wins_a_tie() -> None:
    # Features that say everything: all penalties score 1.
    train = scans(0, strength=30)
    head = fit_head("logistic", train, None, settings(c=[1.0, 0.01, 0.1]), n_classes=4)
    assert set(head.chosen["tried"].values()) == {1.0}
    assert head.chosen["c"] == 0.01


def test_the_callers_random_numbers_stay() -> None:
    before = torch.random.get_rng_state()
    fit_head("mlp", scans(0), None, settings(epochs=2, hidden=4), n_classes=4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_cannot_be_fitted() -> None:
    train = scans(0)
    with pytest.raises(FintuneValueError, match="no scan of class 4"):
        fit_head("logistic", train, None, settings(), n_classes=5)
    with pytest.raises(FintuneValueError, match="50 folds: class"):
        fit_head("logistic", train, None, settings(inner_folds=50), n_classes=4)
    for wrong in ({"c": [0.0]}, {"weight_decay": [-1.0]}, {"folds": 1}, {"head": ["svm"]}, {"class_weights": [0, 1]}):
        with pytest.raises(SettingsError):
            settings(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds"), [("logistic", 1.0), ("linear", 5.0)])
def test_a_probe_of_the_studys_size_is_quick(name: str, seconds: float) -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(4), (290, 162, 233, 58))
    train = Labelled(rng.normal(size=(743, 768)).astype(np.float32), label, np.arange(743))
    fit_head(name, scans(0), None, settings(c=[1.0], epochs=1), n_classes=4)
    began = time.process_time()
    fit_head(name, train, None, settings(c=[1e-3]), n_classes=4)
    assert time.process_time() - began < seconds
