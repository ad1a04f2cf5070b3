"""Self-training: a supervised stage on few labelled micrographs, then rounds on what the network is sure of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.selftrain_stage import STAGE_DPI, stage_figure
from fintune_xr.analysis.figures.style import figure_bytes
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.finetune.detection.tiles import ParticleTiles, PseudoLabels
from fintune_xr.finetune.engine import train as fit
from fintune_xr.finetune.registry import trainer_named
from fintune_xr.models.checkpoints import Checkpoint, record_file
from fintune_xr.models.particle_unet.adapter import UnetDetector
from fintune_xr.models.particle_unet.kind import PARTICLE_UNET
from fintune_xr.models.registry import kind_named, load_model, resolve_checkpoint
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.detection.selftrain.plan import SelfTrainPlan, plan_study
from fintune_xr.pipelines.detection.selftrain.records import pseudo_agreement, stage_dataset, taught_pixels
from fintune_xr.pipelines.detection.selftrain.scores import labels_of, predict_tiles, stage_scores
from fintune_xr.pipelines.detection.selftrain.settings import SelfTrainSettings
from fintune_xr.pipelines.detection.training import particle_tiles
from fintune_xr.pipelines.steps.train import epoch_lines
from fintune_xr.pipelines.studies.study import Study, carry_out
from fintune_xr.provenance import provenance
from fintune_xr.settings import Config, load_settings
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.lineage.depends_on import truth_digest
from fintune_xr.store.lineage.training_exposure import training_exposure
from fintune_xr.store.runs.pseudo_labels import has_pseudo, read_pseudo, write_pseudo
from fintune_xr.store.runs.run import check_run_name
from fintune_xr.store.split import require_split
from fintune_xr.text import texts

METRICS_FILE: Final = "metrics.json"
FIGURE_FILE: Final = "panels.png"
FINAL_FILE: Final = "final_model.pt"
RECORD_FILE: Final = "selftrain.json"


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
    where the folder holds another self-training, RunBusyError where another process is at work on this one.
    """
    cohort = open_cohort(store).opened_once()
    check_run_name(run_name)
    cohort.require("selftrain")
    digest = require_split(cohort)
    study = plan_study(cohort, run_name, Path(out), load_settings(SelfTrainSettings, config, overrides), digest)
    say(
        f"selftrain {run_name}: {len(study.labelled)} labelled, {len(study.unlabelled)} unlabelled micrographs, "
        f"{len(study.parts[n.VAL])} for validation"
    )
    records: list[dict[str, Any]] = []

    def stages(_: xr.Dataset | None) -> Iterator[xr.Dataset]:
        checkpoint, last = None, len(study.settings.positive)
        for number in range(last + 1):
            is_made = (study.folder / study.stage(number) / METRICS_FILE).is_file()
            checkpoint, record = _stage(study, number, checkpoint)
            records.append(record)
            # Stages that were made before are not stored one by one: those that follow them may be stored, too.
            if number == last or not is_made:
                yield stage_dataset(study, records)
        _keep_best(study, records)

    frame = Study(
        cohort=cohort, path=f"{n.SELFTRAIN}/{run_name}", lock=f"selftrain-{run_name}",
        what=f"self-training {run_name!r}",
    )  # fmt: skip
    carry_out(frame, stages)
    return study.folder / FINAL_FILE


def _stage(study: SelfTrainPlan, number: int, teacher: Checkpoint | None) -> tuple[Checkpoint, dict[str, Any]]:
    """Checkpoint and scores of one stage; what is finished is not repeated."""
    folder = study.folder / study.stage(number)
    tiles, facts = (study.labelled, {}) if teacher is None else _taught(study, number, teacher)
    settings = study.settings_of(number)
    start = None if study.settings.anew else teacher
    truth = truth_digest(study.cohort, [*study.labelled.names, *study.parts[n.VAL].names])
    seen = training_exposure(study.cohort, learned=tiles.names, judged=study.parts[n.VAL].names, start=teacher)
    facts = {n.SPLIT_DIGEST: study.split_digest, n.ANNOTATIONS_DIGEST: truth, n.SEEN: seen, **facts}
    say(f"{study.stage(number)}: {len(tiles)} micrographs")
    report = epoch_lines(trainer_named(PARTICLE_UNET.name).score)
    checkpoint = fit(tiles, study.parts[n.VAL], settings=settings, out=folder, start=start, facts=facts, report=report)
    judged = truth_digest(study.cohort, [tile for part in study.parts.values() for tile in part.names])
    record = _read_record(folder / METRICS_FILE, {"checkpoint_sha256": checkpoint.sha256, n.ANNOTATIONS_DIGEST: judged})
    if record is None:
        record = {**_measured(study, number, checkpoint, tiles), n.ANNOTATIONS_DIGEST: judged}
        _write(folder / METRICS_FILE, (json.dumps(record, indent=2) + "\n").encode())
    best = record["particle"][n.VAL][n.F1]
    say(f"{study.stage(number)}: F1 of particles on val {best:.3f}")
    return checkpoint, record


