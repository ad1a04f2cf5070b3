"""Inference, and one small study through every step after it: three donors, six tiles, a threshold."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
import xarray as xr
from numpy.typing import NDArray
from stores import add_tiles, annotate, assert_same_run, make_store, run_values, tile_names, tile_pixels

from fintune_xr import names as n
from fintune_xr.cluster.profile import Profile, load_profile, profile_names
from fintune_xr.errors import (
    CheckpointNotFoundError,
    DeviceError,
    FintuneError,
    FintuneValueError,
    RunMismatchError,
    SettingsError,
    StoreDamagedError,
    StoreNotFoundError,
    StoreWriteError,
    UnknownNameError,
)
from fintune_xr.models.protocol import segment
from fintune_xr.models.threshold.adapter import ThresholdSegmenter
from fintune_xr.models.threshold.kind import THRESHOLD
from fintune_xr.models.threshold.settings import ThresholdSettings
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.inference import block as infer_block
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.associate import associate
from fintune_xr.pipelines.steps.bootstrap import bootstrap
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate, score_lines, score_table
from fintune_xr.pipelines.steps.infer import infer, quarantined_of
from fintune_xr.pipelines.steps.infer_plan import plan_run
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.pipelines.steps.split import split
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.tile_counts import active_rule, quarantined_tiles, tile_counts
from fintune_xr.store.runs import create
from fintune_xr.store.runs.writer import mark_pending
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.text import texts

SETTINGS = ("model.background_px=0", "model.min_area_px=20")
SEGMENTER = ThresholdSegmenter(ThresholdSettings(background_px=0, min_area_px=20), channels=("DAPI", "marker"))


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of 6 tiles, and a copy with the finished run `base`."""
    folder = tmp_path_factory.mktemp("templates")
    make_store(folder / "bare.zarr")
    shutil.copytree(folder / "bare.zarr", folder / "done.zarr")
    infer(folder / "done.zarr", run="base", model="threshold", overrides=SETTINGS)
    return folder / "bare.zarr", folder / "done.zarr"


@pytest.fixture
def store(tmp_path: Path, templates: tuple[Path, Path]) -> str:
    return str(shutil.copytree(templates[0], tmp_path / "a.zarr"))


@pytest.fixture
def done(tmp_path: Path, templates: tuple[Path, Path]) -> str:
    return str(shutil.copytree(templates[1], tmp_path / "a.zarr"))


def expected_masks() -> list[NDArray[np.uint32]]:
    return [segment(SEGMENTER, [tile_pixels(name, 64)])[0] for name in tile_names(3, 2)]


# ---- a run


def test_a_run_holds_what_the_model_gives_tile_by_tile(done: str) -> None:
    cohort = open_cohort(done)
    run = cohort.run("base", lazy=False)
    expected = expected_masks()
    np.testing.assert_array_equal(run[n.MASK].values, expected)
    assert run[n.N_CELLS].values.tolist() == [int(mask.max()) for mask in expected]
    assert min(run[n.N_CELLS].values) > 0
    assert (run[n.STATE] == n.DONE).all()
    cells = cohort.cells("base", lazy=False)
    image, mask = tile_pixels(tile_names(3, 2)[4], 64), expected[4]
    fifth = cells.isel({n.CELL: np.flatnonzero(cells[n.TILE_INDEX] == 4)})
    means = [[image[c][mask == label].mean() for c in range(2)] for label in fifth[n.LABEL].values]
    np.testing.assert_allclose(fifth[n.MEAN_INTENSITY].values, means, rtol=1e-6)
    np.testing.assert_array_equal(run[n.BACKGROUND][4], [np.median(image[c][mask == 0]) for c in range(2)])
    assert check(done) == []


def test_provenance_says_what_a_run_was_made_of(done: str) -> None:
    attrs = open_cohort(done).run_attrs("base")
    assert attrs["identity"]["checkpoint_kind"] == "threshold"
    assert attrs["identity"]["settings"]["background_px"] == 0
    facts = attrs["provenance"]
    assert facts["settings"]["attempts"] == 2
    assert facts["device"] == "cpu"
    assert {"zarr", "numpy", "dask"} <= set(facts["packages"])
    assert len(facts["git_revision"]) >= 7


