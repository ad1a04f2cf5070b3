"""The annotations that results rest on, as a digest: other annotations are other results."""

from __future__ import annotations

from collections.abc import Iterable

from fintune_xr.store.cohort import Cohort


def truth_digest(cohort: Cohort, tiles: Iterable[str]) -> str:
    """SHA-256 of what is annotated in `tiles`, as the task of the cohort tells it."""
    return cohort.task.digest(cohort.annotations(lazy=False), sorted(map(str, tiles)))
