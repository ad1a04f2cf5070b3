"""What lies beside the weights of a classifier, once its training has ended: the same files as beside a probe."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from fintune_xr import names as n
from fintune_xr.finetune.engine import LOG_FILE
from fintune_xr.models.checkpoints import RECORD_FILE, WEIGHTS_FILE, load_weights_file
from fintune_xr.models.vjepa2.classifier import VALIDATION
from fintune_xr.pipelines.classification.artefacts import (
    RECORD,
    Files,
    confusion_png,
    files_of_cohort,
    prediction_table,
    trained_head,
    write_files,
)
from fintune_xr.pipelines.classification.scans import Scans, labelled_scans
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import ALL


def write_training_artefacts(cohort: Cohort, folder: Path) -> list[Path]:
    """Adds to the folder of a finished training what those need who go on without the store.

    `best.ckpt` (encoder and head: the weights under another name), `head.pt`, `class_to_idx.json`, `config.yaml`,
    `val_preds.parquet`, `confusion_val.png`, `manifest.tsv`, `environment.txt`, `log.tsv` and `record.json`. The
    predictions are those of the epoch that was kept, and no volume is read for them. Nothing is done twice.
    """
    if (folder / RECORD).is_file():
        return []
    record = json.loads((folder / RECORD_FILE).read_text())
    weights = folder / WEIGHTS_FILE
    scans = labelled_scans(cohort, ALL)
    files: Files = files_of_cohort(cohort, scans.classes, record["settings"])
    files |= _predictions(weights, scans, folder.name) | {
        "best.ckpt": lambda path: _same_file(weights, path),
        "head.pt": lambda path: torch.save(trained_head(weights), path),
        "log.tsv": lambda path: _with_tabs(folder / LOG_FILE, path),
        RECORD: lambda path: path.write_text(json.dumps(record, indent=2) + "\n"),
    }
    return write_files(folder, files)


def _predictions(weights: Path, scans: Scans, name: str) -> Files:
    """What the kept epoch said of val; nothing for weights of before that was kept."""
    held = load_weights_file(weights).get(VALIDATION)
    if held is None:
        return {}
    table = prediction_table(_named(scans, held["tiles"]), held["logits"].numpy())
    return {
        f"{n.VAL}_preds.parquet": lambda path: table.to_parquet(path),
        f"confusion_{n.VAL}.png": lambda path: path.write_bytes(
            confusion_png(table, scans.classes, f"{name}, {n.VAL}")
        ),
    }


def _named(scans: Scans, tiles: list[str]) -> Scans:
    """The scans of these ids, in their order."""
    at = {tile: row for row, tile in enumerate(scans.tile.tolist())}
    return scans.only(np.array([at[tile] for tile in tiles], np.int64))


def _same_file(weights: Path, path: Path) -> None:
    """`path` as another name of the weights; a copy where the file system has no such names."""
    try:
        os.link(weights, path)
    except OSError:
        shutil.copyfile(weights, path)


def _with_tabs(log: Path, path: Path) -> None:
    with log.open(newline="") as file, path.open("w", newline="") as out:
        csv.writer(out, delimiter="\t", lineterminator="\n").writerows(csv.reader(file))
