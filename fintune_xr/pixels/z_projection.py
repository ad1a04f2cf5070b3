"""One plane of a stack along z: its maximum, its mean, its sharpest plane, or the plane of a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name

MAX: Final = "max"
MEAN: Final = "mean"
FOCUS: Final = "focus"
# Stands for the plane of a stack whose planes were joined.
JOINED: Final = -1

_WORDS: Final = {MAX: "the maximum", MEAN: "the mean", FOCUS: "the sharpest plane (normalised variance)"}


def check_projection(how: str) -> str:
    """`how` itself, once it is max, mean, focus, or the number of a plane from 0 on.

    Raises UnknownNameError otherwise.
    """
    if how in _WORDS or (how.isascii() and how.isdigit()):
        return how
    raise unknown_name("way to make one plane for --z", how, _WORDS, "Or give the number of a plane, from 0 on.")


def projection(stacks: Sequence[NDArray[Any]], how: str) -> tuple[list[NDArray[Any]], int]:
    """One plane (y, x) for each of `stacks` (z, y, x), the channels of one tile, and which it is, -1 where all of them.

    `max` is the greatest value of each pixel, `mean` its mean, rounded to whole numbers (halves to even ones), `focus`
    the plane that `focus_plane` chooses for all channels together. The dtype stays.

    Raises FintuneValueError where there is no such plane.
    """
    if how == MAX:
        return [stack.max(axis=0) for stack in stacks], JOINED
    if how == MEAN:
        return [np.rint(stack.mean(axis=0)).astype(stack.dtype) for stack in stacks], JOINED
    at = focus_plane(stacks) if how == FOCUS else int(how)
    if at >= min(map(len, stacks)):
        raise FintuneValueError(f"no plane {at} in a stack of {min(map(len, stacks))}, counted from 0")
    return [stack[at] for stack in stacks], at


def focus_plane(stacks: Sequence[NDArray[Any]]) -> int:
    """The sharpest plane of `stacks` (z, y, x), the channels of one tile: one for all, so that they stay in register.

    Sharpness of each channel counts as a share of its greatest, so that a bright stain says no more than a faint one;
    of planes that are equally sharp the first is taken.
    """
    total = np.zeros(len(stacks[0]))
    for stack in stacks:
        sharp = sharpness(stack)
        total += sharp / sharp.max() if sharp.max() > 0 else 0.0
    return int(total.argmax())


def sharpness(stack: NDArray[Any]) -> NDArray[np.float64]:
    """Normalised variance of each plane of `stack` (z, y, x): variance over mean, 0 where a plane is empty; (z,).

    Reference: Groen, Young & Ligthart 1985, Cytometry 6:81; the best of 18 measures for fluorescence in Sun, Duthaler
    & Nelson 2004, Microsc. Res. Tech. 65:139.
    """
    mean: NDArray[np.float64] = stack.mean(axis=(1, 2), dtype=np.float64)
    found = np.zeros_like(mean)
    np.divide(stack.var(axis=(1, 2), dtype=np.float64), mean, out=found, where=mean > 0)
    return found


def projection_words(images: xr.Dataset) -> str:
    """How stacks became the tiles of `images`, in words with the number of their planes; empty where none did."""
    how = str(images.attrs.get(n.Z_PROJECTION, ""))
    return projection_text(how, images[n.Z_PLANES].values.tolist()) if how and n.Z_PLANES in images.coords else ""


def projection_text(how: str, planes: Sequence[int]) -> str:
    """In words what `how` makes of stacks of so many `planes` each."""
    least, most = min(planes, default=0), max(planes, default=0)
    count = f"{most}" if least == most else f"{least} to {most}"
    return f"{_WORDS.get(how, f'plane {how}, counted from 0,')} of z-stacks of {count} planes"
