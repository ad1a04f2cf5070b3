"""Real microscope images through the route: every set of the example is read, segmented and scored."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError
from fintune_xr.store.raw.layouts import choose_layout

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "real_images.py"))


def smaller(name: str) -> Any:
    """One of the example's sets; of the field numbers only 02, which both folders have."""
    one = EXAMPLE[name]
    patterns = {key: getattr(one, key) for key in ("image_pattern", "mask_pattern")}
    return dataclasses.replace(one, **{k: p and p.replace(r"\d+", "02") for k, p in patterns.items()})


def segmented(one: Any, real_data: Path, folder: Path) -> Path:
    """The store of a set, with its images, annotations and a threshold run; no split."""
    store, source = folder / "cohort.zarr", real_data / one.folder
    fx.ingest(source, store, layout=choose_layout(one.layout, pattern=one.image_pattern))
    masks = "rosmap" if one.layout == "custom" else one.layout
    fx.annotate(source, store, layout=masks, pattern=one.mask_pattern)
    fx.infer(store, run="threshold", model="threshold", overrides=one.threshold)
    return store


def recall(store: Path) -> float:
    scores = fx.evaluate(store, split="all", resamples=20).sel(group="all", run="threshold", threshold=0.5)
    return float(scores["recall_pooled"])


@pytest.mark.slow
def test_two_channels_of_which_one_is_annotated(real_data: Path, tmp_path: Path) -> None:
    store = segmented(EXAMPLE["PARV"], real_data, tmp_path)
    images = fx.open_cohort(store).images()
    assert (images.sizes[n.TILE], list(images[n.CHANNEL].values)) == (3, ["cFOS", "Parv"])
    raw = tifffile.imread(real_data / "deepflash-hippocampus" / "Parv" / "01_Parv.tif")
    np.testing.assert_array_equal(images[n.IMAGE].sel(donor="01", channel="Parv").values[0], raw)
    cells = [int(fx.open_cohort(store).annotations()[n.MASK][i].values.max()) for i in range(3)]
    assert cells == [28, 4, 14]
    assert recall(store) > 0.4


@pytest.mark.slow
def test_single_8_bit_planes_of_two_series(real_data: Path, tmp_path: Path) -> None:
    store = segmented(smaller("CFOS"), real_data, tmp_path)
    images = fx.open_cohort(store).images()
    assert sorted(images[n.DONOR].values) == ["cFOS/02", "new/02"]
    assert recall(store) > 0.3
    written = fx.export(store, to="masks", out=tmp_path / "masks")
    assert sorted(path.name for path in written) == [f"{s}__02__{s}__02_pred.tif" for s in ("cFOS", "new")]
    assert fx.check(store) == []
    page = fx.report(store).read_text()
    assert "cFOS in grey" in page
    assert "DAPI in blue" not in page


def test_pages_are_tiles_of_one_recording(real_data: Path, tmp_path: Path) -> None:
    store = segmented(EXAMPLE["MICROGLIA"], real_data, tmp_path)
    images = fx.open_cohort(store).images()
    assert sorted(images[n.DONOR].values) == ["pg22", "pg6", "pg6", "pg6"]
    assert recall(store) > 0.1
    with pytest.raises(SplitError, match=r"2 donor.s. cannot fill 3 parts"):
        fx.split(store)
    fx.split(store, fractions=(0.75, 0.25, 0.0))
    parts = dict(zip(images[n.DONOR].values, fx.open_cohort(store).images()[n.SPLIT].values, strict=True))
    assert parts == {"pg6": "train", "pg22": "val"}


def test_mixed_sizes_are_refused_and_go_into_a_store_per_size(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "dsb2018-fluo"
    with pytest.raises(FintuneValueError, match=r"1040 x 1388: 1 tile\(s\)\nMake one store per size"):
        fx.ingest(folder, tmp_path / "all.zarr", layout="dsb2018")
    small, medium = EXAMPLE["nuclei_by_size"](folder)
    assert recall(segmented(small, real_data, tmp_path / "small")) > 0.6
    fx.ingest(folder, tmp_path / "medium.zarr", layout=choose_layout("dsb2018", pattern=medium.image_pattern))
    sizes = [fx.open_cohort(tmp_path / f).images().sizes[n.TILE] for f in ("small/cohort.zarr", "medium.zarr")]
    assert sizes == [6, 4]


@pytest.mark.slow
def test_points_of_light_sheet_planes(real_data: Path, tmp_path: Path) -> None:
    row = EXAMPLE["points_found"](real_data / "cellfinder-brain", tmp_path).iloc[0]
    assert row["points"] == 56
    assert row["share"] > 3 * row["expected"]


def test_windows_of_a_stained_field_are_the_field(real_data: Path, tmp_path: Path) -> None:
    example = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "real_tissue.py"))
    source, store = tmp_path / "windows", tmp_path / "nuclei.zarr"
    example["write_windows"](real_data / "histolytics-hgsc", source)
    fx.ingest(source, store, layout="classes", cut=500)
    fx.annotate(source, store, layout="classes", legend=source / "legend.tsv")
    example["keep_windows"](store)
    cohort = fx.open_cohort(store)
    images, truth = cohort.images(lazy=False), cohort.annotations(lazy=False)
    parts = dict(zip(images[n.DONOR].values.tolist(), images[n.SPLIT].values.tolist(), strict=True))
    assert parts["right"] == "test"
    assert sorted(parts.values()) == ["test", "train", "val"]
    kinds = np.load(real_data / "histolytics-hgsc" / "hgsc_nest_type_mask.npz")["nuc_raster"]
    field = np.asarray(Image.open(real_data / "histolytics-hgsc" / "hgsc_nest.jpg"))
    for window, columns in (("left", slice(0, 500)), ("middle", slice(500, 1000)), ("right", slice(1000, 1500))):
        rows = np.flatnonzero(images[n.DONOR].values == window)
        np.testing.assert_array_equal(np.concatenate(truth["classes"].values[rows]), kinds[:, columns])
        pixels = np.concatenate(images[n.IMAGE].values[rows], axis=1)
        np.testing.assert_array_equal(pixels, np.moveaxis(field[:, columns], 2, 0))
