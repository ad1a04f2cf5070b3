"""A model is not scored on tiles that it has seen under another split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from labelled_volumes import GRID, make_volumes

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError, UnknownNameError
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.evaluate import evaluate, score_lines, score_table
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.steps.train import train
from fintune_xr.pipelines.studies.benchmark import benchmark
from fintune_xr.pipelines.studies.budget import budget
from fintune_xr.pipelines.studies.gate import gate
from fintune_xr.pipelines.studies.hybrid import hybrid
from fintune_xr.pipelines.task_parts.seen_apart import of_exposures
from fintune_xr.pixels.pixel_digest import pixels_sha256
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage import training_exposure as seen
from fintune_xr.store.lineage.depends_on import source_doubt
from fintune_xr.text import text_array

TRAINING = (
    "epochs=1", "validate_every=1", "patches_per_epoch=4", "patch_px=64", "filters=[4,8,16]", "threads=1", "device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort whose split is another one than that under which `first` and, from it, `second` were trained."""
    folder = tmp_path_factory.mktemp("seen")
    settings = CohortSettings(
        n_donors=6, markers=("GFAP",), tiles_per_donor=(1, 1), tile_px=96, n_annotated=6, damaged=False, seed=3
    )
    made = simulate_cohort(folder / "raw", settings=settings)
    path = folder / "cohort.zarr"
    ingest(made.source, path)
    annotate(made.annotations, path)
    split(path, fractions=(0.34, 0.33, 0.33))
    first = train(path, run_name="first", out=folder / "models", overrides=TRAINING)
    infer(path, run="first", model=str(first), overrides=["device=cpu"])
    infer(path, run="threshold", model="threshold", overrides=["device=cpu"])
    evaluate(path)
    hybrid(path, run_name="mixed", runs=["first", "threshold"])
    before = parts(path)
    seed = next(s for s in range(1, 50) if rotated(before, resplit(path, s)))
    assert seed
    second = train(path, run_name="second", model=str(first), out=folder / "models", overrides=TRAINING)
    infer(path, run="second", model=str(second), overrides=["device=cpu"])
    return path


def parts(store: Path) -> dict[str, str]:
    images = open_cohort(store).images()
    return dict(zip(map(str, text_array(images[n.TILE])), map(str, text_array(images[n.SPLIT])), strict=True))


def resplit(store: Path, seed: int) -> dict[str, str]:
    split(store, fractions=(0.34, 0.33, 0.33), seed=seed, force=True)
    return parts(store)


def rotated(before: dict[str, str], now: dict[str, str]) -> bool:
    """Train tiles have become test tiles, and others than these train now."""
    moved = {(before[tile], now[tile]) for tile in before}
    return {(n.TRAIN, n.TEST), (n.TEST, n.TRAIN), (n.TRAIN, n.VAL)} <= moved


@pytest.mark.parametrize("run", ["first", "mixed", "second"])
def test_tiles_that_trained_the_model_or_the_one_it_began_with_are_not_scored(store: Path, run: str) -> None:
    said = rf"the model of run '{run}' has seen in training \d of the tiles .*the split is another one now"
    for part in (n.TEST, n.VAL):
        with pytest.raises(SplitError, match=said):
            evaluate(store, runs=[run], split=part)
    with pytest.raises(SplitError, match=said):
        gate(store, run=run)


def test_a_copy_of_the_weights_with_its_record_has_seen_the_same(store: Path, tmp_path: Path) -> None:
    """As the final model of a self-training is, outside of the folder of its stage."""
    folder = store.parent / "models" / "first"
    shutil.copy(folder / "model.pt", tmp_path / "final_model.pt")
    shutil.copy(folder / "training.json", tmp_path / "final_model.training.json")
    cohort, tiles = open_cohort(store), parts(store)
    copied = resolve_checkpoint(str(tmp_path / "final_model.pt"))
    with pytest.raises(SplitError, match=r"model 'final_model' has seen in training \d of the tiles"):
        seen.require_unseen_by(cohort, copied, [tile for tile, part in tiles.items() if part == n.TEST])


def test_a_training_records_the_weights_that_it_comes_from(store: Path) -> None:
    models = store.parent / "models"
    first = resolve_checkpoint(str(models / "first"))
    assert json.loads((models / "second/training.json").read_text())[n.WEIGHTS_BEFORE] == [first.sha256]
    assert n.WEIGHTS_BEFORE not in json.loads((models / "first/training.json").read_text())
    assert seen.weights_of_training(open_cohort(store), "second") == {first.sha256}


