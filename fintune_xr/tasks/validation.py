"""What annotations say about the cells that a run counts, tile by tile and rule by rule, as it is stored."""

from __future__ import annotations

from typing import Final

from fintune_xr import names as n
from fintune_xr.schema import DatasetSchema, VariableSpec

ALL_CELLS: Final = "all"
POSITIVE_CELLS: Final = "positive"
MARKS: Final = (ALL_CELLS, POSITIVE_CELLS)
"""What annotated masks outline: every cell of a tile, or its marker-positive cells alone."""

_RT = (n.RULE, n.TILE)

VALIDATION: Final = DatasetSchema(
    name="validation",
    version=1,
    variables={
        n.N_ALL: VariableSpec(_RT, "int64", "All cells by the run and the rule; -1 unknown."),
        n.N_POSITIVE: VariableSpec(_RT, "int64", "Positive cells by the run and the rule; -1 unknown."),
        n.TRUE_ALL: VariableSpec(_RT, "int64", "Annotated cells, or, where only positive ones are, those of the run."),
        n.TRUE_POSITIVE: VariableSpec(
            _RT, "int64", "Annotated positive cells, or annotated cells that the rule calls positive; -1 unknown."
        ),
        n.TP: VariableSpec(
            _RT, "int64", "Positive cells of the run that are annotated as such; -1 where nothing tells."
        ),
        n.FP: VariableSpec(_RT, "int64", "Positive cells of the run that are not; -1 where nothing tells."),
        n.FN: VariableSpec(_RT, "int64", "Annotated positive cells that the run has not; -1 where nothing tells."),
    },
    coords={
        n.TILE: VariableSpec((n.TILE,), "str", "Annotated tile that the run's model has not seen in training."),
        n.RULE: VariableSpec((n.RULE,), "str", "Name of the positivity rule."),
        n.DONOR: VariableSpec((n.TILE,), "str", "Donor of the tile."),
        n.MARKER: VariableSpec((n.TILE,), "str", "Stain seen in the marker channel."),
    },
)
