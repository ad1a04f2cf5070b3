"""The study's public table, as far as its counts go: who is in it, in which group and part, and what that weighs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from fintune_xr import names as n
from fintune_xr.finetune.classification.features import scan_weights
from fintune_xr.pipelines.classification.ingest import VolumeRequest
from fintune_xr.pipelines.classification.scans import labelled_scans, parts_of
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.ingest.participants import read_participants
from fintune_xr.tasks.classification import STUDY_GROUPS

# Rows of the public copy: participants with OCT by part and group, and six rows without.
COUNTS = {"train": (290, 162, 233, 58), "val": (39, 40, 47, 33), "test": (40, 40, 41, 38)}
N_WITHOUT = 6


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(part, label) for part, counts in COUNTS.items() for label, n_of in enumerate(counts) for _ in range(n_of)]
    lines = ["person_id\tclinical_site\tstudy_group\tage\tstudy_visit_date\trecommended_split\tretinal_oct"]
    for number, (part, label) in enumerate([*rows, *[("train", 0)] * N_WITHOUT]):
        has = "TRUE" if number < len(rows) else "FALSE"
        site = ("UAB", "UCSD", "UW")[number % 3]
        lines.append(f"{1001 + number}\t{site}\t{STUDY_GROUPS[label]}\t60\t2024-01-01\t{part}\t{has}")
    path = tmp_path_factory.mktemp("table") / "participants.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_counts_of_the_table(table: Path) -> None:
    people = read_participants(table).people.values()
    with_oct = [one for one in people if one.retinal_oct]
    assert (len(people), len(with_oct)) == (1067, 1061)
    assert Counter(one.recommended_split for one in with_oct) == {"train": 743, "val": 159, "test": 159}
    found = Counter((one.recommended_split, STUDY_GROUPS.index(one.study_group)) for one in with_oct)
    assert found == {(part, label): n_of for part, counts in COUNTS.items() for label, n_of in enumerate(counts)}


def test_weights_of_its_classes_are_scikit_learns() -> None:
    label = np.repeat(np.arange(4), COUNTS["train"])
    weight = scan_weights(label, np.arange(label.size), 4)
    of_class = [float(weight[label == one][0]) for one in range(4)]
    assert of_class == pytest.approx([0.641, 1.147, 0.797, 3.203], abs=5e-4)
    assert of_class == pytest.approx(compute_class_weight("balanced", classes=np.arange(4), y=label).tolist())


@pytest.mark.slow
def test_the_whole_study_is_stored_labelled_and_split_as_recommended(table: Path, tmp_path: Path) -> None:
    people = [one for one in read_participants(table).people.values() if one.retinal_oct]
    for number, one in enumerate(people):
        (tmp_path / "raw" / one.id).mkdir(parents=True)
        volume = np.random.default_rng(number).integers(0, 255, (2, 32, 32), dtype=np.uint8)
        np.save(tmp_path / "raw" / one.id / "scan.npy", volume)
    store = tmp_path / "oct.zarr"
    asked = VolumeRequest(grid=(2, 32, 32), participants=str(table))
    assert ingest(tmp_path / "raw", store, layout="ai-readi", volumes=asked).n_added == 1061
    annotate(table, store)
    split(store, keep=True)
    found = parts_of(labelled_scans(open_cohort(store), *n.SPLITS))
    for part, counts in COUNTS.items():
        assert found[n.N_UNITS].sel({n.PART: part}).values.tolist() == list(counts)
