"""The label budget of classes: nested fits, weights of the subset, scores that plain counting gives too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_runs import tissue_store, truth_maps

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.models.checkpoints import RECORD_FILE
from fintune_xr.pipelines.report.report import report_sections
from fintune_xr.pipelines.semantic.learning import rarest_classes
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.studies import budget as module
from fintune_xr.pipelines.studies.budget import budget
from fintune_xr.store.cohort import open_cohort
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.text import texts

QUICK = ("epochs=1", "patches_per_epoch=4", "batch_size=2", "patch_px=64", "filters=[4,8,8]", "learning_rate=0.01")


def run(folder: Path, **said: Any) -> Any:
    said = {"budgets": (2, 4), "seeds": 1, "overrides": QUICK, "model": "semantic_unet"} | said
    return budget(folder / "he.zarr", out=folder / "models", **said)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the fits of 2 and 4 patches, the second made after the study was killed, beside its models."""
    folder = tmp_path_factory.mktemp("budget")
    split(tissue_store(folder), fractions=(0.5, 0.25, 0.25), seed=1)
    made = module.fit

    def killed(tiles: Any, *args: Any, **said: Any) -> Any:
        if len(tiles) == 4:
            raise KeyboardInterrupt
        return made(tiles, *args, **said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
        first = open_cohort(folder / "he.zarr").metrics(n.BUDGET)
        assert first[n.N_TRAIN].squeeze().values.tolist() == [2, -1]
    run(folder)
    return folder


@pytest.mark.slow
def test_scores_are_those_of_counting_the_maps_of_the_checkpoint(done: Path) -> None:
    stored = open_cohort(done / "he.zarr").metrics(n.BUDGET).sel({n.BUDGET: 4, n.SEED: 0, n.GROUP: "all"}).load()
    infer(done / "he.zarr", run="four", model=str(done / "models" / "budget-semantic_unet-004-seed0"))
    cohort = open_cohort(done / "he.zarr")
    images, maps = cohort.images(lazy=False), cohort.run("four", lazy=False)[n.CLASSES].values
    test = [at for at, part in enumerate(texts(images[n.SPLIT])) if part == n.TEST]
    truth = truth_maps(cohort, ClassMap())
    dice: dict[int, list[float]] = {label: [] for label in range(1, 6)}
    for at in test:
        known = truth[at] != 255
        found = maps[at, : truth[at].shape[0], : truth[at].shape[1]]
        for label, values in dice.items():
            true, said = (truth[at] == label) & known, (found == label) & known
            if true.any():
                values.append(2 * (true & said).sum() / (true.sum() + said.sum()))
    means = [np.mean(values) for values in dice.values()]
    np.testing.assert_allclose(stored[f"{n.DICE}_{n.IMAGE_MEAN}"], means)
    assert float(stored["perclass_dice_image_mean"]) == pytest.approx(np.mean(means))
    assert 0 < np.mean(means) < 1
    assert sorted(texts(stored[n.TILE])) == sorted(texts(images[n.TILE])[at] for at in test)


@pytest.mark.slow
def test_subsets_are_nested_and_their_weights_are_counted_on_them_alone(done: Path) -> None:
    cohort = open_cohort(done / "he.zarr")
    truth = dict(zip(texts(cohort.images(lazy=False)[n.TILE]), truth_maps(cohort, ClassMap()), strict=True))
    records = [
        json.loads((done / "models" / f"budget-semantic_unet-00{size}-seed0" / RECORD_FILE).read_text())
        for size in (2, 4)
    ]
    assert records[1]["tiles"][:2] == records[0]["tiles"]
    for record in records:
        pixels = [sum(int((truth[tile] == label).sum()) for tile in record["tiles"]) for label in range(1, 6)]
        assert record["settings"]["class_pixels"] == pixels


@pytest.mark.slow
def test_the_report_shows_the_curve_of_classes(done: Path) -> None:
    (section,) = [one for one in report_sections(open_cohort(done / "he.zarr")) if one.key == n.BUDGET]
    said = " ".join(str(getattr(part, "text", "")) for part in section.parts)
    assert "2 trainings of semantic_unet" in said
    assert "the rarest classes of tiles take turns" in said
    assert "AP50" not in said


@pytest.mark.slow
def test_a_subset_without_a_class_is_refused_before_any_training(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = module.LEARNING["semantic"]

    def lacking(*said: Any) -> Any:
        made = learning(*said)
        for counts in made.settings_on.args[1].values():
            counts[4] = 0
        return made

    monkeypatch.setattr(module, "LEARNING", {"semantic": lacking})
    monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("a training began"))
    with pytest.raises(FintuneValueError, match=r"budget 1, seed 0: blood_vessel: not a pixel in the 1 tiles"):
        run(done, budgets=(1,))


def test_the_rarest_class_that_a_tile_holds_gives_its_turn() -> None:
    pixels = {"a": np.array([9, 1, 0]), "b": np.array([5, 0, 2]), "c": np.array([3, 0, 0]), "d": np.array([0, 0, 0])}
    class_map = ClassMap(classes=(("x", (1,)), ("y", (2,)), ("z", (3,))))
    assert rarest_classes(pixels, class_map) == {"a": "y", "b": "z", "c": "x", "d": n.REST}
