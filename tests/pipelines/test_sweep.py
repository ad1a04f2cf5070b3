"""The sweep of SAM: every setting as SAM's own generator would do it, stored tile by tile, continued after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from segment_anything import SamAutomaticMaskGenerator

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import UNFINISHED_STUDY
from fintune_xr.analysis.report.render import page_of, tables_of
from fintune_xr.analysis.report.studies.sweep import GRID, best_setting, sweep_study, sweep_table
from fintune_xr.errors import CheckpointError, RunBusyError, RunMismatchError, SettingsError
from fintune_xr.metrics.instance import match_masks
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.models.sam.adapter import SamSize, empty_sam, load_sam
from fintune_xr.models.sam.colours import composite, sam_channels
from fintune_xr.models.sam.settings import SamSweepSettings
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.report.report import report_sections
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.studies import sweep as step
from fintune_xr.pipelines.studies.sweep import drawn_tiles, sweep
from fintune_xr.schema import check_dataset
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.split import annotated_tiles
from fintune_xr.store.zarr_io.locks import hold_lock
from fintune_xr.tasks.instance import SWEEP
from fintune_xr.text import texts

GRID_ASKED = (
    "points_per_side=[4,6]", "pred_iou_thresh=[0.0,0.6]", "stability_score_thresh=[0.0,0.7]",
    "box_nms_thresh=[0.3,0.7]", "max_area_fraction=1.0", "min_area_px=2", "n_tiles=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a reduced SAM whose random masks are small and differ in score."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = empty_sam(SamSize(width=64, depth=2, heads=4, global_blocks=(1,), image_px=256))
    decoder = network.mask_decoder
    with torch.no_grad():
        network.image_encoder.pos_embed.normal_()
        for norm in (m for m in decoder.transformer.modules() if isinstance(m, torch.nn.LayerNorm)):
            norm.weight *= 2
        decoder.iou_prediction_head.layers[-1].weight *= 2
        decoder.iou_prediction_head.layers[-1].bias += 0.4
        decoder.output_upscaling[3].bias[0] = 10
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 180
            head.layers[-1].weight[0] = 0
            head.layers[-1].bias[0] = -4
    path = tmp_path_factory.mktemp("weights") / "reduced_sam.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small annotated and split cohort."""
    folder = tmp_path_factory.mktemp("sweep")
    made = simulate_cohort(
        folder / "raw",
        settings=CohortSettings(
            n_donors=6, markers=("GFAP",), tiles_per_donor=(1, 2), tile_px=96, n_annotated=8, n_clinical_only=0,
            damaged=False,
        ),
    )  # fmt: skip
    ingest(made.source, folder / "cohort.zarr")
    annotate(made.annotations, folder / "cohort.zarr")
    split(folder / "cohort.zarr", fractions=(0.4, 0.2, 0.4), seed=0)
    return folder / "cohort.zarr"


@pytest.fixture(scope="module")
def swept(store: Path, weights: Path) -> xr.Dataset:
    return sweep(store, model=str(weights), overrides=GRID_ASKED, device="cpu")


def test_the_result_is_labelled_and_stored(store: Path, swept: xr.Dataset) -> None:
    check_dataset(swept, SWEEP)
    assert dict(swept.sizes) == {**dict.fromkeys(GRID, 2), n.TILE: 2, n.THRESHOLD: 10, n.QUANTILE: 2}
    stored = open_cohort(store).metrics(n.SWEEP)
    check_dataset(stored, SWEEP)
    for name in swept.data_vars:
        np.testing.assert_array_equal(stored[name], swept[name])
    assert stored[n.PEAK_MEMORY].attrs["units"] == "B"
    assert (swept[n.SECONDS_DECODING] > 0).all()
    assert texts(stored[n.DEVICE]) == ["cpu", "cpu"]
    assert set(texts(stored[n.TILE])) <= set(texts(annotated_tiles(open_cohort(store))[n.TILE]))
    assert stored.attrs["identity"]["settings"]["seed"] == 2024


def painted_by_hand(records: list[dict[str, object]], shape: tuple[int, int]) -> np.ndarray:
    """Masks of segment_anything's generator drawn one over the other, the best predicted IoU last."""
    mask = np.zeros(shape, np.uint32)
    for label, one in enumerate(sorted(records, key=lambda record: record["predicted_iou"]), start=1):
        mask[one["segmentation"]] = label
    for label, count in zip(*np.unique(mask, return_counts=True), strict=True):
        if count < 2:
            mask[mask == label] = 0
    return mask


