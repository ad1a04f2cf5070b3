"""Self-training: a supervised stage on few labelled micrographs, then rounds on what the network is sure of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.figure_style import figure_bytes
from fintune_xr.analysis.stage_figure import STAGE_DPI, stage_figure
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.finetune.engine import train as fit
from fintune_xr.finetune.particles import ParticleTiles, PseudoLabels
from fintune_xr.finetune.settings import UnetTrainSettings
from fintune_xr.models.checkpoints import UNET_KIND, Checkpoint, resolve_checkpoint
from fintune_xr.models.registry import load_model
from fintune_xr.models.settings import model_settings
from fintune_xr.models.unet import UnetDetector
from fintune_xr.pipelines.micrographs import annotated_micrographs, particle_tiles, with_diameter
from fintune_xr.pipelines.progress import say
from fintune_xr.pipelines.selftrain_settings import SelfTrainSettings
from fintune_xr.pipelines.split import require_split
from fintune_xr.pipelines.stage_scores import agreement, label_counts, labels_of, predicted, stage_scores
from fintune_xr.pipelines.train import epoch_line
from fintune_xr.points import Points
from fintune_xr.provenance import provenance
from fintune_xr.seeds import stream
from fintune_xr.settings import Config, load_settings, validated
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.pseudo import has_pseudo, read_pseudo, write_pseudo
from fintune_xr.store.runs import check_run_name
from fintune_xr.text import text_array, texts

METRICS_FILE: Final = "metrics.json"
FIGURE_FILE: Final = "panels.png"
FINAL_FILE: Final = "final_model.pt"
RECORD_FILE: Final = "selftrain.json"
SUPERVISED: Final = "iteration_0_supervised"


def selftrain(
    store: str | Path,
    *,
    run_name: str,
    out: str | Path = "models",
    config: Config = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Path of `final_model.pt` in `out/run_name`: the weights of the stage whose particles have the best F1 on val.

    The supervised stage learns from the labelled micrographs of the train part. In each round the stage before it
    labels the micrographs that are unlabelled (those of the train part that were not taken as labelled, and those
    without a part), with pixels that it is not sure of left out, and the network is trained again on both. Validation
    and test are always the annotation. Every stage leaves a folder with `model.pt`, `metrics.json` and `panels.png`;
    its scores are stored under `selftrain/<run_name>`, pseudo-labels under `pseudo/<run_name>_<round>`. The same
    command run again goes on where it was interrupted.

    Raises SplitError without a valid split, FintuneValueError where nothing is left to be labelled, RunMismatchError
    where the folder holds another self-training.
    """
    cohort = open_cohort(store)
    check_run_name(run_name)
    digest = require_split(cohort)
    study = _plan(cohort, run_name, Path(out), load_settings(SelfTrainSettings, config, overrides), digest)
    say(
        f"selftrain {run_name}: {len(study.labelled)} labelled, {len(study.unlabelled)} unlabelled micrographs, "
        f"{len(study.parts[n.VAL])} for validation"
    )
    checkpoint, records = None, []
    for number in range(len(study.settings.positive) + 1):
        checkpoint, record = _stage(study, number, checkpoint)
        records.append(record)
        cohort.write(f"{n.SELFTRAIN}/{run_name}", _dataset(study, records))
    return _final(study, records)


@dataclass(frozen=True, eq=False)
class _Study:
    """What all stages share; `parts` are annotated micrographs that are only ever measured on."""

    cohort: Cohort
    name: str
    folder: Path
    settings: SelfTrainSettings
    train: UnetTrainSettings
    rounds: UnetTrainSettings
    labelled: ParticleTiles
    unlabelled: ParticleTiles
    parts: dict[str, ParticleTiles]
    split_digest: str

    def stage(self, number: int) -> str:
        """Name of a stage; the supervised one is number 0."""
        return f"iteration_{number}_selftrain" if number else SUPERVISED

    def pseudo(self, number: int) -> str:
        """Name of the pseudo-labels that round `number` learns from."""
        return f"{self.name}_{number}"


def _plan(cohort: Cohort, name: str, out: Path, settings: SelfTrainSettings, digest: str) -> _Study:
    annotated = annotated_micrographs(cohort, n.TRAIN)
    chosen = _chosen(settings, [str(tile) for tile in annotated.names])
    images = cohort.images(lazy=False)
    tiles, parts = text_array(images[n.TILE]), text_array(images[n.SPLIT])
    free = images.isel({n.TILE: np.flatnonzero(np.isin(parts, [n.TRAIN, ""]) & ~np.isin(tiles, chosen))})
    if settings.positive and not free.sizes[n.TILE]:
        raise FintuneValueError(
            f"{cohort.url}: all {len(chosen)} micrographs of the train part are labelled, so none is left for "
            "pseudo-labels. Add micrographs, or take fewer as labelled: labelled=2"
        )
    truth = {str(tile): points for tile, points in zip(annotated.names, annotated.truth, strict=True)}
    labelled_images = images.isel({n.TILE: [tiles.tolist().index(tile) for tile in chosen]})
    labelled = particle_tiles(labelled_images, [truth[tile] for tile in chosen])
    unlabelled = particle_tiles(free, [truth.get(tile, _NOTHING) for tile in texts(free[n.TILE])])
    train = with_diameter(settings.train, labelled)
    rounds = validated(UnetTrainSettings, {**train.as_dict(), **settings.rounds}, where="rounds")
    return _Study(
        cohort, name, out / name, settings, train, rounds, labelled, unlabelled, _judges(cohort), digest
    )


