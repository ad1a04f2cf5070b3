"""All bytes of a file in memory, read once: what is decoded is what the digest is of."""

from __future__ import annotations

import hashlib
import io
import os
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fintune_xr.execution.recycled_memory import spare_bytes


class Contents(io.BufferedReader):
    """A file in memory, for libraries that read files; `content` are its bytes, uint8, which pixels may be views of."""

    def __init__(self, content: NDArray[np.uint8]) -> None:
        super().__init__(_Memory(content))
        self.content = content

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes, in hexadecimal digits."""
        return hashlib.sha256(self.content.data).hexdigest()


class _Memory(io.RawIOBase):
    """Bytes as a file of the lowest kind; `io.BytesIO` would copy them."""

    def __init__(self, content: NDArray[np.uint8]) -> None:
        self._content, self._at = content.data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._content)}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        part = self._content[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def read_contents(file: BinaryIO) -> Contents:
    """All bytes of an opened file, which is read once."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    content = spare_bytes(size)
    found = _filled(file, content)
    rest = file.read()
    if rest:
        # It has grown meanwhile.
        content = np.concatenate([content, np.frombuffer(rest, np.uint8)])
        found += len(rest)
    return Contents(content[:found])


def _filled(file: BinaryIO, content: NDArray[np.uint8]) -> int:
    """How many bytes of a file, the next ones, came into `content`."""
    if hasattr(file, "readinto"):
        return int(file.readinto(content.data))
    told = file.read(len(content))
    content[: len(told)] = np.frombuffer(told, np.uint8)
    return len(told)
