"""Classes of whole regions by sentences that describe them: what a network knows that was never shown a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.models.clip.kind import open_clip_folder
from fintune_xr.models.clip.scoring import class_scores_of_regions, prompt_classes, read_prompts
from fintune_xr.models.devices import resolve_device
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.semantic.evaluate import class_runs, run_class_map
from fintune_xr.pipelines.semantic.patches import stated_class_map
from fintune_xr.pipelines.semantic.regions import (
    TRUTH,
    ClassifySettings,
    FoundRegions,
    found_regions,
    new_tiles,
    probe_scores,
    region_rows,
    score_regions,
)
from fintune_xr.pipelines.semantic.regions_run import require_instances, write_class_run
from fintune_xr.provenance import provenance
from fintune_xr.settings import Config, load_settings
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.depends_on import rests_on
from fintune_xr.store.runs.run import check_run_name
from fintune_xr.store.split import annotated_tiles
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.semantic import CLASS_REGIONS
from fintune_xr.tasks.task import SEMANTIC
from fintune_xr.text import text_array, texts

_MODEL_DIGEST: Final = "model_sha256"


@gives_named_labels
def classify(
    store: str | Path,
    *,
    regions: str,
    model: str | Path,
    prompts: str | Path,
    name: str,
    as_run: str = "",
    config: Config = None,
    overrides: Sequence[str] = (),
) -> xr.Dataset:
    """Similarities, scores and classes of regions of the annotated tiles, stored under `regions/NAME`.

    `regions` is `truth`, for pieces of the annotated classes, or a run: of classes, for pieces of those, or of
    instances, such as SAM 2's own masks, which know no classes; it is judged on tiles that did not teach its model.
    `model` is the folder of a CLIP network, `prompts` a JSON file {class: [sentence, ...]}. Regions of the annotations
    are prompted by the truth: their accuracy is not that of a model that finds them by itself. With `as_run` the
    instances of a run become a run of that name of maps of classes: segmented first, classified second, no truth in it.

    Raises SettingsError for prompts or classes that do not fit, CheckpointError for a folder that is no CLIP network,
    UnknownNameError for a run that does not exist, FintuneValueError where there is no region, SplitError where every
    tile taught the model of the run.
    """
    cohort = open_cohort(store).opened_once()
    cohort.require("classify", tasks=(SEMANTIC,))
    check_run_name(name)
    if as_run:
        check_run_name(as_run)
        require_instances(cohort, regions)
    settings = load_settings(ClassifySettings, config, overrides)
    class_map = _class_map(cohort, regions, settings)
    sentences = read_prompts(prompts, class_map.names)
    embedder = open_clip_folder(model, device=resolve_device(settings.device))
    asked = _Asked(sentences, embedder.of_texts([one for several in sentences.values() for one in several]))
    found = found_regions(cohort, regions, class_map, embedder, settings)
    stored = _stored(cohort, found, asked, embedder.scale, settings)
    facts = {
        "regions": regions, "settings": settings.as_dict(), "model": str(model), _MODEL_DIGEST: embedder.sha256,
        "prompts": {key: list(value) for key, value in sentences.items()},
    }  # fmt: skip
    tiles = texts(annotated_tiles(cohort)[n.TILE])
    made = xr.merge([stored, score_regions(stored, settings, new_tiles(cohort, regions, tiles))]).assign_attrs(
        {
            n.PROTOCOL: n.PROMPTED if regions == TRUTH else n.AUTOMATIC,
            n.CLASS_MAP: class_map.as_dict(),
            n.RESTS_ON: rests_on(cohort, runs=[regions] * (regions != TRUTH), tiles=tiles, split=""),
            n.PROVENANCE: provenance(**facts),
        }
    )
    cohort.write(f"{n.REGIONS}/{name}", made, CLASS_REGIONS)
    if as_run:
        identity = _run_identity(cohort, regions, facts, as_run, embedder.former_sha256)
        looked_at = stored.assign_attrs({"tiles": tiles})
        write_class_run(
            cohort, as_run, regions, looked_at, class_map, identity=identity,
            facts=provenance(**facts, checkpoint=None),
        )  # fmt: skip
    return made


def _run_identity(
    cohort: Cohort, regions: str, facts: Mapping[str, Any], run: str, former_sha256: str
) -> dict[str, Any]:
    """What makes the classes of a run of instances others than those of any other classification.

    A run of an earlier release goes on under its own digest, which did not cover all files of the tokenizer.
    """
    told = {key: facts[key] for key in (_MODEL_DIGEST, "prompts", "settings")}
    stored = cohort.run_attrs(run)[n.IDENTITY] if run in cohort.run_names() else {}
    if stored.get(_MODEL_DIGEST) == former_sha256:
        told[_MODEL_DIGEST] = former_sha256
        say(
            f"classify: run {run} was begun by a release whose digest of {facts['model']} left out files of the "
            "tokenizer, such as merges.txt; it is continued, and only you know that they are the same"
        )
    return {n.REGIONS_OF: regions, "regions_identity": cohort.run_attrs(regions)[n.IDENTITY], **told}


@dataclass(frozen=True, eq=False)
class _Asked:
    """Sentences of each class, in the order of the classes, and the embedding (sentence, feature) of each."""

    of_class: Mapping[str, Sequence[str]]
    embedding: NDArray[np.float32]


def _class_map(cohort: Cohort, regions: str, settings: ClassifySettings) -> ClassMap:
    """The classes that were asked for, those of the run that has the regions, or those agreed on for the data."""
    asked = settings.classes
    if asked is None and regions != TRUTH and regions in class_runs(cohort):
        asked = run_class_map(cohort, regions)
    return stated_class_map(cohort, asked)


def _stored(
    cohort: Cohort, found: FoundRegions, asked: _Asked, scale: float, settings: ClassifySettings
) -> xr.Dataset:  # fmt: skip
    prompts, embedded = asked.of_class, asked.embedding
    sentences, of_class = [one for several in prompts.values() for one in several], prompt_classes(prompts)
    tiles = annotated_tiles(cohort)
    rows = list(region_rows(found))
    at = [row[0] for row in rows]
    split = text_array(tiles[n.SPLIT])[at]
    if settings.probe == "logistic":
        score = probe_scores(found, split.tolist(), len(prompts), settings.seed)
    else:
        score = class_scores_of_regions(found.embedding, embedded, of_class, scale=scale, ensemble=settings.ensemble)
    values = {
        n.SIMILARITY: np.asarray(found.embedding @ embedded.T, np.float32),
        n.SCORE: score,
        n.REGION_CLASS: score.argmax(axis=1).astype(np.int64) + 1,
        n.REGION_TRUTH: found.truth.astype(np.int64),
        n.LABEL: np.array([row[1] for row in rows], np.int64),
        n.AREA_PX: np.array([row[2] for row in rows], np.int64),
        n.BOX: np.array([row[3] for row in rows], np.int64),
    }
    names = list(prompts)
    return xr.Dataset(
        {key: (CLASS_REGIONS[key].dims, value, CLASS_REGIONS[key].attrs) for key, value in values.items()},
        {
            n.REGION: np.arange(len(rows)), n.PROMPT: sentences, n.CLASS: names, n.BOX_EDGE: list(n.BOX_EDGES),
            n.PROMPT_CLASS: (n.PROMPT, [names[label] for label in of_class]),
            n.TILE: (n.REGION, text_array(tiles[n.TILE])[at]), n.DONOR: (n.REGION, text_array(tiles[n.DONOR])[at]),
            n.SPLIT: (n.REGION, split),
        },
    )  # fmt: skip