def test_tiles_smaller_than_the_array_are_segmented_without_their_padding(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "a.zarr", donors=1, tiles=1, px=96)
    add_tiles(cohort, ["d1/GFAP/000"], px=64)
    infer(cohort.url, run="r", model="threshold", overrides=SETTINGS)
    mask = cohort.run("r")[n.MASK][1].values
    np.testing.assert_array_equal(mask[:64, :64], segment(SEGMENTER, [tile_pixels("d1/GFAP/000", 64)])[0])
    assert not mask[64:].any()
    assert not mask[:, 64:].any()


@pytest.mark.parametrize(("per_task", "batch"), [(2, 1), (4, 3), (6, 4)])
def test_tasks_and_batches_do_not_change_results(
    store: str, templates: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, per_task: int, batch: int
) -> None:
    monkeypatch.setattr(create, "tiles_per_shard", lambda _: per_task)
    in_batches(monkeypatch)
    infer(store, run="base", model="threshold", overrides=[*SETTINGS, f"batch_tiles={batch}"])
    assert_same_run(run_values(open_cohort(templates[1]), "base"), run_values(open_cohort(store), "base"))


@pytest.mark.slow
def test_processes_give_what_threads_give(store: str, templates: tuple[Path, Path]) -> None:
    infer(store, run="base", model="threshold", overrides=SETTINGS, cluster="processes")
    assert_same_run(run_values(open_cohort(templates[1]), "base"), run_values(open_cohort(store), "base"))


def test_again_does_nothing_and_new_tiles_are_all_that_is_done(done: str) -> None:
    assert infer(done, run="base").n_new == 0
    add_tiles(open_cohort(done), ["d9/GFAP/000"])
    summary = infer(done, run="base")
    assert (summary.n_new, summary.n_done, summary.n_tiles) == (1, 7, 7)
    assert open_cohort(done).run_attrs("base")["identity"]["settings"]["background_px"] == 0
    assert check(done) == []


def test_repaired_tiles_are_bit_identical(done: str) -> None:
    cohort = open_cohort(done)
    before = run_values(cohort, "base")
    mark_pending(cohort, "base", [1, 4])
    assert infer(done, run="base").n_new == 2
    assert_same_run(before, run_values(cohort, "base"))


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(store: str) -> None:
    before = sorted(Path(store).rglob("*"))
    plan = plan_run(store, run="r", model="threshold", cluster="processes")
    assert (plan["tiles"], plan["pending"]) == (6, 6)
    assert plan["model"].startswith("threshold threshold (sha256 ")
    assert plan["workers"].endswith("processes")
    assert sorted(Path(store).rglob("*")) == before


# ---- a tile that fails


class Faulty(ThresholdSegmenter):
    """Fails on every tile whose first pixel is one of `bad`, in one stage, some number of times."""

    def __init__(self, stage: str, bad: Sequence[int], error: Exception, times: int = 1_000) -> None:
        super().__init__(SEGMENTER.settings, channels=("DAPI", "marker"))
        self.stage, self.bad, self.error, self.left = stage, set(bad), error, times

    def _perhaps(self, stage: str, value: float) -> None:
        if stage == self.stage and int(value) in self.bad and self.left > 0:
            self.left -= 1
            raise self.error

    def normalise(self, tile: Any) -> Any:
        self._perhaps("normalise", tile[0, 0, 0])
        return super().normalise(tile)

    def predict(self, batch: Sequence[Any]) -> list[Any]:
        for one in batch:
            self._perhaps("predict", one[0, 0, 0])
        maps = super().predict(batch)
        # The first pixel is carried through, so that the last stage knows the tile.
        for one, before in zip(maps, batch, strict=True):
            one[0, 0, 0] = before[0, 0, 0]
        return maps

    def reconstruct(self, maps: Any) -> Any:
        self._perhaps("reconstruct", maps[0, 0, 0])
        return super().reconstruct(maps)


