"""A verb opens the images and the annotations of a store once, whatever its task, and hands on what it has opened."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from budgets import QUICK, SMALL
from class_runs import small_store_with_runs
from labelled_volumes import make_volumes, participants
from micrographs import make_micrographs
from probability_runs import plausible_maps, store_run
from volume_weights import learned_state

from fintune_xr import names as n
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.associate import associate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.measure import measure
from fintune_xr.pipelines.steps.pick import pick
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.pipelines.steps.qc import qc
from fintune_xr.pipelines.steps.readout import associate_readout
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.steps.suggest import suggest
from fintune_xr.pipelines.steps.train import train
from fintune_xr.pipelines.studies.benchmark import benchmark
from fintune_xr.pipelines.studies.budget import budget
from fintune_xr.pipelines.studies.gate import gate
from fintune_xr.pipelines.studies.hybrid import hybrid
from fintune_xr.pipelines.studies.probe import probe
from fintune_xr.pipelines.studies.selftrain import selftrain
from fintune_xr.simulation.if_cohort import simulate_cohort
from fintune_xr.store.cohort import open_cohort

THRESHOLD = {"model": {"background_px": 0, "min_area_px": 20}, "device": "cpu"}
WAYS = (*(f"train.{one}" for one in QUICK), "marker_only=[]", "markers=[]", "resamples=5")
CLASSES = ("epochs=1", "patches_per_epoch=4", "batch_size=2", "patch_px=64", "filters=[4,8,8]", "learning_rate=0.01")
PARTICLES = (*(one for one in CLASSES if not one.startswith("batch")), "batch_size=4", "threads=1")
STAGES = ("labelled=1", "positive=[0.9]", "negative=[0.1]", *(f"train.{one}" for one in PARTICLES))
RANDOM = ("model.width=24", "model.depth=1", "model.heads=3", "model.patch=[2,4,8]", "model.random=3")
TUNED = ("encoder.heads=3", "epochs=1", "unfreeze_at_epoch=1", "batch_size=8", "warmup_epochs=0")
PROBED = ("c=0.01,1", "inner_folds=2")
MODELS = {
    "models": ["semantic_unet"], "runs": ["good"], "resamples": 5,
    "train": {"epochs": 1, "patches_per_epoch": 2, "batch_size": 2, "patch_px": 64, "threads": 1, "filters": [4, 8, 8]},
}  # fmt: skip


def cells(folder: Path) -> Path:
    made = simulate_cohort(folder / "raw", settings=SMALL)
    ingest(made.source, folder / "a.zarr")
    annotate(made.annotations, folder / "a.zarr")
    split(folder / "a.zarr", fractions=(0.6, 0.2, 0.2), seed=1)
    for run in ("a", "b"):
        infer(folder / "a.zarr", run=run, model="threshold", config=THRESHOLD)
    return folder / "a.zarr"


def micrographs(folder: Path) -> Path:
    parts = (n.TRAIN, n.TRAIN, n.VAL, n.TEST, "")
    cohort = make_micrographs(folder / "em.zarr", parts=parts, donors=("one", "two"))
    store_run(cohort, "a", plausible_maps(cohort))
    pick(folder / "em.zarr", run="a")
    return folder / "em.zarr"


def volumes(folder: Path) -> Path:
    make_volumes(folder / "oct.zarr", participants({n.TRAIN: 3, n.VAL: 2, n.TEST: 2}), scans=1)
    infer(folder / "oct.zarr", run="a", model="vit3d_random", overrides=RANDOM)
    probe(folder / "oct.zarr", runs=["a"], overrides=PROBED)
    torch.save({"context_encoder": learned_state(0)}, folder / "encoder.pt")
    return folder / "oct.zarr"


def clinical_of(store: Path) -> Path:
    return store.parent / "raw" / "clinical.csv"


@dataclass(frozen=True)
class Kind:
    """How a small store of a kind of cohort is made, the array of its annotations, and what is done with the store.

    Each verb is given the store and an empty folder.
    """

    make: Callable[[Path], Path]
    annotated: str
    verbs: dict[str, Callable[[Path, Path], object]]
    slow: tuple[str, ...] = ()


EVERY: dict[str, Callable[[Path, Path], object]] = {
    "evaluate": lambda store, _: evaluate(store, resamples=5),
    "report": lambda store, out: report(store, out=out / "report.html"),
}
KINDS = {
    "if": Kind(cells, n.MASK, {
        **EVERY,
        "positivity": lambda store, _: positivity(store, run="a"),
        "associate": lambda store, _: associate(store, clinical=clinical_of(store)),
        "readout": lambda store, _: associate_readout(store, readout="mean:area", clinical=clinical_of(store)),
        "qc": lambda store, _: qc(store, run="a"),
        "check": lambda store, _: check(store),
        "measure": lambda store, _: measure(store, run="a", columns=["solidity"], restart=True),
        "infer": lambda store, _: infer(store, run="again", model="threshold", config=THRESHOLD, restart=True),
        "suggest": lambda store, out: suggest(store, runs=("a", "b"), out=out / "suggested"),
        "gate": lambda store, _: gate(store, run="a", resamples=5),
        "hybrid": lambda store, _: hybrid(store, runs=("a", "b"), run_name="h", part=n.VAL),
        "export masks": lambda store, out: export(store, out=out, to="masks", runs=("a",)),
        "export tables": lambda store, out: export(store, out=out, to="tables", runs=("a",)),
        "export cellpose": lambda store, out: export(store, out=out, to="cellpose"),
        "train": lambda store, out: train(store, run_name="t", out=out, overrides=QUICK),
        "budget": lambda store, out: budget(store, budgets=(2,), seeds=1, out=out, overrides=QUICK),
    }, slow=("report", "gate", "hybrid", "associate", "train", "budget")),
    "em": Kind(micrographs, n.Y, {
        **EVERY,
        "check": lambda store, _: check(store),
        "pick": lambda store, _: pick(store, run="a"),
        "pick blobs": lambda store, _: pick(store, run="blobs", model="log"),
        "pick given": lambda store, _: pick(store, run="a", threshold=0.5),
        "export": lambda store, out: export(store, out=out, to="star"),
        "train": lambda store, out: train(store, model="particle_unet", run_name="t", out=out, overrides=PARTICLES),
        "selftrain": lambda store, out: selftrain(store, run_name="s", out=out, overrides=STAGES),
    }, slow=("selftrain",)),
    "he": Kind(small_store_with_runs, n.CLASSES, {
        **EVERY,
        "check": lambda store, _: check(store),
        "export": lambda store, out: export(store, out=out, to="masks"),
        "train": lambda store, out: train(store, model="semantic_unet", run_name="t", out=out, overrides=CLASSES),
        "budget": lambda store, out: budget(
            store, model="semantic_unet", budgets=(4,), seeds=1, out=out, overrides=CLASSES
        ),
    }, slow=("report", "budget")),
    "oct": Kind(volumes, n.LABEL, {
        **EVERY,
        "check": lambda store, _: check(store),
        "probe": lambda store, _: probe(store, runs=["a"], overrides=PROBED),
        "export": lambda store, out: export(store, out=out, to="tables"),
        "train": lambda store, out: train(
            store, model=str(store.parent / "encoder.pt"), run_name="t", out=out, config="oct_finetune",
            overrides=TUNED,
        ),
    }, slow=("train",)),
}  # fmt: skip
# `check` looks at each array by itself, and at the groups as everybody opens them. Workers open the images for
# themselves, once in each process, which is this one where they are threads.
# A training of volumes reads the images without xarray; a hybrid scores its runs by `evaluate`, and what
# writes a run looks twice at how many tiles there are by now.
_BY_ITSELF = {n.IMAGES: 1, n.SPLIT: 1, n.ANNOTATIONS: 1}
MORE = {
    ("if", "check"): _BY_ITSELF,
    ("em", "check"): _BY_ITSELF,
    ("he", "check"): _BY_ITSELF,
    ("oct", "check"): _BY_ITSELF,
    ("if", "measure"): {n.IMAGES: 1},
    ("if", "infer"): {n.IMAGES: 2},
    ("oct", "train"): {n.IMAGES: 1},
    ("if", "hybrid"): {n.IMAGES: 3, n.SPLIT: 1},
}


class Openings:
    """How often an array of a store is opened: each time its metadata is read."""

    def __init__(self) -> None:
        self.watched: dict[str, str] = {}
        self.n_reads: Counter[str] = Counter()
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watched and event == "open" and str(arguments[0]) in self.watched:
            self.n_reads[self.watched[str(arguments[0])]] += 1

    def during(self, store: Path, call: Callable[[], object], arrays: dict[str, str] | None = None) -> dict[str, int]:
        """Readings of what describes `arrays`, by default images, splits and annotations, while `call` goes on."""
        if arrays is None:
            annotated = KINDS[open_cohort(store).kind].annotated
            arrays = {n.IMAGES: f"{n.IMAGES}/{n.IMAGE}", n.SPLIT: f"{n.IMAGES}/{n.SPLIT}"}
            arrays[n.ANNOTATIONS] = f"{n.ANNOTATIONS}/{annotated}"
        self.n_reads.clear()
        self.watched = {str(store / path / "zarr.json"): name for name, path in arrays.items()}
        try:
            call()
        finally:
            self.watched = {}
        return dict(self.n_reads)


@pytest.fixture(scope="module")
def openings() -> Iterator[Openings]:
    return Openings()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The store of each kind, made when it is first asked for."""
    made: dict[str, Path] = {}

    def store(kind: str) -> Path:
        if kind not in made:
            made[kind] = KINDS[kind].make(tmp_path_factory.mktemp(kind))
        return made[kind]

    return store


