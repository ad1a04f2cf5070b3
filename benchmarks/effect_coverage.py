"""How often the interval of an effect between groups of donors holds the truth.

Simulated: normal readouts, each group higher than the one before by a shift in standard deviations; groups of the same
size, or subjects seen two or three times. The truth is taken from a great many donors. Studies in which no interval is
given, because all resamples agree, are counted beside, and are in no share.
"""

from __future__ import annotations

import itertools

import numpy as np
from table import Fact, print_table

from fintune_xr.analysis.group_tests import effect_interval
from fintune_xr.analysis.kernels.rank_tests import Floats, independent_effect, repeated_effect
from fintune_xr.seeds import stream

N_STUDIES = 200
# The truth of many donors is itself known to a thousandth.
SLACK = 1e-3
SIZES = (5, 8, 12, 25)
SHIFTS = (0.0, 0.7, 1.5)


def _samples(size: int, shift: float, n_groups: int, repeated: bool, rng: np.random.Generator) -> list[Floats]:
    own = rng.normal(0, 1, size) if repeated else np.zeros(size)
    return [own + rng.normal(group * shift, 1, size) for group in range(n_groups)]


def _truth(shift: float, n_groups: int, repeated: bool) -> float:
    many = _samples(50_000, shift, n_groups, repeated, stream(1, "truth of effects"))
    return float(repeated_effect(np.column_stack(many))) if repeated else float(independent_effect(many))


def rows() -> list[Fact]:
    """A row for each design, shift and size of a group."""
    found: list[Fact] = []
    for n_groups, repeated, shift, size in itertools.product((2, 3), (False, True), SHIFTS, SIZES):
        expected = _truth(shift, n_groups, repeated)
        rng = stream(0, "effect coverage", size, int(10 * shift), n_groups, int(repeated))
        studies = [_samples(size, shift, n_groups, repeated, rng) for _ in range(N_STUDIES)]
        ends = np.array([effect_interval(one, repeated=repeated) for one in studies])
        given = np.isfinite(ends).all(axis=1)
        held = float(np.mean((ends[given, 0] <= expected + SLACK) & (expected - SLACK <= ends[given, 1])))
        design = f"{size} subjects, {n_groups} times" if repeated else f"{n_groups} groups of {size}"
        ours = f"{held:.1%} of {given.mean():.1%} with an interval"
        found.append(Fact(what=f"{design}, shift {shift:g}", ours=ours, reach="", reached=None))
    return found


if __name__ == "__main__":
    print_table(rows())
