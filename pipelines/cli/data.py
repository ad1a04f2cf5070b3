"""Verbs about tiles and stores: what goes in, what is checked, what goes out.

Pipelines are imported inside the verbs: `--help` must not wait for Dask, Zarr or a network library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from fintune_xr.pipelines.cli import candidates
from fintune_xr.pipelines.cli.annotations import CellMasks, Codes, Coordinates, Lengths, TrueMasks
from fintune_xr.pipelines.cli.arguments import (
    DONE,
    WITH_QUARANTINE,
    Json,
    Run,
    Runs,
    Store,
    keywords,
    show,
    show_tables,
    table,
)
from fintune_xr.pipelines.cli.tiles import Alike, Draw, Naming, Pixels, Storing, layout_of
from fintune_xr.pipelines.cli.volumes import Volumes, volume_request

if TYPE_CHECKING:
    import pandas as pd

    from fintune_xr.pipelines.steps.ingest import Planned
    from fintune_xr.store.ingest.tiles import IngestReport
    from fintune_xr.store.raw.pairing import LeftOut


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
    naming: Annotated[Naming | None, Parameter(name="*")] = None,
    dry_run: Annotated[bool, Parameter(help="Only print what would be stored and left out.", negative="")] = False,
    storing: Annotated[Storing | None, Parameter(name="*")] = None,
    pixels: Annotated[Pixels | None, Parameter(name="*")] = None,
    volumes: Annotated[Volumes | None, Parameter(name="*")] = None,
    as_json: Json = False,
) -> int:
    """Store the tiles of a folder; run again to resume or to add donors.

    Example: fintune-xr ingest raw/ cohort.zarr --layout rosmap --dry-run
    """
    from fintune_xr.pipelines.steps import ingest as step

    told = naming or Naming()
    asked = {
        "layout": layout_of(told), "samples": told.samples, "volumes": volume_request(volumes), **keywords(pixels),
    }  # fmt: skip
    if dry_run:
        planned = step.plan_ingest(source, **asked)
        if as_json:
            show_tables(_planned_tables(planned), as_json=True, lines=planned.said)
        else:
            show(*_planned_lines(planned))
        return DONE
    report = step.ingest(source, store, **asked, **keywords(storing))
    if as_json:
        show_tables(_ingested_tables(report), as_json=True)
    else:
        show(f"{report.n_added} tiles added, {report.n_present} there before, {len(report.left_out)} left out")
        show(*(f"  quarantined {item.path}: {item.reason}" for item in report.left_out))
    return WITH_QUARANTINE if report.left_out else DONE


def annotate(
    source: Annotated[str, Parameter(help="Folder of masks (TIFF, PNG, _seg.npy, ROIs, GeoJSON), or of particles.")],
    store: Store,
    *,
    layout: Annotated[
        str | None,
        Parameter(completer=candidates.annotation_layouts, help="Layout of the folder; see docs/reference/layouts.md."),
    ] = None,
    pattern: Annotated[str | None, Parameter(help="Regular expression with groups donor, marker, tile.")] = None,
    restart: Annotated[bool, Parameter(help="Throw the stored annotations away first.", negative="")] = False,
    dry_run: Annotated[bool, Parameter(help="Read everything, and write nothing.", negative="")] = False,
    kind: Annotated[
        Literal["truth", "regions"],
        Parameter(name="--as", help="Ground truth, or regions of tissue such as cortex, named by --legend."),
    ] = "truth",
    masks: Annotated[TrueMasks | None, Parameter(name="*")] = None,
    particles: Annotated[Coordinates | None, Parameter(name="*")] = None,
    codes: Annotated[Codes | None, Parameter(name="*")] = None,
) -> int:
    """Store ground truth: masks of tiles (binary ones become connected components), particles, or class masks.

    With `--as regions` the label images say which region of tissue each pixel of a tile lies in.

    Example: fintune-xr annotate masks/ cohort.zarr

    Example: fintune-xr annotate regions/ cohort.zarr --as regions --legend regions.tsv
    """
    from fintune_xr.pipelines.steps.annotate import annotate as step

    report = step(
        source, store, layout=layout, pattern=pattern, restart=restart, dry_run=dry_run, kind=kind,
        **keywords(masks, particles, codes),
    )  # fmt: skip
    done = "would be annotated" if dry_run else "annotated"
    show(f"{report.n_added} tiles {done}, {report.n_present} there before, {len(report.left_out)} left out")
    show(*_left_out_lines(report.left_out))
    return WITH_QUARANTINE if report.left_out else DONE


def import_run(
    source: Annotated[str, Parameter(help="Folder of masks, as for annotate.")],
    store: Store,
    *,
    run: Run,
    made_by: Annotated[str, Parameter(help="What made the masks, with its version: part of the run's identity.")],
    layout: Annotated[
        str | None,
        Parameter(completer=candidates.annotation_layouts, help="Layout of the folder; see docs/how-to/exchange.md."),
    ] = None,
    pattern: Annotated[str | None, Parameter(help="Regular expression with groups donor, marker, tile.")] = None,
    masks: Annotated[CellMasks | None, Parameter(name="*")] = None,
    lengths: Annotated[Lengths | None, Parameter(name="*")] = None,
    rest_lost: Annotated[bool, Parameter(help="Quarantine tiles that have no mask.", negative="")] = False,
    restart: Annotated[bool, Parameter(help="Throw the stored run away first.", negative="")] = False,
) -> int:
    """Store masks that another program made as a run, to be counted, scored and correlated like any other.

    Example: fintune-xr import-run stardist/ cohort.zarr --run stardist --made-by "StarDist 0.9 2D_versatile_fluo"
    """
    from fintune_xr.pipelines.steps.import_run import NO_MASK, Masks
    from fintune_xr.pipelines.steps.import_run import import_run as step
    from fintune_xr.pipelines.steps.infer import quarantined_of
    from fintune_xr.pipelines.task_parts.requests import MaskReading
    from fintune_xr.store.annotations.instance import Taken

    how = MaskReading(**keywords(masks, lengths))
    read = Masks(layout=layout, pattern=pattern, join=how.join, taken=Taken(how.pieces, how.drawn))
    report = step(source, store, run=run, made_by=made_by, masks=read, rest_lost=rest_lost, restart=restart)
    show(f"{report.n_done} tiles done, {report.n_quarantined} quarantined, {report.n_pending} pending")
    show(*(f"  quarantined {tile}: {why}" for tile, why in quarantined_of(store, run) if why != NO_MASK))
    show(*_left_out_lines(report.left_out))
    return WITH_QUARANTINE if report.left_out or report.n_quarantined else DONE


def split(
    store: Store,
    *,
    draw: Annotated[Draw | None, Parameter(name="*")] = None,
    force: Annotated[
        bool, Parameter(name=["--restart", "--force"], help="Replace a split that exists.", negative="")
    ] = False,
    keep: Annotated[
        bool, Parameter(help="Check and take the split that came with the tiles' folders.", negative="")
    ] = False,
    alike: Annotated[Alike | None, Parameter(name="*")] = None,
    as_json: Json = False,
) -> int:
    """Split the annotated tiles by donor (or by tile), stratified by marker, and refuse leaks.

    Example: fintune-xr split cohort.zarr --fractions 0.6 0.2 0.2 --seed 7
    """
    from fintune_xr.pipelines.steps.split import split as step

    assigned = step(store, force=force, keep=keep, **keywords(draw, alike))
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
            help="masks, tables, cellpose, ome-zarr, geojson, rois, seg, coco, anndata, spatialdata; picks: star, "
            "relion, box, csv."
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


def _planned_lines(planned: Planned) -> list[str]:
    """What an ingest would do, as lines."""
    left_out = [f"would be left out: {row.path}: {row.reason}" for row in planned.left_out.itertuples()]
    return [
        table(planned.tiles), "", *(left_out or ["nothing would be left out"]),
        *(f"ignored: {count} x {what}" for what, count in planned.ignored.items()), *planned.said,
    ]  # fmt: skip


def _planned_tables(planned: Planned) -> dict[str, pd.DataFrame]:
    """The same as tables."""
    import pandas as pd

    ignored = pd.DataFrame(planned.ignored.items(), columns=["what", "count"])
    return {"tiles": planned.tiles, "left_out": planned.left_out, "ignored": ignored}


def _ingested_tables(report: IngestReport) -> dict[str, pd.DataFrame]:
    """What an ingest did, as tables."""
    import pandas as pd

    counts = {"n_added": report.n_added, "n_present": report.n_present, "n_left_out": len(report.left_out)}
    left_out = pd.DataFrame([(item.path, item.reason) for item in report.left_out], columns=["path", "reason"])
    return {"ingest": pd.DataFrame([counts]), "left_out": left_out}


def _left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    return [f"  left out {item.path}: {item.reason}" for item in left_out]
