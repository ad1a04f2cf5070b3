"""One run of a command, and what a kill at each of its changes of files would have left.

Python tells of every file that is opened for writing, renamed, linked, cut short or removed, and of every folder that
is made or removed, just before it happens: then the folder is copied as it is, and only what has changed since the copy
before is read.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fintune_xr.execution import whole_file

# Which of the arguments of an event are paths, and at which place the folders stand that they are relative to.
_PATHS = {
    "open": ((0,), ()),
    "os.truncate": ((0,), ()),
    "os.mkdir": ((0,), (2,)),
    "os.remove": ((0,), (1,)),
    "os.rmdir": ((0,), (1,)),
    "os.rename": ((0, 1), (2, 3)),
    "os.link": ((0, 1), (2, 3)),
    "os.symlink": ((1,), (2,)),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Times of files are those of the system's last tick: one changed within this of its copy may look the same after.
_TICK_NS = 50_000_000
_TRIES = 50
_FOLDER = -1
# With no room left files can still be removed.
_LEAVE_ROOM_TO_REMOVE = (errno.ENOSPC, errno.EDQUOT)
# A number that no process has.
_NOBODY = (1 << 22) + 1

Tree = dict[str, int]
"""What lies at each path under the folder: the number of a copy, or -1 for a folder."""


@dataclass(frozen=True)
class Point:
    """The `number`-th change, what it was to be, and the folder just before it."""

    number: int
    change: str
    tree: Tree


@dataclass
class Record:
    """Copies of `root` at its changes, kept in `kept`: all that differ, or `n_points` drawn by `rng` among all changes.

    Of a command with threads the changes come in another order each time; those that are drawn are then others.
    """

    root: Path
    kept: Path
    n_points: int | None
    rng: np.random.Generator
    n_changes: int = 0
    points: list[Point] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)
    _copies: dict[tuple[int, int, int], tuple[int, int]] = field(default_factory=dict)
    _n_copies: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Copies the folder before the change that an event of Python tells of, where it is one of the folder."""
        changed = _changed(self.root, event, arguments)
        if not changed:
            return
        # Other threads wait with theirs, so that a copy is of one moment.
        with self._turn:
            try:
                self._note(f"{event} {' '.join(str(path.relative_to(self.root)) for path in changed)}")
            except BaseException as fault:  # noqa: BLE001 - the command must not be told
                self.faults.append(fault)

    def put(self, point: Point) -> None:
        """Makes the folder what it was at `point`, left by a process that is no more; this one is as new."""
        empty(self.root)
        for path, copy in point.tree.items():
            if copy == _FOLDER:
                (self.root / path).mkdir()
            else:
                shutil.copy2(self.kept / str(copy), self.root / path)
        leave(self.root)

    def _note(self, change: str) -> None:
        self.n_changes += 1
        if self.n_points is None:
            point = Point(self.n_changes, change, self._tree())
            if not self.points or self.points[-1].tree != point.tree:
                self.points.append(point)
            return
        # Every change is as likely to be among those that are kept, though nobody knows how many are to come.
        at = int(self.rng.integers(self.n_changes)) if len(self.points) == self.n_points else len(self.points)
        if at < self.n_points:
            self.points[at : at + 1] = [Point(self.n_changes, change, self._tree())]

    def _tree(self) -> Tree:
        """The folder as it is, each folder before what it holds."""
        before = _signatures(self.root)
        for _ in range(_TRIES):
            tree = {path: self._copy(path, signature) for path, signature in before.items()}
            after = _signatures(self.root)
            if before == after:
                return tree
            before = after
        raise RuntimeError(f"{self.root} changes faster than it can be copied")

    def _copy(self, path: str, signature: tuple[int, int, int] | None) -> int:
        if signature is None:
            return _FOLDER
        copy, made_at = self._copies.get(signature, (_FOLDER, 0))
        if made_at > signature[1] + _TICK_NS:
            return copy
        self._n_copies += 1
        now = time.time_ns()
        # A file that is gone by now is gone from the next list of files, too.
        with suppress(FileNotFoundError):
            shutil.copy2(self.root / path, self.kept / str(self._n_copies))
        self._copies[signature] = (self._n_copies, now)
        return self._n_copies


