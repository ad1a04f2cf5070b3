"""Which classes the participants of a cohort have, and whether a run or a model tells the same ones apart."""

from __future__ import annotations

from collections.abc import Sequence

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import with_numbers


def labelled_classes(cohort: Cohort) -> tuple[str, ...]:
    """Names of the classes, in the order of the labels 0, 1, ….

    Raises StoreNotFoundError where nothing is annotated.
    """
    return tuple(str(cohort.annotations(lazy=False)[n.LABEL].attrs["flag_meanings"]).split())


def require_labelled_classes(cohort: Cohort, found: Sequence[str], *, of: str) -> None:
    """Refuses logits of other classes, or of the same in another order: a label is a number, and so is their column.

    `of` says whose they are.

    Raises FintuneValueError naming both lists.
    """
    known = labelled_classes(cohort)
    if tuple(found) != known:
        raise FintuneValueError(
            f"{of} tells {with_numbers(found)} apart, and participants of {cohort.url} are {with_numbers(known)}. "
            "Annotate with its classes (annotate --layout oct_groups or oct_binary, --restart), or make one of these."
        )