def first_pixel(tile: int) -> int:
    return int(tile_pixels(tile_names(3, 2)[tile], 64)[0, 0, 0])


def with_fault(monkeypatch: pytest.MonkeyPatch, segmenter: Faulty) -> None:
    monkeypatch.setattr(infer_block, "load_model", lambda *_, **__: segmenter)


def in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the classical model stand for one that is shown several tiles at once."""
    pooling = replace(THRESHOLD, pools=True)
    monkeypatch.setattr("fintune_xr.pipelines.inference.request.kind_named", lambda _: pooling)


@pytest.mark.parametrize(("stage", "batch"), [("normalise", 1), ("predict", 1), ("predict", 4), ("reconstruct", 4)])
def test_a_tile_that_fails_is_quarantined_and_the_others_are_done(
    store: str, monkeypatch: pytest.MonkeyPatch, stage: str, batch: int
) -> None:
    bad = [i for i in range(6) if first_pixel(i) == first_pixel(3)]
    with_fault(monkeypatch, Faulty(stage, [first_pixel(3)], IndexError("too odd")))
    in_batches(monkeypatch)
    summary = infer(store, run="r", model="threshold", overrides=[*SETTINGS, f"batch_tiles={batch}"])
    assert (summary.n_done, summary.n_quarantined) == (6 - len(bad), len(bad))
    assert quarantined_of(store, "r") == [(tile_names(3, 2)[i], "IndexError: too odd") for i in bad]
    run = open_cohort(store).run("r", lazy=False)
    assert run[n.N_CELLS].values[bad].tolist() == [-1] * len(bad)
    assert not run[n.MASK].values[bad].any()
    assert check(store) == []

    monkeypatch.undo()
    assert infer(store, run="r").n_new == 0
    summary = infer(store, run="r", retry_quarantined=True)
    assert (summary.n_new, summary.n_done, summary.n_quarantined) == (len(bad), 6, 0)
    np.testing.assert_array_equal(open_cohort(store).run("r")[n.MASK].values, expected_masks())


def test_a_tile_that_fails_once_is_tried_again(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_fault(monkeypatch, Faulty("predict", [first_pixel(2)], RuntimeError("a hiccup"), times=1))
    assert infer(store, run="r", model="threshold", overrides=SETTINGS).n_quarantined == 0
    with_fault(monkeypatch, Faulty("predict", [first_pixel(2)], RuntimeError("a hiccup"), times=1))
    in_batches(monkeypatch)
    settings = [*SETTINGS, "attempts=1", "batch_tiles=3"]
    assert infer(store, run="s", model="threshold", overrides=settings).n_quarantined == 0


def test_the_command_line_tells_of_quarantined_tiles(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_fault(monkeypatch, Faulty("normalise", [first_pixel(0)], ValueError("[odd] text")))
    assert cli.run(["infer", store, "--run", "r", "--model", "threshold", *SETTINGS]) == 3
    assert "quarantined d0/GFAP/000: ValueError: [odd] text" in capsys.readouterr().out


@pytest.mark.parametrize("error", [MemoryError(), StoreDamagedError("a shard is gone"), DeviceError("no GPU")])
def test_what_is_not_the_tiles_fault_stops_the_run(
    store: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with_fault(monkeypatch, Faulty("reconstruct", [first_pixel(3)], error))
    with pytest.raises(type(error)):
        infer(store, run="r", model="threshold", overrides=SETTINGS)
    run = open_cohort(store).run("r")
    assert not (run[n.STATE] == n.QUARANTINED).any()
    monkeypatch.undo()
    assert infer(store, run="r").n_done == 6


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_damaged_images_are_an_error_and_not_quarantine(store: str, damage: str) -> None:
    file = Path(store) / "images" / "image" / "c.0.0.0.0"
    content = file.read_bytes()
    file.unlink()
    if damage == "flipped":
        file.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    with pytest.raises(StoreDamagedError, match="fintune-xr check"):
        infer(store, run="r", model="threshold", overrides=SETTINGS)
    assert not (open_cohort(store).run("r")[n.STATE] == n.QUARANTINED).any()
    file.write_bytes(content)
    assert infer(store, run="r").n_done == 6


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for two MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system needs the right to mount: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_stops_the_run_and_room_lets_it_go_on(
    small_disk: Path, templates: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """All but a little of the disk is taken; a little more is given back each time, until the run ends."""
    store = str(shutil.copytree(templates[0], small_disk / "a.zarr"))
    room, statuses = 8192, []
    while statuses[-1:] != [0]:
        with (small_disk / "filler").open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(b"\0" * 4096):
                    pass
            file.truncate(max(0, file.tell() - room))
        statuses.append(cli.run(["infer", store, "--run", "base", "--model", "threshold", *SETTINGS]))
        if statuses[-1]:
            said = capsys.readouterr().err
            assert "No space left on device" in said
            assert "Everything stored before is intact" in said
        room += 8 * 4096
    assert statuses[:-1] == [1] * (len(statuses) - 1)
    assert len(statuses) >= 2
    assert_same_run(run_values(open_cohort(templates[1]), "base"), run_values(open_cohort(store), "base"))
    assert check(store) == []


# ---- positive cells, ratios, associations, resamples, scores


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Six donors with two runs, annotations equal to the first run's masks, and a clinical table."""
    folder = tmp_path_factory.mktemp("study")
    cohort = make_store(folder / "a.zarr", donors=6, tiles=2, px=128)
    infer(cohort.url, run="base", model="threshold", overrides=SETTINGS)
    infer(cohort.url, run="marker", model="threshold", overrides=[*SETTINGS, "model.channel=marker"])
    masks = cohort.run("base")[n.MASK].values
    annotate(cohort, dict(zip(tile_names(6, 2), masks, strict=True)))
    split(cohort.url, fractions=(0.0, 0.0, 1.0), seed=1)
    outcomes = {"nft": [1.0, 3, 2, 5, 4, 6], "gpath": [2.0, 1, 3, 4, 6, 5]}
    pd.DataFrame({"projid": [f"d{i}" for i in range(6)], **outcomes}).to_csv(folder / "clinical.csv", index=False)
    return cohort.url, folder / "clinical.csv"


