"""What the codes of annotated classes mean, as it is stored beside them."""

from __future__ import annotations

import zarr

from fintune_xr import names as n
from fintune_xr.errors import StoreNotFoundError
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.legends import Legend, stored_legend


def annotated_legend(cohort: Cohort) -> Legend:
    """What the codes of the stored annotations mean.

    Raises StoreNotFoundError where nothing is annotated.
    """
    path = f"{n.ANNOTATIONS}/{n.CLASSES}"
    if not cohort.has(n.ANNOTATIONS):
        raise StoreNotFoundError(f"{cohort.url} holds no {path} yet. Run: fintune-xr annotate MASKS {cohort.url}")
    return stored_legend(zarr.open_array(cohort.location.zarr(), path=path, mode="r").attrs.asdict())
