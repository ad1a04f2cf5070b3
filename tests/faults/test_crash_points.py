"""Every verb that writes, dead at any of its changes to files: the same command again ends as if nothing had been.

A point is a rename, link, removal or new folder under the working folder; the process ends just before it. By default
a seeded point of some verbs is tried. `CRASH_POINTS=all pytest tests/faults/test_crash_points.py` tries all points of
all verbs, which takes hours; `CRASH_POINTS=20` tries every twentieth. `-k cells-train` chooses a verb.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pandas as pd
import pytest
import torch
from micrographs import make_micrographs
from stores import OF_THE_MAKING, differences, stored_values

from fintune_xr import names as n
from fintune_xr.errors import StoreNotFoundError
from fintune_xr.models.sam.adapter import SamSize, empty_sam
from fintune_xr.pipelines.steps.check import check
from fintune_xr.seeds import stream
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.recovery import LOG, leftovers

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Object at:zarr.errors.ZarrUserWarning")]

ASKED = os.environ.get("CRASH_POINTS", "")
POINTS = 1
STORE = "a.zarr"

SMALL = CohortSettings(
    n_donors=5, markers=("GFAP", "IBA1"), tiles_per_donor=(1, 2), tile_px=96, n_annotated=12, n_clinical_only=0, seed=5
)
TRAINING = (
    "dynamics.cellprob_threshold=-6", "dynamics.flow_threshold=0", "dynamics.min_size_px=1",
    "epochs=2", "patches_per_epoch=8", "patch_px=32", "filters=[4,8,8]", "validate_every=1", "threads=1",
    "learning_rate=0.02", "batch_size=4",
)  # fmt: skip
SELFTRAINING = (
    "labelled=1", "positive=[0.9]", "negative=[0.1]", "train.patch_px=64", "train.batch_size=4",
    "train.patches_per_epoch=8", "train.filters=[4,8,8]", "train.threads=1", "train.epochs=1",
    "train.validate_every=1", "rounds.epochs=1",
)  # fmt: skip
SWEEP = (
    "points_per_side=[4]",
    "pred_iou_thresh=[0.0]",
    "stability_score_thresh=[0.0]",
    "max_area_fraction=1.0",
    "n_tiles=2",
)
INFER = ("device=cpu", "cluster.dashboard=false")
THRESHOLD = ("--model", "threshold", "model.background_px=0", "model.min_area_px=20", *INFER)

# What is run, each after those before it. Of the verbs that are tried by default, some need others to be run before.
CELLS = {
    "ingest": ["ingest", "raw", STORE, "--workers", "1"],
    "ingest-more": ["ingest", "more", STORE, "--workers", "1"],
    "annotate": ["annotate", "masks", STORE],
    "annotate-restart": ["annotate", "masks", STORE, "--restart"],
    "split": ["split", STORE, "--seed", "1"],
    "split-force": ["split", STORE, "--seed", "2", "--force"],
    "infer": ["infer", STORE, *THRESHOLD, "--run", "a"],
    "infer-other": ["infer", STORE, "model.sigma_px=4", *THRESHOLD, "--run", "b"],
    "positivity": ["positivity", STORE, "--run", "a", "--rule", "fixed", "--threshold", "50"],
    "measure": ["measure", STORE, "cluster.dashboard=false", "--run", "a", "--columns", "solidity", "distance:b"],
    "positivity-other": ["positivity", STORE, "--run", "a", "--rule", "mixture"],
    "evaluate": ["evaluate", STORE, "--resamples", "20"],
    "hybrid": ["hybrid", STORE, "--run-name", "h", "--run", "a", "--run", "b"],
    "gate": ["gate", STORE, "--run", "a", "--resamples", "20", "min_areas=[0,60]"],
    "associate": ["associate", STORE, "--clinical", "clinical.csv"],
    "bootstrap": ["bootstrap", STORE, "--resamples", "20"],
    "bootstrap-more": ["bootstrap", STORE, "--resamples", "30"],
    "readout": ["associate", STORE, "--clinical", "clinical.csv", "--readout", "count"],
    "groups": ["associate", STORE, "--clinical", "clinical.csv", "--group", "ceradsc"],
    "qc": ["qc", STORE, "--run", "a", "--exclude", "focus"],
    "import-run": ["import-run", "masks", STORE, "--run", "m", "--made-by", "somebody 1.0"],
    "export": ["export", STORE, "--to", "tables", "--run", "a", "--out", "tables"],
    "sweep": ["sweep", STORE, *SWEEP, "--model", "sam.pth", "--device", "cpu"],
    "train": ["train", STORE, *TRAINING, "--run-name", "t", "--out", "models"],
    "infer-trained": ["infer", STORE, *INFER, "--run", "t", "--model", "models/t", "--part", "test"],
    "budget": ["budget", STORE, *TRAINING, "epochs=1", "--budgets", "1", "2", "--seeds", "1", "--out", "models"],
    "benchmark": [
        "benchmark", STORE, *(f"train.{one}" for one in TRAINING), "train.epochs=1", "markers=[GFAP]",
        "marker_only=[]", "resamples=20", "infer.device=cpu", "--out", "models",
    ],
    "report": ["report", STORE, "--out", "report.html"],
    "infer-restart": ["infer", STORE, *THRESHOLD, "--run", "a", "--restart"],
    "repair": ["check", STORE, "--repair"],
}  # fmt: skip
PARTICLES = {
    "points": ["annotate", "more.csv", STORE, "--diameter", "12"],
    "pick": ["pick", STORE, "--run", "log", "--model", "log"],
    "selftrain": ["selftrain", STORE, *SELFTRAINING, "--run-name", "s", "--out", "models"],
    "infer": ["infer", STORE, *INFER, "--run", "p", "--model", "models/s/final_model.pt"],
    "pick-run": ["pick", STORE, "--run", "p"],
    "evaluate": ["evaluate", STORE],
}


DONE, DONE_IN_PART = 0, 3

# What makes what the command before it has left to be made.
THEN = {"repair": CELLS["infer"]}
TRIED = (
    "ingest", "annotate", "split", "infer", "positivity-other", "evaluate", "associate", "bootstrap-more", "train",
    "report", "infer-restart",
)  # fmt: skip
NEEDED = ("positivity", "bootstrap")


@dataclass(frozen=True)
class Step:
    """A command, the folder before and after it, its exit status and how often it changed files."""

    tokens: list[str]
    before: Path
    after: Path
    status: int
    n_changes: int


def run(tokens: list[str], work: Path, *, dies_at: int = 0) -> tuple[int, int]:
    """Exit status, and changes of files under `work`, where the command is run."""
    seen = killing.FORKS.Value("i", 0, lock=False)
    process = killing.FORKS.Process(target=killing.run_command, args=(tokens, str(work), dies_at, seen))
    process.start()
    process.join()
    return process.exitcode, seen.value


def prepare_cells(work: Path) -> None:
    made = simulate_cohort(work / "simulated", settings=SMALL)
    made.source.rename(work / "raw")
    made.annotations.rename(work / "masks")
    made.clinical.rename(work / "clinical.csv")
    donor = sorted((work / "raw").iterdir())[-1]
    (work / "more").mkdir()
    donor.rename(work / "more" / donor.name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = empty_sam(SamSize(width=64, depth=2, heads=4, global_blocks=(1,), image_px=256))
    torch.save(network.state_dict(), work / "sam.pth")


def prepare_particles(work: Path) -> None:
    make_micrographs(work / STORE, contrast=20)
    (work / "more.csv").write_text("micrograph,y,x\ngrid/m5,20,30\ngrid/m5,60,50\n")


def damage(work: Path) -> None:
    shard = work / STORE / n.RUNS / "a" / n.MASK / "c.1.0.0"
    shard.write_bytes(shard.read_bytes()[:-9])


@dataclass
class Chain:
    """Commands that are run to their ends one after another in `folder/work`, as far as they are asked for."""

    folder: Path
    commands: dict[str, list[str]]
    prepare: Callable[[Path], None]
    steps: dict[str, Step]

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def step(self, wanted: str) -> Step:
        if not self.steps:
            self.work.mkdir(parents=True)
            self.prepare(self.work)
        elif wanted not in self.steps:
            copy(list(self.steps.values())[-1].after, self.work)
        for name, tokens in self.commands.items():
            if wanted in self.steps:
                break
            if name not in self.steps and (ASKED or name in TRIED + NEEDED):
                self.steps[name] = self._whole(name, tokens)
        return self.steps[wanted]

    def _whole(self, name: str, tokens: list[str]) -> Step:
        if name == "repair":
            damage(self.work)
        before, after = self.folder / f"{name}-before", self.folder / f"{name}-after"
        copy(self.work, before)
        status, n_changes = run(tokens, self.work)
        # A command that is refused writes nothing, and all its points would pass.
        assert status in (DONE, DONE_IN_PART) or name in THEN, f"{name}: ended with {status}"
        if name in THEN:
            run(THEN[name], self.work)
        copy(self.work, after)
        return Step(tokens, before, after, status, n_changes)


def copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chain]:
    folder = tmp_path_factory.mktemp("crash")
    return {
        "cells": Chain(folder / "cells", CELLS, prepare_cells, {}),
        "particles": Chain(folder / "particles", PARTICLES, prepare_particles, {}),
    }


def points_of(name: str, n_changes: int) -> list[int]:
    if not ASKED:
        chosen = stream(7, "crash", name).choice(n_changes, size=min(POINTS, n_changes), replace=False)
        return sorted(1 + int(point) for point in chosen)
    return list(range(1, n_changes + 1, 1 if ASKED == "all" else int(ASKED)))


TRIALS = [("cells", name) for name in CELLS if ASKED or name in TRIED]
TRIALS += [("particles", name) for name in PARTICLES if ASKED]


@pytest.mark.parametrize(("kind", "name"), TRIALS, ids=["-".join(trial) for trial in TRIALS])
def test_dead_at_a_point_and_run_again(chains: dict[str, Chain], kind: str, name: str) -> None:
    chain = chains[kind]
    step = chain.step(name)
    for point in points_of(name, step.n_changes):
        copy(step.before, chain.work)
        died, _ = run(step.tokens, chain.work, dies_at=point)
        # Threads may make a change less.
        assert died in (killing.DIED, step.status), point
        assert wrong_values(step, chain.work / STORE) == [], point
        status, _ = run(step.tokens, chain.work)
        if name in THEN:
            # All that was to be repaired may have been when the first one died.
            assert status in (0, step.status), point
            status, _ = run(THEN[name], chain.work)
            assert status == 0, point
        else:
            assert status == step.status, point
        assert differences(stored_values(step.after / STORE), stored_values(chain.work / STORE)) == [], point
        assert models(step.after) == models(chain.work), point
        assert files_beside(step.after) == files_beside(chain.work), point
        assert leftovers(Location.of(chain.work / STORE)) == [], point
        assert logs(step.after) == logs(chain.work), point
        assert not list(chain.work.rglob("*.partial")), point
        problems = [problem.where for problem in check(chain.work / STORE)]
        assert problems == [problem.where for problem in check(step.after / STORE)], point


def wrong_values(step: Step, store: Path) -> list[str]:
    """Groups that say that they are whole, or tiles that are said to be done, and are neither as before nor as after.

    `check` finds nothing that stops it, either.
    """
    try:
        check(store)
    except StoreNotFoundError:
        return []
    stores = (store, step.before / STORE, step.after / STORE)
    now, *known = (stored_values(one) if one.exists() else {} for one in stores)
    whole = [path for path, attrs in now.items() if path.endswith(":") and attrs.get(n.COMPLETE)]
    wrong = []
    for path in (path.removesuffix(":") for path in whole):
        here, *others = ({k: v for k, v in one.items() if f"{k}/".startswith(f"{path}/")} for one in (now, *known))
        if path.startswith(f"{n.RUNS}/"):
            wrong += [] if any(same_where_done(here, other, path) for other in others) else [path]
        elif all(differences(here, other) for other in others):
            wrong.append(path)
    return wrong


def same_where_done(here: dict[str, Any], other: dict[str, Any], path: str) -> bool:
    if f"{path}/{n.STATE}" not in here or f"{path}/{n.STATE}" not in other:
        return False
    done = np.flatnonzero(here[f"{path}/{n.STATE}"] == n.DONE)
    names = [f"{path}/{name}" for name in (n.MASK, n.PROBABILITY, n.N_CELLS, n.BACKGROUND) if f"{path}/{name}" in here]
    return all(
        done.max(initial=-1) < len(other[name]) and np.array_equal(here[name][done], other[name][done], equal_nan=True)
        for name in names
    )


def logs(work: Path) -> list[str]:
    """Runs that go on."""
    return sorted(entry.name for entry in (work / STORE / n.STAGING).glob(f"{LOG}*"))


def files_beside(work: Path) -> list[str]:
    """Names of all files outside the store: reports, tables, models."""
    found = (str(file.relative_to(work)) for file in work.rglob("*") if file.is_file())
    return sorted(name for name in found if not name.startswith(f"{STORE}/"))


def models(work: Path) -> dict[str, Any]:
    """What lies in the folders of trainings, but for times."""
    found: dict[str, Any] = {}
    for file in sorted((work / "models").rglob("*")):
        name = str(file.relative_to(work))
        if file.suffix == ".json":
            record = json.loads(file.read_text())
            found[name] = {key: value for key, value in record.items() if key not in OF_THE_MAKING}
        elif file.name == "log.csv":
            log = pd.read_csv(file)
            found[name] = log.drop(columns=["seconds", "images_per_second", "peak_memory"]).to_csv()
        elif file.is_file():
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
