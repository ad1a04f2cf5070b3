"""Training on particles: targets that stay labels, learning, repeating itself, surviving a kill, and inference."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from micrographs import DIAMETER_PX, make_micrographs, micrograph, particles
from stores import assert_same_run, run_values

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunMismatchError, SettingsError
from fintune_xr.finetune.augmentation import Geometry, cut_labels, draw_geometry
from fintune_xr.finetune.detection.settings import UnetTrainSettings
from fintune_xr.finetune.detection.tiles import ParticleTiles, PseudoLabels
from fintune_xr.finetune.engine import train as fit
from fintune_xr.finetune.instance.settings import TrainSettings
from fintune_xr.finetune.patches import PatchDataset, Recipe
from fintune_xr.finetune.progress import EpochRecord
from fintune_xr.finetune.settings import AugmentationSettings
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.particle_unet.adapter import UnetDetector
from fintune_xr.models.particle_unet.settings import ParticleUnetSettings
from fintune_xr.models.registry import load_model, resolve_checkpoint
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.inference import block as infer_block
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.detection import Points

CHANNELS = ("micrograph",)
QUICK = UnetTrainSettings(
    epochs=4, patches_per_epoch=12, patch_px=64, batch_size=4, filters=(4, 8, 8), learning_rate=1e-2,
    validate_every=2, threads=1, diameter_px=DIAMETER_PX,
)  # fmt: skip
OVERRIDES = (
    "epochs=4", "patches_per_epoch=12", "patch_px=64", "batch_size=4", "filters=[4,8,8]", "learning_rate=1e-2",
    "threads=1", "validate_every=2",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def annotated(names: list[str], px: int = 96) -> ParticleTiles:
    images = np.stack([micrograph(name, px) for name in names])
    return ParticleTiles(names, CHANNELS, images, [particles(name, px) for name in names], *[[px] * len(names)] * 2)


TILES, HELD_OUT = annotated(["a", "b"]), annotated(["c"])


class KilledError(Exception):
    pass


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint.path, weights_only=True)["state"]


def same(one: Checkpoint, other: Checkpoint) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@given(st.integers(0, 500), st.sampled_from(["right_angles", "any"]), st.integers(20, 90), st.integers(20, 90))
def test_labels_stay_labels(seed: int, rotation: str, height: int, width: int) -> None:
    settings = AugmentationSettings(rotation=rotation, scale=(0.7, 1.4) if rotation == "any" else (1, 1))
    labels = stream(seed, "labels").integers(-1, 2, (1, height, width)).astype(np.int8)
    geometry = draw_geometry(stream(seed), (height, width), 64, settings)
    _, cut = cut_labels(np.ones((1, height, width), np.float32), labels, geometry, 64)
    assert set(np.unique(cut)) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_a_right_angle_moves_image_and_labels_together(quarters: int, flip: bool) -> None:
    labels = stream(1).integers(-1, 2, (1, 64, 64)).astype(np.int8)
    planes = labels.astype(np.float32)
    angle = quarters * np.pi / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flip:
        turn = turn @ np.diag([1.0, -1.0])
    expected = np.rot90(labels[0, :, ::-1] if flip else labels[0], quarters)
    image, cut = cut_labels(planes, labels, Geometry((31.5, 31.5), turn, 1.0), 64)
    np.testing.assert_array_equal(cut[0], expected)
    np.testing.assert_allclose(image[0], expected, atol=1e-4)


def test_outside_the_micrograph_nothing_is_known() -> None:
    labels = np.zeros((1, 40, 40), np.int8)
    _, cut = cut_labels(np.ones((1, 40, 40), np.float32), labels, Geometry((19.5, 19.5), np.eye(2), 1.0), 64)
    assert (cut[0, 12:52, 12:52] == 0).all()
    assert (cut == -1).sum() == 64 * 64 - 40 * 40


def test_targets_are_discs_or_pseudo_labels_cropped_to_what_is_real() -> None:
    pseudo = np.full((1, 96, 96), -1, np.int8)
    pseudo[0, :5] = 1
    truth = [Points(np.array([[20.0, 30.0]]), np.array([10.0])), PseudoLabels(pseudo, 0)]
    tiles = ParticleTiles(["a", "b"], CHANNELS, np.zeros((2, 1, 96, 96)), truth, [50, 60], [70, 80])
    disc = tiles.target(0, disc_fraction=0.5, rim_px=2)
    y, x = np.mgrid[:50, :70]
    distance = np.hypot(y - 20, x - 30)
    np.testing.assert_array_equal(disc, np.where(distance <= 2.5, 1, np.where(distance <= 4.5, -1, 0)))
    assert tiles.target(1, disc_fraction=0.5).shape == (60, 80)
    assert (tiles.target(1, disc_fraction=0.5)[:5] == 1).all()
    assert tiles.read(1).shape == (1, 60, 80)
    with pytest.raises(FintuneValueError, match="b has pseudo-labels, which nothing is measured against"):
        tiles.particles(1)
    with pytest.raises(FintuneValueError, match=r"do not fit together: 2 names and 1 channels.*1 truths"):
        ParticleTiles(["a", "b"], CHANNELS, np.zeros((2, 1, 96, 96)), truth[:1], [50, 60], [70, 80])


def test_validation_is_never_against_pseudo_labels(tmp_path: Path) -> None:
    labelled = PseudoLabels(np.zeros((1, 96, 96), np.int8), 0)
    judged = ParticleTiles(["c"], CHANNELS, HELD_OUT.image, [labelled], [96], [96])
    with pytest.raises(FintuneValueError, match="nothing is measured against"):
        fit(TILES, judged, settings=QUICK, out=tmp_path / "a")
    empty = ParticleTiles(["c"], CHANNELS, HELD_OUT.image, [Points(np.empty((0, 2)), np.empty(0))], [96], [96])
    with pytest.raises(FintuneValueError, match="hold no annotated particle"):
        fit(TILES, empty, settings=QUICK, out=tmp_path / "b")


def test_a_micrograph_of_which_nothing_is_known_teaches_nothing(tmp_path: Path) -> None:
    unknown = PseudoLabels(np.full((1, 96, 96), -1, np.int8), 0)
    some = ParticleTiles(["a", "x"], CHANNELS, TILES.image, [TILES.truth[0], unknown], [96] * 2, [96] * 2)
    alone = ParticleTiles(["a"], CHANNELS, TILES.image[:1], TILES.truth[:1], [96], [96])
    one, other = (fit(t, HELD_OUT, settings=QUICK, out=tmp_path / str(i)) for i, t in enumerate((some, alone)))
    assert same(one, other)
    none = ParticleTiles(["x"], CHANNELS, TILES.image[:1], [unknown], [96], [96])
    with pytest.raises(FintuneValueError, match="of none of 1 micrographs any pixel is known"):
        fit(none, HELD_OUT, settings=QUICK, out=tmp_path / "none")


def test_the_same_seed_gives_the_same_weights_and_a_kill_changes_nothing(tmp_path: Path) -> None:
    def kill(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KilledError

    whole = fit(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "killed", report=kill)
    seen: list[int] = []
    resumed = fit(
        TILES, HELD_OUT, settings=QUICK, out=tmp_path / "killed", report=lambda record: seen.append(record.epoch)
    )
    assert seen == [2, 3]
    assert same(whole, resumed)
    other = fit(TILES, HELD_OUT, settings=QUICK.model_copy(update={"seed": 1}), out=tmp_path / "other")
    assert not same(whole, other)
    with pytest.raises(RunMismatchError, match=r"another training \(different: settings\.loss\)"):
        fit(TILES, HELD_OUT, settings=QUICK.model_copy(update={"loss": "cross_entropy"}), out=tmp_path / "whole")
    record = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert record["best_particle_f1"] > 0.5
    header = (tmp_path / "whole" / "log.csv").read_text().splitlines()[0]
    assert "validation_loss,particle_f1,pixel_auc,is_best" in header


def test_particles_of_another_size_need_another_network(tmp_path: Path) -> None:
    start = fit(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "start")
    for update in ({"diameter_px": 20.0}, {"disc_fraction": 0.9}):
        with pytest.raises(SettingsError, match=r"was trained on discs of 0\.6 of 12 px; asked for is"):
            fit(TILES, HELD_OUT, settings=QUICK.model_copy(update=update), out=tmp_path / "x", start=start)
    with pytest.raises(SettingsError, match=r"TrainSettings are not for a model of kind particle_unet"):
        fit(TILES, HELD_OUT, settings=TrainSettings(), out=tmp_path / "x", start=start)
    with pytest.raises(SettingsError, match="diameter_px: expected the diameter of a particle"):
        fit(TILES, HELD_OUT, settings=QUICK.model_copy(update={"diameter_px": None}), out=tmp_path / "x")


def test_without_augmentation_patches_are_copies(tmp_path: Path) -> None:
    still = AugmentationSettings(rotation="none", flip=False, scale=(1, 1), gain=0, offset=0, noise=0)
    settings = QUICK.model_copy(update={"augmentation": still})
    np.save(tmp_path / "i.npy", stream(0).normal(size=(1, 96, 96)).astype(np.float32))
    np.save(tmp_path / "t.npy", stream(1).integers(-1, 2, (1, 96, 96)).astype(np.int8))
    from fintune_xr.finetune.patches import PreparedTile

    tile = PreparedTile("a", tmp_path / "i.npy", tmp_path / "t.npy")
    image, target = PatchDataset([tile], settings, recipe=Recipe(cut=cut_labels))[(0, 0)]
    planes, labels = tile.open()
    places = [
        (y, x) for y in range(33) for x in range(33) if np.allclose(planes[:, y : y + 64, x : x + 64], image, atol=1e-4)
    ]
    assert len(places) == 1
    y, x = places[0]
    np.testing.assert_array_equal(target, labels[:, y : y + 64, x : x + 64])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Path]:
    """Six micrographs, and a network trained on them by the command line."""
    folder = tmp_path_factory.mktemp("em")
    cohort = make_micrographs(folder / "c.zarr")
    tokens = ["train", cohort.url, "--model", "unet", "--run-name", "em", "--out", str(folder), *OVERRIDES]
    assert cli.run(tokens) == 0
    return cohort, folder / "em"


def test_it_learns_to_find_particles(trained: tuple[Cohort, Path]) -> None:
    cohort, folder = trained
    checkpoint = resolve_checkpoint(folder)
    record = json.loads((folder / "training.json").read_text())
    assert record["settings"]["diameter_px"] == DIAMETER_PX
    assert record["tiles"] == ["grid/m0", "grid/m1", "grid/m2"]
    assert record["validation_tiles"] == ["grid/m3"]
    assert record["best_particle_f1"] > 0.9
    assert checkpoint.kind == "particle_unet"
    assert cohort.kind == "em"


def test_a_run_of_probabilities(trained: tuple[Cohort, Path]) -> None:
    cohort, folder = trained
    summary = infer(cohort.url, run="r", model=str(folder), overrides=["device=cpu", "model.window_px=64"])
    assert (summary.n_done, summary.n_quarantined) == (6, 0)
    run, cells = cohort.run("r", lazy=False).load(), cohort.cells("r", lazy=False).load()
    plain = xr.open_zarr(cohort.url, group="runs/r", consolidated=False)[n.PROBABILITY]
    assert plain.dtype.kind == "f"
    model = load_model(resolve_checkpoint(folder), channels=CHANNELS, settings=ParticleUnetSettings(), device="cpu")
    assert isinstance(model, UnetDetector)
    for index in range(6):
        made = model.reconstruct(model.predict([model.normalise(micrograph(f"grid/m{index}", 96))])[0])
        np.testing.assert_allclose(run[n.PROBABILITY][index], made.probability, atol=2)
        np.testing.assert_allclose(plain[index], made.probability / 65535, atol=2 / 65535)
        rows = cells[n.TILE_INDEX].values == index
        assert rows.sum() == int(run[n.N_CELLS][index]) == made.candidates.n_cells
        np.testing.assert_allclose(cells[n.SCORE].values[rows], made.candidates.score, atol=1e-4)
        assert cells[n.LABEL].values[rows].tolist() == list(range(1, rows.sum() + 1))
    assert set(cells.data_vars) == {n.TILE_INDEX, n.LABEL, n.CENTROID_Y, n.CENTROID_X, n.SCORE}
    assert not [problem for problem in check(cohort.url) if "runs/" in problem.where or "cells/" in problem.where]


def test_a_killed_run_of_probabilities_goes_on(trained: tuple[Cohort, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, folder = trained
    said = {"model": str(folder), "overrides": ["device=cpu"]}
    infer(cohort.url, run="whole", **said)
    write = infer_block.write_run_shard
    n_written = 0

    def fatal(*args: object, **kwargs: object) -> int:
        nonlocal n_written
        n_written += 1
        if n_written > 3:
            raise KilledError
        return write(*args, **kwargs)

    monkeypatch.setattr(infer_block, "write_run_shard", fatal)
    with pytest.raises(KilledError):
        infer(cohort.url, run="killed", **said)
    states = cohort.run("killed", lazy=False)[n.STATE].values
    assert n.PENDING in states
    monkeypatch.setattr(infer_block, "write_run_shard", write)
    summary = infer(cohort.url, run="killed", overrides=["device=cpu"])
    assert summary.n_done == 6
    assert summary.n_new == int((states == n.PENDING).sum())
    assert_same_run(run_values(cohort, "whole"), run_values(cohort, "killed"))


def test_a_micrograph_that_fails_is_quarantined(trained: tuple[Cohort, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, folder = trained
    normalise = UnetDetector.normalise

    def fails(self: UnetDetector, tile: np.ndarray) -> np.ndarray:
        if np.array_equal(tile, micrograph("grid/m2", 96)):
            raise ZeroDivisionError("odd micrograph")
        return normalise(self, tile)

    monkeypatch.setattr(UnetDetector, "normalise", fails)
    summary = infer(cohort.url, run="odd", model=str(folder), overrides=["device=cpu"])
    assert (summary.n_done, summary.n_quarantined) == (5, 1)
    run = cohort.run("odd", lazy=False).load()
    assert str(run[n.REASON].values[2]) == "ZeroDivisionError: odd micrograph"
    assert int(run[n.N_CELLS][2]) == -1
    assert not run[n.PROBABILITY][2].any()


def test_another_floor_is_another_run(trained: tuple[Cohort, Path]) -> None:
    cohort, folder = trained
    infer(cohort.url, run="low", model=str(folder), overrides=["device=cpu"])
    with pytest.raises(RunMismatchError, match=r"settings\.floor: stored 0\.02, now 0\.4"):
        infer(cohort.url, run="low", model=str(folder), overrides=["device=cpu", "model.floor=0.4"])
