"""Regions given a class by sentences: stored as found, scored as scikit-learn scores, refused with reasons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from class_runs import store_class_run, tissue_store, truth_maps
from sam2_weights import SMALL, random_state, write_published
from scipy import ndimage
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunMismatchError, SettingsError, SplitError, UnknownNameError
from fintune_xr.models.clip.kind import open_clip_folder
from fintune_xr.models.clip.random_folder import write_random_clip
from fintune_xr.pipelines.cli.app import run
from fintune_xr.pipelines.semantic.patches import patches_of
from fintune_xr.pipelines.steps.classify import classify
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.steps.train import train
from fintune_xr.pixels.regions import Region, crop, majority, pieces_of_classes, regions_of_instances
from fintune_xr.schema import check_dataset
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.split import annotated_tiles
from fintune_xr.store.zarr_io.groups import open_dataset
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.semantic import CLASS_REGIONS

PROMPTS = {name: [f"a patch of {name}", f"{name} under the microscope"] for name in ClassMap().names}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regions")
    store = tissue_store(folder)
    split(store, fractions=(0.5, 0.25, 0.25), seed=1)
    write_random_clip(folder / "clip", [text for several in PROMPTS.values() for text in several])
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    return folder


def of(place: Path, name: str, *overrides: str, regions: str = "truth"):
    return classify(
        place / "he.zarr", regions=regions, model=place / "clip", prompts=place / "prompts.json", name=name,
        overrides=overrides,
    )  # fmt: skip


def test_largest_pieces_of_the_truth(place: Path) -> None:
    found = of(place, "largest", "resamples=20")
    check_dataset(found, CLASS_REGIONS)
    assert found.attrs[n.PROTOCOL] == n.PROMPTED
    np.testing.assert_array_equal(found[n.REGION_TRUTH], found[n.LABEL])
    np.testing.assert_allclose(found[n.SCORE].sum(n.CLASS), 1)
    cohort = open_cohort(place / "he.zarr")
    patches = patches_of(cohort, annotated_tiles(cohort))
    expected = []
    for at, tile in enumerate(patches.names):
        labels = patches.labels(at, ClassMap())
        for label in range(1, 6):
            numbered, _ = ndimage.label(labels == label, np.ones((3, 3)))
            sizes = np.bincount(numbered.ravel())[1:]
            if sizes.size and sizes.max() >= 256:
                expected.append((tile, label, int(sizes.max())))
    stored = list(zip(found[n.TILE].values, found[n.LABEL].values, found[n.AREA_PX].values, strict=True))
    assert [(str(tile), int(label), int(area)) for tile, label, area in stored] == expected
    truth, given = found[n.REGION_TRUTH].values, found[n.REGION_CLASS].values
    assert float(found[n.ACCURACY]) == pytest.approx(accuracy_score(truth, given))
    assert float(found[n.BALANCED_ACCURACY]) == pytest.approx(balanced_accuracy_score(truth, given))
    for label, name in enumerate(ClassMap().names, start=1):
        if (truth == label).any() or (given == label).any():
            score = f1_score(truth == label, given == label, zero_division=0)
            assert float(found[n.F1].sel({n.CLASS: name})) == pytest.approx(score)
    assert int(found[n.CONFUSION].sum()) == len(truth)
    assert f"{n.ACCURACY}_{n.INTERVAL}" in found


def test_what_is_stored_is_what_is_returned(place: Path) -> None:
    made = of(place, "again", "which=all", "min_region_px=64", "resamples=20")
    stored = open_dataset(open_cohort(place / "he.zarr").location, "regions/again", CLASS_REGIONS, lazy=False)
    for name in (n.SIMILARITY, n.SCORE, n.REGION_CLASS, n.BOX):
        np.testing.assert_array_equal(stored[name], made[name])
    assert stored.attrs["provenance"]["prompts"] == PROMPTS
    assert stored.attrs["provenance"]["model_sha256"]


def test_similarities_are_of_the_crops(place: Path) -> None:
    found = of(place, "crops", "resamples=20")
    cohort = open_cohort(place / "he.zarr")
    patches = patches_of(cohort, annotated_tiles(cohort))
    clip = open_clip_folder(place / "clip", device="cpu")
    texts = clip.of_texts([text for several in PROMPTS.values() for text in several])
    image, labels = patches.read(0)[0], patches.labels(0, ClassMap())
    first = pieces_of_classes(labels, 5, which="largest", min_px=256)[0]
    seen = clip.of_images([crop(image, first, white=True)])
    np.testing.assert_allclose(found[n.SIMILARITY].values[0], (seen @ texts.T)[0], atol=1e-5)


def test_regions_of_a_run_are_automatic_and_a_probe_learns_from_train(place: Path, tmp_path: Path) -> None:
    store = place / "he.zarr"
    quick = ("epochs=1", "patches_per_epoch=4", "batch_size=2", "patch_px=64", "filters=[4,8,8]")
    folder = train(store, model="semantic_unet", run_name="small", out=tmp_path, overrides=quick)
    infer(store, run="small", model=str(folder), cluster="threads")
    found = of(place, "small", "min_region_px=16", "which=all", "resamples=20", regions="small")
    assert found.attrs[n.PROTOCOL] == n.AUTOMATIC
    has_class = (found[n.REGION_TRUTH].values >= 1) & (found[n.REGION_TRUTH].values <= 5)
    is_new = found[n.SPLIT].values == n.TEST
    assert has_class[is_new].any()
    assert has_class[~is_new].any()
    assert int(found[n.CONFUSION].sum()) == (has_class & is_new).sum()
    probe = of(place, "probe", "probe=logistic", "resamples=20")
    judged = probe[n.SPLIT].values != n.TRAIN
    assert int(probe[n.CONFUSION].sum()) == judged.sum()
    learnt = ~judged
    right = (probe[n.REGION_CLASS] == probe[n.REGION_TRUTH]).values
    assert right[learnt].mean() > 0.3


def test_regions_of_a_run_have_its_classes_whichever_they_are_held_against(place: Path) -> None:
    store = place / "he.zarr"
    cohort = open_cohort(store)
    three = ClassMap(classes={"stroma": [2], "tumor": [1], "necrosis": [4]})  # type: ignore[arg-type]
    maps = truth_maps(cohort, three)
    store_class_run(cohort, "three", maps, three)
    n_pieces = sum(ndimage.label(one == label, np.ones((3, 3)))[1] for one in maps for label in (1, 2, 3))
    for name, classes in (("own", three), ("fewer", ClassMap(classes={"tumor": [1]}))):  # type: ignore[arg-type]
        sentences = place / f"{name}.json"
        sentences.write_text(json.dumps({one: PROMPTS[one] for one in classes.names}))
        chosen = [] if name == "own" else ["classes={tumor:[1]}"]
        found = classify(
            store, regions="three", model=place / "clip", prompts=sentences, name=name,
            overrides=[*chosen, "which=all", "min_region_px=1", "resamples=20"],
        )  # fmt: skip
        assert found[n.CLASS].values.tolist() == list(classes.names)
        assert found.sizes[n.REGION] == n_pieces
        is_tumor = found[n.LABEL].values == 2
        expected = found[n.LABEL].values if name == "own" else is_tumor.astype(int)
        np.testing.assert_array_equal(found[n.REGION_TRUTH], expected)


def test_instances_with_classes_are_an_automatic_run(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    store = place / "he.zarr"
    monkeypatch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL})
    weights = write_published(tmp_path / "sam2.pt", random_state(SMALL))
    loose = ("model.points_per_side=4", "model.pred_iou_thresh=0", "model.stability_score_thresh=0")
    infer(store, run="sam2", model=str(weights), cluster="threads", overrides=(*loose, "model.max_area_fraction=1"))
    found = classify(
        store, regions="sam2", model=place / "clip", prompts=place / "prompts.json", name="zero",
        as_run="zero-shot", overrides=("resamples=20", "min_region_px=64"),
    )  # fmt: skip
    assert found.attrs[n.PROTOCOL] == n.AUTOMATIC
    cohort = open_cohort(store)
    masks, made = cohort.run("sam2", lazy=False), cohort.run("zero-shot", lazy=False)
    assert (made[n.STATE].values == n.DONE).all()
    expected = np.zeros(masks[n.MASK].shape, np.uint8)
    where = {str(tile): i for i, tile in enumerate(masks[n.TILE].values)}
    for tile, label, chosen in zip(
        found[n.TILE].values, found[n.LABEL].values, found[n.REGION_CLASS].values, strict=True
    ):
        at = where[str(tile)]
        expected[at][masks[n.MASK].values[at] == label] = chosen
    inside = made[n.CLASSES].values != 255
    np.testing.assert_array_equal(made[n.CLASSES].values[inside], expected[inside])
    assert expected.any()
    scores = evaluate(store, runs=("zero-shot",), split="val")
    assert 0 <= float(scores["perclass_dice_image_mean"][0]) <= 1
    # A run that a release before made under the digest of fewer files goes on; one of another network does not.
    attrs = zarr.open_group(store, path=f"{n.RUNS}/zero-shot", mode="r+").attrs
    former = open_clip_folder(place / "clip", device="cpu").former_sha256
    assert attrs[n.IDENTITY]["model_sha256"] != former
    again = {
        "regions": "sam2", "model": place / "clip", "prompts": place / "prompts.json", "name": "zero",
        "as_run": "zero-shot", "overrides": ("resamples=20", "min_region_px=64"),
    }  # fmt: skip
    attrs[n.IDENTITY] = {**attrs[n.IDENTITY], "model_sha256": former}
    capsys.readouterr()
    classify(store, **again)
    assert "left out files of the tokenizer" in capsys.readouterr().err
    attrs[n.IDENTITY] = {**attrs[n.IDENTITY], "model_sha256": "0" * 64}
    with pytest.raises(RunMismatchError, match="model_sha256"):
        classify(store, **again)
    with pytest.raises(FintuneValueError, match="expected regions of a run of instances"):
        classify(store, regions="truth", model=place / "clip", prompts=place / "prompts.json", name="x", as_run="y")


def test_wrong_use_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        of(place, "x", regions="nowhere")
    less = tmp_path / "less.json"
    less.write_text(json.dumps({"tumor": ["a"]}))
    with pytest.raises(SettingsError, match="no prompt of stroma"):
        classify(place / "he.zarr", regions="truth", model=place / "clip", prompts=less, name="x")
    unsplit = tissue_store(tmp_path)
    with pytest.raises(SplitError, match="probe needs regions"):
        classify(
            unsplit, regions="truth", model=place / "clip", prompts=place / "prompts.json", name="x",
            overrides=["probe=logistic"],
        )  # fmt: skip


def test_from_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["classify", place / "he.zarr", "--model", place / "clip", "--prompts", place / "prompts.json"]
    assert run([*map(str, words), "--name", "cli", "resamples=20"]) == 0
    assert "(prompted), 47 of them judged: accuracy" in capsys.readouterr().out


def test_crops_are_square_and_white_around_the_piece() -> None:
    image = np.arange(3 * 6 * 6, dtype=np.uint8).reshape(3, 6, 6)
    region = Region(1, (slice(1, 3), slice(2, 6)), np.array([[True, True, False, True], [False, True, True, True]]))
    alone, kept = crop(image, region, white=True), crop(image, region, white=False)
    assert alone.shape == kept.shape == (3, 4, 4)
    assert (alone[:, [0, 3]] == 255).all()
    assert (alone[:, 1, 2] == 255).all()
    np.testing.assert_array_equal(kept[:, 1:3], image[:, 1:3, 2:6])
    np.testing.assert_array_equal(alone[:, 1, 1], image[:, 1, 3])
    assert region.box == (1, 2, 2, 4)
    labels = np.full((6, 6), 255, np.uint8)
    assert majority(labels, region, ignored=255) == 255
    labels[1, 2], labels[2, 3:5] = 3, 2
    assert majority(labels, region, ignored=255) == 2
    mask = np.zeros((6, 6), np.uint32)
    mask[region.where][region.pixels] = 7
    (again,) = regions_of_instances(mask, min_px=2)
    assert (again.label, again.box, again.area_px) == (7, (1, 2, 2, 4), 6)
