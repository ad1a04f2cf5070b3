"""Multinomial logistic regression by scikit-learn: the optimum, without seed or schedule."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError, MissingPackageError
from fintune_xr.finetune.classification.features import Floats, Labelled
from fintune_xr.finetune.classification.probe_settings import ProbeSettings

TOLERANCE: Final = 1e-6
MOST_STEPS: Final = 5000


def fit_logistic(
    train: Labelled, weights: Floats, val: Labelled | None, choice: Any, settings: ProbeSettings, n_classes: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """`weight` (class, feature) and `bias` (class,) that minimise c sum_i w_i loss_i + |weight|^2 / 2.

    Raises MissingPackageError without scikit-learn, FintuneValueError where the solver does not come to an end.
    """
    del val, settings
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingPackageError(
            "the head 'logistic' needs scikit-learn: install the extra 'oct' (pip install 'fintune-xr[oct]')"
        ) from error
    model = LogisticRegression(C=float(choice), tol=TOLERANCE, max_iter=MOST_STEPS)
    # So small a problem gains nothing by threads, whose number would change sums in their last digits.
    with _libraries().limit(limits=1):
        model.fit(train.value, train.label, sample_weight=weights)
    n_steps = int(np.max(model.n_iter_))
    if n_steps >= MOST_STEPS:
        raise FintuneValueError(f"logistic regression with c={choice:g} did not converge. Take smaller values of c.")
    weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if n_classes == 2:
        # One logit of the second class: half of it for, half against.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return {"weight": weight, "bias": bias}, {"steps": n_steps}


@cache
def _libraries() -> Any:
    """The libraries of this process that have threads, looked up once: it takes some ms, and fits are many."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
