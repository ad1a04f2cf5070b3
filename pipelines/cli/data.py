"""Verbs about tiles and stores: what goes in, what is checked, what goes out.

Pipelines are imported inside the verbs: `--help` must not wait for Dask, Zarr or a network library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from fintune_xr.pipelines.cli.arguments import DONE, WITH_QUARANTINE, Json, Run, Runs, Store, show, show_tables, table
from fintune_xr.pipelines.cli.volumes import Volumes, volume_request


def demo(
    folder: Annotated[Path, Parameter(help="Folder to make.")] = Path("demo"),
    *,
    seed: Annotated[int, Parameter(help="Seed of the cohort and of everything after it.")] = 0,
    cohort: Annotated[
        str | None, Parameter(help="Kind of cohort: if (cells, the default), he (stained tissue) or oct (volumes).")
    ] = None,
    quick: Annotated[
        bool, Parameter(help="Cells of one marker and no studies: half a minute instead of two.", negative="")
    ] = False,
) -> int:
    """Make a small cohort and run every step on it, on the CPU, in a few minutes.

    Example: fintune-xr demo demo
    """
    from fintune_xr.cohort_kinds import IF
    from fintune_xr.pipelines.demos.demo import demo as step

    show(f"report: {step(folder, seed=seed, cohort=cohort or IF.name, quick=quick)}")
    return DONE


def ingest(
    source: Annotated[str, Parameter(help="Folder of raw tiles.")],
    store: Store,
    *,
    layout: Annotated[str, Parameter(help="Layout of the folder; see docs/reference/layouts.md.")] = "rosmap",
    pattern: Annotated[
        str | None, Parameter(help="Regular expression with groups donor, marker, tile, channel.")
    ] = None,
    channels: Annotated[
        tuple[str, ...],
        Parameter(
            help="Channel tokens and names in order, e.g. b0c0=DAPI b0c1=marker.",
            consume_multiple=True,
            negative="",
        ),
    ] = (),
    marker: Annotated[str | None, Parameter(help="Marker of tiles whose names do not tell it.")] = None,
    dry_run: Annotated[bool, Parameter(help="Only print what would be stored and left out.", negative="")] = False,
    verify: Annotated[bool, Parameter(help="Compare the files of stored tiles again.", negative="")] = False,
    workers: Annotated[int | None, Parameter(help="Threads that read and compress.")] = None,
    title: Annotated[str, Parameter(help="Title of a new cohort.")] = "",
    binning: Annotated[int, Parameter(help="Micrographs: join N x N pixels into their mean.")] = 1,
    cut: Annotated[int, Parameter(help="Patches of stained tissue: cut images into tiles of about N px.")] = 0,
    cluster: Annotated[
        str, Parameter(help="Profile, or its YAML file, whose workers read tiles and write whole shards.")
    ] = "",
    volumes: Annotated[Volumes | None, Parameter(name="*")] = None,
) -> int:
    """Store the tiles of a folder; run again to resume or to add donors.

    Example: fintune-xr ingest raw/ cohort.zarr --layout rosmap --dry-run
    """
    from fintune_xr.pipelines.steps import ingest as step
    from fintune_xr.store.raw.layouts import choose_layout

    asked = volume_request(volumes)
    chosen = choose_layout(layout, pattern=pattern, channels=_channels(channels), marker=marker)
    if dry_run:
        planned = step.plan_ingest(source, layout=chosen, binning=binning, cut=cut, volumes=asked)
        show(table(planned.tiles), "", *_left_out(planned.left_out))
        for what, count in planned.ignored.items():
            show(f"ignored: {count} x {what}")
        for line in planned.said:
            show(line)
        return DONE
    report = step.ingest(
        source,
        store,
        layout=chosen,
        workers=workers,
        verify=verify,
        title=title,
        binning=binning,
        cut=cut,
        volumes=asked,
        cluster=cluster,
    )
    show(f"{report.n_added} tiles added, {report.n_present} there before, {len(report.left_out)} left out")
    for item in report.left_out:
        show(f"  quarantined {item.path}: {item.reason}")
    return WITH_QUARANTINE if report.left_out else DONE


def annotate(
    source: Annotated[str, Parameter(help="Folder of masks (TIFF, PNG, _seg.npy, ROIs, GeoJSON), or of particles.")],
    store: Store,
    *,
    layout: Annotated[str | None, Parameter(help="Layout of the folder; see docs/reference/layouts.md.")] = None,
    pattern: Annotated[str | None, Parameter(help="Regular expression with groups donor, marker, tile.")] = None,
    restart: Annotated[bool, Parameter(help="Throw the stored annotations away first.", negative="")] = False,
    diameter: Annotated[
        float | None, Parameter(help="Particles: diameter, in pixels of the coordinates, where no file tells it.")
    ] = None,
    frame: Annotated[
        Literal["image", "file"] | None,
        Parameter(help="Particles: rows count from the top of the picture, or as the file stores them."),
    ] = None,
    scale: Annotated[
        float, Parameter(help="Particles: pixels of the micrograph's file per pixel of the coordinates.")
    ] = 1.0,
    unit: Annotated[
        Literal["px", "angstrom"] | None,
        Parameter(help="Particles: unit of the coordinates. Default: px, refused where it can hardly be."),
    ] = None,
    drop_outside: Annotated[
        bool, Parameter(help="Particles: leave away points that lie outside their micrograph.", negative="")
    ] = False,
    legend: Annotated[
        Path | None, Parameter(help="Class masks: table of what the codes mean (label, tab, code).")
    ] = None,
    ignore: Annotated[
        list[int] | None, Parameter(help="Class masks: codes of pixels that are unknown.", consume_multiple=True)
    ] = None,
    pieces: Annotated[
        Literal["keep", "split"] | None,
        Parameter(help="Masks: labels in several pieces stay one cell each, or each piece becomes a cell."),
    ] = None,
    overlap: Annotated[
        Literal["first", "last"] | None,
        Parameter(help="Drawn objects: whose pixels of two are, of the first drawn or of the last; default: refused."),
    ] = None,
    dry_run: Annotated[bool, Parameter(help="Read everything, and write nothing.", negative="")] = False,
    join: Annotated[
        bool, Parameter(help="Masks: each file or page is one cell, and those of a tile are its mask.", negative="")
    ] = False,
    marks: Annotated[
        Literal["all", "positive"] | None,
        Parameter(help="Masks: they outline all cells of a tile, or its marker-positive cells alone."),
    ] = None,
) -> int:
    """Store ground truth: masks of tiles (binary ones become connected components), particles, or class masks.

    Example: fintune-xr annotate masks/ cohort.zarr
    """
    from fintune_xr.pipelines.steps.annotate import annotate as step

    report = step(
        source, store, layout=layout, pattern=pattern, restart=restart, diameter=diameter, frame=frame, scale=scale,
        unit=unit, drop_outside=drop_outside, legend=legend, ignore=ignore, pieces=pieces, overlap=overlap, join=join,
        marks=marks,
        dry_run=dry_run,
    )  # fmt: skip
    done = "would be annotated" if dry_run else "annotated"
    show(f"{report.n_added} tiles {done}, {report.n_present} there before, {len(report.left_out)} left out")
    for item in report.left_out:
        show(f"  left out {item.path}: {item.reason}")
    return WITH_QUARANTINE if report.left_out else DONE


def import_run(
    source: Annotated[str, Parameter(help="Folder of masks, as for annotate.")],
    store: Store,
    *,
    run: Run,
    made_by: Annotated[str, Parameter(help="What made the masks, with its version: part of the run's identity.")],
    layout: Annotated[str | None, Parameter(help="Layout of the folder; see docs/how-to/exchange.md.")] = None,
    pattern: Annotated[str | None, Parameter(help="Regular expression with groups donor, marker, tile.")] = None,
    pieces: Annotated[
        Literal["keep", "split"] | None,
        Parameter(help="Labels in several pieces stay one cell each, or each piece becomes a cell."),
    ] = None,
    overlap: Annotated[
        Literal["first", "last"] | None,
        Parameter(help="Drawn objects: whose pixels of two are, of the first drawn or of the last; default: refused."),
    ] = None,
    join: Annotated[
        bool, Parameter(help="Each file or page is one cell, and those of a tile are its mask.", negative="")
    ] = False,
    rest_lost: Annotated[bool, Parameter(help="Quarantine tiles that have no mask.", negative="")] = False,
    restart: Annotated[bool, Parameter(help="Throw the stored run away first.", negative="")] = False,
) -> int:
    """Store masks that another program made as a run, to be counted, scored and correlated like any other.

    Example: fintune-xr import-run stardist/ cohort.zarr --run stardist --made-by "StarDist 0.9 2D_versatile_fluo"
    """
    from fintune_xr.pipelines.steps.import_run import Masks
    from fintune_xr.pipelines.steps.import_run import import_run as step
    from fintune_xr.store.annotations.instance import Taken

    masks = Masks(layout=layout, pattern=pattern, join=join, taken=Taken(pieces, overlap))
    report = step(source, store, run=run, made_by=made_by, masks=masks, rest_lost=rest_lost, restart=restart)
    show(f"{report.n_done} tiles done, {report.n_quarantined} quarantined, {report.n_pending} pending")
    for item in report.left_out:
        show(f"  left out {item.path}: {item.reason}")
    return WITH_QUARANTINE if report.left_out or report.n_quarantined else DONE


def split(
    store: Store,
    *,
    fractions: Annotated[
        tuple[float, float, float] | None,
        Parameter(help="Train, val and test; they add up to 1. Default: 0.6 0.2 0.2; micrographs: 0.9 0.1 0."),
    ] = None,
    seed: Annotated[int, Parameter(help="The same seed gives the same split.")] = 0,
    force: Annotated[
        bool, Parameter(name=["--restart", "--force"], help="Replace a split that exists.", negative="")
    ] = False,
    keep: Annotated[
        bool, Parameter(help="Check and take the split that came with the tiles' folders.", negative="")
    ] = False,
    by: Annotated[
        Literal["donor", "tile"] | None,
        Parameter(help="What stays together; tile is weaker. Default: donor; micrographs: tile."),
    ] = None,
    test: Annotated[
        str, Parameter(help="Regular expression: donors that it fits are the test part, e.g. 'TCGA-(OL|LL)-.*'.")
    ] = "",
    allow_alike: Annotated[
        Path | None,
        Parameter(help="Table (first, second, reason) of pairs of tiles that look alike and are no copies."),
    ] = None,
    show_leaks: Annotated[
        Path | None, Parameter(help="Folder for pictures of the pairs that are refused, and a table of them.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Split the annotated tiles by donor (or by tile), stratified by marker, and refuse leaks.

    Example: fintune-xr split cohort.zarr --fractions 0.6 0.2 0.2 --seed 7
    """
    from fintune_xr.pipelines.steps.split import split as step

    assigned = step(
        store, fractions=fractions, seed=seed, force=force, keep=keep, by=by, test=test, allow_alike=allow_alike,
        show_leaks=show_leaks,
    )  # fmt: skip
    show_tables({"split": assigned}, as_json=as_json)
    return DONE


