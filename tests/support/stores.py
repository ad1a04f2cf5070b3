"""Small cohort stores made without raw files, and what must be equal between two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.schema import DatasetSchema
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import Cohort, create_cohort
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards

CHANNELS = ("DAPI", "marker")
MARKERS = ("GFAP", "IBA1")


def tile_names(donors: int, tiles: int) -> list[str]:
    """Ids of `tiles` tiles of each donor; markers alternate between tiles."""
    return [f"d{d}/{MARKERS[t % 2]}/{t:03d}" for d in range(donors) for t in range(tiles)]


def tile_pixels(name: str, px: int) -> NDArray[np.uint16]:
    """Counts (channel, y, x) with round nuclei on noise, some of which shine in the marker; made from the name."""
    rng = stream(5, name)
    image = rng.normal(100, 5, (2, px, px))
    y, x = np.mgrid[:px, :px]
    for number in range(int(rng.integers(3, 6)) * max(1, (px // 64) ** 2)):
        cy, cx = rng.uniform(7, px - 7, 2)
        disc = (y - cy) ** 2 + (x - cx) ** 2 <= 36
        image[0][disc] = rng.normal(900, 30, disc.sum())
        image[1][disc] += 600 if number % 2 else 60
    return image.clip(0, 65_535).astype(np.uint16)


def item(name: str, px: int, grid: shards.ShardGrid) -> tuple[dict[str, Any], shards.Encoded]:
    """Labels and encoded pixels of one tile, as `growing.append` takes them."""
    pixels = tile_pixels(name, px)
    donor, marker, _ = name.split("/")
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    labels = {
        n.TILE: name, n.DONOR: donor, n.MARKER: marker, n.SPLIT: "", n.HEIGHT: px, n.WIDTH: px,
        n.SOURCE: [f"{name}_b0c{c}.tif" for c in range(2)], n.SHA256: [digest, digest[::-1]],
    }  # fmt: skip
    return labels, shards.encode_tile(pixels, grid)


def add_tiles(cohort: Cohort, names: Sequence[str], *, px: int = 64) -> None:
    """Appends tiles of these ids."""
    target = cohort.images_group()
    for _ in growing.append(target, (item(name, px, target.grid) for name in names)):
        pass


def make_store(where: Path, *, donors: int = 3, tiles: int = 2, px: int = 64) -> Cohort:
    """A cohort of `donors` times `tiles` tiles of `px` square."""
    cohort = create_cohort(where, kind="if", channels=CHANNELS, tile_shape=(px, px), dtype="uint16", title="Small")
    add_tiles(cohort, tile_names(donors, tiles), px=px)
    return cohort


def annotate(cohort: Cohort, masks: dict[str, NDArray[np.uint32]]) -> None:
    """Stores annotations of tiles."""
    target = cohort.annotations_group()
    size = cohort.images().sizes
    growing.create_growing(target, dtype="uint32", tile_shape=(size[n.Y], size[n.X]), constants={}, attrs={})
    rows = (
        ({n.TILE: name, n.SOURCE: f"{name}.tif", n.SHA256: "0"}, shards.encode_tile(mask, target.grid))
        for name, mask in masks.items()
    )
    for _ in growing.append(target, rows):
        pass


def filled(schema: DatasetSchema, given: xr.Dataset | None = None) -> xr.Dataset:
    """A dataset of the schema: `given`, and of all else that it must have one zero, or one empty text."""
    made = xr.Dataset() if given is None else given
    for name, spec in (*schema.coords.items(), *schema.variables.items()):
        if spec.required and name not in made.variables:
            shape = [made.sizes.get(dim, 1) for dim in spec.dims]
            values = np.full(shape, "", "U1") if spec.dtype == "str" else np.zeros(shape, spec.dtype)
            made = (
                made.assign_coords({name: (spec.dims, values)})
                if name in schema.coords
                else made.assign({name: (spec.dims, values)})
            )
    return made


def run_values(cohort: Cohort, run: str) -> dict[str, NDArray[Any]]:
    """Every array of a finished run but for the times."""
    found = cohort.run(run, lazy=False).load()
    values = {str(k): v.values for k, v in found.variables.items() if k != n.SECONDS}
    cells = cohort.cells(run, lazy=False).load()
    return values | {f"cells/{k}": v.values for k, v in cells.variables.items()}


def assert_same_run(first: dict[str, NDArray[Any]], second: dict[str, NDArray[Any]]) -> None:
    """Two runs hold the same masks, counts, states and cells, to the bit."""
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


# What differs between two makings of the same: times, memory, and what tells one making from another.
OF_THE_MAKING = frozenset({"provenance", "creation", "checked", "ingests", "trainings", "created", "rules_shown"})
_MEASURED = frozenset({n.SECONDS, n.SECONDS_EMBEDDING, n.SECONDS_DECODING, n.PEAK_MEMORY})


def stored_values(store: Path, path: str = "") -> dict[str, Any]:
    """Attributes and values of everything under a group of a local store, by path, but for times and the like."""
    found: dict[str, Any] = {}
    for name, description in _descriptions(store, path):
        told = description.get("attributes") or {}
        found[f"{name}:"] = {key: value for key, value in told.items() if key not in OF_THE_MAKING}
        if description["node_type"] == "array" and name.rpartition("/")[2] not in _MEASURED:
            found[name] = _decoded(store / name)
    return found


def _descriptions(store: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What lies in a group, the group first; what is staged is not told of."""
    yield name, json.loads((store / name / "zarr.json").read_bytes())
    inside = sorted(file.parent.relative_to(store).as_posix() for file in (store / name).glob("*/zarr.json"))
    for below in (below for below in inside if below != n.STAGING):
        yield from _descriptions(store, below)


# Values by the bytes that they are stored as: of many stores that are compared, most arrays are the same.
_DECODED: dict[str, NDArray[Any]] = {}


def _decoded(folder: Path) -> NDArray[Any]:
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size} ".encode() + file.read_bytes())
    key = digest.hexdigest()
    if key not in _DECODED:
        try:
            _DECODED[key] = np.asarray(zarr.open_array(folder, mode="r")[...])
        except ValueError:
            # Damaged bytes are the same where they are.
            _DECODED[key] = np.array([key])
        _DECODED[key].flags.writeable = False
    return _DECODED[key]


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Paths of what is not the same in two of `stored_values`, or only in one of them."""
    differing = sorted(first.keys() ^ second.keys())
    for path in sorted(first.keys() & second.keys()):
        one, other = first[path], second[path]
        if isinstance(one, np.ndarray):
            is_same = one is other or (one.shape == other.shape and one.dtype == other.dtype and _same(one, other))
        else:
            is_same = one == other
        differing += [] if is_same else [path]
    return differing


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