def cases() -> Iterator[Any]:
    for kind, of in KINDS.items():
        for verb in of.verbs:
            marks = [pytest.mark.slow] if verb in of.slow else []
            yield pytest.param(kind, verb, id=f"{kind}-{verb}", marks=marks)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_opened_is_counted(kind: str, stores: Callable[[str], Path], openings: Openings) -> None:
    """Openings of a cohort count each, and those of one that opens once are one."""
    store = stores(kind)

    def three(once: bool) -> None:
        cohort = open_cohort(store).opened_once() if once else open_cohort(store)
        for _ in range(3):
            cohort.images()
            cohort.annotations(lazy=False)

    assert openings.during(store, lambda: three(False)) == {n.IMAGES: 3, n.SPLIT: 3, n.ANNOTATIONS: 3}
    assert openings.during(store, lambda: three(True)) == {n.IMAGES: 1, n.SPLIT: 1, n.ANNOTATIONS: 1}


@pytest.mark.parametrize(("kind", "verb"), list(cases()))
def test_a_verb_opens_once(
    kind: str, verb: str, stores: Callable[[str], Path], openings: Openings, no_pictures: None, tmp_path: Path
) -> None:
    store = stores(kind)
    found = openings.during(store, lambda: KINDS[kind].verbs[verb](store, tmp_path))
    more = MORE.get((kind, verb), {})
    assert {name: found[name] - more.get(name, 0) for name in (n.IMAGES, n.SPLIT)} == {n.IMAGES: 1, n.SPLIT: 1}
    assert found.get(n.ANNOTATIONS, 0) - more.get(n.ANNOTATIONS, 0) <= 1


