"""Prompts from the truth: where they lie, how they turn, what is counted; stored as prompted, continued, refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_networks import saved
from class_runs import tissue_store
from hypothesis import given
from hypothesis import strategies as st
from sam2_weights import SMALL, random_state, write_published
from scipy import ndimage
from sklearn.metrics import f1_score

from fintune_xr import names as n
from fintune_xr.errors import CheckpointError, RunMismatchError
from fintune_xr.models.classes.mapper import orient
from fintune_xr.pipelines.cli.app import run
from fintune_xr.pipelines.semantic.patches import patches_of
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.studies.prompt_study import PromptedSettings, masks_of_prompts, turned_prompt
from fintune_xr.pipelines.studies.sweep import sweep
from fintune_xr.pixels.prompts import PROMPT_KINDS, Prompt, close_mask, largest_piece, prompt_of
from fintune_xr.schema import check_dataset
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.split import annotated_tiles
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.semantic import PROMPTED_STUDY


def disc(shape: tuple[int, int], centre: tuple[int, int], radius: int) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def test_prompts_lie_where_they_say() -> None:
    piece = disc((100, 120), (40, 70), 20)
    made = {kind: prompt_of(piece, kind, stream(0)) for kind in PROMPT_KINDS}
    np.testing.assert_allclose(made["centroid"].points, [[70, 40]])
    away = np.hypot(made["points"].points[:, 0] - 70, made["points"].points[:, 1] - 40)
    assert made["points"].points.shape == (5, 2)
    assert (np.abs(away - 20) < 1.5).all()
    np.testing.assert_array_equal(made["box"].box, [50, 20, 90, 60])
    beside = made["box_negative"]
    outside = np.hypot(beside.points[:, 0] - 70, beside.points[:, 1] - 40)
    assert (np.abs(outside - 30) < 2).all()
    assert beside.labels.tolist() == [0] * 5
    again = prompt_of(piece, "box_negative", stream(0))
    np.testing.assert_array_equal(again.points, beside.points)
    everywhere = prompt_of(np.ones((30, 30), bool), "box_negative", stream(0))
    assert len(everywhere.points) == 0


def test_the_largest_piece_and_closing() -> None:
    two = disc((60, 60), (15, 15), 5) | disc((60, 60), (40, 40), 9)
    np.testing.assert_array_equal(largest_piece(two), disc((60, 60), (40, 40), 9))
    assert not largest_piece(np.zeros((5, 5), bool)).any()
    holed = disc((60, 60), (30, 30), 12)
    holed[30, 30] = False
    expected = holed.copy()
    expected[30, 30] = True
    np.testing.assert_array_equal(close_mask(holed | disc((60, 60), (5, 5), 2))[15:45, 15:45], expected[15:45, 15:45])


@given(seed=st.integers(0, 50), shape=st.tuples(st.integers(1, 20), st.integers(1, 20)), share=st.floats(0.0, 1.0))
def test_closing_is_that_of_scipy(seed: int, shape: tuple[int, int], share: float) -> None:
    found = stream(seed).random(shape) < share
    closed = ndimage.binary_closing(np.pad(found, 2), np.ones((5, 5), bool))[2:-2, 2:-2]
    np.testing.assert_array_equal(close_mask(found), largest_piece(closed))


@given(seed=st.integers(0, 50), shape=st.tuples(st.integers(1, 20), st.integers(1, 20)), share=st.floats(0.0, 1.0))
def test_the_largest_piece_is_that_of_the_whole_image(seed: int, shape: tuple[int, int], share: float) -> None:
    found = np.pad(stream(seed).random(shape) < share, ((seed % 3, 4), (0, seed % 5)))
    numbered, n_pieces = ndimage.label(found, np.ones((3, 3)))
    sizes = [int((numbered == one).sum()) for one in range(1, n_pieces + 1)]
    expected = numbered == 1 + sizes.index(max(sizes)) if sizes else found
    np.testing.assert_array_equal(largest_piece(found), expected)


@given(y=st.integers(0, 59), x=st.integers(0, 69), radius=st.integers(0, 30), seed=st.integers(0, 9))
def test_points_beside_a_piece_are_those_of_the_whole_image(y: int, x: int, radius: int, seed: int) -> None:
    piece = disc((60, 70), (y, x), radius)
    away = ndimage.distance_transform_edt(~piece)
    places = np.argwhere((away >= 10) & (away < 11))
    expected = places[stream(seed).permutation(len(places))[:5]][:, ::-1]
    np.testing.assert_array_equal(prompt_of(piece, "box_negative", stream(seed)).points, expected)


@given(turns=st.integers(0, 3), mirrored=st.booleans(), x=st.integers(0, 8), y=st.integers(0, 5))
def test_points_turn_with_the_image(turns: int, mirrored: bool, x: int, y: int) -> None:
    image = np.zeros((1, 6, 9), np.float32)
    image[0, y, x] = 1
    prompt = Prompt(np.array([[x, y]], float), np.ones(1, np.int64), np.array([x, y, x, y], float))
    found = turned_prompt(prompt, (6, 9), turns, mirrored)
    where = np.argwhere(orient(image, turns, mirrored)[0])[0]
    np.testing.assert_array_equal(found.points[0], where[::-1])
    np.testing.assert_array_equal(found.box, [*where[::-1], *where[::-1]])


class BoxNetwork:
    """Gives the box that it is asked about."""

    def embed(self, image: np.ndarray) -> Any:
        return image.shape[:2]

    def asked(self, embedded: Any, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        return [self.inside(embedded, *prompt.box.astype(int)) for prompt in prompts if prompt.box is not None]

    def inside(self, shape: tuple[int, int], left: int, top: int, right: int, bottom: int) -> np.ndarray:
        logits = np.full(shape, -1.0, np.float32)
        logits[top : bottom + 1, left : right + 1] = 1
        return logits


@pytest.mark.parametrize("tta", [False, True])
def test_masks_come_back_to_the_image(tta: bool) -> None:
    prompt = Prompt(np.zeros((0, 2)), np.zeros(0, np.int64), np.array([2, 3, 7, 5], float))
    ((found,),) = masks_of_prompts(BoxNetwork(), np.zeros((3, 12, 20), np.uint8), [prompt], tta=[tta])
    expected = np.zeros((12, 20), bool)
    expected[3:6, 2:8] = True
    np.testing.assert_array_equal(found, expected)


class SeenNetwork:
    """Logits that say what was seen where; counts how often an image is embedded."""

    def __init__(self) -> None:
        self.n_embedded = 0

    def embed(self, image: np.ndarray) -> np.ndarray:
        self.n_embedded += 1
        # Not the same whichever way it is turned: the mean differs from what the image as it lies gives.
        return image[..., 0] - np.linspace(100, 160, image.shape[0], dtype=np.float32)[:, None]

    def asked(self, embedded: np.ndarray, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        return [embedded - np.float32(at) for at in range(len(prompts))]


def test_each_orientation_is_embedded_once_and_masks_are_those_of_each_choice_alone() -> None:
    image = stream(3).integers(0, 256, (3, 12, 20), dtype=np.uint8)
    prompts = [Prompt(np.array([[4.0, 5.0]]), np.ones(1, np.int64))] * 2
    both, network = [False, True], SeenNetwork()
    together = masks_of_prompts(network, image, prompts, tta=both)
    assert network.n_embedded == 8
    alone = [masks_of_prompts(SeenNetwork(), image, prompts, tta=[one])[0] for one in both]
    np.testing.assert_array_equal(together, alone)
    assert (together[0][0] != together[1][0]).any()
    np.testing.assert_array_equal(masks_of_prompts(SeenNetwork(), image, prompts, tta=both[::-1]), alone[::-1])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tissue_store(tmp_path_factory.mktemp("prompted"))
    split(made, fractions=(0.5, 0.25, 0.25), seed=1)
    return made


def test_what_is_counted_is_the_class_and_its_mask(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fintune_xr.models.sam2.adapter.load_sam2", lambda *_, **__: None)
    monkeypatch.setattr("fintune_xr.models.sam2.adapter.Sam2Prompts", lambda _: BoxNetwork())
    weights = write_published(tmp_path / "boxes.pt", random_state(SMALL))
    found = sweep(store, model=str(weights), split="all", overrides=("prompts=[box]", "flips=20"), restart=True)
    check_dataset(found, PROMPTED_STUDY)
    assert found.attrs[n.PROTOCOL] == n.PROMPTED
    cohort = open_cohort(store)
    patches = patches_of(cohort, annotated_tiles(cohort))
    for at in range(len(patches)):
        labels = patches.labels(at, ClassMap())
        for label, name in enumerate(ClassMap().names, start=1):
            one = found.sel({n.PROMPT: "box", n.TTA: 0, n.PROCESSING: "raw", n.CLASS: name}).isel({n.TILE: at})
            counts = [int(one[count]) for count in (n.TP, n.FP, n.FN)]
            if not (labels == label).any():
                assert counts == [0, 0, 0]
                continue
            rows, columns = np.nonzero(largest_piece(labels == label))
            mask = np.zeros(labels.shape, bool)
            mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            known = labels != 255
            expected = f1_score((labels == label)[known], mask[known])
            assert 2 * counts[0] / (2 * counts[0] + counts[1] + counts[2]) == pytest.approx(expected)


def test_published_and_fine_tuned_weights_alike(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL})
    weights = write_published(tmp_path / "sam2.pt", random_state(SMALL))
    chosen = ("prompts=[centroid,points,box,box_negative]", "tta=[false,true]", "flips=20")
    found = sweep(store, model=str(weights), split="val", overrides=chosen, restart=True)
    assert dict(found.sizes)[n.PROMPT] == 4
    assert dict(found.sizes)[n.TTA] == 2
    total = (found[n.TP] + found[n.FN]).values
    assert (total == total[:1, :1, :1]).all(), "the truth does not depend on the prompt"
    again = sweep(store, model=str(weights), split="val", overrides=chosen)
    np.testing.assert_array_equal(again[n.TP], found[n.TP])
    with pytest.raises(RunMismatchError, match="settings"):
        sweep(store, model=str(weights), split="val", overrides=("prompts=[box]",))
    tuned = saved("sam2_semantic", tmp_path)
    made = sweep(store, model=str(tuned), split="val", overrides=("prompts=[box]", "flips=20"), restart=True)
    assert made.sizes[n.PROMPT] == 1
    unet = saved("semantic_unet", tmp_path)
    with pytest.raises(CheckpointError, match="expected SAM 2"):
        sweep(store, model=str(unet), split="val", restart=True)


def test_from_the_command_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL})
    weights = write_published(tmp_path / "sam2.pt", random_state(SMALL))
    words = ["sweep", str(store), "prompts=[box]", "flips=20", "--model", str(weights), "--split", "val", "--restart"]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "no automatic result" in out
    assert "perclass_dice_image_mean" in out


def test_classes_are_stated_as_for_a_training() -> None:
    stated = load_settings(PromptedSettings, None, ["classes={tumor:[1,19,20]}"]).classes
    assert stated is not None
    assert stated.classes == (("tumor", (1, 19, 20)),)
