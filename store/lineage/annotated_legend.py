"""What the codes of annotated classes mean, as it is stored beside them."""

from __future__ import annotations

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.class_map import ClassMap, check_class_map
from fintune_xr.tasks.legends import Legend, stored_legend


def annotated_legend(cohort: Cohort) -> Legend:
    """What the codes of the stored annotations mean.

    Raises StoreNotFoundError where nothing is annotated.
    """
    return stored_legend(cohort.annotations(lazy=False)[n.CLASSES].attrs)


def require_annotated_classes(cohort: Cohort, found: ClassMap, *, of: str) -> None:
    """Refuses classes whose codes are not in the legend of the annotations, or mean something else there.

    `of` says whose they are.

    Raises FintuneValueError naming both lists.
    """
    legend = annotated_legend(cohort)
    try:
        check_class_map(found, legend)
    except SettingsError as error:
        classes = ", ".join(f"{name} {list(codes)}" for name, codes in found.classes)
        rows = ", ".join(f"{code} {meaning}" for code, meaning in legend.rows)
        raise FintuneValueError(
            f"{of} gives other classes than {cohort.url} is annotated with: {classes}; codes there: {rows}.\n  {error}"
            "\n  Train on these annotations, or annotate with the legend that it learnt from (annotate --legend, "
            "--restart)."
        ) from error