def test_studies_refuse_a_start_that_has_seen_their_test_tiles_before_they_train(store: Path, tmp_path: Path) -> None:
    first = str(store.parent / "models" / "first")
    with pytest.raises(SplitError, match="model 'first' has seen in training"):
        budget(store, model=first, out=tmp_path, budgets=(2,), seeds=1, overrides=TRAINING)
    with pytest.raises(SplitError, match="model 'first' has seen in training"):
        benchmark(store, model=first, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_hybrid_has_seen_the_tiles_that_chose_it(store: Path) -> None:
    cohort, tiles = open_cohort(store), parts(store)
    val = [tile for tile, part in tiles.items() if part == n.VAL]
    facts = seen.choice_exposure(cohort, ["threshold"], val)
    assert facts == seen.training_exposure(cohort, learned=[], judged=val, start=None)
    with pytest.raises(UnknownNameError, match="no part that chooses a hybrid 'all'; known: train, val"):
        hybrid(store, run_name="x", runs=["first", "threshold"], part="all")


def test_a_hybrid_of_runs_made_anew_is_refused_until_it_is_made_anew(store: Path) -> None:
    infer(store, run="other", model="threshold", overrides=["device=cpu", "model.sigma_px=3"])
    hybrid(store, run_name="one", runs=["threshold", "other"])
    hybrid(store, run_name="two", runs=["one", "other"])
    chosen = open_cohort(store).run("one").attrs  # the source that the only marker takes
    source = next(iter(chosen["identity"]["sources"]))
    infer(store, run=source, model="threshold", overrides=["device=cpu", "model.sigma_px=2"], restart=True)
    with pytest.raises(FintuneValueError, match=rf"one holds masks of run {source} as it was before.*--restart"):
        evaluate(store, runs=["one"])
    assert source_doubt(open_cohort(store), "two")
    hybrid(store, run_name="one", runs=["threshold", "other"], restart=True)
    evaluate(store, runs=["one"])


def test_what_learned_from_nothing_and_the_train_part_are_scored(store: Path) -> None:
    train_tiles = {tile for tile, part in parts(store).items() if part == n.TRAIN}
    assert set(text_array(evaluate(store, runs=["threshold"])[n.RUN])) == {"threshold"}
    assert set(text_array(evaluate(store, runs=["first", "second"], split=n.TRAIN)[n.TILE])) == train_tiles


def test_tiles_that_chose_the_epoch_may_be_val_tiles_but_no_test_tiles(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = open_cohort(store)
    tiles = {part: [tile for tile, its in parts(store).items() if its == part] for part in n.SPLITS}
    facts = seen.training_exposure(cohort, learned=[], judged=tiles[n.VAL] + tiles[n.TEST][:1], start=None)
    monkeypatch.setattr(Cohort, "run_attrs", lambda *_: {"provenance": {"training": {"seen": facts}}})
    seen.require_unseen(cohort, ["r"], tiles[n.VAL] + tiles[n.TEST][1:])
    with pytest.raises(SplitError, match=rf"in training 1 of the tiles .*\({tiles[n.TEST][0]}\)"):
        seen.require_unseen(cohort, ["r"], tiles[n.TEST])


def test_every_run_is_judged_and_digests_are_made_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = open_cohort(store)
    tests = [tile for tile, its in parts(store).items() if its == n.TEST]
    facts = {
        run: seen.training_exposure(cohort, learned=of, judged=[], start=None) for run, of in (("r", []), ("s", tests))
    }
    monkeypatch.setattr(Cohort, "run_attrs", lambda _, run: {"provenance": {"training": {"seen": facts.get(run, {})}}})
    made, digests = [], seen._digests
    monkeypatch.setattr(seen, "_digests", lambda *given: made.append(given) or digests(*given))
    with pytest.raises(SplitError, match=rf"model of run 's' has seen in training {len(tests)} of the tiles"):
        seen.require_unseen(cohort, ["r", "t", "s"], tests)
    seen.require_unseen(cohort, ["t"], tests)
    assert len(made) == 1


def test_all_tiles_are_scored_apart_by_what_taught_the_model(store: Path) -> None:
    scores = evaluate(store, runs=["second", "threshold"], split="all")
    cohort = open_cohort(store)
    known = seen.seen_tiles(cohort, "second", list(parts(store)))
    assert set(known.values()) == {seen.LEARNED, seen.JUDGED}
    counts = scores[[n.TP, n.FP, n.FN]].sel({n.RUN: "second"})
    is_seen = np.isin(text_array(scores[n.TILE]), list(known))
    apart = of_exposures(scores)
    own = counts.isel({n.TILE: np.flatnonzero(is_seen)}).sum(n.TILE)
    found = apart[n.SEEN_TILES]["f1_pooled"].sel({n.RUN: "second"})
    np.testing.assert_allclose(found, 2 * own[n.TP] / (2 * own[n.TP] + own[n.FP] + own[n.FN]))
    # Learning on, the second model has seen every tile, so that none is new to it.
    assert is_seen.all()
    assert text_array(apart[n.NEW_TILES][n.RUN]).tolist() == ["threshold"]
    assert "threshold" not in apart[n.SEEN_TILES][n.RUN]
    table = score_table(scores)
    assert set(table["tiles"]) == {"all of them", n.SEEN_TILES, n.NEW_TILES}
    assert set(table["group"][table["tiles"] == n.NEW_TILES]) == {n.ALL_MARKERS}
    lines = score_lines(scores)
    assert any(line.startswith("run second: its model learned from") for line in lines)
    assert not any(line.startswith("run threshold: its") for line in lines)


def test_the_same_pixels_saved_anew_are_the_same_tile(store: Path, tmp_path: Path) -> None:
    """Under another name and compression, in another store: what the model learned there it has seen here."""
    cohort = open_cohort(store)
    images = cohort.images(lazy=False)
    for at, tile in enumerate(text_array(images[n.TILE])):
        for channel, plane in enumerate(tile_pixels(images, at)):
            path = tmp_path / f"raw/x{at}/GFAP/other_b0c{channel}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, plane, compression="zlib")
        assert tile
    ingest(tmp_path / "raw", tmp_path / "anew.zarr")
    anew = open_cohort(tmp_path / "anew.zarr")
    zarr.open_array(f"{anew.location.path}/images/split", mode="r+")[:] = n.TEST
    names = [str(tile) for tile in text_array(anew.images(lazy=False)[n.TILE])]
    first = resolve_checkpoint(str(store.parent / "models" / "first"))
    with pytest.raises(SplitError, match="or other files held the same pixels"):
        seen.require_unseen_by(anew, first, names)
    column = zarr.open_array(f"{anew.location.path}/images/pixels_sha256", mode="r+")
    assert all(column[:])
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(f"{anew.location.path}/images/pixels_sha256", mode="r+")[:] = ""
    with pytest.raises(SplitError, match="or other files held the same pixels"):
        seen.require_unseen_by(open_cohort(tmp_path / "anew.zarr"), first, names)


def test_a_digest_of_pixels_knows_counts_and_no_files() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 9, 7)).astype(np.uint8)
    assert pixels_sha256(pixels) == pixels_sha256(pixels.astype(np.uint16)) == pixels_sha256(pixels.astype(">u2"))
    others = [pixels[::-1], pixels[:, ::-1], pixels.reshape(2, 7, 9), pixels + np.uint8(1)]
    assert len({pixels_sha256(one) for one in [pixels, *others]}) == 5
    assert pixels_sha256(np.ones((2, 4, 4))) == n.SHOWS_NOTHING


def test_tiles_without_digests_are_read_once_until_their_pixels_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tiles = tmp_path / "a.zarr", ("a/0", "b/0")
    one, two = tiles
    told = seen._digests(make_volumes(path, {"a": (0, n.TEST), "b": (1, n.TEST)}, scans=1), {*tiles})
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(path / "images/pixels_sha256", mode="r+")[:] = ""
    shapes: list[tuple[int, ...]] = []
    taken = seen.pixels_sha256
    monkeypatch.setattr(seen, "pixels_sha256", lambda pixels: shapes.append(pixels.shape) or taken(pixels))
    for _ in range(2):
        assert seen._digests(open_cohort(path), {*tiles}) == told
    assert shapes == [(1, *GRID)] * 2
    image = zarr.open_array(path / "images/image", mode="r+")
    image[1, 0, 2, 3, 4] += 1
    changed = seen._digests(open_cohort(path), {*tiles})
    assert (changed[one] == told[one], changed[two] == told[two], len(shapes)) == (True, False, 3)
    zarr.open_array(path / "images/depth", mode="r+")[0] = GRID[0] - 1
    assert seen._digests(open_cohort(path), {one})[one] != told[one]
    assert shapes[3:] == [(1, GRID[0] - 1, *GRID[1:])]
