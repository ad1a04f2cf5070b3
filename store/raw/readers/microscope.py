"""Files of microscopes, each read by a library of its own that an extra installs: a row of a table for each format."""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import BinaryIO, Final
from xml.etree.ElementTree import ParseError

from fintune_xr.errors import MissingPackageError, TileReadError
from fintune_xr.store.raw.readers.fields import FieldFile
from fintune_xr.store.raw.readers.leica_lif import opened_lif
from fintune_xr.store.raw.readers.nikon_nd2 import opened_nd2

EXTRA: Final = "microscopes"


@dataclass(frozen=True, slots=True)
class _Format:
    """The package that reads a format, which is also the module that is imported, and how a file is opened by it."""

    package: str
    opened: Callable[[BinaryIO], AbstractContextManager[FieldFile]]


_FORMATS: Final[Mapping[str, _Format]] = MappingProxyType(
    {".nd2": _Format("nd2", opened_nd2), ".lif": _Format("liffile", opened_lif)}
)
FIELD_SUFFIXES: Final = tuple(_FORMATS)

# What these libraries are seen to raise on damaged files, beside OSError for those that end too early.
_DAMAGE: Final = (
    ValueError, RuntimeError, struct.error, LookupError, TypeError, AttributeError, ArithmeticError, EOFError,
    MemoryError, AssertionError, NameError, zlib.error, ParseError,
)  # fmt: skip


def holds_fields(path: object) -> bool:
    """Whether a file of this name is one of a microscope's program."""
    name = str(path)
    # A path is taken apart for those alone that may be one: it is asked of every file of a cohort.
    return name.lower().endswith(FIELD_SUFFIXES) and PurePosixPath(name).suffix.lower() in _FORMATS


def check_reader(path: object) -> None:
    """Raises MissingPackageError where what reads this file is not installed."""
    try:
        importlib.import_module(_format_of(path).package)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{path}: reading it needs the package {error.name!r}, which is not installed: "
            f"pip install 'fintune-xr[{EXTRA}]'"
        ) from error


@contextmanager
def opened_fields(path: object, file: BinaryIO) -> Iterator[FieldFile]:
    """The fields of the opened file `file`, whose format the suffix of `path` tells.

    Raises TileReadError for what is no such file, or damaged; MissingPackageError where its reader is not installed.
    """
    check_reader(path)
    try:
        with _format_of(path).opened(file) as opened:
            yield opened
    except TileReadError:
        raise
    except _DAMAGE as error:
        kind = PurePosixPath(str(path)).suffix.lower()[1:].upper()
        said = f"{type(error).__name__}: {error}"
        raise TileReadError(f"unreadable: truncated or damaged {kind} ({said[:120]})") from error


def _format_of(path: object) -> _Format:
    return _FORMATS[PurePosixPath(str(path)).suffix.lower()]
