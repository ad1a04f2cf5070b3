"""A tile or an annotation that is there twice, as it is or turned, is named; what is alike by right is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from em_files import picture
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.pipelines.leak_check.pairs import refuse_leaks
from fintune_xr.pipelines.report.extra_files import lines_by_verb
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pixels.pixel_digest import pixels_sha256, profile, turned_sha256
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.ingest.same_bytes import turned_tiles
from fintune_xr.store.lineage.same_annotations import same_annotations
from fintune_xr.store.lineage.training_exposure import LEARNED, training_exposure
from fintune_xr.store.raw.layouts import choose_layout

Turn = Callable[[np.ndarray], np.ndarray]
TURNS: dict[str, Turn] = {
    "mirrored": lambda a: a[..., ::-1],
    "upside down": lambda a: a[..., ::-1, :],
    "by 180": lambda a: a[..., ::-1, ::-1],
    "by 90": lambda a: np.rot90(a, axes=(-2, -1)),
    "by 270": lambda a: np.rot90(a, -1, axes=(-2, -1)),
    "transposed": lambda a: np.swapaxes(a, -1, -2),
    "over": lambda a: np.swapaxes(a, -1, -2)[..., ::-1, ::-1],
}
CHANNELS = 2


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.float32, np.bool_]),
        hnp.array_shapes(min_dims=3, max_dims=4, max_side=6),
    )
)
def test_digests_of_all_orientations_are_one(pixels: np.ndarray) -> None:
    for turn in TURNS.values():
        assert (profile(turn(pixels)), turned_sha256(turn(pixels))) == (profile(pixels), turned_sha256(pixels))
    assert (profile(pixels) == 0) == (pixels_sha256(pixels) == n.SHOWS_NOTHING) or pixels.dtype.kind == "f"


@given(hnp.arrays(np.uint8, (2, 3, 4)), hnp.arrays(np.uint8, (2, 3, 4)))
def test_only_turned_tiles_have_one_digest(one: np.ndarray, other: np.ndarray) -> None:
    """Held against all eight, one by one."""
    every = [other, *(turn(other) for turn in TURNS.values())]
    is_turned = any(np.array_equal(one, turned) for turned in every)
    nothing = all(plane.min() == plane.max() for plane in one) and all(plane.min() == plane.max() for plane in other)
    assert (turned_sha256(one) == turned_sha256(other)) == (is_turned or nothing)


def field(seed: int, shape: tuple[int, int] = (72, 72)) -> np.ndarray:
    return stream(seed, "turned").integers(1, 9000, (CHANNELS, *shape)).astype(np.uint16)


def put(folder: Path, planes: np.ndarray, stem: str = "t") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for c, plane in enumerate(planes):
        tifffile.imwrite(folder / f"{stem}_b0c{c}.tif", plane)


@pytest.mark.parametrize("shape", [(72, 72), (60, 72)])
@pytest.mark.parametrize("how", list(TURNS))
def test_a_turned_copy_is_named_by_ingest_and_check(
    how: str, shape: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for at in (1, 2):
        put(tmp_path / f"raw/d{at}/GFAP", field(at, shape))
    put(tmp_path / "raw/d3/GFAP", TURNS[how](field(1, shape)))
    ingest(tmp_path / "raw", tmp_path / "c.zarr")
    said = "the same image, mirrored or turned, under 2 tiles: d1/GFAP/t, d3/GFAP/t"
    assert said in capsys.readouterr().err
    [problem] = check(tmp_path / "c.zarr")
    assert str(problem).startswith(f"images: {said}")


def test_the_same_sums_do_not_make_a_copy(tmp_path: Path) -> None:
    """Permutations have the same sums of rows and columns; the pixels themselves are asked."""
    orders = ([0, 1, 3, 2], [1, 0, 2, 3], [0, 2, 1, 3])
    for at, order in enumerate(orders):
        plane = np.kron(np.eye(4)[order], np.ones((18, 18))).astype(np.uint16)
        put(tmp_path / f"raw/d{at}/GFAP", np.stack([plane, 2 * plane]))
    ingest(tmp_path / "raw", tmp_path / "c.zarr")
    cohort = open_cohort(tmp_path / "c.zarr")
    assert len(set(cohort.images()[n.PROFILE].values.tolist())) == 1
    assert turned_tiles(cohort) == [("d0/GFAP/t", "d1/GFAP/t")]


def test_a_store_that_was_made_before_has_no_profiles_and_stays_as_it_was(tmp_path: Path) -> None:
    put(tmp_path / "raw/d1/GFAP", field(1))
    ingest(tmp_path / "raw", tmp_path / "c.zarr")
    shutil.rmtree(tmp_path / f"c.zarr/{n.IMAGES}/{n.PROFILE}")
    put(tmp_path / "raw/d2/GFAP", field(1)[..., ::-1])
    assert ingest(tmp_path / "raw", tmp_path / "c.zarr").n_added == 1
    assert check(tmp_path / "c.zarr") == []


@pytest.mark.parametrize("how", list(TURNS))
def test_a_turned_copy_on_two_sides_of_a_split_is_a_leak(how: str, tmp_path: Path) -> None:
    """Cells of one donor, as another tool wrote them: turned, and with another gain."""
    px = 128
    tiles = [phantom_tile(stream(at, "leak"), marker="GFAP", ratio=0.4, tile_px=px) for at in range(3)]
    image = [tile.image for tile in tiles]
    copies = [*image, (TURNS[how](image[0].astype(float)) * 1.3 + 20).astype(np.uint16)]
    for at, planes in enumerate(copies):
        put(tmp_path / f"raw/d{at}/GFAP", planes)
        mask = np.zeros((px, px), np.uint8)
        mask[10 + at : 20, 10 : 30 + at] = 1
        (tmp_path / f"masks/d{at}/GFAP").mkdir(parents=True)
        tifffile.imwrite(tmp_path / f"masks/d{at}/GFAP/t_masks.tif", mask)
    ingest(tmp_path / "raw", tmp_path / "c.zarr")
    annotate(tmp_path / "masks", tmp_path / "c.zarr")
    cohort = open_cohort(tmp_path / "c.zarr")
    with pytest.raises(
        SplitError, match=r"1 pair\(s\).*\n.*d0/GFAP/t \(train\) and d3/GFAP/t \(test\): nearly the same"
    ):
        refuse_leaks(cohort, [n.TRAIN, n.TRAIN, n.VAL, n.TEST])


@pytest.mark.parametrize("how", list(TURNS))
def test_who_learned_from_a_turned_copy_has_seen_the_tile(how: str, tmp_path: Path) -> None:
    """In another store, under another name."""
    put(tmp_path / "raw/d1/GFAP", field(1))
    put(tmp_path / "raw/d2/GFAP", field(2))
    put(tmp_path / "elsewhere/x9/IBA1", TURNS[how](field(1)))
    seen = {}
    for name in ("raw", "elsewhere"):
        ingest(tmp_path / name, tmp_path / f"{name}.zarr")
        cohort = open_cohort(tmp_path / f"{name}.zarr")
        for tile in cohort.images()[n.TILE].values.tolist():
            facts = training_exposure(cohort, learned=[str(tile)], judged=[], start=None)
            seen[str(tile)] = set(facts[LEARNED])
    assert seen["x9/IBA1/t"] & seen["d1/GFAP/t"]
    assert not seen["x9/IBA1/t"] & seen["d2/GFAP/t"]


def cells(seed: int, px: int = 72) -> np.ndarray:
    rng = stream(seed, "cells")
    mask = np.zeros((px, px), np.uint16)
    for label, (y, x) in enumerate(np.argwhere(np.ones((3, 3))) * 22 + 4, start=1):
        mask[y : y + rng.integers(6, 16), x : x + rng.integers(6, 16)] = label
    return mask


def masked(root: Path, masks: list[np.ndarray], **layout: object) -> Path:
    for at, mask in enumerate(masks):
        if not (root / f"raw/d{at}").exists():
            put(root / f"raw/d{at}/GFAP", field(at, mask.shape))
        (root / f"masks/d{at}/GFAP").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / f"masks/d{at}/GFAP/t_masks.tif", mask)
    ingest(root / "raw", root / "c.zarr", **layout)  # type: ignore[arg-type]
    return root / "c.zarr"


SAME = "the same annotation under 2 tiles: d0/GFAP/t, d2/GFAP/t"


@pytest.mark.parametrize(
    "copied",
    [
        lambda mask: mask,
        lambda mask: (mask.max() + 1 - mask) * (mask > 0),
        lambda mask: mask[:, ::-1],
        lambda mask: np.rot90(mask),
        lambda mask: (255 * (np.rot90(mask) > 0)).astype(np.uint8),
    ],
    ids=["as it is", "numbered otherwise", "mirrored", "turned", "turned and binary"],
)
def test_a_mask_under_two_tiles_is_named_by_annotate_and_in_the_report(
    copied: Turn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = masked(tmp_path, [cells(0), cells(1), copied(cells(0))])
    annotate(tmp_path / "masks", store)
    said = capsys.readouterr().err
    assert f"annotate: {SAME}" in said
    assert "correct it and annotate with --restart" in said
    assert SAME in str(lines_by_verb(open_cohort(store)))
    # It is a question: cells on a grid lie alike in every tile.
    assert check(store) == []


def test_masks_that_are_alike_by_right_are_not_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a cell; of one image that is there twice, which is named itself; of the two tiles of one field."""
    nothing = np.zeros((72, 72), np.uint8)
    put(tmp_path / "raw/d4/GFAP", field(3))
    store = masked(tmp_path, [nothing, nothing, cells(2), cells(3), cells(3)])
    annotate(tmp_path / "masks", store)
    assert "same annotation" not in capsys.readouterr().err
    assert same_annotations(open_cohort(store)) == []
    assert [str(one).split(":")[1] for one in check(store)] == [" the same image under 2 tiles"]
    for marker in ("GFAP", "IBA1"):
        put(tmp_path / f"fields/raw/d1/{marker}", field(len(marker) + ord(marker[0])), "f1")
        (tmp_path / f"fields/masks/d1/{marker}").mkdir(parents=True)
        tifffile.imwrite(tmp_path / f"fields/masks/d1/{marker}/f1_masks.tif", cells(5))
    told = choose_layout(
        "rosmap", pattern=r"(?P<donor>[^/]+)/(?P<marker>[^/]+)/(?P<tile>(?P<field>f\d))_(?P<channel>b0c\d)\.tif"
    )
    ingest(tmp_path / "fields/raw", tmp_path / "f.zarr", layout=told)
    annotate(tmp_path / "fields/masks", tmp_path / "f.zarr")
    assert open_cohort(tmp_path / "f.zarr").annotations().sizes[n.TILE] == 2
    assert same_annotations(open_cohort(tmp_path / "f.zarr")) == []