# Particles of a micrograph that was not annotated; nothing is measured against them.
_NOTHING = Points(np.empty((0, 2)), np.empty(0))


def _chosen(settings: SelfTrainSettings, names: list[str]) -> list[str]:
    """Ids of the labelled micrographs.

    Raises UnknownNameError for an id without annotation in the train part, FintuneValueError for too many.
    """
    wanted = settings.labelled
    if isinstance(wanted, tuple):
        for tile in wanted:
            if tile not in names:
                raise unknown_name("annotated micrograph of the train part", tile, names)
        return list(wanted)
    if not 0 <= wanted <= len(names):
        raise FintuneValueError(f"labelled: expected 1 to {len(names)} annotated train micrographs, or 0; got {wanted}")
    order = stream(settings.train.seed, "labelled").permutation(sorted(names))
    return sorted(str(tile) for tile in order[: wanted or len(names)])


def _judges(cohort: Cohort) -> dict[str, ParticleTiles]:
    parts = {n.VAL: annotated_micrographs(cohort, n.VAL)}
    if (text_array(cohort.images()[n.SPLIT]) == n.TEST).any():
        parts[n.TEST] = annotated_micrographs(cohort, n.TEST)
    return parts


def _stage(study: _Study, number: int, teacher: Checkpoint | None) -> tuple[Checkpoint, dict[str, Any]]:
    """Checkpoint and scores of one stage; what is finished is not repeated."""
    folder = study.folder / study.stage(number)
    tiles, facts = (study.labelled, {}) if teacher is None else _taught(study, number, teacher)
    settings = _settings(study, number)
    start = None if study.settings.anew else teacher
    facts = {"split_digest": study.split_digest, **facts}
    say(f"{study.stage(number)}: {len(tiles)} micrographs")
    checkpoint = fit(
        tiles, study.parts[n.VAL], settings=settings, out=folder, start=start, facts=facts, report=epoch_line
    )
    record = _read_record(folder / METRICS_FILE, checkpoint)
    if record is None:
        record = _measured(study, number, checkpoint, tiles)
        _write(folder / METRICS_FILE, (json.dumps(record, indent=2) + "\n").encode())
    best = record["particle"][n.VAL][n.F1]
    say(f"{study.stage(number)}: F1 of particles on val {best:.3f}")
    return checkpoint, record


def _settings(study: _Study, number: int) -> UnetTrainSettings:
    """Settings of a stage; every stage draws patches of its own."""
    seed = int(stream(study.train.seed, "round", number).integers(2**31))
    return study.rounds.model_copy(update={"seed": seed}) if number else study.train


def _taught(study: _Study, number: int, teacher: Checkpoint) -> tuple[ParticleTiles, dict[str, Any]]:
    """Labelled and pseudo-labelled micrographs of a round, and what makes its labels others than those of any other."""
    thresholds = {
        "positive": study.settings.positive[number - 1], "negative": study.settings.negative[number - 1]
    }
    facts = {**thresholds, "teacher_sha256": teacher.sha256, "tiles": list(map(str, study.unlabelled.names))}
    name = study.pseudo(number)
    if not has_pseudo(study.cohort, name, facts):
        detector = _detector(teacher, study)
        labels = labels_of(detector, study.unlabelled, **thresholds)
        disc_px = study.train.disc_fraction * detector.diameter_px
        write_pseudo(study.cohort, name, labels, facts={**facts, "disc_px": disc_px, "provenance": provenance()})
    target = read_pseudo(study.cohort, name)[n.TARGET]
    images = study.cohort.images(lazy=False)
    wanted = [*map(str, study.labelled.names), *map(str, study.unlabelled.names)]
    place = {tile: i for i, tile in enumerate(texts(images[n.TILE]))}
    truth = [*study.labelled.truth, *(PseudoLabels(target, i) for i in range(len(study.unlabelled)))]
    return particle_tiles(images.isel({n.TILE: [place[tile] for tile in wanted]}), truth), facts


def _detector(checkpoint: Checkpoint, study: _Study) -> UnetDetector:
    model: Any = load_model(
        checkpoint,
        channels=study.labelled.channels,
        settings=model_settings(UNET_KIND)(),
        device=study.train.device,
        keep=False,
    )
    return model  # type: ignore[no-any-return]


