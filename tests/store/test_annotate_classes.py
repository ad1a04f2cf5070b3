"""Class masks: paired by the image's path, cut alike, refused where they cannot be trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from PIL import Image

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.pipelines.semantic.patches import patches_of
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.store.split import annotated_tiles
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.legends import BCSS, unnamed_legend

NAME = "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500"
OTHER = "TCGA-A2-A0D2-DX1_xmin96887_ymin22299_MPP-0.2500"
SHAPE = (200, 260)


def codes(seed: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    """A mask of blocks of BCSS codes."""
    blocks = stream(seed, "codes").choice([0, 1, 2, 3, 4, 18], (5, 5)).astype(np.uint8)
    return np.kron(blocks, np.ones((60, 60), np.uint8))[: shape[0], : shape[1]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for seed, name in enumerate((NAME, OTHER)):
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        rgb = stream(seed, "rgb").integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"images/{name}.png")
        Image.fromarray(codes(seed)).save(folder / f"masks/{name}.png")
    return folder


def stored_mask(store: Path, name: str) -> NDArray[np.uint8]:
    """The annotation of an image, its parts put together again."""
    cohort = open_cohort(store)
    images, found = cohort.images(lazy=False), cohort.annotations(lazy=False)
    mask = np.full(SHAPE, 77, np.uint8)
    for tile in found[n.TILE].values:
        if name in str(tile):
            one = images.sel({n.TILE: tile})
            y, x, h, w = (int(one[c]) for c in (n.ORIGIN_Y, n.ORIGIN_X, n.HEIGHT, n.WIDTH))
            mask[y : y + h, x : x + w] = found[n.CLASSES].sel({n.TILE: tile}).values[:h, :w]
    return mask


@pytest.mark.parametrize("cut", [0, 100])
def test_codes_are_stored_as_they_are(source: Path, tmp_path: Path, cut: int) -> None:
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="bcss", cut=cut)
    report = annotate(source, store, layout="bcss")
    n_tiles = 2 if not cut else 2 * 2 * 3
    assert (report.n_added, report.n_present, report.left_out) == (n_tiles, 0, ())
    for seed, name in enumerate((NAME, OTHER)):
        assert_array_equal(stored_mask(store, name), codes(seed))
    assert annotated_legend(open_cohort(store)) == BCSS
    attrs = open_cohort(store).annotations()[n.CLASSES].attrs
    assert list(attrs["flag_values"]) == list(range(22))
    assert attrs["flag_meanings"].split()[18] == "blood_vessel"
    again = annotate(source, store, layout="bcss")
    assert (again.n_added, again.n_present) == (0, n_tiles)


def test_names_of_another_donor_are_no_match(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="classes", kind=None)
    (source / "masks/p9").mkdir()
    (source / f"masks/{NAME}.png").rename(source / f"masks/p9/{NAME}.png")
    report = annotate(source, store, layout="classes")
    assert report.n_added == 1
    assert [item.reason for item in report.left_out] == [f"unpaired: the store has no tile of an image p9/HE/{NAME}"]


def test_masks_that_cannot_be_trusted(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "he.zarr"
    mask = codes(1)
    grey = np.asarray(Image.fromarray(mask * 10).resize((130, 100)).resize((260, 200), Image.Resampling.BICUBIC))
    bad: dict[str, tuple[str, str]] = {
        "size": (".png", "wrong shape: expected 200 x 260 as the image, found 100 x 260"),
        "code": (".png", "unknown code: 37 is not in the legend"),
        "float": (".tif", "wrong dtype"),
        "jpeg": (".jpg", "lossy mask: JPEG"),
        "resampled": (".png", "lossy mask: "),
        "colour": (".png", "found RGB pixels"),
        "large": (".tif", "expected codes from 0 to 255, found"),
    }  # fmt: skip
    made = {
        "size": mask[:100], "code": np.where(mask == 4, 37, mask).astype(np.uint8), "float": mask.astype(np.float32),
        "jpeg": mask, "resampled": grey, "colour": np.dstack([mask] * 3), "large": mask.astype(np.uint16) + 300,
    }  # fmt: skip
    for kind, (suffix, _) in bad.items():
        name = f"TCGA-A1-{kind}-DX1_xmin1_ymin2_MPP-0.25"
        Image.fromarray(np.dstack([mask] * 3)).save(source / f"images/{name}.png")
        path = source / f"masks/{name}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(path, made[kind])
        else:
            Image.fromarray(made[kind]).save(path)
    ingest(source, store, layout="bcss")
    report = annotate(source, store, layout="bcss")
    assert report.n_added == 2
    told = {item.donor.rpartition("-")[2]: item.reason for item in report.left_out}
    assert told.keys() == bad.keys()
    assert {kind: told[kind] for kind, (_, reason) in bad.items() if reason not in told[kind]} == {}


def test_palette_masks_give_their_numbers(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Image.fromarray(codes(0)).convert("P")
    image.putdata(codes(0).ravel().tolist())
    image.putpalette(stream(1, "palette").integers(0, 256, 768).tolist())
    image.save(source / f"masks/{NAME}.png")
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="bcss")
    annotate(source, store, layout="bcss")
    assert_array_equal(stored_mask(store, NAME), codes(0))
    assert "numbers are the codes" in capsys.readouterr().err


def test_without_a_legend_codes_name_themselves(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="classes")
    annotate(source, store, layout="classes")
    found = sorted({int(code) for seed in (0, 1) for code in np.unique(codes(seed))})
    assert annotated_legend(open_cohort(store)) == unnamed_legend(found)
    assert "no legend, so classes cannot be checked" in capsys.readouterr().err


def test_a_legend_of_ones_own(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "he.zarr"
    table = tmp_path / "mine.tsv"
    table.write_text("label\tcode\nnothing\t0\ncancer\t1\nb\t2\nc\t3\nd\t4\nvessel\t18\n")
    ingest(source, store, layout="classes")
    annotate(source, store, layout="classes", legend=table, ignore=[0])
    legend = annotated_legend(open_cohort(store))
    assert (legend.name, legend.meanings[18], legend.ignored) == ("mine", "vessel", (0,))
    with pytest.raises(SettingsError, match="have legend 'mine'"):
        annotate(source, store, layout="bcss")
    annotate(source, store, layout="classes", restart=True)
    assert not annotated_legend(open_cohort(store)).is_named


@pytest.mark.parametrize("layout", ["bcss", "classes"])
def test_what_lies_outside_of_the_annotation_is_unknown_by_the_official_file_too(
    source: Path, tmp_path: Path, layout: str
) -> None:
    official = tmp_path / "gtruth_codes.tsv"
    official.write_text(
        "label\tGT_code\n" + "".join(f"{meaning}\t{code}\n" for code, meaning in BCSS.rows), "utf-8-sig"
    )
    store = tmp_path / "he.zarr"
    ingest(source, store, layout=layout)
    annotate(source, store, layout=layout, legend=official)
    cohort = open_cohort(store)
    assert annotated_legend(cohort).ignored == (0,)
    patches = patches_of(cohort, annotated_tiles(cohort))
    pixels = patches.pixels_of_classes(ClassMap()).sum()
    assert pixels == sum(np.count_nonzero(codes(seed)) for seed in (0, 1))
    assert pixels < 2 * SHAPE[0] * SHAPE[1]


def test_codes_that_sound_unknown_and_are_not_are_told(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    legend = tmp_path / "mine.tsv"
    rows = {"Not annotated": 0, "tumor": 1, "stroma": 2, "lymphocyte": 3, "necrosis": 4, "vessel": 18}
    legend.write_text("".join(f"{meaning}\t{code}\n" for meaning, code in rows.items()))
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="bcss")
    annotate(source, store, layout="bcss", legend=legend)
    told = "code 0 is 'Not_annotated' and counts as none of the classes"
    assert told in capsys.readouterr().err
    with pytest.raises(SettingsError, match="meanings or ignored codes"):
        annotate(source, store, layout="bcss", legend=legend, ignore=[0])
    annotate(source, store, layout="bcss", legend=legend, ignore=[0], restart=True)
    assert told not in capsys.readouterr().err
    legend.write_bytes("Tumör\t1\n".encode("latin-1"))
    with pytest.raises(SettingsError, match="no text in UTF-8"):
        annotate(source, store, layout="bcss", legend=legend)


def test_a_changed_mask_is_left_out(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="bcss", cut=100)
    annotate(source, store, layout="bcss")
    Image.fromarray(codes(9)).save(source / f"masks/{NAME}.png")
    report = annotate(source, store, layout="bcss")
    assert [item.reason.partition(":")[0] for item in report.left_out] == ["changed since it was stored"]
    assert_array_equal(stored_mask(store, NAME), codes(0))


def test_options_that_make_no_sense(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="bcss")
    with pytest.raises(FintuneValueError, match="about particles"):
        annotate(source, store, layout="bcss", diameter=3.0)
    with pytest.raises(SettingsError, match="there is none"):
        annotate(source, store, layout="classes", ignore=[0])
    with pytest.raises(SettingsError, match="no legend at"):
        annotate(source, store, layout="bcss", legend=tmp_path / "none.tsv")


def test_real_masks_are_cut_and_stored_whole(real_data: Path, tmp_path: Path) -> None:
    masks = sorted((real_data / "bcss/masks").glob("*.png"))
    (tmp_path / "in/images").mkdir(parents=True)
    for path in masks:
        size = Image.open(path).size
        Image.new("RGB", size, (200, 100, 200)).save(tmp_path / f"in/images/{path.name}")
    ingest(tmp_path / "in", tmp_path / "he.zarr", layout="bcss", cut=1024)
    report = annotate(real_data / "bcss", tmp_path / "he.zarr", layout="bcss")
    assert report.left_out == ()
    cohort = open_cohort(tmp_path / "he.zarr")
    images, found = cohort.images(lazy=False), cohort.annotations(lazy=False)
    counts = np.zeros(256, np.int64)
    for at in range(found.sizes[n.TILE]):
        one = images.sel({n.TILE: found[n.TILE].values[at]})
        crop = found[n.CLASSES][at].values[: int(one[n.HEIGHT]), : int(one[n.WIDTH])]
        counts += np.bincount(crop.ravel(), minlength=256)
    expected = sum(np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256) for path in masks)
    assert_array_equal(counts, expected)
    assert counts[9] > 0
    assert counts[18] == 0
