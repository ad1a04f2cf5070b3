"""What napari is given, by a viewer that only remembers it: lazily, the right pixels, and whose they are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exchange import IMAGES, LOST, MASKS, RUN, TILES, TRUTH, exchange_store

from fintune_xr import names as n
from fintune_xr.errors import MissingPackageError, UnknownNameError
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.view import view
from fintune_xr.store.cohort import Cohort, Location


class Viewer:
    """As much of napari's viewer as is used."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.images: dict[str, tuple[Any, dict[str, Any]]] = {}
        self.labels: dict[str, tuple[Any, dict[str, Any]]] = {}
        self.text_overlay = SimpleNamespace(text="", visible=False)
        self.listeners: list[Callable[[Any], None]] = []
        moved = SimpleNamespace(connect=self.listeners.append)
        self.dims = SimpleNamespace(current_step=(0, 0, 0), events=SimpleNamespace(current_step=moved))

    def add_image(self, pixels: Any, *, name: str, **how: Any) -> None:
        self.images[name] = (pixels, how)

    def add_labels(self, pixels: Any, *, name: str, **how: Any) -> None:
        self.labels[name] = (pixels, how)


@pytest.fixture
def napari(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    runs: list[int] = []
    fake = SimpleNamespace(Viewer=Viewer, run=lambda: runs.append(1), runs=runs)
    monkeypatch.setitem(sys.modules, "napari", fake)
    return fake


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return exchange_store(tmp_path_factory.mktemp("view") / "c.zarr")


def test_every_tile_with_its_labels(cohort: Cohort, napari: SimpleNamespace) -> None:
    viewer = view(cohort.url)
    assert list(viewer.images) == ["DAPI", "marker"]
    assert list(viewer.labels) == [RUN, "annotated"]
    for at, (tile, image, mask) in enumerate(zip(TILES, IMAGES, MASKS, strict=True)):
        region = (at, slice(0, image.shape[1]), slice(0, image.shape[2]))
        for channel, name in enumerate(viewer.images):
            np.testing.assert_array_equal(viewer.images[name][0][region].compute(), image[channel])
        shown = np.zeros_like(mask) if at == LOST else mask
        np.testing.assert_array_equal(viewer.labels[RUN][0][region].compute(), shown)
        np.testing.assert_array_equal(viewer.labels["annotated"][0][region].compute(), TRUTH.get(tile, 0 * mask))
    low, high = viewer.images["marker"][1]["contrast_limits"]
    assert low < np.median(IMAGES[0][1]) < high
    assert [how["colormap"] for _, how in viewer.images.values()] == ["#0000FF", "#00FF00"]


def test_chosen_tiles_and_their_names(cohort: Cohort, napari: SimpleNamespace) -> None:
    viewer = view(cohort.url, donors=["d2"], runs=[RUN])
    pixels, _ = viewer.labels[RUN]
    assert pixels.shape == (2, 64, 80)
    np.testing.assert_array_equal(pixels[0].compute(), MASKS[2])
    assert viewer.text_overlay.visible
    assert viewer.text_overlay.text == TILES[2]
    viewer.dims.current_step = (1, 0, 0)
    viewer.listeners[0](None)
    assert viewer.text_overlay.text == TILES[3]
    with pytest.raises(UnknownNameError, match="no donor 'd9'"):
        view(cohort.url, donors=["d9"])


def test_masks_are_not_read_before_they_are_shown(
    cohort: Cohort, napari: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = Location.zarr
    monkeypatch.setattr(Location, "zarr", lambda self, **how: _watched(original(self, **how), read))
    viewer = view(cohort.url)
    masks = f"{n.RUNS}/{RUN}/{n.MASK}/"
    assert not [key for key in read if key.startswith(masks) and not key.endswith("zarr.json")]
    viewer.labels[RUN][0][0].compute()
    assert [key for key in read if key.startswith(masks) and not key.endswith("zarr.json")]


def _watched(store: Any, read: list[str]) -> Any:
    original = store.get

    async def get(key: str, *args: Any, **how: Any) -> Any:
        read.append(key)
        return await original(key, *args, **how)

    store.get = get
    return store


def test_the_command_runs_napari_once_the_viewer_is_there(cohort: Cohort, napari: SimpleNamespace) -> None:
    assert command(["view", cohort.url, "--tile", TILES[0]]) == 0
    assert napari.runs == [1]


def test_without_napari_it_is_said_what_to_install(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "napari", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'fintune-xr\[napari\]'"):
        view(cohort.url)
    assert command(["view", cohort.url]) == 1
    assert "fintune-xr[napari]" in capsys.readouterr().err
