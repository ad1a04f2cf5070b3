"""Real B-scans of Spectralis from the raw exports to a stored embedding.

Each export holds one B-scan. The three of one eye are stacked to something with three axes: no volume of an eye, but
real values through reader, grid, store and a model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fintune_xr import names as n
from fintune_xr.pipelines.classification.ingest import VolumeRequest
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.raw.readers.volumes import Reading, volume_frames

FILES = ("Willis_B_716_0.vol", "Willis_B_716_2.vol", "Willis_B_716_4.vol")
GRID = (4, 62, 96)


def test_real_scans_from_the_reader_to_an_embedding(real_data: Path, tmp_path: Path) -> None:
    scans = []
    for name in FILES:
        _, frames = volume_frames((real_data / "spectralis-vol" / name).read_bytes(), name, Reading(least_depth=1))
        scans += list(frames)
    (tmp_path / "in" / "716").mkdir(parents=True)
    np.save(tmp_path / "in" / "716" / "stack.npy", np.stack(scans))
    store = tmp_path / "oct.zarr"
    report = ingest(tmp_path / "in", store, layout="volumes", volumes=VolumeRequest(grid=GRID))
    assert (report.n_added, report.left_out) == (1, ())
    image = open_cohort(store).images(lazy=False)[n.IMAGE].values[0, 0]
    assert image.shape == GRID
    # The retina is a bright band across every B-scan, between darkness above and below.
    rows = image.astype(float).mean(axis=(0, 2))
    assert rows.max() > 1.3 * rows[:6].mean()
    infer(store, run="profile", model="volume_profile", overrides=("device=cpu",))
    embedding = open_cohort(store).run("profile", lazy=False)[n.EMBEDDING].values
    assert np.isfinite(embedding).all()
    assert embedding.std() > 0
    assert check(store) == []