def check(
    store: Store,
    *,
    repair: Annotated[
        bool, Parameter(help="Set damaged tiles of runs back to pending, for `infer`; remove leftovers.", negative="")
    ] = False,
    as_json: Json = False,
) -> int:
    """Verify a store: schema, every chunk, counts against masks, duplicates, leaks. Exit status 1 on damage.

    Example: fintune-xr check cohort.zarr
    """
    from fintune_xr.pipelines.steps.check import check as step
    from fintune_xr.pipelines.steps.check import problem_table

    problems = step(store, repair=repair)
    if as_json:
        show_tables({"problems": problem_table(problems)}, as_json=True)
    else:
        show(*map(str, problems), f"{len(problems)} problem(s)" if problems else "no problems")
    return 1 if problems else DONE


def doctor(
    store: Annotated[str | None, Parameter(help="Path or URL of a cohort store to look at as well.")] = None,
    *,
    as_json: Json = False,
) -> int:
    """Look whether this machine has what is needed: versions, memory, disk, locks, GPU, weights, Slurm.

    Exit status 1 where something will not work.

    Example: fintune-xr doctor cohort.zarr
    """
    from fintune_xr.pipelines.steps.doctor import BAD
    from fintune_xr.pipelines.steps.doctor import doctor as step

    found = step(store)
    if as_json:
        show_tables({"findings": found}, as_json=True)
    else:
        for one in found.to_dict("records"):
            show(f"{one['state']:4}  {one['subject']}: {one['finding']}")
            show(*([f"      {one['remedy']}"] if one["remedy"] else []))
    return 1 if (found["state"] == BAD).any() else DONE


