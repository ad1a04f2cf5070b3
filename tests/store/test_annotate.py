"""Annotations: pairing with tiles, instances kept, binary masks cut up, everything else told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError, TileReadError, UnknownNameError
from fintune_xr.store.annotations.instance import AnnotateReport, annotate_tiles, as_instances, component_tiles
from fintune_xr.store.annotations.instance_layouts import choose_mask_layout
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.tiles import ingest_tiles, open_or_create
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.scan import scan
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards

SHAPE = (20, 24)


def write(path: Path, pixels: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack")
    return path


def instances(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Any:
    """Squares of 3 px, the number of each its own, in an order of the seed."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    which = (y // 5) * 8 + x // 5
    numbers = np.random.default_rng(seed).permutation(64) + 1
    return np.where((y % 5 < 3) & (x % 5 < 3), numbers[which], 0).astype(np.uint16)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    sizes = {"d1/GFAP/t1": SHAPE, "d1/GFAP/t2": (12, 15), "d2/GFAP/t1": SHAPE, "d2/IBA1/t9_x0": SHAPE}
    for tile, shape in sizes.items():
        for channel in (0, 1):
            stem, _, part = tile.partition("_")
            name = f"{stem}_b0c{channel}{part}.tif"
            write(tmp_path / "source" / name, np.full(shape, channel, np.uint16))
    found = scan(tmp_path / "source", choose_layout("rosmap"))
    cohort = open_or_create(tmp_path / "c.zarr", found)
    ingest_tiles(cohort, found, workers=1)
    return cohort


def annotate(cohort: Cohort, folder: Path, **options: Any) -> AnnotateReport:
    return annotate_tiles(cohort, folder, choose_mask_layout("rosmap"), workers=2, **options)


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("d1/GFAP/t1_masks.tif", "d1/GFAP/t1"),
        ("d1/GFAP/t1_mask.tiff", "d1/GFAP/t1"),
        ("d1/GFAP/t1_cp_masks.png", "d1/GFAP/t1"),
        ("d1/GFAP/t1_b0c1_masks.tif", "d1/GFAP/t1"),
        ("d1/GFAP/t1_b0c0_masks.tif", "d1/GFAP/t1"),
        ("d2/IBA1/t9_b0c1x0_masks.tif", "d2/IBA1/t9_x0"),
        ("d2/IBA1/t9_x0_masks.tif", "d2/IBA1/t9_x0"),
        ("d1__GFAP__t1_pred.tif", "d1/GFAP/t1"),
        ("masks/t9_x0_masks.tif", "d2/IBA1/t9_x0"),
        ("t9_b0c1x0_masks.tif", "d2/IBA1/t9_x0"),
    ],
)
def test_masks_find_their_tile(cohort: Cohort, tmp_path: Path, name: str, tile: str) -> None:
    labels = instances().astype(np.uint8)
    file = write(tmp_path / "masks" / name, labels)
    report = annotate(cohort, tmp_path / "masks")
    assert (report.n_added, report.left_out) == (1, ())
    stored = cohort.annotations()
    assert stored[n.TILE].values.tolist() == [tile]
    assert stored[n.SOURCE].values.tolist() == [name]
    assert stored[n.SHA256].values.tolist() == [hashlib.sha256(file.read_bytes()).hexdigest()]
    np.testing.assert_array_equal(stored[n.MASK].values[0], labels)
    assert stored[n.MASK].dtype == np.uint32


def test_smaller_tiles_lie_in_the_corner(cohort: Cohort, tmp_path: Path) -> None:
    labels = instances(1, (12, 15))
    write(tmp_path / "masks/d1/GFAP/t2_masks.tif", labels)
    annotate(cohort, tmp_path / "masks")
    mask = cohort.annotations()[n.MASK].values[0]
    np.testing.assert_array_equal(mask[:12, :15], labels)
    assert mask.sum() == labels.sum()


