"""Every verb that writes, dead at any of its changes of files: the same command again ends as if nothing had been.

A command runs once, and what a kill at each point would have left is kept (`crash_points`). A seeded sample of the
points of each verb is tried by the suite. `make crash-points VERB=cells-train POINTS=all` tries all of one verb,
`POINTS=20` twenty of them; without `VERB` all verbs are tried, which takes long. In the same way the system refuses all
changes from one of them on: a full disk or quota, a read-only mount, no permission, a disk in trouble.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from crash_commands import CELLS, CHAINS, STORE, Prepare
from crash_points import Point, Record, Refusal, empty, leave, recorded, refused
from stores import OF_THE_MAKING, differences, stored_values

from fintune_xr import names as n
from fintune_xr.errors import StoreNotFoundError
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.steps.check import check
from fintune_xr.seeds import stream
from fintune_xr.store.runs import create
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.recovery import LOG, leftovers

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Object at:zarr.errors.ZarrUserWarning")]

ASKED = os.environ.get("CRASH_POINTS", "")
POINTS = 2
# So many refusals are tried where all points are asked for: each is a run of its own.
MANY = 20
DONE, FAILED, DONE_IN_PART = 0, 1, 3
REFUSALS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT)

# What makes what the command before it has left to be made.
THEN = {"repair": CELLS["infer"]}
# What a command is asked to throw away before it makes it anew.
THROWN_AWAY = {
    "repair": (f"{n.RUNS}/a",),
    "annotate-restart": (n.ANNOTATIONS,),
    "infer-restart": tuple(f"{group}/a" for group in (n.RUNS, n.CELLS, n.POSITIVITY, n.MEASUREMENTS)),
}
TILES_PER_SHARD = 3
TILES_PER_RUN_SHARD = 2
# What is stored piece by piece, and says after each that it is whole.
GROWING = (n.QUARANTINE,)
# What is compared of the tiles of a run that are said to be done.
OF_TILES = (n.MASK, n.PROBABILITY, n.CLASSES, n.EMBEDDING, n.N_CELLS, n.BACKGROUND)
TRIED = (
    *(f"cells-{name}" for name in (
        "ingest", "ingest-more", "annotate", "annotate-restart", "split", "infer", "positivity",
        "positivity-other", "evaluate", "associate", "bootstrap-more", "train", "report", "infer-restart",
    )),
    "micrographs-ingest", "micrographs-annotate", "tissue-ingest", "tissue-annotate", "study-ingest",
)  # fmt: skip
NEEDED = ("cells-bootstrap",)
REFUSED_BY_DEFAULT = ("cells-positivity", "cells-associate", "cells-bootstrap-more", "cells-report", "cells-infer")


@dataclass(frozen=True)
class Step:
    """A command, its exit status, the folder before and after it, and at its changes of files."""

    name: str
    tokens: list[str]
    status: int
    before: Path
    after: Path
    record: Record

    @cached_property
    def values(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the store holds before and after."""
        before, after = (
            stored_values(one / STORE) if (one / STORE).exists() else {} for one in (self.before, self.after)
        )
        return before, after

    @cached_property
    def known(self) -> set[str]:
        """Problems that are there before or after."""
        stores = [one / STORE for one in (self.before, self.after) if (one / STORE).exists()]
        return {str(problem).replace(str(store), STORE) for store in stores for problem in check(store)}


def damage(work: Path) -> None:
    shard = work / STORE / n.RUNS / "a" / n.MASK / "c.1.0.0"
    shard.write_bytes(shard.read_bytes()[:-9])