def test_positive_cells_are_those_that_shine_in_the_marker(study: tuple[str, Path]) -> None:
    cohort = open_cohort(study[0])
    assert active_rule(cohort, "base") == "otsu"
    counts = cohort.positivity("base").sel({n.RULE: "otsu"})
    for i, name in enumerate(tile_names(6, 2)):
        mask, signal = cohort.run("base")[n.MASK][i].values, tile_pixels(name, 128)[1].astype(float)
        means = [signal[mask == label].mean() for label in range(1, mask.max() + 1)]
        assert counts[n.N_POSITIVE].values[i] == sum(mean > 350 for mean in means), name
    np.testing.assert_array_equal(cohort.run("base")[n.N_POSITIVE].values, counts[n.N_POSITIVE].values)


def _check_covariates(store: str, clinical: Path) -> None:
    """Every rho of the store is the partial one: of the active rule, of lost tiles, in a resample of every donor."""
    table = pd.read_csv(clinical).assign(age=[80.0, 71, 90, 85, 77, 66])
    adjusted = clinical.with_name("adjusted.csv")
    table.to_csv(adjusted, index=False)
    with pytest.raises(FintuneValueError, match=r"outcomes gpath; adjusted for nothing, now for age\..*--replace"):
        associate(store, clinical=adjusted, outcomes=["nft"], covariates=["age"])
    found = associate(store, clinical=adjusted, outcomes=["nft"], covariates=["age"], replace=True)
    ratio = found[n.RATIO].sel({n.RUN: "base", n.MARKER: "GFAP"}).values
    ranks = np.array([scipy.stats.rankdata(side) for side in (ratio, table.nft, table.age)])
    inverse = np.linalg.inv(np.corrcoef(ranks))
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    at = {n.RUN: "base", n.MARKER: "GFAP", n.OUTCOME: "nft"}
    for name in (n.RHO, "rho_if_lost_negative", "rho_if_lost_positive"):
        assert float(found[name].sel(at)) == pytest.approx(expected), name
    told = [found[name].attrs["long_name"] for name in (n.RHO, "rho_if_lost_negative", "rho_if_lost_positive")]
    assert len(set(told)) == 3
    assert "long_name" not in found.attrs
    assert float(found["rho_by_rule"].sel({**at, n.RULE: "otsu"})) == pytest.approx(expected)
    positive, total = (found[name].sel({n.RUN: "base", n.MARKER: "GFAP"}).values for name in (n.N_POSITIVE, n.N_ALL))
    design = np.column_stack([np.ones(6), table.nft, table.age])
    fit = sm.GLM(np.column_stack([positive, total - positive]), design, family=sm.families.Binomial()).fit()
    assert float(found[n.LOG_ODDS].sel(at)) == pytest.approx(fit.params[1], rel=1e-6)
    drawn = bootstrap(store, scheme="tiles", resamples=20, seed=1).load()
    assert list(drawn.attrs["covariates"]) == ["age"]
    one = drawn.isel({n.RESAMPLE: 4}).sel({n.RUN: "base", n.MARKER: "GFAP"})
    ranks[0] = scipy.stats.rankdata(one[n.RATIO_RESAMPLED])
    inverse = np.linalg.inv(np.corrcoef(ranks))
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert float(one[n.RHO_RESAMPLED].sel({n.OUTCOME: "nft"})) == pytest.approx(expected)
    page = Path(report(store, out=clinical.with_name("adjusted.html"))).read_text()
    assert page.count("adjusted for age") >= 3


