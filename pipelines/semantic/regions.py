"""Regions of stained tissue and what each looks like to a network of images and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError
from fintune_xr.metrics.intervals import sum_over, with_donor_intervals
from fintune_xr.metrics.regions import region_scores
from fintune_xr.models.clip.kind import Embedder
from fintune_xr.models.clip.scoring import Ensemble
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.semantic.patches import patches_of
from fintune_xr.pixels.regions import Region, Which, crop, majority, pieces_of_classes, regions_of_instances
from fintune_xr.settings import Settings
from fintune_xr.store.annotations.class_patches import AnnotatedPatches
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.training_exposure import unseen_tiles
from fintune_xr.store.split import annotated_tiles
from fintune_xr.tasks.class_map import IGNORED, ClassMap, StatedClasses
from fintune_xr.tasks.product import CLASSES, INSTANCES
from fintune_xr.text import texts

TRUTH: str = "truth"


class ClassifySettings(Settings):
    """Which regions are looked at, and how sentences make classes."""

    classes: StatedClasses = Field(
        default=None, description="Classes of the regions; default: those agreed on for the data, or of the run."
    )
    which: Which = Field(default="largest", description="The largest piece of each class and image, or all.")
    min_region_px: int = Field(default=256, ge=1, description="Smaller pieces are left out.")
    background: Literal["white", "keep"] = Field(
        default="white", description="Whether pixels beside the piece in its box are white, or stay."
    )
    ensemble: Ensemble = Field(
        default="embeddings", description="Prompts of a class as one mean embedding, or their mean share of all."
    )
    probe: Literal["none", "logistic"] = Field(
        default="none", description="Logistic regression of the embeddings of the train part in place of sentences."
    )
    device: str = Field(default="cpu", description="cpu, cuda, cuda:N or auto.")
    batch: int = Field(default=32, ge=1, description="Regions that the network sees at once.")
    resamples: int = Field(default=2000, ge=1, description="Sign flips of a test, as in evaluate.")
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, slots=True, eq=False)
class FoundRegions:
    """Regions of annotated tiles: the tile, the truth and the embedding of each."""

    tiles: NDArray[np.int64]
    regions: tuple[Region, ...]
    truth: NDArray[np.int64]
    embedding: NDArray[np.float32]


def found_regions(
    cohort: Cohort, source: str, class_map: ClassMap, embedder: Embedder, settings: ClassifySettings
) -> FoundRegions:
    """Every region of the annotated tiles that `source` (`truth` or a run) gives, as `embedder` sees it.

    One tile and one batch of regions are in memory at a time.

    Raises FintuneValueError where there is none.
    """
    images = annotated_tiles(cohort)
    patches = patches_of(cohort, images)
    maps = _Maps(cohort, source, patches, class_map)
    tiles, regions, truth, embedding = [], [], [], []
    with progress("classify", len(patches)) as advance:
        for at in range(len(patches)):
            labels = patches.labels(at, class_map)
            here = maps.regions(at, labels, settings)
            colours = patches.read(at)[0]
            crops = [crop(colours, one, white=settings.background == "white") for one in here]
            for first in range(0, len(crops), settings.batch):
                embedding.append(embedder.of_images(crops[first : first + settings.batch]))
            tiles += [at] * len(here)
            regions += here
            truth += [majority(labels, one, ignored=IGNORED) for one in here]
            advance(1)
    if not regions:
        raise FintuneValueError(
            f"{source} of {cohort.url} has no region of {settings.min_region_px} px or more. "
            "Make min_region_px smaller."
        )
    return FoundRegions(np.array(tiles), tuple(regions), np.array(truth), np.concatenate(embedding))


class _Maps:
    """Where regions come from: annotations, a run of classes, or a run of instances."""

    def __init__(self, cohort: Cohort, source: str, patches: AnnotatedPatches, class_map: ClassMap) -> None:
        self._n_classes = class_map.n_classes
        self._run: xr.Dataset | None = None
        if source == TRUTH:
            return
        cohort.require_run(source)
        product = cohort.run_product(source)
        if product not in (CLASSES, INSTANCES):
            raise FintuneValueError(f"run {source!r} holds neither classes nor instances, so no regions; name another")
        self._run, self._is_classes = cohort.run(source, lazy=False), product is CLASSES
        if self._is_classes:
            # Its labels are those of its own classes, whichever its regions are held against.
            self._n_classes = self._run.sizes[n.CLASS]
        place = {name: i for i, name in enumerate(texts(self._run[n.TILE]))}
        self._places = [place[name] for name in patches.names]
        pending = [name for name, at in zip(patches.names, self._places, strict=True)
                   if self._run[n.STATE].values[at] != n.DONE]  # fmt: skip
        if pending:
            raise FintuneValueError(
                f"run {source!r} is not done on {len(pending)} annotated tiles (e.g. {pending[0]}); finish it with "
                "fintune-xr infer"
            )

    def regions(self, at: int, labels: NDArray[np.uint8], settings: ClassifySettings) -> list[Region]:
        """Regions of one annotated tile with these true `labels` (y, x)."""
        chosen = {"which": settings.which, "min_px": settings.min_region_px}
        if self._run is None:
            return pieces_of_classes(labels, self._n_classes, **chosen)  # type: ignore[arg-type]
        height, width = labels.shape
        array = self._run[n.CLASSES if self._is_classes else n.MASK]
        pixels = np.asarray(array[self._places[at], :height, :width].values)
        if self._is_classes:
            return pieces_of_classes(pixels.astype(np.uint8), self._n_classes, **chosen)  # type: ignore[arg-type]
        return regions_of_instances(pixels.astype(np.uint32), min_px=settings.min_region_px)


def probe_scores(found: FoundRegions, split: Sequence[str], n_classes: int, seed: int) -> NDArray[np.float64]:
    """Scores (region, class) of a logistic regression of the embeddings, fitted on regions of the train part.

    Raises SplitError where that part has regions of fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression

    learnt = (np.asarray(split) == n.TRAIN) & (found.truth >= 1) & (found.truth <= n_classes)
    if len(np.unique(found.truth[learnt])) < 2:
        raise SplitError("the probe needs regions of two classes or more in the train part; split first, or annotate")
    model = LogisticRegression(max_iter=1000, class_weight="balanced", random_state=seed)
    model.fit(found.embedding[learnt], found.truth[learnt])
    scores = np.zeros((len(found.truth), n_classes))
    scores[:, model.classes_ - 1] = model.predict_proba(found.embedding)
    return scores


