"""Products that no cohort has: columns alone, and an array of classes without objects; and how toy runs are made."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.datasets import PROGRESS
from fintune_xr.pixels.tile_results import TILE_RESULTS
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs import create
from fintune_xr.store.runs import writer as runs
from fintune_xr.store.runs.run import run_creation, run_grid
from fintune_xr.store.runs.run_shard import write_run_shard
from fintune_xr.store.zarr_io import shards
from fintune_xr.tasks.product import PRODUCTS, Product
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult

KINDS = ("none", "few", "many")
FEATURES = 5
FILLER = 255

_TILE = VariableSpec((n.TILE,), "str", "Tile.")
_KIND = VariableSpec(("kind",), "str", "What the tile may show.", required=False)

LOGITS = Product(
    DatasetSchema(
        "toy_logits",
        1,
        variables={
            "logits": VariableSpec((n.TILE, "kind"), "float32", "Scores.", initial=math.nan, required=False),
            "embedding": VariableSpec((n.TILE, "feature"), "float32", "Features.", initial=math.nan, required=False),
            "where": VariableSpec((n.TILE,), "str", "Where it was made.", initial="nowhere"),
            **PROGRESS,
        },
        coords={n.TILE: _TILE, "kind": _KIND},
    ),
    objects=None,
    array=None,
)
CLASSES = Product(
    DatasetSchema(
        "toy_classes",
        1,
        variables={
            "classes": VariableSpec((n.TILE, n.Y, n.X), "uint8", "Class of the pixel.", initial=FILLER),
            "class_px": VariableSpec((n.TILE, "kind"), "int64", "Pixels of the class.", initial=0),
            **PROGRESS,
        },
        coords={n.TILE: _TILE, "kind": VariableSpec(("kind",), "str", "Class.")},
    ),
    objects=None,
    array="classes",
)


def _logits(made: Any, _image: NDArray[Any]) -> Any:
    return None, None, {"logits": made, "embedding": np.repeat(made, 2)[:FEATURES], "where": "here"}


def _classes(made: Any, _image: NDArray[Any]) -> Any:
    return made, None, {"class_px": np.bincount(made.ravel(), minlength=len(KINDS))}


def add_products() -> None:
    """Adds the rows of both products, as a task does."""
    PRODUCTS.update({"toy_logits": LOGITS, "toy_classes": CLASSES})
    TILE_RESULTS.update({"toy_logits": _logits, "toy_classes": _classes})


SIZES = {"toy_logits": {"kind": KINDS, "feature": FEATURES}, "toy_classes": {"kind": KINDS}}


def made_of(product: Product, tile: int, side: int) -> NDArray[Any]:
    """What a model makes of tile number `tile`."""
    rng = np.random.default_rng(tile)
    return rng.normal(size=3).astype("f4") if product is LOGITS else rng.integers(0, 3, (side, side - 2), np.uint8)


def receipt_of(cohort: Cohort, run: str, plan: ShardPlan, failing: Sequence[int] = (), side: int = 16) -> ShardReceipt:
    """What a worker does: the shard of pixels first, where there is one, then the receipt."""
    product = cohort.run_product(run)
    grid = run_grid(cohort.location, run) if product.array else None
    results: list[TileResult] = []

    def encoded() -> Any:
        for tile in (plan.first + slot for slot in plan.todo):
            if tile in failing:
                results.append(TileResult(n.QUARANTINED, 0.5, "ValueError: no"))
                yield shards.encode_empty(grid) if grid else ()
                continue
            pixels, objects, values = TILE_RESULTS[product.name](made_of(product, tile, side), np.empty(0))
            results.append(TileResult(n.DONE, 0.25, values=values, objects=objects))
            yield shards.encode_tile(pixels, grid) if grid else ()

    creation = run_creation(cohort.location, run)
    write_run_shard(cohort.location, run, plan, encoded(), creation=creation)
    return ShardReceipt(plan, tuple(results))


def do_all(cohort: Cohort, product: Product, failing: Sequence[int] = (), **options: Any) -> int:
    """Number of tiles that were pending in run `r`, which is made or continued to its end."""
    done = 0
    told = {"identity": {"made": "by hand"}, "facts": {}, "product": product, "sizes": SIZES[product.name], **options}
    with runs.writing_run(cohort, "r", **told) as writer:
        for plan in list(writer.plans()):
            writer.commit([receipt_of(cohort, "r", plan, failing)])
            done += len(plan.todo)
        assert writer.finish()
    return done


def run_toy(store: str, product: str, marker: str) -> None:
    """`do_all` in a process that is there to be killed: slow, and noting each commit in the file `marker`."""
    import time

    os.setpgrp()
    add_products()
    create.tiles_per_shard = lambda _: 2
    commit = runs.RunWriter.commit

    def slowly(self: runs.RunWriter, receipts: Any) -> None:
        commit(self, receipts)
        with Path(marker).open("a") as file:
            file.write("1")
        time.sleep(0.05)

    runs.RunWriter.commit = slowly  # type: ignore[method-assign]
    do_all(open_cohort(store), PRODUCTS[product])
    os._exit(0)