def test_maps_of_classes_are_held_against_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "legend.csv").write_text("label,code\nnone,0\ntumor,1\nstroma,2\n")
    whole = np.ones((64, 64), np.uint8)
    maps = [cells(0, 72)[:64, :64] % 3, cells(1, 72)[:64, :64] % 3, (cells(0, 72)[:64, :64] % 3)[::-1], whole, whole]
    for at, codes in enumerate(maps):
        for folder, pixels in (("images", stream(at, "he").integers(0, 255, (64, 64, 3))), ("masks", codes)):
            (tmp_path / f"in/{folder}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8))).save(tmp_path / f"in/{folder}/d{at}_t.png")
    ingest(tmp_path / "in", tmp_path / "c.zarr", layout="classes")
    annotate(tmp_path / "in", tmp_path / "c.zarr", layout="classes", legend=tmp_path / "legend.csv")
    said = capsys.readouterr().err
    assert said.count("the same annotation under 2 tiles") == 1


def test_particles_at_the_same_places_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "points").mkdir()
    rows = {"a": [(10, 12), (40, 30), (33, 60)], "b": [(33, 60), (10, 12), (40, 30)], "c": [(5, 5)], "d": [(5, 5)]}
    for name, places in rows.items():
        Image.fromarray(picture(name, (64, 80)).astype(np.uint8)).save(tmp_path / f"raw/{name}.png")
        lines = "".join(f"{x},{y},9\n" for y, x in places)
        (tmp_path / f"points/{name}.csv").write_text(f"X-Coordinate,Y-Coordinate,Diameter\n{lines}")
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs")
    annotate(tmp_path / "points", tmp_path / "c.zarr")
    assert "the same annotation under 2 tiles: set/particles/a, set/particles/b" in capsys.readouterr().err