def test_every_setting_is_as_the_reference_does_it(store: Path, weights: Path, swept: xr.Dataset) -> None:
    network = load_sam(resolve_checkpoint(weights), device="cpu")
    cohort, settings = open_cohort(store), SamSweepSettings()
    images, truth = cohort.images(), cohort.annotations()
    tile = texts(swept[n.TILE])[1]
    image = composite(
        images[n.IMAGE].sel({n.TILE: tile}).values, sam_channels(texts(images[n.CHANNEL]), settings), settings
    )
    for points, iou, stability, overlap in [(4, 0.0, 0.0, 0.7), (6, 0.6, 0.7, 0.3), (6, 0.6, 0.0, 0.7)]:
        records = SamAutomaticMaskGenerator(
            network, points_per_side=points, pred_iou_thresh=iou, stability_score_thresh=stability,
            box_nms_thresh=overlap,
        ).generate(image)  # fmt: skip
        expected = match_masks(truth[n.MASK].sel({n.TILE: tile}).values, painted_by_hand(records, image.shape[:2]))
        at = swept.sel(dict(zip(GRID, (points, iou, stability, overlap), strict=True)) | {n.TILE: tile})
        np.testing.assert_array_equal(at[n.FP], expected.fp)
        np.testing.assert_array_equal(at[n.TP], expected.tp)
        assert at[n.N_CELLS] == expected.n_predicted
        assert expected.n_predicted > 0, swept[n.N_CELLS].values.tolist()
    assert len(np.unique(swept[n.N_CELLS].sel({n.TILE: tile}))) >= 2


