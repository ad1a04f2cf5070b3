"""Runs of columns alone, and of pixels without objects: made, continued, killed, grown, damaged, checked, repaired."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest
import toy_products as toys
from hypothesis import given
from hypothesis import strategies as st
from stores import add_tiles, differences, make_store, stored_values, tile_names
from toy_products import CLASSES, FEATURES, FILLER, KINDS, LOGITS, do_all, made_of

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunMismatchError, StoreDamagedError
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pixels.tile_results import TILE_RESULTS
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs import columns as run_columns
from fintune_xr.store.runs import create
from fintune_xr.store.runs import writer as runs
from fintune_xr.store.runs.run import run_creation
from fintune_xr.store.runs.run_shard import write_run_shard
from fintune_xr.store.runs.writer import mark_pending
from fintune_xr.store.zarr_io import groups, shards
from fintune_xr.tasks.product import PRODUCTS, Product
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult

PX = 16
BOTH = pytest.mark.parametrize("product", [LOGITS, CLASSES], ids=["logits", "classes"])


@pytest.fixture(scope="module", autouse=True)
def toy_products_and_two_tiles_a_task() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "tiles_per_shard", lambda _: 2)
        toys.add_products()
        yield
        for name in ("toy_logits", "toy_classes"):
            del PRODUCTS[name], TILE_RESULTS[name]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_store(tmp_path_factory.mktemp("template") / "a.zarr", donors=2, tiles=4, px=PX).url)


@pytest.fixture
def cohort(tmp_path: Path, template: Path) -> Cohort:
    shutil.copytree(template, tmp_path / "a.zarr")
    return open_cohort(tmp_path / "a.zarr")


def assert_holds(cohort: Cohort, product: Product, n_tiles: int, failed: tuple[int, ...] = ()) -> None:
    """Every tile has what was made of it; one that failed holds what says that nothing is known."""
    run = open_cohort(cohort.url).run("r", lazy=False).load()
    assert run.sizes[n.TILE] == n_tiles
    for tile in range(n_tiles):
        row = run.isel({n.TILE: tile})
        assert row[n.STATE] == (n.QUARANTINED if tile in failed else n.DONE)
        made = made_of(product, tile, PX)
        if product is LOGITS:
            expected = np.full(3, np.nan, "f4") if tile in failed else made
            np.testing.assert_array_equal(row["logits"].values, expected)
            assert np.isnan(row["embedding"].values).all() == (tile in failed)
            assert str(row["where"].values) == ("nowhere" if tile in failed else "here")
        else:
            whole = np.full((PX, PX), FILLER, np.uint8)
            if tile not in failed:
                whole[:, : PX - 2] = made
            np.testing.assert_array_equal(row["classes"].values, whole)
            assert row["class_px"].values.sum() == (0 if tile in failed else PX * (PX - 2))
    assert list(run["kind"].values) == list(KINDS)


@BOTH
def test_every_tile_is_stored_and_the_store_is_sound(cohort: Cohort, product: Product) -> None:
    assert do_all(cohort, product, failing=[3]) == 8
    assert_holds(cohort, product, 8, failed=(3,))
    assert not cohort.has(f"{n.CELLS}/r")
    assert check(cohort.url) == []
    with pytest.raises(FintuneValueError, match="no table of objects"):
        cohort.cells("r")


@BOTH
def test_quarantined_tiles_are_retried_and_new_tiles_added(cohort: Cohort, product: Product) -> None:
    do_all(cohort, product, failing=[3])
    assert do_all(cohort, product) == 0
    add_tiles(cohort, tile_names(3, 4)[8:], px=PX)
    assert do_all(cohort, product) == 4
    assert_holds(cohort, product, 12, failed=(3,))
    assert do_all(cohort, product, retry=True) == 1
    assert_holds(cohort, product, 12)
    assert do_all(cohort, product, restart=True) == 12
    assert_holds(cohort, product, 12)


@BOTH
@pytest.mark.parametrize("column", [n.TILE, n.REASON, n.STATE])
def test_growing_broken_off_is_mended(cohort: Cohort, product: Product, column: str) -> None:
    """Also where a column was made longer and the kill came before its values were written."""
    do_all(cohort, product)
    add_tiles(cohort, tile_names(3, 4)[8:], px=PX)
    written = groups.write_rows

    def stopping(location: Any, path: str, first: int, values: Any) -> None:
        if path == f"{n.RUNS}/r/{column}":
            groups.open_column(location, path).resize((first + len(values),))
            raise KeyboardInterrupt
        written(location, path, first, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_columns, "write_rows", stopping)
        with pytest.raises(KeyboardInterrupt):
            do_all(cohort, product)
    assert do_all(cohort, product) == 4
    assert_holds(cohort, product, 12)


@BOTH
def test_killed_between_commits_it_ends_as_if_never_killed(
    cohort: Cohort, tmp_path: Path, template: Path, product: Product
) -> None:
    shutil.copytree(template, tmp_path / "whole.zarr")
    add_tiles(open_cohort(tmp_path / "whole.zarr"), tile_names(6, 4)[8:], px=PX)
    add_tiles(cohort, tile_names(6, 4)[8:], px=PX)
    do_all(open_cohort(tmp_path / "whole.zarr"), product)
    commits = tmp_path / "commits"
    for wanted in (1, 4, 7):
        process = killing.FORKS.Process(target=toys.run_toy, args=(cohort.url, product.name, str(commits)))
        process.start()
        deadline = time.monotonic() + 120
        while (not commits.exists() or commits.stat().st_size < wanted) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    states = cohort.run("r", lazy=False)[n.STATE].values
    assert 0 < (states == n.DONE).sum() < 24, "the kill found it under way"
    assert do_all(cohort, product) == (states == n.PENDING).sum() > 0
    found, expected = (stored_values(Path(url), f"{n.RUNS}/r") for url in (cohort.url, str(tmp_path / "whole.zarr")))
    assert differences(found, expected) == []
    assert check(cohort.url) == []


def test_a_missing_shard_of_classes_is_an_error_and_is_made_again(cohort: Cohort) -> None:
    do_all(cohort, CLASSES)
    (Path(cohort.url) / n.RUNS / "r" / "classes" / "c.1.0.0").unlink()
    with pytest.raises(StoreDamagedError):
        cohort.run("r", lazy=False)["classes"][2].load()
    assert [problem.tiles for problem in check(cohort.url)] == [(2, 3)]
    check(cohort.url, repair=True)
    assert do_all(cohort, CLASSES) == 2
    assert_holds(cohort, CLASSES, 8)
    assert check(cohort.url) == []


def test_a_damaged_column_is_named_set_back_and_made_again(cohort: Cohort) -> None:
    do_all(cohort, LOGITS)
    chunk = Path(cohort.url) / n.RUNS / "r" / "logits" / "c.0.0"
    body = bytearray(chunk.read_bytes())
    body[len(body) // 2] ^= 0xFF
    chunk.write_bytes(bytes(body))
    with pytest.raises(StoreDamagedError):
        groups.read_column(cohort.location, f"{n.RUNS}/r/logits")
    (problem,) = check(cohort.url)
    assert problem.where == f"{n.RUNS}/r/logits"
    check(cohort.url, repair=True)
    assert do_all(cohort, LOGITS) == 8
    assert_holds(cohort, LOGITS, 8)


def test_a_column_without_a_size_is_not_made(cohort: Cohort) -> None:
    def values(tile: int) -> dict[str, Any]:
        return {"embedding": made_of(LOGITS, tile, PX), "where": "here"}

    with runs.writing_run(
        cohort, "r", identity={}, facts={}, product=LOGITS, sizes={"feature": 3}, attrs={"embedding": {"of": "toys"}}
    ) as writer:
        assert writer.small == ("embedding", "where", n.REASON, n.SECONDS, n.STATE)
        for plan in list(writer.plans()):
            tiles = [plan.first + slot for slot in plan.todo]
            write_run_shard(
                cohort.location, "r", plan, iter([()] * len(tiles)), creation=run_creation(cohort.location, "r")
            )
            writer.commit([ShardReceipt(plan, tuple(TileResult(n.DONE, 0.1, values=values(t)) for t in tiles))])
        assert writer.finish()
    run = cohort.run("r", lazy=False)
    assert "logits" not in run
    assert "kind" not in run.coords
    assert run["embedding"].attrs["of"] == "toys"
    np.testing.assert_array_equal(run["embedding"].values, [made_of(LOGITS, t, PX) for t in range(8)])
    mark_pending(cohort, "r", [1])
    assert np.isnan(cohort.run("r", lazy=False)["embedding"].values[1]).all()
    assert check(cohort.url) == []


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"kind": KINDS, "feature": FEATURES + 1}, "feature: stored 5, now 6"),
        ({"kind": KINDS[::-1], "feature": FEATURES}, "kind: stored"),
        ({"feature": FEATURES}, "kind: stored"),
    ],
)
def test_a_run_is_not_continued_with_other_sizes(cohort: Cohort, sizes: Any, match: str) -> None:
    do_all(cohort, LOGITS)
    with pytest.raises(RunMismatchError, match=match):
        do_all(cohort, LOGITS, sizes=sizes)
    assert_holds(cohort, LOGITS, 8)


@pytest.mark.parametrize(
    ("product", "sizes", "match"),
    [
        (CLASSES, {}, "class_px needs the size of kind"),
        (CLASSES, {"kind": 3}, "expected the names along kind"),
        (LOGITS, {"feature": ("a", "b")}, "expected the number along feature"),
        (LOGITS, {"features": 5}, "nothing along features"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(cohort: Cohort, product: Product, sizes: Any, match: str) -> None:
    with pytest.raises(FintuneValueError, match=match):
        do_all(cohort, product, sizes=sizes)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"logits": np.zeros(3), "embedding": np.zeros(FEATURES)},
        {"logits": np.zeros(3), "embedding": np.zeros(1), "where": "here"},
        {"logits": np.zeros(3), "embedding": 0.0, "where": "here"},
        {"logits": np.zeros(3), "embedding": np.zeros(FEATURES), "where": "here", "more": 1},
    ],
)
def test_a_tile_that_is_done_brings_every_value_in_its_shape(cohort: Cohort, values: Any) -> None:
    with runs.writing_run(cohort, "r", identity={}, facts={}, product=LOGITS, sizes=toys.SIZES[LOGITS.name]) as writer:
        plan = next(writer.plans())
        with pytest.raises(FintuneValueError, match="expected for each tile values of shapes"):
            writer.commit([ShardReceipt(plan, tuple(TileResult(n.DONE, 0.1, values=values) for _ in plan.todo))])
        assert (writer.states() == n.PENDING).all()


def test_a_worker_of_a_run_that_was_made_anew_is_refused(cohort: Cohort) -> None:
    do_all(cohort, LOGITS)
    with pytest.raises(RunMismatchError, match="restarted"):
        write_run_shard(cohort.location, "r", ShardPlan(0, 0, 2, (0, 1)), iter([(), ()]), creation="another")


@pytest.mark.parametrize("product", list(PRODUCTS.values()), ids=list(PRODUCTS))
def test_every_product_says_what_stands_where_nothing_is_known(product: Product) -> None:
    assert PRODUCTS[product.name] is product
    assert product.name in TILE_RESULTS
    assert product.columns[-1] == n.STATE
    for name in (*product.columns, *filter(None, [product.array])):
        assert product.run[name].dims[0] == n.TILE
        product.initial(name)


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), filler=st.sampled_from([0, 7, 255]))
def test_tiles_of_any_dims_are_padded_with_the_filler(shape: list[int], filler: int) -> None:
    size = tuple(side + 2 for side in shape)
    grid = shards.ShardGrid("a", "uint8", (1, *size), (4, *size), filler)
    whole = np.full(size, filler, np.uint8)
    assert shards.encode_empty(grid) == shards.encode_tile(whole, grid)
    whole[tuple(slice(0, side) for side in shape)] = 9
    assert shards.encode_tile(np.full(shape, 9, np.uint8), grid) == shards.encode_tile(whole, grid)
