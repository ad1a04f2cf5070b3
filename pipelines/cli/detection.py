"""Verbs about particles of micrographs.

Pipelines are imported inside the verbs: `--help` must not wait for Dask, Zarr or a network library.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from fintune_xr.pipelines.cli import candidates
from fintune_xr.pipelines.cli.arguments import DONE, Run, Store, show


def pick(
    store: Store,
    *,
    run: Run,
    model: Annotated[
        Literal["log"] | None, Parameter(help="log: dark blobs, without a run; the floor to beat.")
    ] = None,
    part: Annotated[
        str,
        Parameter(
            completer=candidates.parts, name=["--split", "--part"], help="Part of the split: train, val, test, or all."
        ),
    ] = "val",
    threshold: Annotated[
        float | None, Parameter(help="Score that picks reach, instead of the best on that part.")
    ] = None,
    distance: Annotated[
        float | None, Parameter(help="Stored px to an annotated centre that still count. Default: half a diameter.")
    ] = None,
    border: Annotated[float, Parameter(help="Drop picks closer to an edge than so many stored px.")] = 0.0,
) -> int:
    """Pick the particles of every micrograph, at the threshold that is best on the val part.

    Example: fintune-xr pick cohort.zarr --run unet
    """
    from fintune_xr.pipelines.detection.picking import pick_summary
    from fintune_xr.pipelines.steps.pick import pick as step
    from fintune_xr.store.cohort import open_cohort

    made = step(store, run=run, model=model, part=part, threshold=threshold, distance=distance, border=border)
    show(*pick_summary(made, open_cohort(store).images(lazy=False).sizes["tile"]))
    return DONE
