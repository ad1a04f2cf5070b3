"""One family of errors. Each is also the builtin it stands for and knows its exit status.

All but that of storage that does not answer are answers: `except AnswerError` is for whoever goes on after an error.

A message says what was expected, what was found, where, and what to do.
"""

from __future__ import annotations

import bisect
import difflib
import re
from collections.abc import Iterable
from typing import Final

FAILED = 1
WRONG_USE = 2

# Names that an error lists, and with how many that of a wrong one is compared.
_LISTED: Final = 40
_COMPARED: Final = 400


class FintuneError(Exception):
    """Any error that fintune-xr raises on purpose."""

    exit_status = FAILED


class AnswerError(FintuneError):
    """Tells something of what was asked, or of what lies there: all of ours but that of storage that does not answer.

    Whoever draws a conclusion from an error, and goes on, catches this one.
    """


class FintuneValueError(AnswerError, ValueError):
    """An argument has a value that makes no sense here."""

    exit_status = WRONG_USE


class SettingsError(AnswerError, ValueError):
    """Settings have an unknown key, a value out of range, or do not fit together."""

    exit_status = WRONG_USE


class UnknownNameError(AnswerError, KeyError):
    """A model, run, marker, outcome, layout, profile or label of that name does not exist."""

    exit_status = WRONG_USE

    def __str__(self) -> str:
        """The message; of a KeyError there would be marks around it."""
        return FintuneError.__str__(self)


class SchemaError(AnswerError, ValueError):
    """A dataset does not have the variables, dims or dtypes that were declared for it."""


class StoreNotFoundError(AnswerError, FileNotFoundError):
    """There is no cohort store at that place."""

    exit_status = WRONG_USE


class StoreUnreachableError(FintuneError, ConnectionError):
    """Storage refuses, or does not answer: nothing is known of what lies there, and nothing follows from it.

    It is no AnswerError, and so ends whatever draws conclusions from errors.
    """


class UnreadableFileError(StoreUnreachableError):
    """The system cannot read one file of a folder (EIO): a bad sector, or trouble with its file server.

    What it holds may be lost or not. Only `check` goes on, where the store around it answers, and names it: `fault`
    is what happened, without what to do.
    """

    def __init__(self, file: str, said: str) -> None:
        self.fault = f"cannot reach {file}: {said}"
        super().__init__(
            f"{self.fault}. Its disk or file server cannot give it, and what it holds may be lost or not. `dmesg` says "
            "more, `fintune-xr check` lists all such files. When it can be read, run the same command again."
        )
        self.file = file
        self.said = said

    def __reduce__(self) -> tuple[type[UnreadableFileError], tuple[str, str]]:
        return type(self), (self.file, self.said)


class StoreVersionError(AnswerError, ValueError):
    """A store was written with another schema version."""


class StoreDamagedError(AnswerError, OSError):
    """A stored array lacks a shard, or holds bytes that fail their checksum."""


class StoreWriteError(AnswerError, OSError):
    """The store cannot be written: full disk, read-only path, no permission."""


class TileReadError(AnswerError, OSError):
    """One image file cannot be used; its tile goes to quarantine.

    `reason` is what quarantine records; the message adds the path where it is known.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason
        self.path = path

    def __reduce__(self) -> tuple[type[TileReadError], tuple[str, str]]:
        return type(self), (self.reason, self.path)


class RunMismatchError(AnswerError, ValueError):
    """A run of that name exists with another checkpoint, other settings or another schema."""

    exit_status = WRONG_USE


class RunBusyError(AnswerError, RuntimeError):
    """Another process is writing this run."""


class SplitError(AnswerError, ValueError):
    """There is no valid split, or a donor or an image lies on two sides of it."""


class CheckpointNotFoundError(AnswerError, FileNotFoundError):
    """No weights at that path and none registered under that name."""

    exit_status = WRONG_USE


class CheckpointError(AnswerError, ValueError):
    """A weights file is not what it claims to be."""


class DeviceError(AnswerError, RuntimeError):
    """A device was asked for that this machine does not have."""


class WorkerLostError(AnswerError, RuntimeError):
    """A piece of work was given up because the worker processes that took it died, or were taken away."""


class ClusterError(AnswerError, RuntimeError):
    """A batch system refuses jobs, does not answer, or its jobs give no worker."""


class MissingPackageError(AnswerError, ImportError):
    """A feature needs a package that is not installed."""


def missing_package(error: ModuleNotFoundError) -> MissingPackageError:
    """The same error, saying what to install. One of a package that no extra installs goes on as it is."""
    from importlib import metadata

    module = (error.name or "").partition(".")[0]
    package = {"sklearn": "scikit-learn"}.get(module, module).replace("_", "-")
    wanted = (re.fullmatch(r"([\w-]+).*extra == .(\w+).", line) for line in metadata.requires("fintune-xr") or ())
    extras = [found[2] for found in wanted if found and found[1].replace("_", "-") == package]
    if not extras:
        raise error
    return MissingPackageError(
        f"this needs the package {package!r}, which is not installed: pip install 'fintune-xr[{extras[0]}]'"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name closest to `name`, or an empty string."""
    names = list(known)
    # To the comparison of letters a name in other case has nothing in common with it.
    same = [one for one in names if one.casefold() == name.casefold()]
    close = same or difflib.get_close_matches(name, _around(name, names), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown_name(what: str, name: str, known: Iterable[str], remedy: str = "") -> UnknownNameError:
    """An error that says which names of this kind exist, which one is nearest, and what else may be done."""
    names = sorted(known)
    listed = ", ".join(names[:_LISTED]) or "none yet"
    more = f", … ({len(names):,} in all)" if len(names) > _LISTED else ""
    return UnknownNameError(f"no {what} {name!r}; known: {listed}{more}.{nearest(name, names)} {remedy}".strip())


def _around(name: str, names: list[str]) -> list[str]:
    """Those of very many names that begin as `name` does: to compare it with each of 100,000 takes 11 seconds."""
    if len(names) <= _COMPARED:
        return names
    names = sorted(names)
    place = bisect.bisect(names, name)
    return names[max(place - _COMPARED // 2, 0) :][:_COMPARED]
