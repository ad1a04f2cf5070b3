"""Figures: what they show is what the arrays hold, and drawing them changes nothing global."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from fintune_xr import names as n
from fintune_xr.analysis.figures import overlays as pictures
from fintune_xr.analysis.figures import statistics as figures
from fintune_xr.analysis.figures import studies as study_figures
from fintune_xr.analysis.figures import style as figure_style
from fintune_xr.analysis.figures.points import Axis, Points, scatter_svg
from fintune_xr.analysis.figures.positivity import signal_figure
from fintune_xr.analysis.kernels import thresholds
from fintune_xr.seeds import stream

RUNS, DONORS, MARKERS, OUTCOMES = ["base", "tuned"], ["d1", "d2", "d3"], ["GFAP", "IBA1"], ["nft", "cogdx"]
RMO = (n.RUN, n.MARKER, n.OUTCOME)
REASON = "the outcome is the same in all donors"


def _coords(*dims: str) -> dict[str, list[str]]:
    known = {n.RUN: RUNS, n.DONOR: DONORS, n.MARKER: MARKERS, n.OUTCOME: OUTCOMES}
    return {dim: known[dim] for dim in dims}


def _ratio() -> xr.DataArray:
    values = stream(1).uniform(0.1, 0.6, (2, 3, 2))
    values[0, 1, 0] = np.nan
    return xr.DataArray(values, dims=(n.RUN, n.DONOR, n.MARKER), coords=_coords(n.RUN, n.DONOR, n.MARKER))


def _association() -> xr.Dataset:
    rho = np.array([[[0.9, np.nan], [-0.001, 0.2]], [[0.7, np.nan], [0.1, -0.5]]])
    q = np.array([[[0.0004, np.nan], [0.9, 0.8]], [[0.03, np.nan], [0.6, 0.2]]])
    reason = np.where(np.isnan(rho), REASON, "")
    parts = {n.RHO: (RMO, rho), n.Q: (RMO, q), n.REASON: (RMO, reason)}
    return xr.Dataset(parts, coords=_coords(*RMO))


def _texts(figure: Figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [*found, figure.get_supxlabel()]


def test_ratio_figure_has_a_panel_per_marker_and_a_point_per_known_ratio() -> None:
    figure = figures.ratio_figure(_ratio())
    assert [axes.get_title(loc="left") for axes in figure.axes] == MARKERS
    base, tuned = figure.axes[0].collections[0], figure.axes[0].collections[2]
    shown = np.sort(np.ma.compressed(base.get_offsets()[:, 1]))
    np.testing.assert_allclose(shown, np.sort(_ratio().sel(run="base", marker="GFAP").dropna(n.DONOR)))
    assert len(tuned.get_offsets()) == 3


def test_ratio_figure_takes_rules_instead_of_runs() -> None:
    by_rule = _ratio().rename({n.RUN: n.RULE})
    figure = figures.ratio_figure(by_rule, over=n.RULE)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == RUNS


def test_association_figure_marks_by_q_and_hatches_what_is_missing() -> None:
    figure = figures.association_figure(_association())
    texts = _texts(figure)
    assert "+0.90***" in texts
    assert "+0.70*" in texts
    assert "+0.00" in texts, "a rho that rounds to zero has no minus sign"
    assert texts.count("a") == 2
    assert f"a  {REASON}" in texts[-1]
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    hatched = [patch for patch in patches if patch.get_hatch()]
    assert {(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in hatched} == {(1.0, 0.0), (1.0, 2.0)}


def test_bootstrap_figure_says_where_no_resample_has_a_value() -> None:
    association = _association()
    samples = association[n.RHO] + xr.DataArray(stream(2).normal(0, 0.1, 50), dims=n.RESAMPLE)
    summary = xr.Dataset({"low": association[n.RHO] - 0.2, "high": association[n.RHO] + 0.2})
    figure = figures.bootstrap_figure(samples.clip(-1, 1), association[n.RHO], summary)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no value", "no value"]
    assert not figure.axes[1].texts


def _scores() -> tuple[xr.DataArray, xr.DataArray]:
    scores = xr.DataArray([[0.5, 0.4], [0.8, 0.7]], dims=(n.RUN, "item"), coords={n.RUN: RUNS})
    interval = xr.concat([scores - 0.1, scores + 0.1], n.QUANTILE).assign_coords({n.QUANTILE: [0.025, 0.975]})
    return scores, interval.transpose(n.RUN, "item", n.QUANTILE)


def test_score_bars_have_the_height_of_the_scores() -> None:
    figure = figures.score_bars_figure(*_scores(), labels=["AP", "F1"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.5, 0.4, 0.8, 0.7]


def test_difference_figure_leaves_out_the_reference_but_keeps_the_colours_of_all_runs() -> None:
    scores, interval = _scores()
    base = scores.sel({n.RUN: "base"}, drop=True)
    difference = (scores - base).assign_coords({n.REFERENCE: "base"})
    figure = figures.difference_figure(difference, interval - base, labels=["AP", "F1"], unit="difference")
    points = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    assert len(points) == 2
    assert {line.get_color() for line in points} == {figure_style.COLOURS[1]}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tuned"]


def test_threshold_figure_draws_every_run_at_every_threshold() -> None:
    scores, interval = _scores()
    scores = scores.rename(item=n.THRESHOLD).assign_coords({n.THRESHOLD: [0.5, 0.75]})
    figure = figures.threshold_figure(scores, interval.rename(item=n.THRESHOLD))
    for line, run in zip(figure.axes[0].lines, RUNS, strict=True):
        np.testing.assert_allclose(line.get_ydata(), scores.sel({n.RUN: run}))


def test_learning_curve_and_grid_show_means_and_frame_the_best() -> None:
    score = xr.DataArray([[0.1, 0.3], [0.4, np.nan]], dims=("budget", "seed"), coords={"budget": [2, 5]})
    figure = study_figures.learning_curve_figure(score, over="budget", saturation=4)
    assert figure.axes[0].get_ylim()[1] > 1.06 * float(score.max()), "points at the top are whole"
    (mean,) = [line for line in figure.axes[0].lines if line.get_label() == "mean of repeats"]
    np.testing.assert_allclose(mean.get_ydata(), [0.2, 0.4])
    grid = study_figures.grid_figure(xr.DataArray([[0.1, 0.9], [0.3, 0.2]], dims=("row", "column")))
    assert [text.get_text() for text in grid.axes[0].texts if text.get_fontweight() == "bold"] == ["0.900"]


def _tile() -> xr.Dataset:
    image = stream(3).integers(0, 4000, (2, 40, 40)).astype("uint16")
    mask = np.zeros((2, 40, 40), dtype="uint32")
    mask[:, 5:15, 5:15] = 1
    mask[1, 20:30, 20:30] = 2
    return xr.Dataset(
        {n.IMAGE: ((n.CHANNEL, n.Y, n.X), image), n.MASK: ((n.RUN, n.Y, n.X), mask)},
        coords={
            n.RUN: RUNS,
            n.CHANNEL: [n.DAPI, n.MARKER_CHANNEL],
            n.MARKER: "GFAP",
            n.HEIGHT: 32,
            n.WIDTH: 36,
            n.TILE: "t",
        },
    )


def test_tile_figure_shows_the_valid_corner_and_counts_cells() -> None:
    figure = pictures.tile_figure(_tile())
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["DAPI + GFAP", "base: 1 cell", "tuned: 2 cells"]
    for axes in figure.axes:
        height, width, _ = axes.images[0].get_array().shape
        assert height * 36 == width * 32


def test_tile_figure_has_a_scale_bar_where_the_size_of_a_pixel_is_known() -> None:
    def words(tile: xr.Dataset) -> list[str]:
        return [text.get_text() for text in pictures.tile_figure(tile).axes[0].texts]

    known = _tile().assign_coords({n.MPP: 0.5})
    assert words(known) == ["5 µm"]
    (bar,) = pictures.tile_figure(known).axes[0].lines
    left, right = bar.get_xdata()
    assert (right - left) * 36 * 0.5 == pytest.approx(5)
    assert words(_tile()) == words(_tile().assign_coords({n.MPP: 0.0})) == []


@pytest.mark.parametrize(
    ("channels", "marker", "title"),
    [([n.MARKER_CHANNEL], "microglia", "microglia"), (["nuclei"], "x", "nuclei"), (["a", "b"], "x", "a + b")],
)
def test_tile_figure_names_the_planes_that_it_shows(channels: list[str], marker: str, title: str) -> None:
    tile = _tile().isel({n.CHANNEL: slice(len(channels))}).assign_coords({n.CHANNEL: channels, n.MARKER: marker})
    assert pictures.tile_figure(tile).axes[0].get_title(loc="left") == title


def test_a_single_plane_is_grey() -> None:
    picture = pictures.composite(stream(5).integers(0, 255, (1, 8, 8)).astype(np.uint8))
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])
    assert picture.max() > 0.8


def test_outlines_lie_inside_instances_and_separate_neighbours() -> None:
    mask = np.zeros((12, 12), dtype=np.uint32)
    mask[2:8, 2:6] = 1
    mask[2:8, 6:10] = 2
    border = pictures.outlines(mask, zoom=3)
    assert not border[np.kron(mask, np.ones((3, 3), dtype=int)) == 0].any()
    assert border[12, 16:20].all()
    assert not border[14, 10]


@given(scale=st.floats(0.5, 50.0), shift=st.integers(0, 500))
def test_composite_does_not_depend_on_the_scale_of_the_counts(scale: float, shift: int) -> None:
    planes = stream(4).integers(0, 1000, (2, 16, 16)).astype(float)
    np.testing.assert_allclose(
        pictures.composite(planes * 100), pictures.composite(planes * 100 * scale + shift), atol=1e-3
    )


def test_same_arrays_give_the_same_bytes() -> None:
    first, second = (figure_style.figure_bytes(figures.ratio_figure(_ratio()), "svg") for _ in range(2))
    assert first == second
    assert figure_style.data_uri(figures.ratio_figure(_ratio()), "png").startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("svg", {"metadata": {"Date": None}}),
        ("pdf", {"metadata": {"CreationDate": None}}),
        ("png", {}),
        ("jpeg", {"pil_kwargs": {"quality": 85, "subsampling": 0}}),
    ],
)
def test_a_file_is_the_one_that_matplotlib_saves_and_is_drawn_once(
    kind: str, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = io.BytesIO()
    with figure_style.style():
        figures.ratio_figure(_ratio()).savefig(saved, format=kind, dpi=90, **told)
    drawn = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: drawn.append(kind) or draw(self, renderer))
    assert figure_style.figure_bytes(figures.ratio_figure(_ratio()), kind, dpi=90) == saved.getvalue()
    assert drawn == [kind]


def test_a_histogram_holds_each_cell_on_its_side_of_the_threshold() -> None:
    centres = (thresholds.EDGES[:-1] + thresholds.EDGES[1:]) / 2
    cells = stream(5).integers(0, 9, (3, centres.size)) * np.array([[1], [1], [0]])
    limit = xr.DataArray([100.0, np.nan, 100.0], dims=n.MARKER)
    counts = xr.DataArray(cells, {n.MARKER: ["GFAP", "IBA1", "none"], n.BIN: centres}, (n.MARKER, n.BIN))
    panels = signal_figure(counts, limit, limit).axes
    found = [[one.get_data() for one in axes.patches if isinstance(one, StepPatch)] for axes in panels]
    (below, above), (all_of_it,), nothing = found
    # As many bins as fit are put together by twelves; none is divided.
    assert below.values.sum() + above.values.sum() == cells[0, : centres.size // 12 * 12].sum()
    assert below.edges[-1] == pytest.approx(above.edges[0])
    assert below.edges[-1] == pytest.approx(np.log1p(100), abs=12 * (centres[1] - centres[0]))
    assert all_of_it.values.sum() == cells[1, : centres.size // 12 * 12].sum()
    assert not nothing


@pytest.mark.parametrize("width", [1.5, 2.9, 3.3, 9.0])
def test_lines_below_are_not_wider_than_the_figure(width: float) -> None:
    figure = figure_style.new_figure(width, 3.0)
    figure.subplots()
    figure_style.line_below(
        figure, "Outlines: orange positive, blue negative, grey where the rule could not tell", "* q < 0.05"
    )
    figure.draw_without_rendering()
    (box,) = (text.get_window_extent() for text in figure.texts)
    assert box.x1 <= figure.bbox.x1


def test_drawing_leaves_global_settings_alone() -> None:
    before = dict(mpl.rcParams)
    figures.association_figure(_association())
    assert dict(mpl.rcParams) == before


def test_no_name_is_told_by_colour_alone() -> None:
    names = [f"run {index}" for index in range(7)]
    assert len(set(figure_style.colour_of(names).values())) == 7
    assert len(set(figure_style.mark_of(names).values())) == 7


@pytest.mark.slow
def test_figures_need_neither_pyplot_nor_torch() -> None:
    figures = ("statistics", "overlays", "studies")
    modules = ", ".join(f"fintune_xr.analysis.figures.{figure}" for figure in figures)
    code = f"import sys, {modules}; print([m for m in ('matplotlib.pyplot', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_long_names_of_axes_are_no_longer_than_their_axis() -> None:
    points = Points(np.array([1.0, 2.0]), np.array([1.0, 2.0]), ("a", "b"))
    for label, is_long in (("GFAP median:mean_intensity.marker (counts)", True), ("GFAP share", False)):
        drawn = ElementTree.fromstring(scatter_svg(points, x=Axis("nft"), y=Axis(label), colour="#000"))
        (text,) = [one for one in drawn.iter("text") if one.text == label]
        assert ("textLength" in text.attrib) == is_long
        upright = [
            line for line in drawn.iter("line") if line.get("class") == "axis" and line.get("x1") == line.get("x2")
        ]
        length = abs(float(upright[0].get("y2", "0")) - float(upright[0].get("y1", "0")))
        assert not is_long or 0 < float(text.get("textLength", "inf")) <= length
