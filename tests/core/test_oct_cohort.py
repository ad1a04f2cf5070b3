"""Simulated studies of volumes: the same bytes each time, and truths that hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fintune_xr.seeds import stream
from fintune_xr.simulation.oct_cohort import GRID, SUFFIXES, StudySettings, simulate_study, simulated_scan
from fintune_xr.simulation.oct_volumes import DEVICES, Eye, inner_thickness, oct_volume
from fintune_xr.store.ingest.participants import read_participants
from fintune_xr.store.raw.readers.volumes import Reading, volume_frames
from fintune_xr.tasks.classification import STUDY_GROUPS

SMALL = StudySettings(n_train=8, n_val=4, n_test=4, seed=5)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        simulate_study(tmp_path / name, settings=SMALL)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    simulate_study(tmp_path / "c", settings=SMALL.model_copy(update={"seed": 6}))
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_files_are_read_as_they_were_simulated(tmp_path: Path) -> None:
    made = simulate_study(tmp_path, settings=SMALL)
    people = read_participants(made.participants)
    found = 0
    for device in DEVICES:
        for file in (tmp_path / device.name).rglob(f"*{SUFFIXES[device.name]}"):
            donor, side = file.parent.name, file.name.partition("_oct_")[2][0].upper()
            if donor in made.left_out:
                continue
            header, frames = volume_frames(file.read_bytes(), file.name, Reading())
            assert header.shape == device.shape
            label = STUDY_GROUPS.index(people.people[donor].study_group)
            volume = np.stack(list(frames))
            assert volume.dtype == np.uint8
            assert 20 < volume.mean() < 120
            assert side in "RL"
            assert 0 <= label < 4
            found += 1
    assert found == made.n_scans


def test_what_goes_wrong_is_there(tmp_path: Path) -> None:
    made = simulate_study(tmp_path, settings=SMALL)
    assert set(made.left_out) == {"2001", "2002", "2003"}
    people = read_participants(made.participants).people
    assert not people["2003"].retinal_oct
    assert not list(tmp_path.rglob("*/2002/*"))
    parts = [one.recommended_split for one in people.values() if one.id not in made.left_out]
    assert [parts.count(part) for part in ("train", "val", "test")] == [8, 4, 4]
    in_val = {one.study_group for one in people.values() if one.recommended_split == "val"}
    assert in_val == set(STUDY_GROUPS[:3]), "the last class is absent from val"


def dark_below_surface(volume: np.ndarray) -> float:
    """Rows between the first bright one and the brightest band, a crude thickness of what lies above it."""
    profile = volume.astype(float).mean(axis=(0, 2))
    return float(np.argmax(profile) - np.argmax(profile > 0.5 * profile.max()))


def test_classes_thin_the_inner_layers() -> None:
    thickness = [inner_thickness(Eye(label, "R")) for label in range(4)]
    assert thickness == pytest.approx([14.5, 11.6, 8.7, 5.8])
    seen = [
        np.mean([dark_below_surface(oct_volume(Eye(label, "R"), DEVICES[0], stream(1, label, i))) for i in range(12)])
        for label in (0, 3)
    ]
    assert seen[0] > seen[1] + 3


def test_sides_are_mirrored() -> None:
    mean = {
        side: np.mean(
            [oct_volume(Eye(0, side), DEVICES[0], stream(2, side, i)).astype(float) for i in range(30)], axis=0
        )
        for side in "RL"
    }
    mirrored, same = np.abs(mean["R"] - mean["L"][..., ::-1]).mean(), np.abs(mean["R"] - mean["L"]).mean()
    assert mirrored < same


def test_pretraining_has_volumes_of_its_own() -> None:
    eye, volume = simulated_scan(2, DEVICES[1], 5, 3)
    again = simulated_scan(2, DEVICES[1], 5, 3)[1]
    assert eye.label == 2
    assert np.array_equal(volume, again)
    assert volume.shape == DEVICES[1].shape
    assert GRID == (16, 64, 64)
