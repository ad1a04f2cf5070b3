"""The cohort store: made, opened, and read as labelled datasets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.cohort_kinds import KINDS, CohortKind, kind_named, require, task_of
from fintune_xr.errors import (
    FintuneError,
    FintuneValueError,
    StoreDamagedError,
    StoreNotFoundError,
    StoreVersionError,
    unknown_name,
)
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX
from fintune_xr.pixels.pixel_side import UM2_IN_MM2, sides_um
from fintune_xr.pixels.real_part import SIDES
from fintune_xr.pixels.z_projection import projection_words
from fintune_xr.schema import DatasetSchema
from fintune_xr.store.labels.cell_table import labelled_cells
from fintune_xr.store.labels.measurements import with_measurements
from fintune_xr.store.labels.named_labels import INDEXED, with_named_labels, with_tile_index
from fintune_xr.store.labels.overview import RunState, overview_html, states_of
from fintune_xr.store.labels.pending import guard_pending, has_pending
from fintune_xr.store.labels.split_parts import with_part_names
from fintune_xr.store.zarr_io.appendable import Growing, create_growing
from fintune_xr.store.zarr_io.groups import (
    group_exists,
    in_blocks,
    open_dataset,
    open_unindexed,
    open_writable,
    read_attrs,
    replace_group,
    subgroups,
)
from fintune_xr.store.zarr_io.location import Location as Location
from fintune_xr.store.zarr_io.location import explain_read_errors as explain_read_errors
from fintune_xr.store.zarr_io.location import explain_write_errors
from fintune_xr.store.zarr_io.locks import (
    clear_if_alone,
    hold_lock,
    hold_replacement,
    hold_tile_writes,
    recover_replaced,
)
from fintune_xr.tasks.instance import POSITIVITY
from fintune_xr.tasks.product import Product, product_named
from fintune_xr.tasks.region_masks import REGION_MASKS
from fintune_xr.tasks.scores import declared_schema
from fintune_xr.tasks.task import Task
from fintune_xr.text import texts


@dataclass(frozen=True, slots=True)
class Cohort:
    """An opened cohort store. Every method reads metadata only; pixels stay on disk until asked for.

    `opened` holds its images and annotations, by their groups, where a verb opens them once for all that it calls, and
    with `keeps_runs` its runs and their positive cells.
    """

    location: Location
    kind: str
    title: str
    opened: dict[str, xr.Dataset] | None = field(default=None, compare=False, repr=False)
    keeps_runs: bool = field(default=False, compare=False, repr=False)

    def opened_once(self, *, runs: bool = False) -> Cohort:
        """This cohort for the length of a verb that neither adds tiles, nor annotates, nor assigns parts.

        Its images and annotations are opened when they are first asked for, and not again; with `runs`, for a verb that
        changes no run and judges no cells, its runs and their positive cells too.
        """
        return replace(self, opened={}, keeps_runs=runs)

    @property
    def url(self) -> str:
        """Path or URL of the store."""
        return self.location.url

    @property
    def remark(self) -> str:
        """What is to be said wherever its results are shown; empty where nothing was noted."""
        return str(read_attrs(self.location).get("remark", ""))

    @property
    def kind_facts(self) -> CohortKind:
        """What its kind holds: schema of the tiles, default split, steps."""
        return kind_named(self.kind)

    @property
    def task(self) -> Task:
        """What is learned and measured of it."""
        return task_of(self.kind)

    def require(self, verb: str, *, tasks: Iterable[str] = ()) -> None:
        """Raises FintuneValueError where `verb` is for other kinds of cohorts, or for other `tasks`."""
        require(verb, self.kind, url=self.url, tasks=tasks)

    def images(self, *, lazy: bool = True) -> xr.Dataset:
        """`image` (tile, channel, y, x), selectable by `tile`, `donor`, `marker`, `split`, `channel`, and by `field`.

        `split` is train, val or test, or unassigned. `field` is there where the files were told to be of fields.
        """
        found = self._opened(n.IMAGES, self._images)
        return in_blocks(found) if lazy else found

    def _images(self) -> xr.Dataset:
        stored = open_unindexed(self.location, n.IMAGES, self.kind_facts.images, lazy=False)
        return with_tile_index(with_part_names(stored))

    def annotations(self, *, lazy: bool = True) -> xr.Dataset:
        """What is annotated, of the annotated tiles only, which are those along `tile`, in the schema of the task.

        Of cells that is `mask` (tile, y, x) uint32. Of particles it is their centres `y`, `x` (point,) and
        `diameter_px`, in px of the stored tiles; `tile_index` (point,) is the position of the point's tile among
        `tile`. A tile that is listed and has no point is known to hold no particle; of a tile that is not listed
        nothing is known. `fintune_xr.tasks.detection.tile_points` gives the points of one tile.

        The tiles have their donor, marker and split, by which they are selected as those of a run are, and with which
        they align; with `lazy=False` there is what is stored, and no more.

        Raises StoreNotFoundError where nothing has been annotated yet.
        """
        found = self._opened(n.ANNOTATIONS, self._open_annotations)
        return self._of_tiles(in_blocks(found)) if lazy else found

    def annotated_tiles(self) -> list[str]:
        """Ids of the tiles that have an annotation."""
        return texts(self.annotations(lazy=False)[n.TILE])

    def regions(self, *, lazy: bool = True) -> xr.Dataset:
        """Regions of tissue: `region_mask` (tile, y, x), codes, and the area of each region in each tile.

        `region_px` (tile, region) is in px; `region_mm2` in mm², NaN where the tile does not tell the size of its
        pixels. The tiles are those whose regions are known, with their donor, marker and split. Pixels of code 0 belong
        to no region.

        Raises StoreNotFoundError where no regions were stored yet.
        """
        self._require(n.REGION_MASKS, f"fintune-xr annotate REGIONS {self.url} --as regions --legend FILE.tsv")
        found = open_unindexed(self.location, n.REGION_MASKS, REGION_MASKS, lazy=lazy)
        images = self.images(lazy=False)
        rows = _rows_of(images, found)
        sides = sides_um(images)[rows]
        area = found[n.REGION_PX] * xr.DataArray(np.where(sides > 0, sides, np.nan) ** 2 / UM2_IN_MM2, dims=n.TILE)
        told = {"units": "mm2", "long_name": "Area of the region in the tile; NaN where pixels have no known size."}
        made = found.reset_coords(n.REGION_PX).assign({n.REGION_MM2: area.reset_coords(drop=True).assign_attrs(told)})
        return self._of_tiles(made)

    def _of_tiles(self, dataset: xr.Dataset) -> xr.Dataset:
        """`dataset` of some tiles with their labels, under one index as those of images; as it is without tiles."""
        if n.TILE not in dataset.coords:
            return dataset
        images = self.images(lazy=False)
        rows, there = _rows_of(images, dataset), (*INDEXED, *([n.FIELD] if n.FIELD in images.coords else []))
        return with_tile_index(dataset.assign_coords({c: images[c].variable.isel({n.TILE: rows}) for c in there}))

    def quarantine(self) -> xr.Dataset:
        """Files that were left out at ingest, with the reason of each."""
        return open_dataset(self.location, n.QUARANTINE, datasets.QUARANTINE, lazy=False)

    def run_names(self) -> list[str]:
        """Names of the runs in the store, sorted."""
        return subgroups(self.location, n.RUNS)

    def run(self, name: str, *, lazy: bool = True) -> xr.Dataset:
        """Pixels, where it stores any, columns and state of one run, with the donor, marker and split of each tile.

        Stored `probability` is whole numbers; times its attribute `scale_factor` it is 0 to 1. `state` is 0 where a
        tile is pending; lazy pixels of such a tile raise FintuneValueError when they are read.

        Raises UnknownNameError naming the runs that exist.
        """
        self.require_run(name)
        found = self._opened(f"{n.RUNS}/{name}", lambda: self._open_run(name), of_runs=True)
        if not lazy:
            return found
        array, made = self.run_product(name).array, in_blocks(found)
        if array is None or not has_pending(found):
            return made
        return made.assign({array: guard_pending(found, array, f"run {name!r}")})

    def _open_run(self, name: str) -> xr.Dataset:
        found = open_unindexed(self.location, f"{n.RUNS}/{name}", self.run_product(name).run, lazy=False)
        labels = self.images(lazy=False).isel({n.TILE: slice(0, found.sizes[n.TILE])})
        there = [name for name in (*SIDES.values(), n.FIELD) if name in labels.coords]
        return with_tile_index(found.assign_coords({c: labels[c].variable for c in (*INDEXED, *there)}))

    def run_attrs(self, name: str) -> dict[str, Any]:
        """Identity and provenance of a run. Raises UnknownNameError naming the runs that exist."""
        self.require_run(name)
        return read_attrs(self.location, f"{n.RUNS}/{name}")

    def cells(self, run: str, *, lazy: bool = True) -> xr.Dataset:
        """Per-cell measurements of a run, or its candidates, ordered by tile and label.

        Each cell has the tile, donor, marker and split of its tile, by which it is selected; of a run with positivity
        rules also `positive` and `decided` (rule, cell). All of them are made when they are asked for, so that
        `cells(run).sel(donor=…).to_dataframe()` reads the cells of that donor. Columns that `measure` added are there
        as well, lengths also in um where the size of a pixel is known, and the name of the `region`; of a column that
        is not of these cells, or not finished, the attribute `left_out_columns` says why. With `lazy=False` the columns
        are those that are stored, and no others.

        Raises StoreNotFoundError while the run has never come to its end, FintuneValueError for a run whose product
        has no objects.
        """
        schema = self.run_product(run).objects
        if schema is None:
            raise FintuneValueError(f"run {run!r} of {self.url} has no table of objects, only values of tiles")
        self._require(f"{n.CELLS}/{run}", f"fintune-xr infer {self.url} --run {run}")
        stored = open_dataset(self.location, f"{n.CELLS}/{run}", schema, lazy=False)
        stored = with_measurements(self.location, run, stored)
        if not lazy:
            return stored
        one = self if self.opened is not None else self.opened_once(runs=True)
        rules = one.positivity(run) if self.has(f"{n.POSITIVITY}/{run}") else None
        return labelled_cells(stored, one.run(run, lazy=False), rules, sides_um(one.images(lazy=False)))

    def run_product(self, name: str) -> Product:
        """What the run stores of each tile: instance masks, maps of probability, or columns alone."""
        self.require_run(name)
        return product_at(self.location, f"{n.RUNS}/{name}")

    def positivity(self, run: str) -> xr.Dataset:
        """Counts of all and of marker-positive cells per tile under each rule that was applied, -1 where not known.

        Tiles are selected by `tile`, `donor`, `marker` and `split`, as those of `images` and of a run.
        """
        self.require_run(run)
        self._require(f"{n.POSITIVITY}/{run}", f"fintune-xr positivity {self.url} --run {run}")
        return self._opened(f"{n.POSITIVITY}/{run}", lambda: self._open_positivity(run), of_runs=True)

    def _open_positivity(self, run: str) -> xr.Dataset:
        found = open_unindexed(self.location, f"{n.POSITIVITY}/{run}", POSITIVITY, lazy=False)
        labels = self.images(lazy=False).isel({n.TILE: slice(0, found.sizes[n.TILE])})
        return with_tile_index(found.assign_coords({c: labels[c].variable for c in INDEXED}))

    def analysis(self) -> xr.Dataset:
        """Donor ratios and their associations with the outcomes."""
        self._require(n.ANALYSIS, f"fintune-xr associate {self.url} --clinical CSV")
        return open_dataset(self.location, n.ANALYSIS, datasets.ANALYSIS, lazy=False)

    def bootstrap(self, scheme: str, *, lazy: bool = True) -> xr.Dataset:
        """Resamples of one scheme. Raises UnknownNameError naming the schemes that were run."""
        known = subgroups(self.location, n.BOOTSTRAP)
        if scheme not in known:
            raise unknown_name("bootstrap scheme", scheme, known)
        return open_dataset(self.location, f"{n.BOOTSTRAP}/{scheme}", datasets.BOOTSTRAP, lazy=lazy)

    def metrics(self, name: str) -> xr.Dataset:
        """Scores or a study stored under `metrics/<name>`, checked against the schema that is declared for it.

        Raises UnknownNameError naming those there are, SchemaError where arrays are not what is declared.
        """
        known = subgroups(self.location, n.METRICS)
        if name not in known:
            raise unknown_name("metrics", name, known)
        return with_named_labels(self.read(f"{n.METRICS}/{name}"))

    def read(self, path: str, schema: DatasetSchema | None = None) -> xr.Dataset:
        """The small dataset stored under `path`, checked against `schema` or the one that is declared for scores.

        Raises StoreNotFoundError where there is none.
        """
        if not group_exists(self.location, path):
            raise StoreNotFoundError(f"{self.url} holds no {path} yet")
        return open_dataset(self.location, path, schema or declared_schema(path, self.task.name), lazy=False)

    def has(self, path: str) -> bool:
        """Whether a group is stored under `path`."""
        return group_exists(self.location, path)

    def write(self, path: str, dataset: xr.Dataset, schema: DatasetSchema | None = None) -> None:
        """Stores a small dataset under `path` in place of what was there, whole or not at all."""
        replace_group(self.location, path, dataset, schema or declared_schema(path, self.task.name))

    def require_run(self, name: str) -> None:
        """Raises UnknownNameError unless the run exists."""
        if name not in self.run_names():
            raise unknown_name("run", name, self.run_names())

    def names_under(self, path: str) -> list[str]:
        """Names of the groups that lie in the group `path`, sorted; none where there is no such group."""
        return subgroups(self.location, path)

    def hold(self, name: str, *, what: str) -> contextlib.AbstractContextManager[None]:
        """Holds the lock `name` of the store for this process, which is doing `what`.

        Raises RunBusyError where another process holds it.
        """
        return hold_lock(self.location, name, what=what)

    def hold_storing(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Holds several groups, together called `what`, for the moment in which they are stored, once others have.

        Raises RunBusyError where another process still holds them after 60 s.
        """
        return hold_replacement(self.location, f"all-{what}")

    def hold_tiles(self) -> contextlib.AbstractContextManager[None]:
        """Holds images, annotations and quarantine. Raises RunBusyError where another process holds them."""
        return hold_tile_writes(self.location)

    def remove_leftovers(self) -> None:
        """Removes what killed writers left unfinished, unless another process is writing."""
        clear_if_alone(self.location)

    def images_group(self) -> Growing:
        """The group of images, for appending."""
        return Growing(self.location, self.kind_facts.images, n.IMAGES, n.IMAGE)

    def annotations_group(self) -> Growing:
        """The group of annotations, for appending, of a task whose annotations are pixels."""
        return Growing(self.location, self.task.annotations, n.ANNOTATIONS, self.task.array)

    def _repr_html_(self) -> str:
        """The cohort at a glance, of labels and states alone; a run that cannot be read says why."""
        tiles = self.images(lazy=False)
        labels = {name: texts(tiles[name]) for name in (n.DONOR, n.MARKER)}
        runs = [self._state_of(name, tiles.sizes[n.TILE]) for name in self.run_names()]
        made = projection_words(tiles)
        return overview_html(self.title, self.url, labels=labels, runs=runs, questions=self._questions(), made=made)

    def _state_of(self, run: str, n_tiles: int) -> RunState:
        try:
            return states_of(run, self.run(run, lazy=False)[n.STATE].values, n_tiles)
        except FintuneError as error:
            return RunState(run, {}, str(error))

    def _questions(self) -> list[str]:
        """Lines of Python that this store can answer."""
        asks = ["cohort.images()", *(["cohort.annotations()"] if self.has(n.ANNOTATIONS) else [])]
        asks += [f"cohort.run({run!r})" for run in self.run_names()]
        asks += [f"cohort.cells({run!r})" for run in subgroups(self.location, n.CELLS)]
        asks += [f"cohort.positivity({run!r})" for run in subgroups(self.location, n.POSITIVITY)]
        asks += [f"cohort.metrics({name!r})" for name in subgroups(self.location, n.METRICS)]
        asks += ["cohort.analysis()"] if self.has(n.ANALYSIS) else []
        return asks + [f"cohort.bootstrap({name!r})" for name in subgroups(self.location, n.BOOTSTRAP)]

    def _opened(self, path: str, made: Callable[[], xr.Dataset], *, of_runs: bool = False) -> xr.Dataset:
        """What `made` opens under `path`, without Dask, or what the verb has opened there before."""
        if self.opened is None or (of_runs and not self.keeps_runs):
            return made()
        if path not in self.opened:
            self.opened[path] = made()
        return self.opened[path].copy()

    def _open_annotations(self) -> xr.Dataset:
        self._require(n.ANNOTATIONS, f"fintune-xr annotate {self.task.source} {self.url}")
        return open_dataset(self.location, n.ANNOTATIONS, self.task.annotations, lazy=False)

    def _require(self, path: str, command: str) -> None:
        if not group_exists(self.location, path):
            raise StoreNotFoundError(f"{self.url} holds no {path} yet. Run: {command}")


