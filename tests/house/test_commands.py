"""Commands of the pages do what they say: they are run, page by page, or it is said of each why it is only read.

What is only read is parsed by `test_pages.py` as all of them are: verbs, options, settings and quotes are right.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import PAGES, ROOT, Command, commands
from stages import STAGES, Stage
from tour import run

ELSEWHERE = {
    "docs/tutorial/first-hour.md": "test_tutorial.py runs the page",
}
REAL = "on images that lie outside of the repository; what differs from a simulated cohort is the numbers alone"
WEIGHTS = "fetches weights of a gigabyte over the network, or begins with them"
NAMED = "the verb is named, not typed"
SLURM = "wants a cluster with Slurm; tests/cluster runs one"
GPU = "wants a GPU"
LONG = "trains for minutes or hours"
BUCKET = "wants a bucket; tests/store/test_s3.py has one"
TOUR = "of the demo: tests/support/tour.py runs all of them in minutes, test_tour.py those that train nothing"
# By page: how a command begins, and why it is not run.
READ_ONLY: dict[str, dict[str, str]] = {
    "README.md": {
        "doctor": "its answer is that of the machine; test_doctor.py asks it",
        "demo ": "a minute and more; test_demo.py and its siblings run it",
        "ingest demo/": TOUR, "annotate demo/": TOUR, "split demo/": TOUR, "infer demo/": TOUR, "train demo/": TOUR,
        "evaluate demo/": TOUR, "associate demo/": TOUR, "bootstrap demo/": TOUR, "benchmark demo/": TOUR,
        "budget demo/": TOUR, "gate demo/": TOUR, "report demo/": TOUR, "check demo/": TOUR,
        "weights": WEIGHTS, "infer cohort.zarr --run cpsam": WEIGHTS,
    },
    "docs/explanation/statistics.md": {
        "qc": NAMED, "associate cohort.zarr": "wants two tiles of each field; test_across_fields.py has them",
    },
    "docs/how-to/cluster.md": {"infer": SLURM, "weights": WEIGHTS, "ingest": SLURM, "train": SLURM},
    "docs/how-to/compare-trainings.md": {
        "benchmark": WEIGHTS, "weights": WEIGHTS, "hybrid": NAMED, "infer": "finishes a run of that comparison",
        "ingest": "the first three steps of a store that is there already",
        "annotate": "the first three steps of a store that is there already",
        "split": "the first three steps of a store that is there already",
    },
    "docs/how-to/cryoem.md": {
        "ingest": REAL, "annotate": REAL, "selftrain em.zarr --name em labelled=2 train.device=cuda": GPU,
        "infer em.zarr --run unet --model models/em/": "instead of the run that is above; a run is of one model",
    },
    "docs/how-to/exchange.md": {
        "view": "opens a window", "annotate fix/": "after somebody has corrected masks; test_corrections.py does",
    },
    "docs/how-to/label-budget.md": {
        "budget": LONG, "annotate": "after somebody has drawn masks; test_suggest.py draws some",
    },
    "docs/how-to/oct.md": {
        "demo": "a minute and a half; tests/pipelines/classification/test_demo.py runs it",
        "benchmark": LONG,
        "train oct.zarr --model best_checkpoint_multi_domain.pt --name smoke": "learns until it knows scans by heart",
    },
    "docs/how-to/sweep-sam.md": {"weights": WEIGHTS, "sweep": WEIGHTS, "infer": WEIGHTS},
    "docs/how-to/tissue.md": {
        "demo": "two minutes; tests/pipelines/semantic/test_demo_tissue.py runs it", "budget": LONG, "benchmark": LONG,
        "train he.zarr --model semantic_unet --name tumor --config": "another way to say what is said above",
        "annotate IN": "names files of one's own; test_class_colours.py reads such masks",
    },
    "docs/how-to/training.md": {
        "weights": WEIGHTS, "train cohort.zarr --model cpsam_v2": WEIGHTS, "train cohort.zarr --model models/": GPU,
    },
    "docs/reference/layouts.md": {
        "ingest SOURCE": "a form of commands, with words for names", "annotate MASKS": "a form of commands",
        "ingest raw cohort.zarr --layout": "names files of one's own; test_layouts.py reads such files",
    },
    "docs/reference/store.md": {"check": NAMED, "ingest": BUCKET, "infer": BUCKET},
    "docs/results/real-images.md": dict.fromkeys(
        ("ingest", "annotate", "split", "infer", "train", "evaluate", "export", "report"), REAL
    ),
    "docs/results/real-studies.md": dict.fromkeys(("split", "benchmark", "budget", "infer", "gate", "report"), REAL),
}  # fmt: skip
RUN_ON = {page: stage for stage in STAGES.values() for page in stage.pages}


def page_of(command: Command) -> str:
    return command.page.relative_to(ROOT).as_posix()


def typed(command: Command) -> str:
    return " ".join(command.tokens)


def reasons(command: Command) -> list[str]:
    """How those entries begin that say why a command is not run."""
    begins = (begin for begin in READ_ONLY.get(page_of(command), {}) if f"{typed(command)} ".startswith(begin))
    return list(begins)


def test_every_command_is_run_or_it_is_said_why_not() -> None:
    every = [command for page in PAGES for command in commands(page) if page_of(command) not in ELSEWHERE]
    assert [str(one) for one in every if page_of(one) not in RUN_ON and not reasons(one)] == []
    used = {(page_of(one), begin) for one in every for begin in reasons(one)}
    assert {(page, begin) for page, of in READ_ONLY.items() for begin in of} - used == set(), "no such command"
    assert sum(not reasons(one) for one in every) > 40


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_commands_run(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage.prepare()
    failed = {}
    for page in stage.pages:
        for command in commands(ROOT / page):
            if reasons(command):
                continue
            status, printed = run(stage.typed(page, command.tokens))
            if status:
                failed[str(command)] = (status, printed[-3:])
    assert failed == {}
