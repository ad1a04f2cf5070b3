"""Formats that cohorts of volumes with labels are written in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fintune_xr.pipelines.classification.artefacts import write_artefacts
from fintune_xr.pipelines.classification.leaderboard import write_leaderboard
from fintune_xr.pipelines.requests import Export
from fintune_xr.pipelines.run_exports import OF_RUNS

EXPORTS: Final[Mapping[str, Export]] = {
    "tables": OF_RUNS["tables"],
    "leaderboard": Export("runs beside each other, as a table and as figures", write_leaderboard),
    "artefacts": Export("predictions, head, settings and manifest of each run", write_artefacts),
}