def test_a_report_of_one_evaluated_run_of_two(study: tuple[str, Path], tmp_path: Path) -> None:
    evaluate(study[0], runs=["marker"], split="all")
    page = Path(report(study[0], out=tmp_path / "r.html")).read_text()
    assert "AP50 of marker is" in page
    assert "Positive cells of base, marker: signal above Otsu" in page, "before anything was associated"


def test_the_study_from_masks_to_resamples(study: tuple[str, Path]) -> None:
    store, clinical = study
    found = associate(store, clinical=clinical)
    cohort = open_cohort(store)
    counts = tile_counts(cohort, ["base", "marker"])
    assert counts[n.N_ALL].sel({n.RUN: "base"}).values.sum() > counts[n.N_ALL].sel({n.RUN: "marker"}).values.sum()
    for donor in range(6):
        one = cohort.positivity("base").sel({n.RULE: "otsu"}).isel({n.TILE: 2 * donor})
        ratio = found[n.RATIO].sel({n.RUN: "base", n.DONOR: f"d{donor}", n.MARKER: "GFAP"})
        assert float(ratio) == pytest.approx(int(one[n.N_POSITIVE]) / int(one[n.N_ALL]))
    assert found[n.N].sel({n.RUN: "base", n.MARKER: "GFAP", n.OUTCOME: "nft"}) == 6
    xr.testing.assert_equal(cohort.analysis(), found)
    _check_covariates(store, clinical)
    associate(store, clinical=clinical, replace=True)

    first = bootstrap(store, resamples=20, seed=3).load()
    more = bootstrap(store, resamples=50, seed=3).load()
    assert more.sizes[n.RESAMPLE] == 50
    xr.testing.assert_equal(more.isel({n.RESAMPLE: slice(0, 20)}), first)
    whole = bootstrap(store, resamples=50, seed=3, restart=True).load()
    xr.testing.assert_equal(whole, more)
    with pytest.raises(FintuneValueError, match=r"was drawn with seed 3, now 4\. Resamples of two"):
        bootstrap(store, resamples=60, seed=4)

    scores = evaluate(store, runs=["base", "marker"], resamples=20)
    table = score_table(scores)
    assert table[(table["group"] == "all") & (table["run"] == "base")]["precision_pooled"].item().startswith("1.000")
    assert check(store) == []


