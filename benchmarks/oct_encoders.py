"""Encoders of volumes: `infer` against a plain loop, heads, bootstrap and leaderboard at the size of a study.

Run: python benchmarks/oct_encoders.py [number of volumes of the plain loop]. Prints process CPU seconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import zarr
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from fintune_xr import names as n
from fintune_xr.finetune.classification.features import Labelled
from fintune_xr.finetune.classification.heads import fit_head
from fintune_xr.finetune.classification.probe_settings import ProbeSettings
from fintune_xr.metrics.classification.scores import drawn_units, scores_by_participant_bootstrap
from fintune_xr.metrics.classification.units import softmax
from fintune_xr.models.vjepa2.adapter import random_encoder
from fintune_xr.models.vjepa2.kind import RandomEncoderSettings
from fintune_xr.pipelines.classification.leaderboard import write_leaderboard
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.studies.probe import probe
from fintune_xr.pipelines.task_parts.requests import ExportRequest
from fintune_xr.pixels.volume_values import normalised
from fintune_xr.splits.assignment import split_digest
from fintune_xr.store.cohort import Cohort, create_cohort, open_cohort
from fintune_xr.store.runs.run import run_creation
from fintune_xr.store.runs.run_shard import write_run_shard
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.store.split import split_column
from fintune_xr.store.zarr_io import appendable, shards
from fintune_xr.tasks.classification import LABELS
from fintune_xr.tasks.product import SCORES
from fintune_xr.tasks.records import ShardReceipt, TileResult

GRID = (16, 64, 64)
CLASSES = ("healthy", "pre_diabetes", "oral_medication", "insulin_dependent")
# Participants of the study in each part, by class.
STUDY = {n.TRAIN: (290, 162, 233, 58), n.VAL: (39, 40, 47, 33), n.TEST: (40, 40, 41, 38)}
SIZE = {"width": 96, "depth": 2, "heads": 3, "patch": [4, 8, 16]}


def main() -> None:
    """All of it, a line each."""
    torch.set_num_threads(1)
    n_volumes = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as folder:
        against_a_plain_loop(Path(folder) / "a.zarr", n_volumes)
        heads_and_bootstrap()
        of_a_study(Path(folder) / "b.zarr")


def against_a_plain_loop(where: Path, n_volumes: int) -> None:
    """`infer` with one worker thread, and a loop of torch over the same store."""
    make(where, {f"p{one:04d}": (one % 4, n.TRAIN) for one in range(n_volumes)})
    encoder = random_encoder(RandomEncoderSettings(**SIZE), GRID)
    image = zarr.open_array(str(where), path=f"{n.IMAGES}/{n.IMAGE}", mode="r")
    began = clock()
    with torch.inference_mode():
        for row in range(n_volumes):
            encoder(torch.from_numpy(normalised(image[row], "zscore")[None])).numpy()
    plain = since(began)
    told = [f"model.{key}={value}" for key, value in SIZE.items()]
    began = clock()
    infer(where, run="r", model="vit3d_random", overrides=[*told, "device=cpu"])
    done = since(began)
    say(f"{n_volumes} volumes: plain loop {plain}, infer {done}")
    began = clock()
    infer(where, run="r", model="vit3d_random", overrides=[*told, "device=cpu"])
    say(f"the same again, nothing pending: {since(began)}")


def heads_and_bootstrap() -> None:
    """743 scans by 768 features; three runs of 159 participants."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(4), STUDY[n.TRAIN])
    train = Labelled(rng.normal(size=(label.size, 768)).astype(np.float32), label, np.arange(label.size))
    for head in ("logistic", "linear", "mlp", "knn"):
        chosen = ProbeSettings(c=(1e-3,), k=(7,))
        began = clock()
        fit_head(head, train, None, chosen, n_classes=4)
        say(f"{head}, one choice, {train.value.shape}: {since(began)}")
    began = clock()
    fit_head("logistic", train, None, ProbeSettings(), n_classes=4)
    say(f"logistic, six penalties by five folds: {since(began)}")
    truth = np.repeat(np.arange(4), STUDY[n.TEST])
    scores = softmax(rng.normal(size=(3, truth.size, 4)) + np.eye(4)[truth])
    began = clock()
    scores_by_participant_bootstrap(scores, truth, n_resamples=1000, seed=0)
    say(f"bootstrap, 1,000 x 3 runs, all scores: {since(began)}")
    began = clock()
    for weights in drawn_units(truth.size, 20, 0):
        units = np.repeat(np.arange(truth.size), weights.astype(int))
        for run in range(3):
            balanced_accuracy_score(truth[units], scores[run, units].argmax(1))
            roc_auc_score(truth[units], scores[run, units], multi_class="ovr")
    say(f"two of these scores by scikit-learn in a loop, 20 x 3: {since(began)}")


