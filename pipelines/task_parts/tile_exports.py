"""Formats that other tools read; any of them is also written of chosen donors and tiles alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from fintune_xr.pipelines.task_parts.requests import Export, ExportRequest
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.annotated_data import write_anndata
from fintune_xr.store.export.coco import write_coco
from fintune_xr.store.export.geojson import write_geojson
from fintune_xr.store.export.label_layers import Choice
from fintune_xr.store.export.ome_zarr import write_ome_zarr
from fintune_xr.store.export.rois import write_rois
from fintune_xr.store.export.segmentations import write_segmentations
from fintune_xr.store.export.spatial_data import write_spatialdata

Write = Callable[[Cohort, Path, Choice], Iterator[Path]]


def _export(about: str, write: Write) -> Export:
    def written(cohort: Cohort, request: ExportRequest) -> list[Path]:
        return list(write(cohort, request.out, Choice(request.runs, request.donors, request.tiles)))

    return Export(about, written, of_tiles=True)


OF_IMAGES: Final[Mapping[str, Export]] = {
    "ome-zarr": _export("an OME-Zarr image of each tile, with its label images", write_ome_zarr),
}
OF_REGIONS: Final[Mapping[str, Export]] = {
    "geojson": _export("what is labelled in each tile as GeoJSON for QuPath", write_geojson),
}
OF_TABLES: Final[Mapping[str, Export]] = {
    "anndata": _export("a run as AnnData, `<run>.h5ad`", write_anndata),
}
OF_CELLS: Final[Mapping[str, Export]] = {
    **OF_IMAGES,
    **OF_REGIONS,
    **OF_TABLES,
    "rois": _export("cells of each tile as ImageJ regions, `<tile>_rois.zip`", write_rois),
    "seg": _export("each tile as Cellpose's window opens it, `<tile>_seg.npy`", write_segmentations),
    "coco": _export("cells of each run as COCO records", write_coco),
    "spatialdata": _export("chosen tiles with their cells as one SpatialData", write_spatialdata),
}