def test_another_rule_needs_no_segmentation_and_stays_when_the_run_goes_on(done: str) -> None:
    positivity(done, run="base", rule="fixed", threshold=1e6)
    cohort = open_cohort(done)
    assert active_rule(cohort, "base") == "fixed_1e+06"
    assert cohort.run("base")[n.N_POSITIVE].values.tolist() == [0] * 6
    add_tiles(cohort, ["d9/GFAP/000"])
    infer(done, run="base")
    assert active_rule(cohort, "base") == "fixed_1e+06"
    assert cohort.run("base")[n.N_POSITIVE].values.tolist() == [0] * 7
    infer(done, run="base", overrides=["positivity=otsu"])
    assert active_rule(cohort, "base") == "otsu"


def test_positive_cells_are_counted_again_after_a_kill(done: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = open_cohort(done)
    before = cohort.positivity("base").load()
    mark_pending(cohort, "base", [2])

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fintune_xr.pipelines.steps.infer.apply_positivity", killed)
        with pytest.raises(KeyboardInterrupt):
            infer(done, run="base")
    with pytest.raises(FintuneValueError, match="has no marker-positive cells yet"):
        active_rule(cohort, "base")
    assert infer(done, run="base").n_new == 0
    assert active_rule(cohort, "base") == "otsu"
    xr.testing.assert_equal(cohort.positivity("base").load(), before)


def test_detected_rule_wants_both_runs_finished(done: str) -> None:
    infer(done, run="nuclei", model="threshold", overrides=SETTINGS)
    counts = positivity(done, run="base", rule="detected", nuclei_run="nuclei").sel({n.RULE: "detected"})
    run = open_cohort(done).run("base")
    np.testing.assert_array_equal(counts[n.N_POSITIVE].values, run[n.N_CELLS].values)
    mark_pending(open_cohort(done), "nuclei", [0])
    with pytest.raises(FintuneValueError, match="run 'nuclei' has 1 of 6 tiles pending"):
        positivity(done, run="base", rule="detected", nuclei_run="nuclei")
    with pytest.raises(UnknownNameError, match="Did you mean 'nuclei'"):
        positivity(done, run="base", rule="detected", nuclei_run="nuclai")


def test_unfinished_runs_are_refused_by_what_counts_on_them(done: str, study: tuple[str, Path]) -> None:
    mark_pending(open_cohort(done), "base", [0, 5])
    for ask in (
        lambda: positivity(done, run="base"),
        lambda: associate(done, clinical=study[1]),
        lambda: tile_counts(open_cohort(done), ["base"]),
    ):
        with pytest.raises(FintuneValueError, match=r"run 'base' has 2 of 6 tiles pending.*fintune-xr infer .*"):
            ask()


def test_unfinished_runs_that_nobody_named_are_left_out_and_said(
    study: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(shutil.copytree(study[0], tmp_path / "a.zarr"))
    associate(store, clinical=study[1], replace=True)
    mark_pending(open_cohort(store), "marker", [0])
    with pytest.raises(FintuneValueError, match=r"throw away: runs marker\..*--replace"):
        associate(store, clinical=study[1])
    assert associate(store, clinical=study[1], replace=True).run.values.tolist() == ["base"]
    said = capsys.readouterr()
    assert "left out: run 'marker' has 1 of 12 tiles pending" in said.out + said.err
    with pytest.raises(FintuneValueError, match="run 'marker' has 1 of 12 tiles pending"):
        associate(store, clinical=study[1], runs=["base", "marker"])


def test_a_missing_clinical_table_is_said_first(done: str) -> None:
    mark_pending(open_cohort(done), "base", [0])
    with pytest.raises(FintuneError, match=r"nowhere\.csv"):
        associate(done, clinical="nowhere.csv")


def test_a_report_makes_no_folders(done: str, tmp_path: Path) -> None:
    with pytest.raises(StoreWriteError, match="there is no folder"):
        report(done, out=tmp_path / "no" / "such" / "r.html")
    assert not (tmp_path / "no").exists()


def test_tiles_added_after_a_run_make_it_unfinished(done: str, study: tuple[str, Path]) -> None:
    add_tiles(open_cohort(done), ["d9/GFAP/000"])
    with pytest.raises(FintuneValueError, match="run 'base' has 1 of 7 tiles pending"):
        associate(done, clinical=study[1])
    with pytest.raises(FintuneValueError, match="run 'base' has 1 of 7 tiles pending"):
        positivity(done, run="base")
    cohort = open_cohort(done)
    annotate(cohort, {name: np.ones((64, 64), np.uint32) for name in ("d0/GFAP/000", "d9/GFAP/000")})
    with pytest.raises(FintuneValueError, match="run 'base' has no result for 1 of 2 annotated tiles"):
        evaluate(done, split="all")


def test_an_annotated_tile_in_quarantine_is_left_out_of_the_scores_and_named(
    done: str, no_pictures: None, tmp_path: Path
) -> None:
    cohort = open_cohort(done)
    tiles = texts(cohort.images()[n.TILE])
    annotate(cohort, {name: np.ones((64, 64), np.uint32) for name in tiles})
    whole = evaluate(done, split="all", resamples=5)
    assert whole.attrs[n.LEFT_OUT] == {}
    state = open_column(cohort.location, f"{n.RUNS}/base/{n.STATE}")
    state[2] = n.QUARANTINED
    page = report(done, out=tmp_path / "old.html")
    assert "AP50 of base is" in Path(page).read_text()
    scores = evaluate(done, split="all", resamples=5)
    assert scores.attrs[n.LEFT_OUT] == {"base": [tiles[2]]}
    assert texts(scores[n.TILE]) == [*tiles[:2], *tiles[3:]]
    np.testing.assert_array_equal(scores[n.TP], whole[n.TP].sel({n.TILE: scores[n.TILE]}))
    said = f"run base has 1 annotated tile(s) in quarantine: {tiles[2]}"
    assert score_lines(scores)[0] == said
    assert said in Path(report(done, out=tmp_path / "new.html")).read_text()
    state[2] = n.DONE
    stale = Path(report(done, out=tmp_path / "stale.html")).read_text()
    assert "tiles that run base had in quarantine are not there any more" in stale
    state[:] = n.QUARANTINED
    with pytest.raises(FintuneValueError, match="nothing is left to score"):
        evaluate(done, split="all")


def test_lost_tiles_are_those_that_failed_or_were_left_out(done: str) -> None:
    cohort = open_cohort(done)
    mark_pending(cohort, "base", [1])
    with pytest.MonkeyPatch.context() as patch:
        with_fault(patch, Faulty("normalise", [first_pixel(1)], ValueError("bad")))
        infer(done, run="base")
    texts = {
        n.PATH: ["x.tif", "y.tif", "z.tif"], n.DONOR: ["d0", "d77", "d1"], n.MARKER: ["GFAP", "GFAP", "GFAP"],
        n.REASON: ["truncated", "truncated", "duplicate"], n.TILE: ["d0/GFAP/9", "", tile_names(3, 2)[2]],
        n.ROOT: ["/s"] * 3,
    }  # fmt: skip
    cohort.write(
        n.QUARANTINE, xr.Dataset({k: (n.ITEM, np.array(v, np.dtypes.StringDType())) for k, v in texts.items()})
    )
    lost = quarantined_tiles(cohort, ["base"])
    assert lost.sel({n.RUN: "base"}).values.tolist() == [False, True, *[False] * 4, True]
    assert lost[n.TILE].values.tolist()[-1] == "left out: x.tif"


# ---- wrong use


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"model": "treshold"}, CheckpointNotFoundError, r"no model 'treshold'.*Did you mean 'threshold'"),
        ({"overrides": ["model.sigma=2"]}, SettingsError, r"sigma: no such setting.*Did you mean 'sigma_px'"),
        ({"overrides": ["divice=cpu"]}, SettingsError, r"divice: no such setting.*Did you mean 'device'"),
        ({"overrides": ["model.channel=DAPY"]}, UnknownNameError, r"no channel 'DAPY'.*Did you mean 'DAPI'"),
        ({"overrides": ["positivity=otsuu"]}, UnknownNameError, r"no positivity rule 'otsuu'.*Did you mean 'otsu'"),
        ({"overrides": ["positivity=fixed"]}, SettingsError, r"rule 'fixed' needs --threshold"),
        ({"overrides": ["device=gpu"]}, FintuneValueError, r"no device 'gpu'; write cpu, cuda"),
        ({"cluster": "proceses"}, UnknownNameError, r"no cluster profile 'proceses'.*Did you mean 'processes'"),
        ({"config": "none.yaml"}, SettingsError, r"no settings file none\.yaml"),
        ({"run": "a b"}, FintuneValueError, r"run name 'a b': use letters"),
    ],
)
def test_what_is_misspelt_is_said_before_there_is_a_run(store: str, wrong: Any, error: type, said: str) -> None:
    with pytest.raises(error, match=said) as raised:
        infer(store, **{"run": "r", "model": "threshold", **wrong})
    assert raised.value.exit_status == 2
    assert open_cohort(store).run_names() == []