@dataclass
class Chain:
    """Commands that are run to their ends one after another in `folder/work`, as far as they are asked for."""

    kind: str
    folder: Path
    commands: dict[str, list[str]]
    prepare: Prepare
    steps: dict[str, Step]

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def step(self, wanted: str) -> Step:
        if not self.steps:
            self.work.mkdir(parents=True)
            self.prepare(self.work, self.folder)
        elif wanted not in self.steps:
            copy(list(self.steps.values())[-1].after, self.work)
        for name, tokens in self.commands.items():
            if wanted in self.steps:
                break
            if name not in self.steps and (ASKED or f"{self.kind}-{name}" in TRIED + NEEDED):
                self.steps[name] = self._whole(name, tokens)
        return self.steps[wanted]

    def _whole(self, name: str, tokens: list[str]) -> Step:
        if name == "repair":
            damage(self.work)
        before, after = self.folder / f"{name}-before", self.folder / f"{name}-after"
        copy(self.work, before)
        n_points = POINTS if not ASKED else None if ASKED == "all" else int(ASKED)
        record = Record(self.work, self.folder / f"{name}-kept", n_points, stream(7, "crash", name))
        with recorded(record), contextlib.chdir(self.work):
            status = cli.run(tokens)
        # A command that is refused writes nothing, and all its points would pass.
        assert status in (DONE, DONE_IN_PART) or name in THEN, f"{name}: ended with {status}"
        if name in THEN:
            with contextlib.chdir(self.work):
                assert cli.run(THEN[name]) == DONE
        copy(self.work, after)
        return Step(name, tokens, status, before, after, record)


def copy(source: Path, target: Path) -> None:
    """`target`, which may be the current folder and stays, holds what `source` does."""
    empty(target)
    shutil.copytree(source, target, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Chain]]:
    folder = tmp_path_factory.mktemp("crash")
    with pytest.MonkeyPatch.context() as patched:
        # Several shards of everything, so that some are written and others not.
        patched.setattr(shards, "MAX_TILES_PER_SHARD", TILES_PER_SHARD)
        patched.setattr(create, "tiles_per_shard", lambda _: TILES_PER_RUN_SHARD)
        yield {kind: Chain(kind, folder / kind, commands, prepare, {}) for kind, (commands, prepare) in CHAINS.items()}


TRIALS = [
    (kind, name) for kind, (commands, _) in CHAINS.items() for name in commands if ASKED or f"{kind}-{name}" in TRIED
]

REFUSED = [trial for trial in TRIALS if ASKED or "-".join(trial) in REFUSED_BY_DEFAULT]


@pytest.mark.parametrize(("kind", "name"), TRIALS, ids=["-".join(trial) for trial in TRIALS])
def test_dead_at_a_point_and_run_again(chains: dict[str, Chain], kind: str, name: str) -> None:
    chain = chains[kind]
    step = chain.step(name)
    with contextlib.chdir(chain.work):
        faults = [f"{one.number} {one.change}: {fault}" for one in step.record.points if (fault := fault_of(step, one))]
    # Shown with -s, or where it fails.
    sys.stdout.write(
        f"{name}: {len(step.record.points)} points of {step.record.n_changes} changes, {len(faults)} faults\n"
    )
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(("kind", "name"), REFUSED, ids=["-".join(trial) for trial in REFUSED])
def test_refused_writes_and_run_again(
    chains: dict[str, Chain], kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = chains[kind]
    step = chain.step(name)
    rng = stream(8, "refused", name)
    n_points = min(step.record.n_changes, int(ASKED) if ASKED.isdigit() else 1 if not ASKED else MANY)
    at = 1 + rng.permutation(step.record.n_changes)[:n_points]
    faults = []
    with contextlib.chdir(chain.work):
        for one, number in zip(at.tolist(), itertools.cycle(rng.permutation(REFUSALS).tolist()), strict=False):
            refusal = Refusal(chain.work, one, number)
            if fault := fault_of_refusal(step, refusal, capsys):
                faults.append(f"{one} {os.strerror(number)} {refusal.refused[:1]}: {fault}")
    sys.stdout.write(f"{name}: {len(at)} refusals of {step.record.n_changes} changes, {len(faults)} faults\n")
    assert not faults, "\n".join(faults)


def fault_of_refusal(step: Step, refusal: Refusal, capsys: pytest.CaptureFixture[str]) -> str:
    """What is not as it should be after writes were refused, and after the same command once more; else empty."""
    copy(step.before, step.record.root)
    capsys.readouterr()
    try:
        with refused(refusal):
            status = cli.run(step.tokens)
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "Traceback"))]
        # With threads there may be fewer changes than there were.
        if refusal.refused and (status != FAILED or len(told) != 1 or "cannot write" not in told[0]):
            return f"ended with {status}: {told}"
        leave(step.record.root)
        return fault_after(step, repair=False)
    except Exception as error:  # noqa: BLE001 - of many points each is to be told
        return f"{type(error).__name__}: {error}"