def export(
    store: Store,
    *,
    to: Annotated[
        str,
        Parameter(
            help="masks, tables, cellpose, ome-zarr, geojson, rois, seg, coco, anndata; picks: star, relion, box, csv."
        ),
    ],
    out: Annotated[Path, Parameter(help="Folder to write into.")],
    runs: Runs = (),
    donors: Annotated[
        tuple[str, ...], Parameter(name=["--donor"], negative="", help="Tiles of this donor alone; several times.")
    ] = (),
    tiles: Annotated[
        tuple[str, ...], Parameter(name=["--tile"], negative="", help="This tile alone, by its id; several times.")
    ] = (),
    frame: Annotated[
        Literal["image", "file"] | None,
        Parameter(help="Picks: rows count from the top of the picture, or as the file stores them."),
    ] = None,
    pixel_size_a: Annotated[
        float | None, Parameter(help="Picks: angstrom of a pixel of the micrographs' files, where they do not tell it.")
    ] = None,
) -> int:
    """Write masks as TIFF (`*_pred.tif`), tables (Parquet, TSV), what other tools read, or picks.

    Example: fintune-xr export cohort.zarr --to masks --run tuned --out masks/
    """
    from fintune_xr.pipelines.steps.export import export as step

    for path in step(
        store, to=to, out=out, runs=runs, donors=donors, tiles=tiles, frame=frame, pixel_size_a=pixel_size_a
    ):
        show(str(path))
    return DONE


