"""Verbs about classes of whole tiles.

Pipelines are imported inside the verbs: `--help` must not wait for Dask, Zarr or a network library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fintune_xr.pipelines.cli.arguments import DONE, Config, Overrides, Runs, Store, show


def probe(
    store: Store,
    *overrides: Overrides,
    runs: Runs,
    config: Config = None,
    out: Annotated[Path, Parameter(help="Folder; each head gets one of its name in it.")] = Path("models"),
    restart: Annotated[bool, Parameter(help="Throw the stored heads away first.", negative="")] = False,
) -> int:
    """Fit heads to the stored embeddings of runs; each becomes a run of its own. No image is read.

    Example: fintune-xr probe oct.zarr --run multi --run single head=logistic,linear folds=5
    """
    from fintune_xr.pipelines.studies.probe import probe as step

    made = step(store, runs=runs, config=config, overrides=overrides, restart=restart, out=out)
    show(*(f"{one.run}: balanced accuracy of val's participants {one.val_balanced_accuracy:.3f}" for one in made))
    return DONE
