"""Regions of tissue that tiles lie in, such as cortex and white matter: what a store holds of them."""

from __future__ import annotations

from typing import Final

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.errors import SettingsError
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.tasks.legends import Legend

REGION_MASKS: Final = DatasetSchema(
    name="region_masks",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.REGION_MASK: VariableSpec(
            (n.TILE, n.Y, n.X), "uint8", "Code of the region of each pixel; 0 none of them, as outside of the tile."
        ),
    },
    coords={
        **datasets.ANNOTATED,
        n.REGION: VariableSpec((n.REGION,), "str", "Name of the region, in the order of its code."),
        n.REGION_PX: VariableSpec((n.TILE, n.REGION), "int64", "Pixels of the region in the tile.", "px"),
    },
)
"""The tiles along `tile` are those whose regions are known."""


def region_legend(legend: Legend) -> Legend:
    """`legend` without the code 0, which is what belongs to no region and is called `none`.

    Raises SettingsError where nothing else is left, a region is called `none`, codes are to be ignored, or regions are
    told by colours.
    """
    if legend.colours:
        raise SettingsError(f"legend {legend.name}: regions are told by codes, not by colours; leave the colours out")
    rows = tuple((code, name) for code, name in legend.rows if code != 0)
    if not rows or n.NO_REGION in dict(rows).values() or legend.ignored:
        raise SettingsError(
            f"legend {legend.name}: expected a line (label, tab, code) for each region, codes from 1 on, none of them "
            f"called {n.NO_REGION!r}, which is code 0, and no code to ignore; found {dict(legend.rows)}"
        )
    return Legend(legend.name, rows, (), legend.source)