def _rows_of(images: xr.Dataset, some: xr.Dataset) -> NDArray[np.int64]:
    """Positions (tile,) of the tiles of `some` among those of `images`.

    Raises StoreDamagedError for a tile that is none of them.
    """
    place = {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    wanted = texts(some[n.TILE])
    unknown = [tile for tile in wanted if tile not in place]
    if unknown:
        raise StoreDamagedError(f"tile {unknown[0]!r} is annotated, and the store has no such image")
    return np.array([place[tile] for tile in wanted], np.int64)


def product_at(location: Location, path: str) -> Product:
    """What the run stored under `path` holds."""
    with explain_read_errors(f"{location.url}/{path}"):
        return product_named(str(read_attrs(location, path)["schema"]))


def store_exists(store: str | Path) -> bool:
    """Whether there is a store at this folder or URL."""
    return Location.of(store).exists()


def create_cohort(
    where: str | Path,
    *,
    kind: str,
    channels: Sequence[str],
    tile_shape: tuple[int, ...],
    dtype: str,
    title: str = "",
    facts: Mapping[str, Any] | None = None,
    columns: Collection[str] = (),
) -> Cohort:
    """A new, empty cohort for tiles up to `tile_shape` (y, x) px, of volumes (z, y, x); `facts` are attributes of its
    images, `columns` what it knows of its tiles besides what all cohorts do: of stacks, or their fields.

    Raises FintuneValueError where a store lies already, `kind` is unknown or has tiles of other dims, StoreWriteError
    where the place cannot be written.
    """
    location = Location.of(where)
    _, _, *dims = kind_named(kind).images[n.IMAGE].dims
    if len(dims) != len(tile_shape):
        raise FintuneValueError(f"a cohort of kind {kind!r} has tiles ({', '.join(dims)}), got ones of {tile_shape}")
    if location.exists():
        raise FintuneValueError(f"{location.url} exists already; ingest into it to append, or choose another path.")
    attrs: dict[str, Any] = {
        "schema": datasets.SCHEMA,
        "schema_version": datasets.SCHEMA_VERSION,
        "cohort_kind": kind,
        "title": title or location.url.rstrip("/").rpartition("/")[2].removesuffix(".zarr"),
    }
    _require_room(location)
    with explain_write_errors(location.url):
        zarr.open_group(location.zarr(read_only=False), mode="a", zarr_format=3, attributes=attrs)
    cohort = Cohort(location, kind, str(attrs["title"]))
    absent = {*datasets.OF_STACKS, *datasets.OF_FIELDS} - {*columns}
    create_growing(
        cohort.images_group().without(absent),
        dtype=dtype,
        tile_shape=(len(channels), *tile_shape),
        constants={n.CHANNEL: list(channels)},
        attrs=facts or {},
    )
    cohort.write(n.QUARANTINE, empty_quarantine(), datasets.QUARANTINE)
    return cohort


def _require_room(location: Location) -> None:
    """A store is made in a new folder, or where an earlier attempt was killed before there was a store."""
    if not location.is_local or not location.path.exists():
        return
    is_folder = location.path.is_dir()
    names = {entry.name for entry in location.path.iterdir()} if is_folder else set()
    if not is_folder or any(name != n.STAGING and not name.endswith(PARTIAL_SUFFIX) for name in names):
        raise FintuneValueError(f"{location.url} exists and is no cohort store. Choose another path.")
    location.sweep()


def open_cohort(where: str | Path | Location) -> Cohort:
    """The cohort stored at a path or URL; a group whose replacement was killed halfway is put back first.

    Raises StoreNotFoundError where there is none, StoreVersionError where another schema wrote it.
    """
    location = Location.of(where)
    if not location.exists():
        raise StoreNotFoundError(
            f"no cohort store at {location.url}. Make one: fintune-xr ingest SOURCE {location.url}"
        )
    attrs = read_attrs(location)
    found = (attrs.get("schema"), attrs.get("schema_version"))
    if found != (datasets.SCHEMA, datasets.SCHEMA_VERSION):
        raise StoreVersionError(
            f"{location.url}: expected schema {datasets.SCHEMA} version {datasets.SCHEMA_VERSION}, found "
            f"{found[0]} version {found[1]}. Open it with the release that wrote it, or ingest again."
        )
    if str(attrs.get("cohort_kind")) not in KINDS:
        raise StoreVersionError(
            f"{location.url} is a cohort of kind {attrs.get('cohort_kind')!r}; this release reads {', '.join(KINDS)}. "
            "Open it with a release that knows the kind."
        )
    recover_replaced(location)
    return Cohort(location, str(attrs["cohort_kind"]), str(attrs.get("title", "")))


def empty_quarantine() -> xr.Dataset:
    """A quarantine without items."""
    specs = datasets.QUARANTINE.variables
    return xr.Dataset(
        {name: ((n.ITEM,), np.array([], np.dtypes.StringDType()), spec.attrs) for name, spec in specs.items()}
    )


def set_root_attrs(cohort: Cohort, **attrs: Any) -> None:
    """Adds attributes to the root of the store."""
    with explain_write_errors(cohort.url):
        open_writable(cohort.location, "").attrs.update(attrs)