def test_runs_are_opened_once_where_none_is_changed(stores: Callable[[str], Path], openings: Openings) -> None:
    store = stores("if")
    positivity(store, run="a")
    arrays = {"run": f"{n.RUNS}/a/{n.N_CELLS}", "positive": f"{n.POSITIVITY}/a/{n.N_ALL}"}

    def three(runs: bool) -> None:
        cohort = open_cohort(store).opened_once(runs=runs)
        for lazy in (True, False, True):
            cohort.run("a", lazy=lazy)
            cohort.positivity("a")

    assert openings.during(store, lambda: three(False), arrays) == {"run": 3, "positive": 3}
    assert openings.during(store, lambda: three(True), arrays) == {"run": 1, "positive": 1}


def test_a_report_opens_a_run_once(
    stores: Callable[[str], Path], openings: Openings, no_pictures: None, tmp_path: Path
) -> None:
    store = stores("if")
    positivity(store, run="a")
    associate(store, clinical=clinical_of(store), runs=("a",), replace=True)
    arrays = {"run": f"{n.RUNS}/a/{n.N_CELLS}"}
    assert openings.during(store, lambda: report(store, out=tmp_path / "r.html"), arrays) == {"run": 1}


@pytest.mark.slow
def test_a_study_opens_once_beside_the_verbs_that_it_calls(
    stores: Callable[[str], Path], openings: Openings, tmp_path: Path
) -> None:
    store = stores("if")

    def compared() -> object:
        return benchmark(store, out=tmp_path, config={"baseline_infer": THRESHOLD}, overrides=WAYS)

    compared()
    # Each run and each training is a verb of its own; those that are finished are opened, looked at and left.
    n_runs = len(open_cohort(store).metrics(n.BENCHMARK).attrs["runs"])
    of_infer = openings.during(store, lambda: infer(store, run="e1-baseline", parts=(n.VAL, n.TEST)))
    found = openings.during(store, compared)
    assert found[n.IMAGES] == 1 + n_runs * of_infer[n.IMAGES] + (n_runs - 1)
    assert found[n.ANNOTATIONS] == 1 + (n_runs - 1)


@pytest.mark.slow
def test_a_comparison_of_classes_opens_once_beside_the_verbs_that_it_calls(
    stores: Callable[[str], Path], openings: Openings, tmp_path: Path
) -> None:
    store = stores("he")
    benchmark(store, out=tmp_path, config=MODELS)
    again = openings.during(store, lambda: benchmark(store, out=tmp_path, config=MODELS))
    of_infer = openings.during(store, lambda: infer(store, run="e1-semantic_unet", parts=(n.TEST,)))
    of_train = 1
    assert again[n.IMAGES] == 1 + of_infer[n.IMAGES] + of_train
    assert of_infer[n.ANNOTATIONS] == 1, "whose classes are held against the model's"
    assert again[n.ANNOTATIONS] == 1 + of_infer[n.ANNOTATIONS] + of_train
