"""The simulated cohort of stained tissue: reproducible, named as BCSS, with rare vessels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fintune_xr.errors import FintuneValueError
from fintune_xr.seeds import stream
from fintune_xr.simulation.he_cohort import TEST_SITES, HeCohortSettings, simulate_he_cohort
from fintune_xr.simulation.tissue import VESSEL, slide_stain, tissue_patch
from fintune_xr.store.raw.layouts import choose_layout

SMALL = HeCohortSettings(n_donors=8, tiles_per_donor=(1, 2), tile_px=96, seed=3)


def digest(folder: Path) -> str:
    """Of all files below `folder`."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.png")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        simulate_he_cohort(tmp_path / name, settings=SMALL)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    simulate_he_cohort(tmp_path / "c", settings=SMALL.model_copy(update={"seed": 4}))
    assert digest(tmp_path / "c") != digest(tmp_path / "a")


def test_names_sizes_and_damage(tmp_path: Path) -> None:
    made = simulate_he_cohort(tmp_path, settings=SMALL)
    layout = choose_layout("bcss")
    names = [layout.parse(path.relative_to(tmp_path).as_posix()) for path in (tmp_path / "images").iterdir()]
    assert all(name is not None and name.mpp == 0.25 for name in names)
    donors = {name.donor for name in names if name}
    assert len(donors) == 8
    import re

    assert sum(bool(re.fullmatch(TEST_SITES, donor)) for donor in donors) == 2
    assert len(made.damaged) == 2
    with pytest.raises(FintuneValueError, match="never mixed"):
        simulate_he_cohort(tmp_path, settings=SMALL)


def test_classes_are_as_rare_as_they_should_be() -> None:
    stain = slide_stain(stream(1, "stain"))
    masks = [tissue_patch(stream(1, "p", i), stain, tile_px=256)[1] for i in range(12)]
    shares = np.bincount(np.concatenate(masks).ravel(), minlength=22) / (12 * 256**2)
    assert set(np.flatnonzero(shares)) == {1, 2, 3, 4, 18, 21}
    assert 0.002 < shares[VESSEL] < 0.012
    assert shares[[1, 2]].sum() > 0.5


def test_stains_differ_between_slides_and_tissue_is_stained() -> None:
    images = [tissue_patch(stream(5, "p"), slide_stain(stream(5, "s", i)), tile_px=96) for i in range(3)]
    means = np.array([image.reshape(-1, 3).mean(0) for image, _ in images])
    assert np.ptp(means, axis=0).max() > 5
    assert np.array_equal(images[0][1], images[1][1])
    image, codes = images[0]
    glass = image[codes == 21]
    assert glass.size == 0 or glass.mean() > 215
    assert image[codes == 3].mean() < image[codes == 4].mean()


def test_images_are_what_was_made(tmp_path: Path) -> None:
    simulate_he_cohort(tmp_path, settings=SMALL)
    stain = slide_stain(stream(SMALL.seed, "stain", 2))
    image, codes = tissue_patch(stream(SMALL.seed, "patch", 2, 0), stain, tile_px=96, outside=True)
    stem = "TCGA-BH-S002-DX1_xmin0_ymin2000_MPP-0.2500"
    assert np.array_equal(np.asarray(Image.open(tmp_path / f"images/{stem}.png")), image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / f"masks/{stem}.png")), codes)
