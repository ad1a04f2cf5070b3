"""Intervals over participants against a plain loop, and ranks that say no more than the intervals."""

from __future__ import annotations

import time

import numpy as np
import pytest
import xarray as xr
from sklearn import metrics

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.classification.scores import (
    classification_scores,
    drawn_units,
    scores_by_participant_bootstrap,
    shared_ranks,
)
from fintune_xr.metrics.classification.units import softmax


def runs(n_units: int = 60, n_runs: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.arange(n_units) % 4
    strength = np.linspace(1.5, 0, n_runs)[:, np.newaxis, np.newaxis]
    return softmax(rng.normal(size=(n_runs, n_units, 4)) + strength * np.eye(4)[truth]), truth


def test_against_a_loop_over_resamples() -> None:
    probability, truth = runs()
    found = scores_by_participant_bootstrap(probability, truth, n_resamples=60, seed=3)
    drawn = drawn_units(truth.size, 60, 3)
    assert (drawn.sum(1) == truth.size).all()
    balanced, area, loss = (np.empty((60, 3)) for _ in range(3))
    for at, weights in enumerate(drawn):
        units = np.repeat(np.arange(truth.size), weights.astype(int))
        for run in range(3):
            scores = probability[run, units]
            balanced[at, run] = metrics.balanced_accuracy_score(truth[units], scores.argmax(1))
            area[at, run] = metrics.roc_auc_score(truth[units], scores, multi_class="ovr")
            loss[at, run] = metrics.log_loss(truth[units], scores, labels=range(4))
    for name, loop in ((n.BALANCED_ACCURACY, balanced), (n.MEAN_AUROC, area), (n.LOG_LOSS, loss)):
        expected = np.quantile(loop, (0.025, 0.975), axis=0).T
        np.testing.assert_allclose(found[f"{name}_interval"], expected, rtol=1e-10)
        difference = loop[:, 0] - loop[:, 2]
        np.testing.assert_allclose(
            found[f"{name}_difference_interval"].isel({n.RUN: 0, n.REFERENCE: 2}),
            np.quantile(difference, (0.025, 0.975)),
            rtol=1e-10,
        )
    assert int(found[n.N_COMPLETE]) == 60
    np.testing.assert_array_equal(found[n.CONFUSION].sum((n.TRUTH, n.PREDICTED)), [60] * 3)


def test_resamples_that_lose_a_class_are_left_out() -> None:
    probability, truth = runs(n_units=9, n_runs=1)
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    found = scores_by_participant_bootstrap(probability, truth, n_resamples=200, seed=0)
    complete = np.array([len(set(np.repeat(truth, one.astype(int)))) == 3 for one in drawn_units(9, 200, 0)])
    assert int(found[n.N_COMPLETE]) == complete.sum() < 200
    assert found[f"{n.BALANCED_ACCURACY}_interval"].notnull().all()
    # The class that is nowhere has no score, and no interval.
    assert np.isnan(found[n.AUROC].isel({n.CLASS: 3})).all()
    assert found[n.N_AUROC].values.tolist() == [3]


def test_equal_runs_share_a_rank_and_noise_does_not_rise_above() -> None:
    probability, truth = runs(n_units=200)
    stacked = np.concatenate([probability, probability[:1]])
    found = scores_by_participant_bootstrap(stacked, truth, n_resamples=200, seed=1)
    ranks = shared_ranks(found[n.BALANCED_ACCURACY], found[f"{n.BALANCED_ACCURACY}_difference_interval"].values)
    assert ranks.tolist() == [1, 3, 4, 1]


def test_ranks_by_hand() -> None:
    # Run 1 is best; run 0 cannot be told from it; 2 differs from 1 but not from 3; 4 has no score.
    difference = np.full((5, 5, 2), [-0.2, -0.1])
    for one, other in ((0, 1), (2, 3), (3, 2), (1, 0)):
        difference[one, other] = [-0.1, 0.1]
    difference[4] = difference[:, 4] = np.nan
    assert shared_ranks([0.7, 0.8, 0.5, 0.4, np.nan], difference).tolist() == [1, 1, 3, 3, 5]


def test_forty_runs_of_noise_do_not_beat_the_majority() -> None:
    rng = np.random.default_rng(8)
    truth = np.arange(160) % 4
    noise = softmax(rng.normal(size=(40, 160, 4)))
    majority = np.broadcast_to(np.eye(4)[0] * 0.9 + 0.025, (1, 160, 4))
    found = scores_by_participant_bootstrap(np.concatenate([majority, noise]), truth, n_resamples=200, seed=2)
    low = found[f"{n.BALANCED_ACCURACY}_difference_interval"].isel({n.REFERENCE: 0, n.QUANTILE: 0})
    # One of forty is expected to; more than five do in one draw of a thousand.
    assert int((low > 0).sum()) <= 5


def test_what_cannot_be_scored() -> None:
    probability, truth = runs(n_runs=1)
    with pytest.raises(FintuneValueError, match="finite numbers"):
        classification_scores(np.where(probability > 0.5, np.nan, probability), truth)
    with pytest.raises(FintuneValueError, match="classes 0 to 3"):
        classification_scores(probability, truth + 1)
    with pytest.raises(FintuneValueError, match="two units"):
        scores_by_participant_bootstrap(probability[:, :1], truth[:1], n_resamples=10, seed=0)


@pytest.mark.slow
def test_a_thousand_resamples_of_three_runs_are_quick() -> None:
    probability, truth = runs(n_units=159)
    began = time.process_time()
    found = scores_by_participant_bootstrap(probability, truth, n_resamples=1000, seed=0)
    assert time.process_time() - began < 2
    assert isinstance(found, xr.Dataset)
