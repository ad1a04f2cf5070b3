"""Files that appear whole: what a killed writer leaves is removed by the next, what somebody writes is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fintune_xr.execution import whole_file as module
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX, whole_file

WRITER = """
import sys, time
from pathlib import Path
from fintune_xr.execution.whole_file import whole_file
with whole_file(Path(sys.argv[1])) as place:
    place.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    """A process in the middle of writing `path`."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


@pytest.mark.parametrize("is_killed", [True, False])
def test_places_of_the_dead_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    writer = start_writer(tmp_path / "one.txt")
    if is_killed:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    monkeypatch.setattr(module, "_SWEPT", set())
    with whole_file(tmp_path / "other.txt") as place:
        place.write_text("whole")
    assert len(list(tmp_path.glob(f".*{PARTIAL_SUFFIX}"))) == (0 if is_killed else 1)
    assert (tmp_path / "other.txt").read_text() == "whole"
    assert not (tmp_path / "one.txt").exists()
    writer.kill()
    writer.wait()


def test_places_of_other_machines_are_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / f".0123456789ab-999999-0{PARTIAL_SUFFIX}"
    elsewhere.write_text("half")
    with whole_file(tmp_path / "one.txt") as place:
        place.write_text("whole")
    assert elsewhere.exists()


def test_what_fails_leaves_the_file_of_before_and_nothing_beside(tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    file.write_text("before")
    with pytest.raises(RuntimeError, match="failed"), whole_file(file) as place:
        place.write_text("half")
        raise RuntimeError("failed")
    assert [path.name for path in tmp_path.iterdir()] == ["one.txt"]
    assert file.read_text() == "before"
