"""What the codes of annotated classes mean, as it is stored beside them."""

from __future__ import annotations

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.legends import Legend, stored_legend


def annotated_legend(cohort: Cohort) -> Legend:
    """What the codes of the stored annotations mean.

    Raises StoreNotFoundError where nothing is annotated.
    """
    return stored_legend(cohort.annotations(lazy=False)[n.CLASSES].attrs)