def view(
    store: Store,
    *,
    runs: Runs = (),
    donors: Annotated[
        tuple[str, ...], Parameter(name=["--donor"], negative="", help="Tiles of this donor alone; several times.")
    ] = (),
    tiles: Annotated[
        tuple[str, ...], Parameter(name=["--tile"], negative="", help="This tile alone, by its id; several times.")
    ] = (),
) -> int:
    """Look at tiles in napari with the masks of runs over them; pixels are read as they are shown.

    Example: fintune-xr view cohort.zarr --donor 00304419 --run tuned
    """
    from fintune_xr.pipelines.steps.view import view as step

    step(store, donors=donors, tiles=tiles, runs=runs)
    # Not before the viewer is there: that says what to install where there is none.
    import napari

    napari.run()
    return DONE


def _channels(pairs: tuple[str, ...]) -> dict[str, str] | None:
    from fintune_xr.errors import SettingsError

    if not pairs:
        return None
    split_pairs = [pair.partition("=") for pair in pairs]
    for pair, (_, equals, name) in zip(pairs, split_pairs, strict=True):
        if not equals or not name:
            raise SettingsError(f"--channels {pair!r}: expected token=name, e.g. b0c0=DAPI")
    return {token: name for token, _, name in split_pairs}


def _left_out(frame: Any) -> list[str]:
    if not len(frame):
        return ["nothing would be left out"]
    return [f"would be left out: {row.path}: {row.reason}" for row in frame.itertuples()]
