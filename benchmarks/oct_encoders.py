"""Encoders of volumes: `infer` against a plain loop, heads, bootstrap and leaderboard at the size of a study.

Process CPU seconds, each measured once, with the seconds of the clock beside. The peer of `infer` is a loop of torch
over the same store, that of the bootstrap two scores of scikit-learn in a loop over 20 resamples in place of 1,000.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import zarr
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from table import Fact, print_table

from fintune_xr import names as n
from fintune_xr.finetune.classification.features import Labelled
from fintune_xr.finetune.classification.heads import fit_head
from fintune_xr.finetune.classification.probe_settings import ProbeSettings
from fintune_xr.metrics.classification.scores import drawn_units, scores_by_participant_bootstrap
from fintune_xr.metrics.classification.units import softmax
from fintune_xr.models.vjepa2.adapter import random_encoder
from fintune_xr.models.vjepa2.settings import RandomEncoderSettings
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.studies.probe import probe
from fintune_xr.pixels.pixel_digest import pixels_sha256
from fintune_xr.pixels.volume_values import normalise
from fintune_xr.splits.assignment import split_digest
from fintune_xr.store.cohort import Cohort, create_cohort
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


N_VOLUMES = 300


def rows() -> list[Fact]:
    """All of it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-encoders-") as folder:
        return [
            *against_a_plain_loop(Path(folder) / "a.zarr", N_VOLUMES),
            *heads(),
            bootstrap_of_scores(),
            *of_a_study(Path(folder) / "b.zarr"),
        ]


def against_a_plain_loop(where: Path, n_volumes: int) -> list[Fact]:
    """`infer`, and a loop of torch over the same store."""
    make(where, {f"p{one:04d}": (one % 4, n.TRAIN) for one in range(n_volumes)})
    encoder = random_encoder(RandomEncoderSettings(**SIZE), GRID)
    image = zarr.open_array(str(where), path=f"{n.IMAGES}/{n.IMAGE}", mode="r")

    def loop() -> None:
        with torch.inference_mode():
            for row in range(n_volumes):
                encoder(torch.from_numpy(normalise(image[row], "zscore")[None])).numpy()

    told = [*(f"model.{key}={value}" for key, value in SIZE.items()), "device=cpu"]

    def ours() -> object:
        return infer(where, run="r", model="vit3d_random", overrides=told)

    plain = fact("", loop)["ours"]
    return [
        {**fact(f"infer, {n_volumes} volumes, with start and end", ours), "peer": f"{plain} (a loop of torch)"},
        fact("the same again, nothing pending", ours),
    ]


def heads() -> list[Fact]:
    """743 scans by 768 features."""
    label = np.repeat(np.arange(4), STUDY[n.TRAIN])
    value = np.random.default_rng(0).normal(size=(label.size, 768)).astype(np.float32)
    train = Labelled(value, label, np.arange(label.size))
    one, all_of_them = ProbeSettings(c=(1e-3,), k=(7,)), ProbeSettings()
    most = {"logistic": 1.0, "linear": 5.0}
    return [
        *(
            fact(f"head {head}, one choice", partial(fit_head, head, train, None, one, n_classes=4), most.get(head))
            for head in ("logistic", "linear", "mlp", "knn")
        ),
        fact(
            "head logistic, six penalties by five folds",
            partial(fit_head, "logistic", train, None, all_of_them, n_classes=4),
        ),
    ]


def bootstrap_of_scores() -> Fact:
    """Three runs of 159 participants."""
    truth = np.repeat(np.arange(4), STUDY[n.TEST])
    scores = softmax(np.random.default_rng(1).normal(size=(3, truth.size, 4)) + np.eye(4)[truth])

    def peer() -> None:
        for weights in drawn_units(truth.size, 20, 0):
            units = np.repeat(np.arange(truth.size), weights.astype(int))
            for run in range(3):
                balanced_accuracy_score(truth[units], scores[run, units].argmax(1))
                roc_auc_score(truth[units], scores[run, units], multi_class="ovr")

    ours = partial(scores_by_participant_bootstrap, scores, truth, n_resamples=1000, seed=0)
    by_peer = fact("", peer)["ours"]
    return {
        **fact("1,000 resamples of three runs, all scores", ours, 2.0),
        "peer": f"{by_peer} (scikit-learn, two scores, 20 resamples)",
    }


def of_a_study(where: Path) -> list[Fact]:
    """Probe and leaderboard of three encoders from stored embeddings of 1,061 participants."""
    people = {
        f"{part}{label}{one:04d}": (label, part)
        for part, counts in STUDY.items()
        for label, number in enumerate(counts)
        for one in range(number)
    }
    cohort = make(where, people)
    runs = ("multi", "single-01", "single-02")
    for number, run in enumerate(runs):
        embed(cohort, run, people, seed=number)
    probed: list[str] = []

    def probe_all() -> None:
        probed.extend(one.run for one in probe(where, runs=list(runs), overrides=["head=logistic,linear"]))

    def leaderboard() -> None:
        export(where, to="leaderboard", out=where.parent / "out", runs=probed)

    return [
        fact("probe, three encoders, logistic and linear", probe_all),
        fact("leaderboard of six runs, scores too", leaderboard, 30.0),
    ]


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
            labels |= {n.PIXELS_SHA256: pixels_sha256(pixels)}
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


def fact(what: str, work: Callable[[], object], most: float | None = None) -> Fact:
    """CPU seconds of the process, and those of the clock, that `work` takes; `most` is how many it may."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Fact(
        what=what, ours=f"{cpu:.2f} s ({wall:.2f} s by the clock)", reach="" if most is None else f"<= {most:.0f} s",
        reached=None if most is None else cpu <= most,
    )  # fmt: skip


if __name__ == "__main__":
    print_table(rows())