def test_points_are_the_folder_before_each_change(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    record = Record(root, tmp_path / "kept", None, stream(1, "crash"))

    def put_and_read(point: Point) -> dict[str, str]:
        record.put(point)
        return {file.name: file.read_text() for file in root.rglob("*") if file.is_file()}

    with recorded(record):
        (root / "a").write_text("1")
        # Of the same size, and within the same tick of the system's clock.
        (root / "a").write_text("2")
        (root / "a").rename(root / "b")
        (root / "folder").mkdir()
        (root / "folder" / "c").write_text("3")
        (tmp_path / "beside").write_text("no change of the folder")
        (root / "b").unlink()
    (root / "d").write_text("after the end")
    trees = [put_and_read(point) for point in record.points]
    assert trees == [{}, {"a": "1"}, {"a": "2"}, {"b": "2"}, {"b": "2"}, {"b": "2", "c": "3"}]
    assert [point.change.split()[0] for point in record.points] == [
        "open", "open", "os.rename", "os.mkdir", "open", "os.remove",
    ]  # fmt: skip


def fault_of(step: Step, point: Point) -> str:
    """What is not as it should be after a kill at this point, and after the same command once more; else empty.

    In between every second store is repaired.
    """
    step.record.put(point)
    try:
        return fault_after(step, repair=point.number % 2 == 0)
    except Exception as error:  # noqa: BLE001 - of many points each is to be told
        return f"{type(error).__name__}: {error}"


def fault_after(step: Step, *, repair: bool) -> str:
    """What is not as it should be in the folder as it is, and after the command; it is put right with `repair`."""
    work, store = step.record.root, step.record.root / STORE
    if left := left_by_a_kill(step, store, repair=repair):
        return f"after the kill{' and repair' if repair else ''}: {left}"
    status = cli.run(step.tokens)
    # All that was to be repaired may have been when the command died.
    if status not in (step.status, DONE if step.name in THEN else step.status):
        return f"again: ended with {status}"
    if step.name in THEN and (status := cli.run(THEN[step.name])):
        return f"then: ended with {status}"
    return " ".join(f"again: {what} {told}" for what, told in left_in_the_end(step, work) if told)


def left_by_a_kill(step: Step, store: Path, *, repair: bool) -> list[str]:
    """What of the store is neither as before nor as after, or is gone that was there and will be; and its problems.

    Those that say to run the command again are none, as long as it has not been run, nor what does no harm where a
    repair is not said to remove it.
    """
    try:
        problems = {f"{problem}".replace(str(store), STORE) for problem in check(store, repair=repair)} - step.known
        if repair and problems:
            problems = {f"{problem}".replace(str(store), STORE) for problem in check(store)} - step.known
    except StoreNotFoundError:
        return sorted(step.values[0])
    now = stored_values(store)
    again = (f"fintune-xr {step.tokens[0]} ", "Run the step that writes it again", "Harmless")
    left = {
        problem for problem in problems
        if (repair and "`fintune-xr check --repair`" in problem) or not any(words in problem for words in again)
    }  # fmt: skip
    return sorted({*wrong_values(step, now), *lost_values(step, now), *unnoted(step, now), *left})


def left_in_the_end(step: Step, work: Path) -> Iterator[tuple[str, Any]]:
    """What differs from a run that nobody killed."""
    yield "values", differences(step.values[1], stored_values(work / STORE))
    yield "models", differences(models(step.after), models(work))
    yield "files", sorted({*files_beside(step.after)} ^ {*files_beside(work)})
    yield "leftovers", leftovers(Location.of(work / STORE))
    yield "logs", sorted({*logs(step.after)} ^ {*logs(work)})
    yield "partial", [str(file) for file in work.rglob("*.partial")]


def wrong_values(step: Step, now: dict[str, Any]) -> list[str]:
    """Groups said to be whole, or with tiles said to be done, that are neither as before nor as after."""
    said = {path: attrs for path, attrs in now.items() if path.endswith(":")}
    whole = [path for path, attrs in said.items() if attrs.get(n.COMPLETE) and not attrs.get(n.UNFINISHED)]
    wrong = []
    for path in (path.removesuffix(":") for path in whole):
        here, *others = (
            {k: v for k, v in one.items() if f"{k}/".startswith(f"{path}/")} for one in (now, *step.values)
        )
        if path.startswith(f"{n.MEASUREMENTS}/") and (here.get(f"{path}/{n.STATE}", np.zeros(0)) == n.PENDING).any():
            continue
        if path.startswith(f"{n.RUNS}/"):
            wrong += [] if any(same_where_done(here, other, path) for other in others) else [path]
        elif all(differences(here, other) for other in others) and not (path in GROWING and begins(others[1], here)):
            wrong.append(path)
    return wrong


def lost_values(step: Step, now: dict[str, Any]) -> list[str]:
    """What is stored before and after, be it with more behind it, and is not there now."""
    before, after = step.values
    thrown = tuple(f"{path}/" for path in THROWN_AWAY.get(step.name, ()))
    kept = [path for path in before if path in after and not f"{path.removesuffix(':')}/".startswith(thrown or "//")]
    return [path for path in kept if holds(after[path], before[path]) and not holds(now.get(path), before[path])]


def unnoted(step: Step, now: dict[str, Any]) -> list[str]:
    """Annotations that are neither as before nor as after, where no note tells so."""
    note = now.get(f"{n.IMAGES}:", {}).get(n.UNFINISHED_ANNOTATIONS)
    here, *others = (
        {
            path: value
            for path, value in one.items()
            if f"{path}/".startswith((f"{n.ANNOTATIONS}/", f"{n.ANNOTATIONS}:"))
        }
        for one in (now, *step.values)
    )
    return [] if note or not all(differences(here, other) for other in others) else [f"{n.ANNOTATIONS}: no note"]


def begins(values: dict[str, Any], first: dict[str, Any]) -> bool:
    """Whether there is as much of everything in `values` as in `first`, or more behind it."""
    return values.keys() == first.keys() and all(holds(values[path], first[path]) for path in first)


def holds(values: Any, first: Any) -> bool:
    """Whether `values` are `first`, or begin with them; a note of what is unfinished comes and goes."""
    if isinstance(values, dict) and isinstance(first, dict):
        values, first = ({k: v for k, v in one.items() if k != n.UNFINISHED_ANNOTATIONS} for one in (values, first))
    elif isinstance(values, np.ndarray) and isinstance(first, np.ndarray) and first.ndim:
        values = values[: len(first)]
    return differences({"": values}, {"": first}) == []


def same_where_done(here: dict[str, Any], other: dict[str, Any], path: str) -> bool:
    if f"{path}/{n.STATE}" not in here or f"{path}/{n.STATE}" not in other:
        return False
    done = np.flatnonzero(here[f"{path}/{n.STATE}"] == n.DONE)
    named = (f"{path}/{name}" for name in OF_TILES)
    # Of what is damaged, and not repaired yet, no tile can be compared.
    names = [name for name in named if name in here and "U" not in (here[name].dtype.kind, other[name].dtype.kind)]
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
        elif file.stem == "log":
            log = pd.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",")
            found[name] = log.drop(columns=["seconds", "images_per_second", "peak_memory"]).to_csv()
        elif file.is_file():
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
