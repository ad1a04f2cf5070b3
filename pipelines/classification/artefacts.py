"""What belongs beside a probe or a fine-tuned classifier, for those who go on without the store."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX, whole_file
from fintune_xr.finetune.classification.heads import Head
from fintune_xr.finetune.classification.probe_settings import ProbeSettings
from fintune_xr.metrics.classification import kernels
from fintune_xr.metrics.classification.units import by_unit, most_probable
from fintune_xr.pipelines.classification.probing import PROBE, fit_on_scans
from fintune_xr.pipelines.classification.scans import Scans, labelled_scans, runs_with, with_vectors
from fintune_xr.pipelines.task_parts.requests import ExportRequest
from fintune_xr.settings import validate
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.training_exposure import require_unseen
from fintune_xr.store.split import require_split
from fintune_xr.text import texts

RECORD: Final = "record.json"

Files: TypeAlias = "dict[str, Callable[[Path], Any]]"
"""How each file of a folder is written, by its name."""


def write_artefacts(cohort: Cohort, request: ExportRequest) -> list[Path]:
    """For each run with logits a folder that holds everything needed to judge it again, or to use it.

    `val_preds.parquet` and `test_preds.parquet` (a row per participant: pid, y_true, y_pred, logits, which are the log
    of the mean probability of its scans, and `scans` with those of each), `class_to_idx.json`, `config.yaml`,
    `confusion_val.png`, `manifest.tsv` (participant, tile, key, sha256, split, label), `environment.txt`,
    `record.json`, `head.pt`, and for a fine-tuned classifier `best.ckpt` and `log.csv`. Each file appears whole.

    Raises FintuneValueError for a run without logits, SplitError without a valid split.
    """
    return [
        file for run in runs_with(cohort, n.LOGITS, request.runs) for file in write_beside_run(cohort, run, request.out)
    ]


def write_beside_run(cohort: Cohort, run: str, out: Path, *, head: Head | None = None) -> list[Path]:
    """The files of one run in the folder `out/run`; `head` is that of a probe, where it is at hand."""
    return write_files(out / run, _files(cohort, run, head))


def write_files(folder: Path, files: Files) -> list[Path]:
    """Each of `files` in `folder`, whole or not at all; `record.json`, which says that all are there, comes last."""
    for left in folder.glob(f".*{PARTIAL_SUFFIX}"):
        # A kill left it.
        left.unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == RECORD):
        # torch writes the name of a file into it: the same head shall be the same bytes.
        with whole_file(folder / name, alone=name.endswith(".pt")) as path:
            files[name](path)
    return [folder / name for name in files]


def predictions(cohort: Cohort, run: str, part: str) -> pd.DataFrame:
    """Predictions of a run for the participants of a part."""
    scans = labelled_scans(cohort, part)
    require_unseen(cohort, [run], scans.tile.tolist())
    done, logits = with_vectors(cohort, run, n.LOGITS, scans)
    return prediction_table(done, logits)


def prediction_table(done: Scans, logits: NDArray[np.float32]) -> pd.DataFrame:
    """A row per participant, of the `logits` (scan, class) of scans."""
    units, probability = by_unit(logits, done.label, done.participant)
    of_scans = [
        [{"tile": str(done.tile[at]), "logits": logits[at].tolist()} for at in np.flatnonzero(done.participant == who)]
        for who in units.name
    ]
    return pd.DataFrame(
        {
            "pid": [str(who) for who in units.name],
            "y_true": units.truth,
            "y_pred": most_probable(probability),
            "logits": np.log(np.maximum(probability, kernels.SMALLEST)).tolist(),
            "scans": of_scans,
        }
    )


def manifest(cohort: Cohort) -> pd.DataFrame:
    """Every scan with its file, digest, part of the split and label, from which the split can be made again."""
    images = cohort.images(lazy=False)
    labels = cohort.annotations(lazy=False)
    of_tile = dict(zip(texts(labels[n.TILE]), labels[n.LABEL].values.tolist(), strict=True))
    columns = {
        "participant": texts(images[n.DONOR]),
        "tile": texts(images[n.TILE]),
        "key": [str(row[0]) for row in images[n.SOURCE].values],
        "sha256": [str(row[0]) for row in images[n.SHA256].values],
        "split": texts(images[n.SPLIT]),
    }
    return pd.DataFrame({**columns, "label": [of_tile.get(tile, -1) for tile in columns["tile"]]})


def environment() -> str:
    """Python, CUDA and every installed distribution with its version."""
    import torch

    listed = {f"{one.metadata['Name']}=={one.version}" for one in importlib.metadata.distributions()}
    head = [f"python=={platform.python_version()}", f"cuda=={torch.version.cuda or 'none'}"]
    return "\n".join([*head, *sorted(listed, key=str.lower), ""])


def files_of_cohort(cohort: Cohort, classes: Sequence[str], config: Mapping[str, Any]) -> Files:
    """What lies beside a run and beside a training alike."""
    idx = {name: label for label, name in enumerate(classes)}
    return {
        "class_to_idx.json": lambda path: path.write_text(json.dumps(idx, indent=2) + "\n"),
        "config.yaml": lambda path: path.write_text(yaml.safe_dump(dict(config), sort_keys=False)),
        "manifest.tsv": lambda path: manifest(cohort).to_csv(path, sep="\t", index=False),
        "environment.txt": lambda path: path.write_text(environment()),
    }


def _files(cohort: Cohort, run: str, head: Head | None) -> Files:
    """How each file of a run is written."""
    attrs = cohort.run_attrs(run)
    scans = labelled_scans(cohort, n.TRAIN, n.VAL, n.TEST)
    record = {**attrs[n.PROVENANCE], n.IDENTITY: attrs[n.IDENTITY], n.SPLIT_DIGEST: require_split(cohort)}
    config = attrs[n.PROVENANCE].get("training", {}).get("settings") or attrs[n.PROVENANCE].get("settings", {})
    files = files_of_cohort(cohort, scans.classes, config)
    files[RECORD] = lambda path: path.write_text(json.dumps(record, indent=2) + "\n")
    for part in (part for part in (n.VAL, n.TEST) if part in scans.part):
        files[f"{part}_preds.parquet"] = functools.partial(_write_predictions, cohort, run, part)
    if n.VAL in scans.part:
        files["confusion_val.png"] = lambda path: path.write_bytes(
            confusion_png(predictions(cohort, run, n.VAL), scans.classes, f"{run}, val")
        )
    return files | _weights(cohort, run, scans, head)


def _write_predictions(cohort: Cohort, run: str, part: str, path: Path) -> None:
    predictions(cohort, run, part).to_parquet(path)


def confusion_png(found: pd.DataFrame, classes: Sequence[str], title: str) -> bytes:
    """The confusion of participants, by their table of predictions, as a picture."""
    from fintune_xr.analysis.figures.leaderboard import confusion_picture
    from fintune_xr.analysis.figures.style import figure_bytes

    counts = kernels.confusion(found["y_true"], found["y_pred"], len(classes))
    return figure_bytes(confusion_picture(counts, classes, title), "png")


def _weights(cohort: Cohort, run: str, scans: Scans, head: Head | None) -> Files:
    """The head, fitted again for a probe; of a fine-tuned classifier the whole and its head."""
    import torch

    identity, told = cohort.run_attrs(run)[n.IDENTITY], cohort.run_attrs(run)[n.PROVENANCE]
    if PROBE in identity:
        return {"head.pt": lambda path: torch.save(_probe_head(cohort, run, scans, head), path)}
    checkpoint = Path(told["checkpoint"]["path"])
    if not checkpoint.is_file():
        raise FintuneValueError(f"run {run!r}: its checkpoint is not at {checkpoint} any more. Restore the file.")
    log = checkpoint.with_name("log.csv")
    files: dict[str, Callable[[Path], Any]] = {
        "best.ckpt": lambda path: shutil.copyfile(checkpoint, path),
        "head.pt": lambda path: torch.save(trained_head(checkpoint), path),
    }
    return files | ({"log.csv": lambda path: shutil.copyfile(log, path)} if log.is_file() else {})


def _probe_head(cohort: Cohort, run: str, scans: Scans, head: Head | None) -> dict[str, Any]:
    """The head of a probe as tensors, fitted as it was where it is not at hand.

    Raises FintuneValueError where it would not give the logits that are stored.
    """
    import torch

    identity = cohort.run_attrs(run)[n.IDENTITY]
    told = {key: value for key, value in identity[PROBE].items() if key != "head"}
    source, name = next(iter(identity[n.SOURCES])), identity[PROBE]["head"]
    head = head or fit_on_scans(cohort, source, name, validate(ProbeSettings, told), scans)
    done, embedding = with_vectors(cohort, source, n.EMBEDDING, scans)
    _, stored = with_vectors(cohort, run, n.LOGITS, done)
    if not np.allclose(head.logits(embedding), stored, atol=1e-4):
        raise FintuneValueError(f"run {run!r} is not what its head gives now. Fit it anew: fintune-xr probe --restart")
    arrays = {key: torch.from_numpy(np.asarray(value)) for key, value in head.arrays.items()}
    return {"head": name, "chosen": dict(head.chosen), "classes": list(scans.classes), "state": arrays}


def trained_head(checkpoint: Path) -> dict[str, Any]:
    """Everything of a fine-tuned classifier but its encoder, as tensors."""
    from fintune_xr.models.checkpoints import load_weights_file

    entries = load_weights_file(checkpoint)
    state = {key: value.clone() for key, value in entries["state"].items() if not key.startswith("encoder.")}
    return {"head": "fine-tuned", "classes": list(entries["architecture"]["classes"]), "state": state}
