"""Verbs about tiles as they were taken: which are unusual, and which to annotate next.

Pipelines are imported inside the verbs: `--help` must not wait for Dask, Zarr or a network library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fintune_xr.pipelines.cli import candidates
from fintune_xr.pipelines.cli.arguments import DONE, Json, Runs, Store, show_tables


def qc(
    store: Store,
    *,
    run: Annotated[str, Parameter(completer=candidates.runs, help="Run whose cells tell the sizes of cells.")] = "",
    batches: Annotated[Path | None, Parameter(help="CSV or TSV with the columns batch, and tile or donor.")] = None,
    exclude: Annotated[
        tuple[str, ...],
        Parameter(
            help="Measures by which unusual tiles are left out of ratios: intensity, background, focus, saturation, "
            "cell_size_px; `nothing` takes the rule back.",
            consume_multiple=True,
            negative="",
        ),
    ] = (),
    restart: Annotated[bool, Parameter(help="Measure all tiles anew.", negative="")] = False,
    as_json: Json = False,
) -> int:
    """Measure how tiles were taken, and name unusual tiles, donors and batches; nothing is left out unless told.

    Example: fintune-xr qc cohort.zarr --run baseline --batches batches.csv --exclude focus saturation
    """
    from fintune_xr.pipelines.steps.qc import drift_table, left_out_line
    from fintune_xr.pipelines.steps.qc import qc as step

    found = step(store, run=run, batches=batches, exclude=exclude, restart=restart)
    show_tables({"drift": drift_table(store, found)}, as_json=as_json, lines=["", left_out_line(found)])
    return DONE


def suggest(
    store: Store,
    *,
    n: Annotated[int, Parameter(name=["--n"], help="Tiles to suggest.")] = 20,
    runs: Runs = (),
    among: Annotated[int, Parameter(help="Candidates that are looked at, drawn at random; 0: all.")] = 500,
    seed: Annotated[int, Parameter(help="Seed of that draw.")] = 0,
    out: Annotated[Path | None, Parameter(help="Folder for images as Cellpose's GUI opens them.")] = None,
    as_json: Json = False,
) -> int:
    """Say which tiles to annotate next: those on which runs disagree, or one model and itself on flipped tiles.

    Tiles of donors in val or test are never suggested.

    Example: fintune-xr suggest cohort.zarr --n 20 --run baseline --run tuned --out to_annotate/
    """
    from fintune_xr.pipelines.steps.suggest import suggest as step
    from fintune_xr.pipelines.steps.suggest import suggested_table

    found = step(store, n_tiles=n, runs=runs, among=among, seed=seed, out=out)
    show_tables({"tiles": suggested_table(found)}, as_json=as_json)
    return DONE
