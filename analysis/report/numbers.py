"""How numbers read on the page: as many digits as mean something, and a dash where there is no number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

Format = Callable[[Any], str]

MISSING: Final = "–"


def value_text(value: Any, format_: Format | None = None) -> str:
    """`value` as text, by `format_` or as its type suggests; a dash where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if format_ is not None:
        return format_(value)
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return whole(value)
    return decimals(3)(value) if isinstance(value, (float, np.floating)) else str(value)


def decimals(digits: int, *, signed: bool = False) -> Format:
    """A format with a fixed number of `digits` after the point; never a minus zero."""

    def text(value: Any) -> str:
        rounded = round(float(value), digits) + 0.0
        return minus(f"{rounded:+.{digits}f}" if signed else f"{rounded:.{digits}f}")

    return text


def whole(value: Any) -> str:
    """A whole number with thin spaces between thousands."""
    return minus(f"{int(value):,}".replace(",", "\u202f"))


def percent(value: Any) -> str:
    """A share as per cent, with one decimal."""
    return f"{100 * float(value):.1f}\u202f%"


def probability(value: Any) -> str:
    """A p- or q-value: three decimals, below 0.001 two significant digits and a power of ten, which stay together."""
    number = float(value)
    if number == 0:
        return "0"
    if number >= 0.001:
        return f"{number:.3f}"
    digits, power = f"{number:.1e}".split("e")
    return f"{digits}\u00a0×\u00a010{_raised(int(power))}"


def with_interval(value: float, low: float, high: float, *, digits: int = 2, signed: bool = False) -> str:
    """`0.51 [0.48, 0.55]`; without the brackets where there is no interval."""
    text = decimals(digits, signed=signed)
    if math.isnan(value):
        return MISSING
    if math.isnan(low) or math.isnan(high):
        return text(value)
    return f"{text(value)} [{text(low)}, {text(high)}]"


def share_interval(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """A share with its interval, or a difference of shares, in per cent: `38.2 [29.3, 47.2]`."""
    return with_interval(100 * value, 100 * low, 100 * high, digits=1, signed=signed)


def count_text(number: int, one: str, many: str) -> str:
    """`1 tile`, `2 tiles`."""
    return f"{whole(number)} {one if number == 1 else many}"


def minus(text: str) -> str:
    """`text` with a true minus sign instead of a hyphen."""
    return text.replace("-", "\u2212")


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
