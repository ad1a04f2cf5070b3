"""Labels as plain strings: stored ones are NumPy's variable-length text, which does not cast to others."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray


def texts(labels: xr.DataArray) -> list[str]:
    """Values of a one-dimensional label array as Python strings."""
    return [str(value) for value in labels.values.tolist()]


def text_array(labels: xr.DataArray) -> NDArray[np.str_]:
    """The same as a NumPy array of fixed-width text."""
    return np.array(texts(labels), dtype=np.str_)


def with_numbers(names: Sequence[str], *, first: int = 0) -> str:
    """Names for people, each with its number: `0 healthy, 1 pre_diabetes`."""
    return ", ".join(f"{number} {name}" for number, name in enumerate(names, start=first))


def not_the_file(head: bytes) -> str:
    """What a file is that begins with `head` where a download left something else; empty where it is none of that."""
    if not head:
        return "an empty file: the download broke off"
    start = head[:512].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, and not the file: fetch it with `git lfs pull`"
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page, as a download that was refused leaves it: fetch the file again"
    return ""


def one_spelling(text: str) -> str:
    """`text` with its letters composed (Unicode's NFC): macOS writes `ü` as two characters, others as one."""
    return unicodedata.normalize("NFC", text)


def each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of which `json.loads(object_pairs_hook=each_once)` would let the last of equal keys win.

    Raises ValueError for a key that is there twice.
    """
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"{key!r} is there twice")
        seen[key] = value
    return seen
