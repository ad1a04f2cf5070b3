"""Scatter plots as SVG that a page holds itself: text stays text, and every point says whose it is when pointed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fintune_xr.analysis.figures.style import INK

_WIDTH: Final = 300.0
_HEIGHT: Final = 220.0
_LEFT: Final = 44.0
_RIGHT: Final = 8.0
_TOP: Final = 8.0
_BOTTOM: Final = 36.0
_RADIUS: Final = 4.5
_TICKS: Final = 5
# Width of a letter at most, of those that names of readouts are of.
_LETTER: Final = 6.5


@dataclass(frozen=True, slots=True)
class Axis:
    """What is along an axis, and whether its numbers are shares that read as per cent.

    With `names` it has places 1, 2, … that are called so, and no numbers between them.
    """

    label: str
    is_share: bool = False
    names: tuple[str, ...] = ()

    def text(self, value: float) -> str:
        """A number on the axis."""
        if self.names:
            return self.names[round(value) - 1]
        shown = f"{100 * value:g}%" if self.is_share else f"{value:g}"
        return shown.replace("-", "\u2212")


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """`x` and `y` (point,), both finite, and what is said of each point."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    names: Sequence[str]


def scatter_svg(points: Points, *, x: Axis, y: Axis, colour: str) -> str:
    """The points over two axes; nothing is fitted to them. All text is escaped."""
    svg = ET.Element("svg", viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", role="img")
    ET.SubElement(svg, "title").text = f"{y.label} against {x.label}, {len(points.names)} points"
    places = np.arange(1.0, len(x.names) + 1)
    ends = np.array([0.5, len(x.names) + 0.5]) if x.names else points.x
    across, up = _Scale.of(ends, _LEFT, _WIDTH - _RIGHT), _Scale.of(points.y, _HEIGHT - _BOTTOM, _TOP)
    for value in up.ticks:
        _line(svg, "grid", (_LEFT, up.at(value)), (_WIDTH - _RIGHT, up.at(value)))
        _text(svg, y.text(value), (_LEFT - 5, up.at(value) + 3.5), "end")
    for value in places.tolist() or across.ticks:
        _line(svg, "grid", (across.at(value), _TOP), (across.at(value), _HEIGHT - _BOTTOM))
        _text(svg, x.text(value), (across.at(value), _HEIGHT - _BOTTOM + 13), "middle")
    _line(svg, "axis", (_LEFT, _HEIGHT - _BOTTOM), (_WIDTH - _RIGHT, _HEIGHT - _BOTTOM))
    _line(svg, "axis", (_LEFT, _TOP), (_LEFT, _HEIGHT - _BOTTOM))
    _fit(_text(svg, x.label, ((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5), "middle"), _WIDTH - _LEFT - _RIGHT)
    label = _fit(_text(svg, y.label, (0, 0), "middle"), _HEIGHT - _TOP - _BOTTOM)
    label.set("transform", f"translate(10 {(_TOP + _HEIGHT - _BOTTOM) / 2:g}) rotate(-90)")
    for here, there, name in zip(points.x.tolist(), points.y.tolist(), points.names, strict=True):
        centre = {"cx": f"{across.at(here):.1f}", "cy": f"{up.at(there):.1f}"}
        circle = ET.SubElement(svg, "circle", centre, r=f"{_RADIUS:g}", fill=colour)
        ET.SubElement(circle, "title").text = name
    return ET.tostring(svg, encoding="unicode")


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where the numbers from `low` to `high` lie between two ends of the picture."""

    low: float
    high: float
    first: float
    last: float

    @classmethod
    def of(cls, values: NDArray[np.float64], first: float, last: float) -> _Scale:
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
        return cls(low - room, high + room, first, last)

    def at(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    @property
    def ticks(self) -> list[float]:
        found = MaxNLocator(_TICKS).tick_values(self.low, self.high)
        return [float(value) for value in found if self.low <= value <= self.high]


def _line(svg: ET.Element, kind: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    names = ("x1", "y1", "x2", "y2")
    places = {name: f"{value:.1f}" for name, value in zip(names, (*start, *end), strict=True)}
    ET.SubElement(svg, "line", {"class": kind, **places})


def _fit(text: ET.Element, room: float) -> ET.Element:
    """`text`, set narrower where it would be longer than `room`, so that none of it is cut off."""
    if _LETTER * len(text.text or "") > room:
        text.set("textLength", f"{room:g}")
        text.set("lengthAdjust", "spacingAndGlyphs")
    return text


def _text(svg: ET.Element, text: str, at: tuple[float, float], anchor: str) -> ET.Element:
    place = {"x": f"{at[0]:.1f}", "y": f"{at[1]:.1f}", "text-anchor": anchor, "fill": INK}
    made = ET.SubElement(svg, "text", place)
    made.text = text
    return made