def new_tiles(cohort: Cohort, source: str, tiles: Sequence[str]) -> list[str]:
    """Those of `tiles` that are new to whatever drew the regions; says how many are not.

    Pieces that a network draws on tiles that taught it are cleaner than those that it draws elsewhere.

    Raises SplitError where none is new.
    """
    if source == TRUTH:
        return [*tiles]
    found = unseen_tiles(cohort, source, tiles)
    if not found:
        raise SplitError(
            f"all {len(tiles)} annotated tiles taught or chose the model of run {source!r}: none can judge it"
        )
    if len(found) < len(tiles):
        n_seen = len(tiles) - len(found)
        say(f"classify: regions of {n_seen} tiles that taught or chose the model of {source} are not judged")
    return found


def score_regions(stored: xr.Dataset, settings: ClassifySettings, judging: Sequence[str]) -> xr.Dataset:
    """Confusion (truth, predicted) and scores of regions of tiles `judging` that have a class; intervals over donors.

    With a probe the train part, which it has seen, is left out.
    """
    classes = texts(stored[n.CLASS])
    counted = np.isin(np.array(texts(stored[n.TILE])), list(judging))
    counted &= (stored[n.REGION_TRUTH].values >= 1) & (stored[n.REGION_TRUTH].values <= len(classes))
    if settings.probe != "none":
        counted &= stored[n.SPLIT].values != n.TRAIN
    if not counted.any():
        raise FintuneValueError("no region that is judged has a class in the annotations")
    tiles, where = np.unique(np.asarray(texts(stored[n.TILE]))[counted], return_inverse=True)
    matrices = np.zeros((len(tiles), len(classes), len(classes)), np.int64)
    np.add.at(
        matrices, (where, stored[n.REGION_TRUTH].values[counted] - 1, stored[n.REGION_CLASS].values[counted] - 1), 1
    )
    counts = xr.Dataset(
        {n.CONFUSION: ((n.TILE, n.TRUTH, n.PREDICTED), matrices)},
        {n.TILE: tiles.astype(object), n.TRUTH: classes, n.PREDICTED: classes},
    )
    donors = dict(zip(texts(stored[n.TILE]), texts(stored[n.DONOR]), strict=True))
    donor = xr.DataArray([donors[str(tile)] for tile in tiles], dims=n.TILE, coords={n.TILE: tiles.astype(object)})
    made = _with_intervals(counts, donor, settings)
    return made.assign({n.CONFUSION: counts[n.CONFUSION].sum(n.TILE)})


def _with_intervals(counts: xr.Dataset, donor: xr.DataArray, settings: ClassifySettings) -> xr.Dataset:
    if len(set(texts(donor))) < 2:
        return region_scores(counts.drop_vars(n.TILE), sum_over(n.TILE))
    made = with_donor_intervals(counts, donor, region_scores, n_flips=settings.resamples, seed=settings.seed)
    ends = [str(name) for name in made if str(name).endswith(n.INTERVAL)]
    return made.assign({name: made[name].clip(0.0, 1.0) for name in ends})


def region_rows(found: FoundRegions) -> Iterator[tuple[int, int, int, tuple[int, int, int, int]]]:
    """Tile, label, area and box of each region."""
    for tile, one in zip(found.tiles, found.regions, strict=True):
        yield int(tile), one.label, one.area_px, one.box
