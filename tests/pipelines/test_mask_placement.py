"""Masks that lie on what images show, turned ones and those of other images are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import fintune_xr as fx
from fintune_xr.pipelines.instance.mask_placement import placement, placement_lines
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile

TILES = [phantom_tile(stream(at, "placement"), marker="GFAP", ratio=0.5, tile_px=128) for at in range(5)]
# What has to be done with a mask that was saved so.
TURNS = {
    "left for right": lambda m: m[:, ::-1], "upside down": lambda m: m[::-1], "180": lambda m: m[::-1, ::-1],
    "rows for columns": lambda m: m.T, "90° clockwise": np.rot90, "90° counterclockwise": lambda m: np.rot90(m, -1),
    "other diagonal": lambda m: np.rot90(m, 2).T,
}  # fmt: skip


def lines(masks: list[np.ndarray], images: list[np.ndarray] | None = None) -> list[str]:
    images = images or [tile.image for tile in TILES]
    return placement_lines({f"t{at}": placement(*pair) for at, pair in enumerate(zip(masks, images, strict=True))})


@pytest.mark.parametrize("turn", TURNS)
def test_turned_masks_are_named_with_what_turns_them_back(turn: str) -> None:
    [line] = lines([TURNS[turn](tile.mask) for tile in TILES])
    assert turn in line
    assert line.startswith("in 5 of the 5 tiles looked at")


def test_of_tiles_that_are_not_square_only_the_turns_that_fit_are_asked() -> None:
    wide = [tile.image[:, :90] for tile in TILES]
    assert lines([tile.mask[:90] for tile in TILES], wide) == []
    [line] = lines([tile.mask[:90][::-1] for tile in TILES], wide)
    assert "upside down" in line


def test_masks_on_their_images_say_nothing_however_cells_look() -> None:
    masks = [tile.mask for tile in TILES]
    assert lines(masks) == []
    assert lines(masks, [60_000 - tile.image.astype(int) for tile in TILES]) == []
    outlines = [np.hypot(*np.gradient((mask > 0).astype(float)))[None] for mask in masks]
    assert lines(masks, [outline + stream(0, "o").normal(0, 0.2, outline.shape) for outline in outlines]) == []
    assert lines([*masks[:3], *(np.zeros_like(mask) for mask in masks[3:])]) == []


def test_masks_of_other_tiles_are_asked_about_and_one_tile_alone_is_not() -> None:
    masks = [tile.mask for tile in TILES]
    [line] = lines([*masks[1:], masks[0]])
    assert "masks of other tiles" in line
    assert lines(masks[1:2], [TILES[0].image]) == []


def test_a_mask_of_another_tile_among_others_that_lie_on_theirs_is_named() -> None:
    masks = [tile.mask for tile in TILES]
    [line] = lines([masks[1], *masks[1:]])
    assert "in 1 of the 5 tiles looked at, no channel tells" in line
    assert line.split(": ")[1].startswith("t0.")
    [line] = lines([masks[0], masks[1].T, *masks[2:]])
    assert "t1 (mirrored, rows for columns)" in line
    assert "t0" not in line


def test_masks_that_are_all_moved_alike_are_named_with_how_far() -> None:
    [line] = lines([np.roll(tile.mask, (-7, 12), (0, 1)) for tile in TILES])
    assert line.startswith("in 5 of the 5 tiles looked at")
    assert "moved 7 px down and 12 px to the left" in line
    masks = [tile.mask for tile in TILES]
    assert lines([np.roll(mask, 1, 0) for mask in masks]) == []
    assert lines([np.roll(masks[0], 20, 0), *masks[1:]]) != lines(masks)


def test_annotated_masks_are_held_against_their_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at, tile in enumerate(TILES):
        raw, masks = (tmp_path / kind / f"d{at}" / "GFAP" for kind in ("raw", "masks"))
        raw.mkdir(parents=True)
        masks.mkdir(parents=True)
        for channel, plane in enumerate(tile.image):
            tifffile.imwrite(raw / f"t_b0c{channel}.tif", plane, photometric="minisblack")
        mask = tile.mask[::-1] if at == 3 else tile.mask
        tifffile.imwrite(masks / "t_masks.tif", mask.astype(np.uint16), photometric="minisblack")
    fx.ingest(tmp_path / "raw", tmp_path / "s.zarr")
    fx.annotate(tmp_path / "masks", tmp_path / "s.zarr")
    said = "".join(capsys.readouterr())
    assert "d3/GFAP/t (mirrored upside down)" in said
    assert "d1/GFAP/t" not in said
