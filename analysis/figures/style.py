"""How every figure looks, and how a figure becomes bytes or a data URI; no global state outlives a call."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe & Ito 2008: distinguishable with every common colour vision; the yellow is left out on white.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK: Final = "#222222"
FAINT: Final = "#8a8f98"
RULE_COLOUR: Final = "#d9dce1"
MARKS: Final = ("o", "s", "D", "^", "v", "P", "X")

# Enough to see borders of cells when a picture of tiles is enlarged on the page.
PICTURE_DPI: Final = 160

_STYLE: Final[Mapping[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE_COLOUR,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "hatch.color": FAINT,
    "hatch.linewidth": 0.6,
    # Paths instead of text: the same picture on every machine, and the same bytes for the same data.
    "svg.fonttype": "path",
    "svg.hashsalt": "fintune-xr",
}


# Of text of 8.5 points: fewer than fit on average, so that wide letters do too.
_LETTERS_IN_AN_INCH: Final = 13


@contextmanager
def style() -> Iterator[None]:
    """A context in which figures are drawn in the house style."""
    with mpl.rc_context(dict(_STYLE)):
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure of that size that lays out its own parts."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def colour_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in the given order; beyond seven names they repeat."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def mark_of(names: Sequence[str]) -> dict[str, str]:
    """A marker shape for each name, so that no figure relies on colour alone."""
    return {name: MARKS[index % len(MARKS)] for index, name in enumerate(names)}


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend over all panels, up to four entries a row, read row by row: matplotlib would fill it by columns."""
    columns = min(len(handles), 4)
    ordered = [handles[at] for column in range(columns) for at in range(column, len(handles), columns)]
    figure.legend(handles=ordered, loc="outside upper left", ncols=max(columns, 1))


def line_below(figure: Figure, *lines: str) -> None:
    """Lines under all panels, broken where the figure is too narrow for them."""
    most = int(figure.get_figwidth() * _LETTERS_IN_AN_INCH)
    text = "\n".join(textwrap.fill(line, most) for line in lines)
    figure.supxlabel(text, fontsize=8.5, x=0.01, ha="left")


def bare(axes: Axes) -> None:
    """Takes ticks, grid and frame off `axes`, for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def figure_bytes(figure: Figure, kind: str, *, dpi: int = 150) -> bytes:
    """`figure` as a file of `kind` (svg, png, jpeg, pdf); equal figures give equal bytes."""
    buffer = io.BytesIO()
    with style():
        figure.set_dpi(dpi)
        # What `savefig` calls in the end. It draws the figure twice, once for its layout alone; drawing lays out.
        _PRINTED[kind](figure, buffer)
    return buffer.getvalue()


def _print_svg(figure: Figure, buffer: io.BytesIO) -> None:
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]


def _print_pdf(figure: Figure, buffer: io.BytesIO) -> None:
    # Slow to import, and no page needs it.
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    FigureCanvasPdf(figure).print_pdf(buffer, metadata={"CreationDate": None})  # type: ignore[no-untyped-call]


def _print_png(figure: Figure, buffer: io.BytesIO) -> None:
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]


def _print_jpeg(figure: Figure, buffer: io.BytesIO) -> None:
    # Photographs: at this quality, with colours as sharp as greys, outlines stay clean at a fifth of the size of PNG.
    FigureCanvasAgg(figure).print_jpg(buffer, pil_kwargs={"quality": 85, "subsampling": 0})  # type: ignore[no-untyped-call]


_PRINTED: Final[Mapping[str, Callable[[Figure, io.BytesIO], None]]] = {
    "svg": _print_svg,
    "pdf": _print_pdf,
    "png": _print_png,
    "jpeg": _print_jpeg,
}


def data_uri(figure: Figure, kind: str, *, dpi: int = 150) -> str:
    """`figure` as a data URI, for a page that needs no other file."""
    mime = {"svg": "image/svg+xml", "png": "image/png", "jpeg": "image/jpeg"}[kind]
    return f"data:{mime};base64,{base64.b64encode(figure_bytes(figure, kind, dpi=dpi)).decode()}"