def test_what_cannot_be_used_is_told(cohort: Cohort, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    write(masks / "d1/GFAP/t1_masks.tif", instances(1))
    write(masks / "d1/GFAP/t1_masks.png", instances(2).astype(np.uint8))
    write(masks / "d1/GFAP/t2_masks.tif", instances(3))
    write(masks / "d1/GFAP/t7_masks.tif", instances(4))
    write(masks / "t1_masks.tif", instances(5))
    write(masks / "d2/GFAP/t1_masks.tif", instances(6).astype(np.complex64))
    write(masks / "d2/IBA1/t9_x0_masks.tif", -instances(7).astype(np.int32))
    (masks / "notes.txt").write_text("")
    write(masks / "overview.tif", instances(8))
    report = annotate(cohort, masks)
    assert report.n_added == 1
    assert {item.path: item.reason.split(":")[0] for item in report.left_out} == {
        "d1/GFAP/t1_masks.tif": "duplicate",
        "d1/GFAP/t2_masks.tif": "wrong shape",
        "d1/GFAP/t7_masks.tif": "unpaired",
        "t1_masks.tif": "ambiguous",
        "d2/GFAP/t1_masks.tif": "wrong dtype",
        "d2/IBA1/t9_x0_masks.tif": "wrong values",
    }
    assert (
        "the store has no tile d1/GFAP/t7"
        in {item.path: item.reason for item in report.left_out}["d1/GFAP/t7_masks.tif"]
    )
    assert report.ignored == {".txt": 1, "image whose name does not fit the layout": 1}


def test_nothing_annotated_leaves_nothing_behind(cohort: Cohort, tmp_path: Path) -> None:
    write(tmp_path / "masks/d9/GFAP/t1_masks.tif", instances())
    report = annotate(cohort, tmp_path / "masks")
    assert (report.n_added, len(report.left_out)) == (0, 1)
    assert not cohort.has(n.ANNOTATIONS)
    with pytest.raises(FintuneValueError, match=r"fits layout 'rosmap'.*1 \.txt"):
        (tmp_path / "none").mkdir()
        (tmp_path / "none/a.txt").write_text("")
        annotate(cohort, tmp_path / "none")


def test_again_later_and_changed(cohort: Cohort, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    write(masks / "d2/GFAP/t1_masks.tif", instances(1))
    assert annotate(cohort, masks).n_added == 1
    write(masks / "d1/GFAP/t1_masks.tif", instances(2))
    report = annotate(cohort, masks)
    assert (report.n_added, report.n_present) == (1, 1)
    assert cohort.annotations()[n.TILE].values.tolist() == ["d2/GFAP/t1", "d1/GFAP/t1"]
    write(masks / "d2/GFAP/t1_masks.tif", instances(3))
    report = annotate(cohort, masks)
    assert (report.n_added, report.n_present) == (0, 1)
    assert report.left_out[0].reason.startswith("changed since it was stored")
    np.testing.assert_array_equal(cohort.annotations().sel(tile="d2/GFAP/t1")[n.MASK], instances(1))
    report = annotate(cohort, masks, restart=True)
    assert (report.n_added, report.left_out) == (2, ())
    np.testing.assert_array_equal(cohort.annotations().sel(tile="d2/GFAP/t1")[n.MASK], instances(3))


def test_binary_masks_become_components_and_are_noted(cohort: Cohort, tmp_path: Path) -> None:
    binary = np.zeros(SHAPE, np.uint8)
    binary[2:5, 2:5] = binary[5:7, 5:7] = binary[15:18, 10:20] = 255
    write(tmp_path / "masks/d1/GFAP/t1_masks.tif", binary)
    write(tmp_path / "masks/d2/GFAP/t1_masks.png", binary > 0)
    write(tmp_path / "masks/d2/IBA1/t9_x0_masks.tif", instances())
    report = annotate(cohort, tmp_path / "masks")
    assert report.from_components == ("d1/GFAP/t1", "d2/GFAP/t1")
    assert component_tiles(cohort) == ["d1/GFAP/t1", "d2/GFAP/t1"]
    stored = cohort.annotations()
    for tile in report.from_components:
        mask = stored.sel(tile=tile)[n.MASK].values
        # The first two squares touch at a corner: one instance.
        assert mask.max() == 2
        assert mask[3, 3] == mask[6, 6] != mask[16, 15]
    assert annotate(cohort, tmp_path / "masks").from_components == report.from_components


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), st.sampled_from([1, 255]))
def test_components_are_those_of_scipy(binary: Any, value: int) -> None:
    try:
        # "split": nobody asks whether a piece along the border is the background.
        found, _ = as_instances(binary * np.uint8(value), "split")
    except TileReadError as error:
        # A few random masks look like outlines, or like the background of dark cells.
        assume(error.reason.split(":")[0] not in ("outlines", "inverted mask"))
        raise
    expected, count = ndimage.label(binary, structure=np.ones((3, 3)))
    assert found.max(initial=0) == count
    assert len({(a, b) for a, b in zip(found.ravel(), expected.ravel(), strict=True)}) == count + (not binary.all())