def test_a_gpu_that_is_not_there_is_an_error(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.models.devices._cuda_count", lambda: 0)
    with pytest.raises(DeviceError, match="device 'cuda' was asked for, but torch sees 0 CUDA"):
        infer(store, run="r", model="threshold", overrides=["device=cuda"])
    assert open_cohort(store).run_names() == []


def test_other_settings_are_refused(done: str) -> None:
    with pytest.raises(RunMismatchError, match=r"made with something else:\n.*min_area_px: stored 20, now 30"):
        infer(done, run="base", overrides=["model.background_px=0", "model.min_area_px=30"])
    with pytest.raises(RunMismatchError, match="--restart"):
        infer(done, run="base", model="threshold")
    assert infer(done, run="base", model="threshold", restart=True, overrides=["model.min_area_px=30"]).n_new == 6


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda s, c: positivity(s, run="bas"), "no run 'bas'; known: base"),
        (lambda s, c: associate(s, clinical=c, runs=["bsae"]), "no run 'bsae'"),
        (lambda s, c: associate(s, clinical=c, outcomes=["nfx"]), "'nfx'.*mean 'nft'.*--outcome"),
        (lambda s, c: associate(s, clinical=c, donor_column="projd"), "'projd'.*mean 'projid'.*--donor-column"),
        (lambda s, c: evaluate(s, runs=["nope"], split="all"), "no run 'nope'"),
    ],
)
def test_unknown_runs_columns_and_outcomes(done: str, study: tuple[str, Path], ask: Any, said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        ask(done, study[1])


def test_unknown_schemes_and_missing_steps(done: str, study: tuple[str, Path]) -> None:
    scheme: Any = "tile_80"
    with pytest.raises(UnknownNameError, match=r"no bootstrap scheme 'tile_80'.*Did you mean 'tiles_80'"):
        bootstrap(done, scheme=scheme)
    with pytest.raises(StoreNotFoundError, match="Run: fintune-xr associate"):
        bootstrap(done)


# ---- profiles


def test_profiles() -> None:
    assert {"threads", "processes"} <= set(profile_names())
    assert load_profile("threads").kind == "threads"
    assert load_profile("processes", ("workers=3",)).n_workers == 3
    assert Profile().n_workers == len(os.sched_getaffinity(0))


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("kind: threads\nworkers: 2\ndashboard: false\n")
    assert load_profile(str(file)) == Profile(kind="threads", workers=2, dashboard=False)
    file.write_text("kind: thread\nworker: 2\n")
    with pytest.raises(SettingsError, match=r"(?s)2 problem.*worker: no such setting.*Did you mean 'workers'"):
        load_profile(str(file))


def test_cohort_type() -> None:
    assert Cohort.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_an_error_in_a_block_is_said_once(
    store: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with_fault(monkeypatch, Faulty("reconstruct", [first_pixel(3)], StoreDamagedError("a shard is gone")))
    assert cli.run(["infer", store, "--run", "r", "--model", "threshold", *SETTINGS]) == 1
    said = capfd.readouterr().err
    assert said.count("a shard is gone") == 1
    assert "Traceback" not in said