def _measured(
    study: _Study, number: int, checkpoint: Checkpoint, tiles: ParticleTiles
) -> dict[str, Any]:
    detector = _detector(checkpoint, study)
    _write(
        study.folder / study.stage(number) / FIGURE_FILE,
        figure_bytes(_figure(study, number, detector), "png", dpi=STAGE_DPI),
    )
    n_labelled = len(study.labelled)
    return {
        "stage": study.stage(number),
        "checkpoint_sha256": checkpoint.sha256,
        "n_samples": {"labelled": n_labelled, "pseudo_labelled": len(tiles) - n_labelled},
        "n_pixels": _n_pixels(study, tiles),
        "pseudo_labels": _agreement(study, tiles),
        "thresholds": {
            "positive": study.settings.positive[number - 1] if number else None,
            "negative": study.settings.negative[number - 1] if number else None,
        },
        **stage_scores(detector, study.parts, study.train),
    }


def _n_pixels(study: _Study, tiles: ParticleTiles) -> dict[str, dict[str, int]]:
    """What labelled and pseudo-labelled micrographs teach."""
    counts = [label_counts(_target(study, tiles, i)) for i in range(len(tiles))]
    n_labelled = len(study.labelled)
    return {"labelled": _summed(counts[:n_labelled]), "pseudo_labelled": _summed(counts[n_labelled:])}


def _agreement(study: _Study, tiles: ParticleTiles) -> dict[str, int]:
    """Pseudo-labels against the annotation that the training does not see, of the micrographs that have one."""
    n_labelled = len(study.labelled)
    counts = []
    for index in range(n_labelled, len(tiles)):
        truth = _truth(study, index - n_labelled)
        if truth is not None:
            counts.append(agreement(_target(study, tiles, index), truth))
    return {"n_samples": len(counts), **_summed(counts)}


def _target(study: _Study, tiles: ParticleTiles, index: int) -> NDArray[np.int8]:
    return tiles.target(index, disc_fraction=study.train.disc_fraction, rim_px=study.train.rim_px)


def _truth(study: _Study, index: int) -> NDArray[np.int8] | None:
    """Annotation of an unlabelled micrograph, where there is one."""
    if study.unlabelled.truth[index] is _NOTHING:
        return None
    return _target(study, study.unlabelled, index)


def _summed(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {key: sum(one[key] for one in counts) for key in (counts[0] if counts else ())}


def _figure(study: _Study, number: int, detector: UnetDetector) -> Any:
    """The first unlabelled micrograph, or the first of val where there is none."""
    shown, pseudo = study.unlabelled, None
    truth = _truth(study, 0) if len(shown) else None
    if not len(shown):
        shown = study.parts[n.VAL]
        truth = _target(study, shown, 0)
    elif number:
        image = shown.read(0)
        target = read_pseudo(study.cohort, study.pseudo(number))[n.TARGET]
        pseudo = np.asarray(target[0, : image.shape[1], : image.shape[2]])
    return stage_figure(
        f"{study.name}, {study.stage(number)}: {shown.names[0]}",
        image=shown.read(0)[0],
        truth=truth,
        pseudo=pseudo,
        probability=next(predicted(detector, shown)),
    )


def _dataset(study: _Study, records: Sequence[dict[str, Any]]) -> xr.Dataset:
    """Scores (stage, part) and what each stage was taught (stage)."""
    parts = list(study.parts)
    scores: dict[str, Any] = {}
    for kind in ("particle", "pixel"):
        for name in records[0][kind][n.VAL]:
            values = [[record[kind][part][name] for part in parts] for record in records]
            scores[f"{kind}_{name.removeprefix(f'{kind}_')}"] = ((n.STAGE, n.PART), np.array(values, float))
        scores[f"{kind}_{n.THRESHOLD}"] = (n.STAGE, [record[kind][n.THRESHOLD] for record in records])
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
    return xr.Dataset(scores, {n.STAGE: [record["stage"] for record in records], n.PART: parts}, {"provenance": facts})


def _final(study: _Study, records: Sequence[dict[str, Any]]) -> Path:
    """Copies the weights of the best stage on val, the earlier one where two are alike; the test part has no say."""
    scores = [record["particle"][n.VAL][n.F1] for record in records]
    best = int(np.argmax(scores))
    source = Path(resolve_checkpoint(study.folder / study.stage(best)).path)
    path = study.folder / FINAL_FILE
    partial = path.with_name(f".{path.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(path)
    said = {"best_stage": study.stage(best), "chosen_by": "F1 of particles on val", "f1_val": scores}
    _write(study.folder / RECORD_FILE, (json.dumps(said, indent=2) + "\n").encode())
    say(f"{path}: weights of {study.stage(best)}, the best on val ({scores[best]:.3f})")
    return path


def _read_record(path: Path, checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The scores of a finished stage; None where they are yet to be measured, or of other weights."""
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record if record["checkpoint_sha256"] == checkpoint.sha256 else None


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
