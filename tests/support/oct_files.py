"""A small study of volumes in folders: two devices, a table of participants, and everything that goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import volume_files as v

from fintune_xr.tasks.classification import STUDY_GROUPS

SHAPE = (6, 40, 44)
PARTS = ("train", "train", "val", "test")


def participants_text(rows: Mapping[str, tuple[str, str, str]]) -> str:
    """A table of participants: id to group, part and retinal_oct."""
    lines = ["participant_id\tclinical_site\tstudy_group\tage\trecommended_split\tretinal_oct\tother"]
    lines += [f"{donor}\tUW\t{group}\t60\t{part}\t{has}\tx" for donor, (group, part, has) in rows.items()]
    return "\n".join(lines) + "\n"


def volume_bytes(donor: int, name: str) -> bytes:
    """A file of the format that `name` ends in, of its own for every donor."""
    shape = (SHAPE[0] + donor % 3, *SHAPE[1:])
    volume = v.volume_of(shape, seed=donor)
    side = "R" if "_oct_r" in name else "L"
    return v.dicom_bytes(volume, ImageLaterality=side) if name.endswith(".dcm") else v.npy_bytes(volume)


def write_study(folder: Path, n_donors: int = 8) -> Path:
    """`n_donors` with one volume each as DICOM or NPY, in `folder/spectralis/ID/…` and `folder/maestro/ID/…`.

    Beyond them: `bad` has a truncated file, `gone` none, `none` is not to have one, `x99` is not in the table.
    """
    rows = {}
    for donor in range(n_donors):
        name, device = f"{donor:04d}", ("spectralis", "maestro")[donor % 2]
        file = folder / device / name / f"{name}_macula_oct_{'rl'[donor % 2]}_1.{('dcm', 'npy')[donor % 2]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(volume_bytes(donor, file.name))
        rows[name] = (STUDY_GROUPS[donor % 4], PARTS[(donor // 4) % 4], "TRUE")
    rows |= {
        "bad": (STUDY_GROUPS[0], "train", "TRUE"),
        "gone": (STUDY_GROUPS[1], "val", "TRUE"),
        "none": (STUDY_GROUPS[2], "test", "FALSE"),
    }
    for donor in ("bad", "none", "x99"):
        file = folder / "spectralis" / donor / "scan.dcm"
        file.parent.mkdir(parents=True)
        content = volume_bytes(77, "scan.dcm")
        file.write_bytes(content[: len(content) // 2] if donor == "bad" else content)
    (folder / "participants.tsv").write_text(participants_text(rows))
    return folder


def pixels_of(donor: int) -> np.ndarray:
    """What the file of a donor holds."""
    return v.volume_of((SHAPE[0] + donor % 3, *SHAPE[1:]), seed=donor)