@pytest.mark.parametrize(
    ("labels", "is_binary"),
    [([[1, 1, 0, 0]], False), ([[1, 0, 1, 0]], True), ([[255, 0, 255]], True), ([[7, 0, 7]], True),
     ([[1, 0, 2]], False), ([[0, 0, 0]], False)],
)  # fmt: skip
def test_which_masks_count_as_binary(labels: Any, is_binary: bool) -> None:
    found, cut = as_instances(np.array(labels, np.uint8))
    assert cut is is_binary
    if not is_binary and np.max(labels) != 255:
        np.testing.assert_array_equal(found, labels)


def test_labels_beyond_uint32_are_refused() -> None:
    with pytest.raises(TileReadError, match="expected labels from 0 to 4294967295, found 0 to 4294967296"):
        as_instances(np.array([[0, 2**32]], np.int64))


def test_stopped_between_two_shards(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_TILES_PER_SHARD", 1)
    for tile in ("d1/GFAP/t1", "d2/GFAP/t1", "d2/IBA1/t9_x0"):
        write(tmp_path / f"masks/{tile}_masks.tif", instances(len(tile)))
    commit = growing.commit

    def stopping(target: Any, committed: int, batch: Any) -> None:
        if committed == 1:
            raise KeyboardInterrupt
        commit(target, committed, batch)

    with monkeypatch.context() as patch:
        patch.setattr(growing, "commit", stopping)
        with pytest.raises(KeyboardInterrupt):
            annotate(cohort, tmp_path / "masks")
    report = annotate(cohort, tmp_path / "masks")
    assert (report.n_added, report.n_present) == (2, 1)
    assert cohort.annotations()[n.TILE].values.tolist() == ["d1/GFAP/t1", "d2/GFAP/t1", "d2/IBA1/t9_x0"]


def test_unknown_layouts_and_patterns() -> None:
    with pytest.raises(UnknownNameError, match=r"no layout of masks 'deepflsh'; .*Did you mean 'deepflash'"):
        choose_mask_layout("deepflsh")
    with pytest.raises(SettingsError, match="does not say which part is the tile"):
        choose_mask_layout("rosmap", pattern=r"(?P<donor>.*)\.tif")


@pytest.mark.parametrize(
    ("layout", "masks", "folder", "counts"),
    [
        ("deepflash", "deepflash", "deepflash-hippocampus", [28, 4, 14]),
        ("deepflash", "deepflash-cfos", "deepflash-hippocampus", [113, 117, 75]),
        ("microglia", "microglia", "microglia-morphometry", [28, 28, 28, 19]),
    ],
)
def test_real_annotations_hold_the_published_counts(
    real_data: Path, tmp_path: Path, layout: str, masks: str, folder: str, counts: list[int]
) -> None:
    found = scan(real_data / folder, choose_layout(layout))
    cohort = open_or_create(tmp_path / "c.zarr", found)
    ingest_tiles(cohort, found)
    report = annotate_tiles(cohort, real_data / folder, choose_mask_layout(masks))
    assert (report.n_added, report.left_out) == (len(counts), ())
    stored = cohort.annotations()
    assert [np.unique(mask[mask > 0]).size for mask in stored[n.MASK].values] == counts
    assert bool(report.from_components) == (layout == "deepflash")