def _taught(study: SelfTrainPlan, number: int, teacher: Checkpoint) -> tuple[ParticleTiles, dict[str, Any]]:
    """Labelled and pseudo-labelled micrographs of a round, and what makes its labels others than those of any other."""
    thresholds = {"positive": study.settings.positive[number - 1], "negative": study.settings.negative[number - 1]}
    facts = {**thresholds, "teacher_sha256": teacher.sha256, "unlabelled": list(map(str, study.unlabelled.names))}
    name = study.pseudo(number)
    if not has_pseudo(study.cohort, name, facts):
        detector = _detector(teacher, study)
        labels = labels_of(detector, study.unlabelled, **thresholds)
        disc_px = study.train.disc_fraction * detector.diameter_px
        write_pseudo(study.cohort, name, labels, facts={**facts, "disc_px": disc_px, n.PROVENANCE: provenance()})
    target = read_pseudo(study.cohort, name)[n.TARGET]
    images = study.cohort.images(lazy=False)
    wanted = [*map(str, study.labelled.names), *map(str, study.unlabelled.names)]
    place = {tile: i for i, tile in enumerate(texts(images[n.TILE]))}
    truth = [*study.labelled.truth, *(PseudoLabels(target, i) for i in range(len(study.unlabelled)))]
    return particle_tiles(images.isel({n.TILE: [place[tile] for tile in wanted]}), truth), facts


def _detector(checkpoint: Checkpoint, study: SelfTrainPlan) -> UnetDetector:
    model: Any = load_model(
        checkpoint,
        channels=study.labelled.channels,
        settings=kind_named(checkpoint.kind).settings(),
        device=study.train.device,
        keep=False,
    )
    return model  # type: ignore[no-any-return]


def _measured(study: SelfTrainPlan, number: int, checkpoint: Checkpoint, tiles: ParticleTiles) -> dict[str, Any]:
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
        "n_pixels": taught_pixels(study, tiles),
        "pseudo_labels": pseudo_agreement(study, tiles),
        "thresholds": {
            "positive": study.settings.positive[number - 1] if number else None,
            "negative": study.settings.negative[number - 1] if number else None,
        },
        **stage_scores(detector, study.parts, study.train),
    }


def _figure(study: SelfTrainPlan, number: int, detector: UnetDetector) -> Any:
    """The first unlabelled micrograph, or the first of val where there is none."""
    shown, pseudo = study.unlabelled, None
    truth = study.hidden(0) if len(shown) else None
    if not len(shown):
        shown = study.parts[n.VAL]
        truth = study.target(shown, 0)
    elif number:
        image = shown.read(0)
        target = read_pseudo(study.cohort, study.pseudo(number))[n.TARGET]
        pseudo = np.asarray(target[0, : image.shape[1], : image.shape[2]])
    return stage_figure(
        f"{study.name}, {study.stage(number)}: {shown.names[0]}",
        image=shown.read(0)[0],
        truth=truth,
        pseudo=pseudo,
        probability=next(predict_tiles(detector, shown)),
    )


def _keep_best(study: SelfTrainPlan, records: Sequence[dict[str, Any]]) -> None:
    """Copies the weights of the best stage on val, the earlier one where two are alike; the test part has no say."""
    scores = [record["particle"][n.VAL][n.F1] for record in records]
    best = int(np.argmax(scores))
    source = Path(resolve_checkpoint(study.folder / study.stage(best)).path)
    path = study.folder / FINAL_FILE
    # The record of the training goes along, the weights last: they are what others wait for.
    for what, where in ((record_file(source), record_file(path)), (source, path)):
        with whole_file(where, alone=True) as place:
            shutil.copyfile(what, place)
    said = {"best_stage": study.stage(best), "chosen_by": "F1 of particles on val", "f1_val": scores}
    _write(study.folder / RECORD_FILE, (json.dumps(said, indent=2) + "\n").encode())
    say(f"{path}: weights of {study.stage(best)}, the best on val ({scores[best]:.3f})")


def _read_record(path: Path, facts: dict[str, str]) -> dict[str, Any] | None:
    """The scores of a finished stage; None where they are yet to be measured, or of other weights or truth."""
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record if all(record.get(key) == value for key, value in facts.items()) else None


def _write(path: Path, content: bytes) -> None:
    with whole_file(path, alone=True) as place:
        place.write_bytes(content)
