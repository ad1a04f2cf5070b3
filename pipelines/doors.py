"""Which kind of cohort a step is for, said at its door and not in the words of a schema."""

from __future__ import annotations

from fintune_xr.errors import FintuneValueError
from fintune_xr.store.cohort import Cohort


def require_masks(cohort: Cohort, step: str) -> None:
    """Raises FintuneValueError for a cohort of micrographs, whose annotations are particles."""
    if cohort.kind == "em":
        raise FintuneValueError(
            f"{step}: expected a cohort whose annotations are masks of cells, found {cohort.url} of kind 'em', whose "
            "annotations are particles. For micrographs there are: fintune-xr train STORE --model particle_unet, "
            "selftrain, infer, pick, evaluate, report, and export --to star, relion, box or csv."
        )


def require_particles(cohort: Cohort, step: str) -> None:
    """Raises FintuneValueError for a cohort that is not one of micrographs: its annotations are masks."""
    if cohort.kind != "em":
        raise FintuneValueError(
            f"{step}: expected a cohort of micrographs (kind 'em'), whose annotations are particles, found "
            f"{cohort.url} of kind {cohort.kind!r}, whose annotations are masks. For masks there are: fintune-xr train "
            "STORE --model flow_unet or cpsam, infer, evaluate, report, and export --to masks, tables or cellpose."
        )
