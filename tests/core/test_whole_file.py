"""Files that appear whole: what a killed writer leaves is removed by the next, what somebody writes is not."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fintune_xr.errors import StoreWriteError
from fintune_xr.execution import whole_file as module
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX, remove_folder, whole_file, whole_folder, write_errors

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


REPLACER = """
import os, sys
from pathlib import Path
from fintune_xr.execution.whole_file import whole_folder
left = int(sys.argv[2])

def dies(event, arguments):
    global left
    if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        left -= 1
        if left < 0:
            os._exit(77)

sys.addaudithook(dies)
with whole_folder(Path(sys.argv[1])) as place:
    place.mkdir()
    for name in ("a", "b"):
        (place / name).write_text("after")
"""


def test_a_folder_is_never_half_of_what_it_was_or_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    after, found = {"a": "after", "b": "after"}, set()
    for left in range(40):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("a", "b", "c"):
            (folder / name).write_text("before")
        ended = subprocess.run([sys.executable, "-c", REPLACER, folder, str(left)], check=False).returncode
        content = {file.name: file.read_text() for file in folder.iterdir()} if folder.exists() else {}
        assert content in ({}, after, {"a": "before", "b": "before", "c": "before"}), left
        found.add(len(content))
        if ended == 0:
            break
    assert found == {0, 2, 3}
    assert content == after
    monkeypatch.setattr(module, "_SWEPT", set())
    with whole_file(tmp_path / "other.txt") as place:
        place.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "other.txt"]


def test_a_folder_that_fails_leaves_that_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("before")
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self != folder and Path(target) == folder and "after" in {file.read_text() for file in self.iterdir()}:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StoreWriteError, match="No space left"), whole_folder(folder) as place:
        place.mkdir()
        (place / "a").write_text("after")
    assert (folder / "a").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def events_on_disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is forced to the disk and what is renamed from now on, by the name that it has then, in this order."""
    events: list[tuple[str, str]] = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def synced(handle: int) -> None:
        events.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def replaced(self: Path, target: Path) -> Path:
        events.append(("rename", self.name))
        return replace(self, target)

    def renamed(self: Path, target: Path) -> Path:
        events.append(("rename", self.name))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "rename", renamed)
    return events


@pytest.mark.parametrize("alone", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    events = events_on_disk(monkeypatch)
    with whole_file(tmp_path / "one.txt", alone=alone) as place:
        place.write_text("whole")
    assert events == [("fsync", place.name), ("rename", place.name), ("fsync", tmp_path.name)]


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = events_on_disk(monkeypatch)
    with whole_folder(tmp_path / "folder") as place:
        (place / "inside").mkdir(parents=True)
        for file in ("a", "inside/b"):
            (place / file).write_text("whole")
    synced = [name for event, name in events if event == "fsync"]
    assert sorted(synced[:4]) == sorted(["a", "b", "inside", place.name])
    assert events[4:] == [("rename", place.name), ("fsync", tmp_path.name)]


def test_a_folder_that_is_removed_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text("before")

    def killed(path: Path, **_: object) -> None:
        assert not folder.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(folder)
    monkeypatch.undo()
    assert not folder.exists()
    # This process lives, so what it left would be kept for it.
    monkeypatch.setattr(module, "_SWEPT", set())
    monkeypatch.setattr(module, "_is_alive", lambda process: False)
    with whole_file(tmp_path / "other.txt") as place:
        place.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_a_path_through_a_file_or_of_too_long_a_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    there = {"file/one.txt": "File exists", "file/a/one.txt": "Not a directory", "x" * 300: "File name too long"}
    for path, said in there.items():
        with pytest.raises(StoreWriteError, match=f"{said}. Name another place"), whole_file(tmp_path / path) as place:
            place.write_text("whole")


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EIO, errno.ENOSPC])
def test_an_error_that_names_another_file_is_no_failed_write(number: int, tmp_path: Path) -> None:
    def refused(what: str, *named: Path) -> type[BaseException]:
        with pytest.raises(OSError) as told, write_errors(str(tmp_path / what)):
            raise OSError(number, os.strerror(number), *(str(one) for one in named))
        return told.type

    (tmp_path / "a.zarr/runs").mkdir(parents=True)
    (tmp_path / "a.zarr/zarr.json").write_text("{}")
    (tmp_path / "b.zarr").symlink_to("a.zarr")
    staged = tmp_path / "a.zarr/staging/runs+r"
    for what, named in (("a.zarr/runs/r", staged), ("b.zarr/runs/r", staged), ("out/x/y.txt", tmp_path / "out")):
        assert refused(what, named) is StoreWriteError
    assert refused("out/y.txt", tmp_path / "out/.partial") is StoreWriteError
    assert refused("out/y.txt") is StoreWriteError
    for what, named in (("a.zarr/runs/r", tmp_path / "raw/x.tif"), ("out/y.txt", staged)):
        assert refused(what, named) is type(OSError(number, ""))


@pytest.mark.parametrize(("number", "is_written"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_system_that_cannot_force_names_to_the_disk_is_no_failed_write(
    number: int, is_written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    told = contextlib.nullcontext() if is_written else pytest.raises(StoreWriteError)
    with told, whole_file(tmp_path / "one.txt") as place:
        place.write_text("whole")
    assert (tmp_path / "one.txt").exists() is is_written
