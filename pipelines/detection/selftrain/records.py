"""What the stages of a self-training were taught, and their scores as labelled arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.finetune.detection.tiles import ParticleTiles
from fintune_xr.metrics.pixels import N_BINS
from fintune_xr.pipelines.detection.selftrain.plan import SelfTrainPlan
from fintune_xr.pipelines.detection.selftrain.scores import agreement, label_counts
from fintune_xr.provenance import provenance
from fintune_xr.store.lineage.depends_on import rests_on


def taught_pixels(study: SelfTrainPlan, tiles: ParticleTiles) -> dict[str, dict[str, int]]:
    """What labelled and pseudo-labelled micrographs teach."""
    counts = [label_counts(study.target(tiles, i)) for i in range(len(tiles))]
    n_labelled = len(study.labelled)
    return {"labelled": _summed(counts[:n_labelled]), "pseudo_labelled": _summed(counts[n_labelled:])}


def pseudo_agreement(study: SelfTrainPlan, tiles: ParticleTiles) -> dict[str, int]:
    """Pseudo-labels against the annotation that the training does not see, of the micrographs that have one."""
    n_labelled = len(study.labelled)
    counts = []
    for index in range(n_labelled, len(tiles)):
        truth = study.hidden(index - n_labelled)
        if truth is not None:
            counts.append(agreement(study.target(tiles, index), truth))
    return {"n_samples": len(counts), **_summed(counts)}


def _summed(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {key: sum(one[key] for one in counts) for key in (counts[0] if counts else ())}


def stage_dataset(study: SelfTrainPlan, records: Sequence[dict[str, Any]]) -> xr.Dataset:
    """Scores (stage, part) and what each stage was taught (stage)."""
    parts = list(study.parts)
    scores: dict[str, Any] = {}
    for kind in ("particle", "pixel"):
        for name in records[0][kind][n.VAL]:
            values = [[record[kind][part][name] for part in parts] for record in records]
            scores[f"{kind}_{name.removeprefix(f'{kind}_')}"] = ((n.STAGE, n.PART), np.array(values, float))
        scores[f"{kind}_{n.THRESHOLD}"] = (n.STAGE, [record[kind][n.THRESHOLD] for record in records])
    # Records of stages that were made before they said so.
    bins = [record["pixel"].get(n.AUC_BINS, N_BINS) for record in records]
    scores[f"{n.PIXEL}_{n.AUC_BINS}"] = (n.STAGE, np.array(bins, np.int32))
    for key in ("positive", "negative"):
        values = [record["thresholds"][key] for record in records]
        scores[f"pseudo_{key}"] = (n.STAGE, np.array(values, float))
    for key in sorted({key for record in records for key in record["pseudo_labels"]}):
        values = [record["pseudo_labels"].get(key, 0) for record in records]
        scores[f"pseudo_{key}"] = (n.STAGE, np.array(values, np.int64))
    facts = provenance(
        settings=study.settings.as_dict(), labelled=list(map(str, study.labelled.names)),
        unlabelled=list(map(str, study.unlabelled.names)), split_digest=study.split_digest,
        checkpoints=[record["checkpoint_sha256"] for record in records],
    )  # fmt: skip
    tiles = [*study.labelled.names, *(tile for part in study.parts.values() for tile in part.names)]
    attrs = {n.RESTS_ON: rests_on(study.cohort, tiles=tiles, split=study.split_digest), n.PROVENANCE: facts}
    return xr.Dataset(scores, {n.STAGE: [record["stage"] for record in records], n.PART: parts}, attrs)
