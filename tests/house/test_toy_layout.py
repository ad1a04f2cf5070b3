"""A layout is a row: files named in a new way are ingested by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.pipelines.steps import ingest as step
from fintune_xr.store.raw import layouts
from fintune_xr.store.raw.layouts import Layout

TOY = Layout(
    name="toy",
    about="MARKER@DONOR@TILE.tif",
    patterns=(r"(?P<marker>[^/@]+)@(?P<donor>[^/@]+)@(?P<tile>[^/@]+)\.tif",),
    channels={"": "toy"},
)


def test_a_layout_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {**layouts.LAYOUTS, TOY.name: TOY}
    for module in (layouts, step):
        if hasattr(module, "LAYOUTS"):
            monkeypatch.setattr(module, "LAYOUTS", rows)
    (tmp_path / "raw").mkdir()
    tifffile.imwrite(tmp_path / "raw" / "GFAP@d7@t1.tif", np.full((8, 8), 5, np.uint16))
    store = tmp_path / "c.zarr"
    assert fx.ingest(tmp_path / "raw", store, layout="toy").n_added == 1
    images = fx.open_cohort(store).images(lazy=False)
    labels = {name: str(images[name].values.item()) for name in (n.DONOR, n.MARKER, n.CHANNEL)}
    assert labels == {n.DONOR: "d7", n.MARKER: "GFAP", n.CHANNEL: "toy"}
