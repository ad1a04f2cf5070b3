"""A whole simulated study of OCT volumes on disk: three devices, a table of participants, and what goes wrong."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fintune_xr import names as n
from fintune_xr.seeds import stream
from fintune_xr.settings import Settings
from fintune_xr.simulation.oct_files import write_volume
from fintune_xr.simulation.oct_volumes import DEVICES, N_CLASSES, Device, Eye, oct_volume
from fintune_xr.tasks.classification import STUDY_GROUPS

GRID: Final = (16, 64, 64)
SUFFIXES: Final = {"spectralis": ".dcm", "maestro": ".npy", "triton": ".nii.gz"}
_COLUMNS: Final = ("participant_id", "clinical_site", n.STUDY_GROUP, n.AGE, n.RECOMMENDED_SPLIT, n.RETINAL_OCT)
_SITES: Final = ("north", "south", "west")
_BOTH_EYES: Final = 0.85


class StudySettings(Settings):
    """Size and seed of a simulated study; the same settings give the same bytes on disk."""

    n_train: int = Field(default=90, ge=N_CLASSES, description="Participants of the part train.")
    n_val: int = Field(default=30, ge=N_CLASSES, description="Participants of the part val.")
    n_test: int = Field(default=60, ge=N_CLASSES, description="Participants of the part test.")
    damaged: bool = Field(default=True, description="Add what every study has: a cut file, a missing one, a stranger.")
    absent_from_val: bool = Field(default=True, description="Nobody of the last class is in val, as in small studies.")
    seed: int = Field(default=2024, ge=0)


@dataclass(frozen=True, slots=True)
class SimulatedStudy:
    """Where a simulated study lies: `source` with its files, the table of `participants`, and what must be left out.

    `left_out` maps ids of participants to what is wrong.
    """

    source: Path
    participants: Path
    left_out: dict[str, str]
    n_scans: int


@dataclass(frozen=True, slots=True)
class _Person:
    id: str
    label: int
    part: str
    device: Device
    thickness: float
    sides: tuple[str, ...]
    age: int
    site: str
    retinal_oct: bool = True


def simulate_study(folder: Path, *, settings: StudySettings | None = None) -> SimulatedStudy:
    """Writes `folder/DEVICE/ID/ID_macula_oct_SIDE_1.…` and `folder/participants.tsv`."""
    settings = settings or StudySettings()
    people = list(_people(settings))
    n_scans = sum(_write_scans(folder, person, settings.seed) for person in people)
    left_out: dict[str, str] = {}
    if settings.damaged:
        extra = list(_extra(settings))
        people += extra
        left_out = _damage(folder, extra, settings.seed)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "participants.tsv"
    _write_table(table, people)
    return SimulatedStudy(folder, table, left_out, n_scans)


def simulated_scan(label: int, device: Device, seed: int, number: int) -> tuple[Eye, NDArray[np.uint8]]:
    """Eye and voxels (z, y, x) of a scan that is in no study: what encoders are pretrained on."""
    rng = stream(seed, "pretraining", number)
    eye = Eye(label, "RL"[int(rng.integers(2))], float(rng.normal(1, 0.05)))
    return eye, oct_volume(eye, device, rng)


def _people(settings: StudySettings) -> Iterator[_Person]:
    number = 1001
    for part, count in ((n.TRAIN, settings.n_train), (n.VAL, settings.n_val), (n.TEST, settings.n_test)):
        n_classes = N_CLASSES - (part == n.VAL and settings.absent_from_val)
        for at in range(count):
            yield _person(f"{number:04d}", at % n_classes, part, settings.seed)
            number += 1


def _person(identity: str, label: int, part: str, seed: int, *, retinal_oct: bool = True) -> _Person:
    rng = stream(seed, "person", identity)
    device = DEVICES[int(rng.integers(len(DEVICES)))]
    sides = ("R", "L") if rng.random() < _BOTH_EYES else ("RL"[int(rng.integers(2))],)
    site = _SITES[int(rng.integers(len(_SITES)))]
    age = int(rng.integers(40, 86))
    return _Person(identity, label, part, device, float(rng.normal(1, 0.08)), sides, age, site, retinal_oct)


def _extra(settings: StudySettings) -> Iterator[_Person]:
    """One whose file is cut off, one without a volume, one who should have none."""
    yield _person("2001", 0, n.TRAIN, settings.seed)
    yield _person("2002", 1, n.VAL, settings.seed)
    yield _person("2003", 2, n.TEST, settings.seed, retinal_oct=False)


def _damage(folder: Path, extra: list[_Person], seed: int) -> dict[str, str]:
    cut, missing, stranger = extra
    for person in (cut, stranger):
        _write_scans(folder, person, seed, sides=("R",))
    file = next((folder / cut.device.name / cut.id).iterdir())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return {cut.id: "truncated", missing.id: "no volume found", stranger.id: "retinal_oct FALSE"}


def _write_scans(folder: Path, person: _Person, seed: int, sides: tuple[str, ...] = ()) -> int:
    chosen = sides or person.sides
    for side in chosen:
        volume = oct_volume(
            Eye(person.label, side, person.thickness), person.device, stream(seed, "scan", person.id, side)
        )  # fmt: skip
        name = f"{person.id}_macula_oct_{side.lower()}_1{SUFFIXES[person.device.name]}"
        write_volume(folder / person.device.name / person.id / name, volume, side)
    return len(chosen)


def _write_table(file: Path, people: list[_Person]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        out = csv.writer(opened, delimiter="\t", lineterminator="\n")
        out.writerow(_COLUMNS)
        for one in people:
            has = str(one.retinal_oct).upper()
            out.writerow([one.id, one.site, STUDY_GROUPS[one.label], one.age, one.part, has])
