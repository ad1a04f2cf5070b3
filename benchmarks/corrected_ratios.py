"""Coverage of corrected ratios and their rho, where a model is biased by marker and by donor.

python benchmarks/corrected_ratios.py [STUDIES] [PICTURE.png]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.analysis.kernels.correlation import spearman
from fintune_xr.analysis.prediction_powered import Labelled, donor_ratios, mean_ratio, rho_of_true_ratios

TILES, CELLS = 5, 80
# Of a marker: the share of positive cells that is found, that of negative cells that is called positive.
MARKERS: Final = {"GFAP": (0.9, 0.05), "IBA1": (0.7, 0.2), "OLIG2": (0.95, 0.35)}
OF_DONORS: Final = 0.06  # Standard deviation of both between donors.


def study(
    rng: np.random.Generator, donors: int, annotated: int, marker: str, slope: float
) -> tuple[NDArray[np.float64], ...]:
    """True and counted ratios and the outcome of donors; of the first ones, both on their one annotated tile."""
    found, false = MARKERS[marker]
    outcome = rng.normal(size=donors)
    share = 1 / (1 + np.exp(-(-0.8 + slope * outcome + 0.5 * rng.normal(size=donors))))
    of_tile = np.clip(share[:, None] + 0.05 * rng.normal(size=(donors, TILES)), 0.01, 0.99)
    positive = rng.binomial(CELLS, of_tile)
    keeps = np.clip(found + OF_DONORS * rng.normal(size=donors), 0.02, 0.99)[:, None]
    invents = np.clip(false + OF_DONORS * rng.normal(size=donors), 0.0, 0.9)[:, None]
    called = rng.binomial(positive, np.broadcast_to(keeps, positive.shape))
    called += rng.binomial(CELLS - positive, np.broadcast_to(invents, positive.shape))
    total = TILES * CELLS
    first = slice(0, annotated)
    return (
        positive.sum(axis=1) / total, called.sum(axis=1) / total, outcome,
        positive[first, 0] / CELLS, called[first, 0] / CELLS,
    )  # fmt: skip


def true_rho(slope: float) -> float:
    """Rho of true ratios with the outcome over very many donors."""
    ratio, _, outcome, *_ = study(np.random.default_rng(0), 100_000, 1, "GFAP", slope)
    return float(spearman(ratio[None], outcome[None]).rho[0])


def coverage(studies: int, donors: int, annotated: int, marker: str, slope: float) -> list[float]:
    """Shares of studies whose intervals hold the truth: model's mean, corrected mean, donors, model's rho, rho."""
    target, held, widths = true_rho(slope), [], []
    for number in range(studies):
        rng = np.random.default_rng([number, donors, annotated])
        true, counted, outcome, seen, guessed = study(rng, donors, annotated, marker, slope)
        known = Labelled(seen, guessed)
        mean = mean_ratio(counted, known)
        _, low, high = donor_ratios(counted, known)
        rho = rho_of_true_ratios(counted, outcome, known, seed=number)
        half = 2.0 * counted.std(ddof=1) / np.sqrt(donors)
        plain = _plain(counted, outcome, rng)
        others = slice(annotated, None)
        held.append([
            abs(counted.mean() - true.mean()) <= half,
            mean.low <= true.mean() <= mean.high,
            float(np.mean(((low <= true) & (true <= high))[others])),
            plain[0] <= target <= plain[1],
            np.nan if np.isnan(rho.value) else rho.low <= target <= rho.high,
        ])  # fmt: skip
        widths.append(mean.high - mean.low)
    return [*np.nanmean(np.array(held, float), axis=0).tolist(), float(np.nanmean(widths))]


def _plain(ratio: NDArray[np.float64], outcome: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    drawn = rng.integers(0, ratio.size, (1000, ratio.size))
    found: NDArray[np.float64] = np.nanquantile(spearman(ratio[drawn], outcome[drawn]).rho, (0.025, 0.975))
    return found


def main() -> None:
    """Prints the table, and draws it where a place for a picture is named."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    columns = "mean, model's | mean, corrected | donors, corrected | rho, model's | rho, corrected"
    print(f"| marker | donors | annotated | {columns} |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for marker in MARKERS:
        for donors, annotated in ((24, 6), (70, 8), (70, 20)):
            found = coverage(studies, donors, annotated, marker, slope=0.8)
            rows.append((f"{marker}\n{donors}/{annotated}", found))
            shares = " | ".join(f"{100 * one:.0f} %" for one in found[:5])
            print(f"| {marker} | {donors} | {annotated} | {shares} |", flush=True)
    if len(sys.argv) > 2:
        _draw(Path(sys.argv[2]), rows)


def _draw(path: Path, rows: list[tuple[str, list[float]]]) -> None:
    from fintune_xr.analysis.figures.style import COLOURS, figure_bytes, new_figure, style

    names = ("mean, model's own", "mean, corrected", "donors, corrected", "rho, model's own", "rho, corrected")
    with style():
        figure = new_figure(9.0, 3.4)
        axes = figure.subplots()
        for at, name in enumerate(names):
            axes.plot(
                [100 * found[at] for _, found in rows], "osD^v"[at], color=COLOURS[at], label=name, ms=6, ls="none"
            )
        axes.axhline(95, color="#222222", lw=0.8)
        axes.set_xticks(range(len(rows)), labels=[name for name, _ in rows])
        axes.set_ylabel("intervals that hold the truth, %")
        axes.set_xlabel("marker, donors / annotated donors")
        axes.legend(loc="lower right", ncols=2)
    path.write_bytes(figure_bytes(figure, "png", dpi=150))


if __name__ == "__main__":
    main()
