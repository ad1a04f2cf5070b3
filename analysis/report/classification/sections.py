"""What volumes there are, and how well runs tell classes of participants apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.figures.leaderboard import confusion_figure, leaderboard_figure
from fintune_xr.analysis.figures.style import PICTURE_DPI, data_uri
from fintune_xr.analysis.figures.volumes import ShownVolume, volumes_figure
from fintune_xr.analysis.report.contents import Fold, Note, Part, Picture, Section, Stale, Table
from fintune_xr.analysis.report.numbers import count_text, decimals, with_interval
from fintune_xr.text import texts

EVALUATE: Final = "fintune-xr evaluate STORE"
_SHOWN: Final = {
    n.BALANCED_ACCURACY: "balanced accuracy",
    n.MACRO_F1: "macro F1",
    n.MEAN_AUROC: "mean AUROC",
    n.ACCURACY: "accuracy",
}
_NOT_RECOMMENDED: Final = "This is not the recommended split"


@dataclass(frozen=True, slots=True, eq=False)
class VolumeContents:
    """Tables of what was ingested, the first volume of each device, and tiles that are not where the study has them."""

    devices: pd.DataFrame
    groups: pd.DataFrame
    classes: pd.DataFrame
    unusual: pd.DataFrame
    first: tuple[ShownVolume, ...]
    n_not_recommended: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ClassContents:
    """Stored scores of each part, the part that judges first, with their tables for people and lines about them.

    `ranks` are shared ranks of the runs in the judging part; `exposure` says of runs what their pretraining has seen.
    """

    scores: Mapping[str, xr.Dataset] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    floors: tuple[str, ...] = ()
    exposure: tuple[str, ...] = ()
    stale: tuple[Stale, ...] = ()

    @property
    def order(self) -> list[str]:
        """Runs by their rank, then as scored."""
        return sorted(self.ranks, key=lambda run: self.ranks[run])


def volumes_section(contents: VolumeContents) -> Section:
    """Sizes by device, scans by group and part, odd volumes, and pictures by which axes are judged."""
    parts: list[Part] = []
    findings: list[Note] = []
    if contents.n_not_recommended:
        moved = count_text(contents.n_not_recommended, "scan lies", "scans lie")
        note = Note(f"{_NOT_RECOMMENDED}: {moved} in another part than the study recommends.", "doubtful")
        parts.append(note)
        findings.append(note)
    parts += [
        Table("devices", _SIZES, contents.devices, code=(n.MARKER,), page=_ranges(contents.devices)),
        Table("study_groups", "Scans and participants by study group and part", contents.groups),
        Fold("The same by device", (Table("study_groups_by_device", "The same by device", contents.classes),)),
    ]
    if len(contents.unusual):
        caption = "Volumes that are unlike the others of their device; they are stored and counted like any other"
        parts.append(Table("unusual", caption, contents.unusual, code=(n.TILE,)))
    if contents.first:
        caption = (
            "The first volume of each device, as it is stored. Look at it: B-scans must show the layers of the retina "
            "with the vitreous above, and the view from above one field without stripes. If not, the axes are others "
            "than they were read as."
        )
        uri = data_uri(volumes_figure(contents.first), "jpeg", dpi=PICTURE_DPI)
        parts.append(Picture(uri, "Three planes through the first volume of each device", caption))
    return Section("volumes", "Volumes", tuple(parts), findings=tuple(findings))


def classes_section(contents: ClassContents) -> Section:
    """The leaderboard of each part, who was taken for what, and the same by device, side and site."""
    if not contents.scores:
        return Section("classes", "Classes of participants", command=EVALUATE, stale=contents.stale)
    judge, first = next(iter(contents.scores.items()))
    findings = _findings(judge, first, contents)
    parts: list[Part] = [Note(_ABOUT)]
    parts += [Note(line, "doubtful") for line in contents.exposure]
    for part, table in contents.tables.items():
        parts += _leaderboard(part, table, contents.scores[part])
        parts += [Note(line) for line in contents.lines[part]]
    uri = data_uri(leaderboard_figure(contents.scores, contents.order, judge), "svg")
    parts.append(Picture(uri, "Balanced accuracy of the runs", "Balanced accuracy; a line is the interval."))
    best = _best(first)
    figure = confusion_figure(first.sel({n.RUN: best}), f"{best}, part {judge}")
    alt = f"Participants of part {judge}: truth and what {best} says"
    parts.append(Picture(data_uri(figure, "svg"), alt, f"{alt}; shades are shares of the truth."))
    parts.append(_by_group(first, judge))
    return Section(
        "classes", "Classes of participants", tuple(parts), findings=findings, stale=contents.stale, leads=True
    )


def _ranges(devices: pd.DataFrame) -> pd.DataFrame:
    """Smallest, median and largest of each side in one column."""
    page = devices[[n.MARKER, "scans", "participants"]].copy()
    for side in (n.DEPTH, n.HEIGHT, n.WIDTH):
        ends = devices[[f"{side}_{what}" for what in ("min", "median", "max")]].to_numpy()
        page[side] = [f"{low:g}" if low == high else f"{low:g}, {mid:g}, {high:g}" for low, mid, high in ends]
    return page


_SIZES: Final = "Sizes of the files by device: smallest, median and largest, or the one that all have"
_ABOUT: Final = (
    "The unit is a participant: the mean of the probabilities of the scans, then the most probable class. Balanced "
    "accuracy is the mean of the recalls of the classes. Runs share a rank where the interval of their difference to "
    "the best of the rank includes 0: they cannot be told apart by these participants."
)


def _leaderboard(part: str, table: pd.DataFrame, scores: xr.Dataset) -> list[Part]:
    """Scores of the runs in the order of `table`, and F1 of each class apart: both together are wider than a page."""
    one = scores.sel({n.RUN: table[n.RUN].tolist()})
    data, page = table[["rank", n.RUN]].copy(), table[["rank", n.RUN]].copy()
    for score, label in _SHOWN.items():
        ends = _ends(one, score)
        data[score], data[f"{score}_low"], data[f"{score}_high"] = one[score].values, *ends.T
        page[label] = [with_interval(*row) for row in zip(one[score].values, *ends.T, strict=True)]
    names = texts(one[n.CLASS])
    classes = pd.DataFrame(one[n.F1].transpose(n.RUN, n.CLASS).values, columns=names)
    classes.insert(0, n.RUN, table[n.RUN].tolist())
    caption = f"Runs on part {part}, best first; in brackets the 95 % interval"
    f1 = Table(f"f1_{part}", f"F1 of each class on part {part}", classes, dict.fromkeys(names, decimals(2)))
    return [Table(f"leaderboard_{part}", caption, data, dict.fromkeys(_SHOWN.values(), str), page), f1]


def _ends(scores: xr.Dataset, name: str) -> NDArray[np.float64]:
    """Both ends (run, 2) of the interval of a score; NaN where it has none."""
    interval = f"{name}_{n.INTERVAL}"
    if interval not in scores:
        return np.full((scores.sizes[n.RUN], 2), np.nan)
    ends: NDArray[np.float64] = scores[interval].transpose(n.RUN, n.QUANTILE).values
    return ends


def _findings(judge: str, scores: xr.Dataset, contents: ClassContents) -> tuple[Note, ...]:
    """The best run, and which others it cannot be told from."""
    best = _best(scores)
    value = float(scores[n.BALANCED_ACCURACY].sel({n.RUN: best}))
    text = f"{best} has the highest balanced accuracy of participants on part {judge}: {value:.2f}."
    level = [run for run, rank in contents.ranks.items() if rank == 1 and run != best]
    notes = [Note(text)]
    if level:
        notes.append(Note(f"It cannot be told apart from {', '.join(level)}.", "doubtful"))
    beaten = [run for run in contents.floors if run in contents.ranks and contents.ranks[run] == contents.ranks[best]]
    if beaten:
        told = f"No encoder is shown to be better than {', '.join(beaten)}, which needs no pretraining."
        notes.append(Note(told, "doubtful"))
    return tuple(notes)


def _best(scores: xr.Dataset) -> str:
    return str(scores[n.RUN].values[int(scores[n.BALANCED_ACCURACY].values.argmax())])


def _by_group(scores: xr.Dataset, part: str) -> Table:
    runs, groups = texts(scores[n.RUN]), texts(scores["group"])
    values = scores[f"by_group_{n.BALANCED_ACCURACY}"]
    rows: list[dict[str, object]] = []
    for at, group in enumerate(groups):
        row: dict[str, object] = {"group": group, "participants": int(scores["by_group_n_units"][at])}
        row |= {run: float(values.sel({n.RUN: run})[at]) for run in runs}
        rows.append(row)
    caption = (
        f"Balanced accuracy on part {part} by device, side and site; a participant may count in several. A ranking "
        "that holds in one group alone is a finding about that group"
    )
    return Table("by_group", caption, pd.DataFrame(rows), dict.fromkeys(runs, decimals(2)))


def shown_order(parts: Sequence[str], judge: str) -> list[str]:
    """`parts` with the judging one first."""
    return sorted(parts, key=lambda part: (part != judge, part))