def empty(folder: Path) -> None:
    """Removes all that a folder holds, which is made where it is missing."""
    folder.mkdir(exist_ok=True)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def leave(folder: Path) -> None:
    """What this process was writing in `folder` is left by one that is no more; this one is as new."""
    # The last ones first: a folder that is renamed takes along what lies in it.
    for path in sorted(folder.rglob(f"*-{os.getpid()}-*"), reverse=True):
        path.rename(path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{_NOBODY}-")))
    whole_file._SWEPT.clear()


_RECORDS: list[Record | Refusal] = []
_INSTALLED: list[bool] = []


@contextmanager
def recorded(record: Record) -> Iterator[Record]:
    """While this lasts, changes of the record's folder by this process are kept in it."""
    record.kept.mkdir(parents=True, exist_ok=True)
    with _heard(record):
        yield record
    if record.faults:
        raise record.faults[0]


@contextmanager
def refused(refusal: Refusal) -> Iterator[Refusal]:
    """While this lasts, changes of the folder of `refusal` by this process are refused as it says."""
    with _heard(refusal):
        yield refusal


@contextmanager
def _heard(listener: Record | Refusal) -> Iterator[None]:
    if not _INSTALLED:
        # A hook cannot be taken back: this one does nothing as long as nobody listens.
        sys.addaudithook(_hear)
        _INSTALLED.append(True)
    _RECORDS.append(listener)
    try:
        yield
    finally:
        _RECORDS.remove(listener)


@dataclass
class Refusal:
    """From the `first`-th change of files under `root` on, the system refuses them all with the error `number`."""

    root: Path
    first: int
    number: int
    n_changes: int = 0
    refused: list[str] = field(default_factory=list)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raises OSError in place of the change that an event of Python tells of, where it is one to be refused."""
        changed = _changed(self.root, event, arguments)
        if not changed or (event == "os.remove" and self.number in _LEAVE_ROOM_TO_REMOVE):
            return
        self.n_changes += 1
        if self.n_changes >= self.first:
            self.refused.append(f"{event} {' '.join(str(path.relative_to(self.root)) for path in changed)}")
            raise OSError(self.number, os.strerror(self.number), *map(str, changed[:1]))


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for record in _RECORDS:
        record.note(event, arguments)


def _changed(root: Path, event: str, arguments: tuple[Any, ...]) -> list[Path]:
    """The paths under `root` that an event of Python is to change."""
    if event not in _PATHS or (event == "open" and not int(arguments[2] or 0) & _WRITES):
        return []
    changed = [path for path in _paths(event, arguments) if path.is_relative_to(root)]
    return [] if event == "os.mkdir" and changed and changed[0].is_dir() else changed


def _paths(event: str, arguments: tuple[Any, ...]) -> Iterator[Path]:
    places, folders = _PATHS[event]
    for at, place in enumerate(places):
        path, descriptor = arguments[place], arguments[folders[at]] if folders else -1
        if isinstance(path, int):
            yield Path(f"/proc/self/fd/{path}").readlink()
        else:
            folder = Path(f"/proc/self/fd/{descriptor}").readlink() if descriptor >= 0 else Path.cwd()
            yield folder / os.fsdecode(path)


def _signatures(root: Path) -> dict[str, tuple[int, int, int] | None]:
    """Inode, time and size of each file, None for a folder, by path, each folder before what it holds."""
    found: dict[str, tuple[int, int, int] | None] = {}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with suppress(FileNotFoundError), os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    found[path] = None
                    waiting.append(path)
                else:
                    status = entry.stat(follow_symlinks=False)
                    found[path] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found