def of_a_study(where: Path) -> None:
    """Probe and leaderboard of three encoders from stored embeddings of 1,061 participants."""
    people = {
        f"{part}{label}{one:04d}": (label, part)
        for part, counts in STUDY.items()
        for label, number in enumerate(counts)
        for one in range(number)
    }
    cohort = make(where, people)
    for number, run in enumerate(("multi", "single-01", "single-02")):
        embed(cohort, run, people, seed=number)
    began = clock()
    made = probe(where, runs=["multi", "single-01", "single-02"], overrides=["head=logistic,linear"])
    say(f"probe, three encoders, logistic and linear: {since(began)}")
    began = clock()
    request = ExportRequest(to="leaderboard", out=where.parent / "out", runs=tuple(one.run for one in made))
    write_leaderboard(open_cohort(where), request)
    say(f"leaderboard of six runs with figures: {since(began)}")


def make(where: Path, people: dict[str, tuple[int, str]], grid: tuple[int, int, int] = GRID) -> Cohort:
    """A store with a volume of noise of each participant, labelled and split."""
    cohort = create_cohort(where, kind="oct", channels=["oct"], tile_shape=grid, dtype="uint8")
    target = cohort.images_group()
    rng = np.random.default_rng(1)

    def items() -> Any:
        for who in people:
            pixels = rng.integers(0, 255, (1, *grid), dtype=np.uint8)
            labels = {key: "" if spec.dtype == "str" else 0 for key, spec in target.labels.items()}
            labels |= {n.TILE: who, n.DONOR: who, n.MARKER: "device", n.SPLIT: "", n.SOURCE: [who], n.SHA256: [who]}
            labels |= {n.DEPTH: grid[0], n.HEIGHT: grid[1], n.WIDTH: grid[2]}
            yield labels, shards.encode_tile(pixels, target.grid)

    for _ in appendable.append(target, items()):
        pass
    attrs = {"flag_values": list(range(4)), "flag_meanings": " ".join(CLASSES)}
    values = np.array([label for label, _ in people.values()], np.int8)
    cohort.write(n.ANNOTATIONS, xr.Dataset({n.LABEL: (n.TILE, values, attrs)}, {n.TILE: list(people)}), LABELS)
    parts = {who: part for who, (_, part) in people.items()}
    column = split_column(cohort)
    column[:] = np.array(list(parts.values()), np.dtypes.StringDType())
    column.attrs[n.DIGEST] = split_digest(parts)
    return cohort


def embed(cohort: Cohort, run: str, people: dict[str, tuple[int, str]], *, seed: int) -> None:
    """A run of embeddings that lean to the class, without an encoder."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(4, 768)) * 0.05
    value = (rng.normal(size=(len(people), 768)) + centre[[label for label, _ in people.values()]]).astype(np.float32)
    identity = {"made": run}
    with writing_run(cohort, run, identity=identity, facts={}, product=SCORES, sizes={n.FEATURE: 768}) as writer:
        receipts = []
        for plan in writer.plans():
            tiles = [plan.first + slot for slot in plan.todo]
            creation = run_creation(cohort.location, run)
            write_run_shard(cohort.location, run, plan, iter(() for _ in tiles), creation=creation)
            results = tuple(TileResult(n.DONE, 0.0, values={n.EMBEDDING: value[tile]}) for tile in tiles)
            receipts.append(ShardReceipt(plan, results))
        writer.commit(receipts)
        writer.finish()


def clock() -> tuple[float, float]:
    """Process CPU time, and the time."""
    return time.process_time(), time.perf_counter()


def since(began: tuple[float, float]) -> str:
    """Seconds since then, of the process and of the clock."""
    now = clock()
    return f"{now[0] - began[0]:.2f} CPU-s ({now[1] - began[1]:.2f} s)"


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
