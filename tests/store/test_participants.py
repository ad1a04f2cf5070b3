"""The table of participants: what is read of it, and one error for everything that is wrong."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.schema import check_dataset
from fintune_xr.store.ingest.participants import participants_dataset, read_participants
from fintune_xr.tasks.classification import (
    GROUP_CLASSES,
    INSULIN,
    PARTICIPANTS,
    STUDY_GROUPS,
    GroupClasses,
    group_classes,
)

HEAD = ["person_id", "clinical_site", "study_group", "age", "recommended_split", "retinal_oct"]
ROWS = [
    ["0012", "UAB", STUDY_GROUPS[0], "61", "train", "TRUE"],
    ["0013", "UW", "insulin_controlled", "", "val", "true"],
    ["14", "UCSD", STUDY_GROUPS[2], "55.5", "test", "1"],
    ["15", "UAB", STUDY_GROUPS[1], "70", "train", "FALSE"],
]


def written(path: Path, rows: list[list[str]], head: list[str] = HEAD, *, ends: str = "\n", mark: bool = False) -> Path:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator=ends).writerows([head, *rows])
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.getvalue().encode())
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [False, True])
@pytest.mark.parametrize("id_column", ["person_id", "participant_id"])
def test_what_is_read(tmp_path: Path, ends: str, mark: bool, id_column: str) -> None:
    head = [id_column, *HEAD[1:]]
    found = read_participants(written(tmp_path / "participants.tsv", ROWS, head, ends=ends, mark=mark))
    assert list(found.people) == ["0012", "0013", "14", "15"]
    assert [one.id for one in found.people.values() if one.retinal_oct] == ["0012", "0013", "14"]
    assert found.people["0013"].study_group == INSULIN
    assert np.isnan(found.people["0013"].age)
    assert found.people["14"].age == 55.5
    stored = check_dataset(participants_dataset(found), PARTICIPANTS)
    assert stored[n.CLINICAL_SITE].values.tolist() == ["UAB", "UW", "UCSD", "UAB"]
    assert stored.attrs["sha256"] == found.sha256
    assert set(stored.variables) == {*PARTICIPANTS.variables, n.DONOR}


def test_equal_rows_are_one(tmp_path: Path) -> None:
    assert len(read_participants(written(tmp_path / "p.tsv", [*ROWS, ROWS[0]])).people) == 4


def test_one_error_names_all_that_is_wrong(tmp_path: Path) -> None:
    wrong = [
        *ROWS,
        ["0012", "UAB", STUDY_GROUPS[0], "62", "train", "TRUE"],
        ["16", "UAB", "unheard_of", "62", "train", "TRUE"],
        ["17", "UAB", STUDY_GROUPS[0], "62", "", "TRUE"],
        ["18", "UAB", STUDY_GROUPS[0], "62", "validation", "maybe"],
        ["", "UAB", STUDY_GROUPS[0], "62", "val", "TRUE"],
    ]
    with pytest.raises(FintuneValueError) as caught:
        read_participants(written(tmp_path / "p.tsv", wrong))
    for said in (
        "rows that differ: 0012", "study_group 'unheard_of' of 1 participant(s) (16)", "recommended_split ''",
        "recommended_split 'validation'", "retinal_oct 'maybe'", "rows without an id",
    ):  # fmt: skip
        assert said in str(caught.value)


@pytest.mark.parametrize("mangled", ["1001.0", "1.001E+03", "1E+05"])
def test_ids_that_a_spreadsheet_has_changed_are_refused(tmp_path: Path, mangled: str) -> None:
    rows = [*ROWS, [mangled, "UAB", STUDY_GROUPS[0], "62", "train", "TRUE"]]
    with pytest.raises(FintuneValueError, match="a spreadsheet seems to have changed") as caught:
        read_participants(written(tmp_path / "p.tsv", rows))
    assert mangled in str(caught.value)


def test_two_columns_of_ids_must_agree(tmp_path: Path) -> None:
    head = ["participant_id", *HEAD]
    same = [[row[0], *row] for row in ROWS]
    assert list(read_participants(written(tmp_path / "p.tsv", same, head)).people) == [row[0] for row in ROWS]
    same[1][0] = "0099"
    with pytest.raises(FintuneValueError, match=r"participant_id and person_id differ in 1 row\(s\), e.g. 0099"):
        read_participants(written(tmp_path / "q.tsv", same, head))


def test_missing_columns_and_files(tmp_path: Path) -> None:
    with pytest.raises(FintuneValueError, match="expected the columns participant_id or person_id, retinal_oct"):
        read_participants(written(tmp_path / "p.tsv", [["a", "b"]], ["study_group", "recommended_split"]))
    with pytest.raises(FintuneValueError, match="--participants"):
        read_participants(tmp_path / "none.tsv")
    with pytest.raises(FintuneValueError, match="ending in"):
        read_participants(written(tmp_path / "p.xlsx", ROWS))


def test_classes_cover_every_group_once() -> None:
    four = group_classes("oct_groups")
    assert [four.label_of(group) for group in STUDY_GROUPS] == [0, 1, 2, 3]
    assert [GROUP_CLASSES["oct_binary"].label_of(group) for group in STUDY_GROUPS] == [0, 1, 1, 1]
    with pytest.raises(FintuneValueError, match="in just one of"):
        GroupClasses("odd", (("a", STUDY_GROUPS[:2]), ("b", STUDY_GROUPS[1:])))