def test_a_stop_costs_the_tile_in_work_and_no_other(
    store: Path, weights: Path, swept: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = step._of_tile, []

    def stopped_at_the_second(*what: object) -> xr.Dataset:
        seen.append(what)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*what)

    asked = {"model": str(weights), "overrides": GRID_ASKED, "device": "cpu"}
    monkeypatch.setattr(step, "_of_tile", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        sweep(store, restart=True, **asked)
    assert open_cohort(store).metrics(n.SWEEP).sizes[n.TILE] == 1
    again = sweep(store, **asked)
    assert len(seen) == 3, "the first tile is not done again"
    sweep(store, **asked)
    assert len(seen) == 3, "a finished sweep is only read"
    timed = [n.SECONDS, n.SECONDS_DECODING, n.SECONDS_EMBEDDING, n.PEAK_MEMORY]
    xr.testing.assert_equal(again.drop_vars(timed), swept.drop_vars(timed))
    # As text: no NaN equals another.
    said, expected = ({name: repr(array.attrs) for name, array in one.items()} for one in (again, swept))
    assert said == expected


def test_another_sweep_never_mixes_with_the_stored_one(store: Path, weights: Path, swept: xr.Dataset) -> None:
    with pytest.raises(RunMismatchError, match=r"(?s)settings\.min_area_px: stored .*, now 5.*--restart"):
        sweep(store, model=str(weights), overrides=(*GRID_ASKED[:-1], "n_tiles=2", "min_area_px=5"))
    with pytest.raises(RunMismatchError, match=r"(?s)annotations: .*split: stored 'test', now 'train'.*tiles: "):
        sweep(store, model=str(weights), overrides=GRID_ASKED, split=n.TRAIN)
    # A second handle on the file counts as another process.
    with (
        hold_lock(open_cohort(store).location, n.SWEEP, what="sweeping"),
        pytest.raises(RunBusyError, match="another process is sweeping"),
    ):
        sweep(store, model=str(weights), overrides=GRID_ASKED)


def test_wrong_models_and_settings_are_refused(store: Path) -> None:
    with pytest.raises(CheckpointError, match=r"threshold is a model of kind threshold.*Give weights of SAM"):
        sweep(store, model="threshold")
    with pytest.raises(SettingsError, match="points_per_sid: no such setting"):
        sweep(store, model="threshold", overrides=["points_per_sid=[8]"])


def test_tiles_are_drawn_once_and_for_all(store: Path) -> None:
    tiles = annotated_tiles(open_cohort(store))
    drawn = {k: texts(drawn_tiles(tiles, SamSweepSettings(n_tiles=k))[n.TILE]) for k in (2, 4, 8, 99)}
    assert drawn[4][:2] == drawn[2]
    assert drawn[8] == drawn[99]
    assert sorted(drawn[8]) == sorted(texts(tiles[n.TILE]))
    assert drawn[8] != texts(drawn_tiles(tiles, SamSweepSettings(n_tiles=8, seed=1))[n.TILE])


def scored(values: dict[tuple[int, float], float]) -> xr.Dataset:
    """A stored sweep with AP50 as given by points per side and predicted IoU."""
    points, ious = (sorted({key[i] for key in values}) for i in (0, 1))
    grid = dict(zip(GRID, (points, ious, [0.9], [0.7]), strict=True))
    score = np.array([[values[p, q] for q in ious] for p in points])[..., None, None]
    sweep_scores = {
        f"{name}_{way}": ((*GRID, n.THRESHOLD), np.stack([score, score / 2], -1))
        for name in (n.AVERAGE_PRECISION, n.PRECISION, n.RECALL, n.F1)
        for way in (n.IMAGE_MEAN, n.POOLED)
    }
    whole = xr.Dataset(sweep_scores, coords={**grid, n.THRESHOLD: [0.5, 0.75], n.TILE: ["a", "b"]})
    whole["mean_average_precision_image_mean"] = whole["average_precision_image_mean"].mean(n.THRESHOLD)
    one = xr.ones_like(whole["average_precision_image_mean"].isel({n.THRESHOLD: 0}, drop=True))
    per_tile = one.expand_dims({n.TILE: ["a", "b"]}, axis=-1)
    whole[n.N_CELLS] = per_tile * 7
    whole[n.SECONDS] = per_tile
    whole[n.SECONDS_EMBEDDING] = (n.TILE, [2.0, 4.0])
    whole[n.SECONDS_DECODING] = ((n.POINTS_PER_SIDE, n.TILE), np.array([[10.0, 10.0]] * len(points)))
    whole[n.PEAK_MEMORY] = ((n.POINTS_PER_SIDE, n.TILE), np.array([[2**20, 2**21]] * len(points)))
    return whole.assign_attrs(identity={"model": "sam_vit_b", "tiles": ["a", "b"], n.SPLIT: n.TEST})


def test_finished_scores_of_two_donors_have_no_interval(swept: xr.Dataset) -> None:
    assert len(set(texts(swept[n.DONOR]))) == swept.sizes[n.TILE] == 2
    assert swept[f"average_precision_image_mean_{n.INTERVAL}"].isnull().all()
    assert swept["average_precision_image_mean"].notnull().any()


def test_the_best_setting_comes_first() -> None:
    stored = scored({(16, 0.7): 0.2, (16, 0.8): 0.4, (64, 0.7): 0.3, (64, 0.8): np.nan})
    table = sweep_table(stored)
    assert table["AP50"].tolist()[:3] == [0.4, 0.3, 0.2]
    assert np.isnan(table["AP50"].iloc[3])
    best = best_setting(stored)
    assert (best[n.POINTS_PER_SIDE], best[n.PRED_IOU_THRESH]) == (16, 0.8)
    assert best["seconds_per_tile"] == pytest.approx(3 + 10 + 1)
    assert best["peak_memory_mib"] == 2
    study = sweep_study(stored)
    assert "points_per_side 16, pred_iou_thresh 0.8" in study.text
    assert "64 points per side" in study.text
    assert study.figure is not None
    assert UNFINISHED_STUDY not in f"{study.text} {study.finding}"
    unfinished = sweep_study(stored.assign_attrs({n.UNFINISHED: True}))
    assert UNFINISHED_STUDY in unfinished.text
    assert UNFINISHED_STUDY in unfinished.finding.text
    empty = scored({(16, 0.7): np.nan})
    assert sweep_study(empty).figure is None


def test_the_report_shows_the_sweep(store: Path, swept: xr.Dataset) -> None:
    sections = {one.key: one for one in report_sections(open_cohort(store))}
    assert [key for key in ("benchmark", "budget", "gate", n.SWEEP) if sections[key].parts] == [n.SWEEP]
    assert len(tables_of(sections.values())[n.SWEEP]) == 16
    assert "reduced_sam" in page_of("Sweep", "", sections.values())
    assert not sections["segmentation"].parts, "a sweep is no evaluation of a run"


def test_the_verb_prints_the_table_and_the_best(
    store: Path, weights: Path, swept: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["sweep", str(store), *GRID_ASKED, "--model", str(weights), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "points_per_side" in printed
    assert "best of 16 settings" in printed
