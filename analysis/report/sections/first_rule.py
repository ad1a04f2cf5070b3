"""Rules of positivity that were chosen after their rho was shown: marked, and the rule stated first leads."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Part


def rules_after_looking(analysis: xr.Dataset) -> dict[str, tuple[str, str]]:
    """The rule stated first and the one chosen since, of the runs whose active rule was chosen after rho was shown."""
    first, now = analysis.attrs.get(n.FIRST_RULES, {}), analysis.attrs.get("rules", {})
    runs = map(str, analysis[n.RUN].values)
    return {run: (first[run], now[run]) for run in runs if run in first and run in now and first[run] != now[run]}


def by_first_rules(analysis: xr.Dataset) -> xr.Dataset:
    """`analysis` with rho, p, q and n of the rule stated first where another one was chosen after looking."""
    changed = list(rules_after_looking(analysis))
    if not changed:
        return analysis
    is_changed = analysis[n.RUN].isin(changed)
    pairs = {n.RHO: n.FIRST_RHO, n.P: n.FIRST_P, n.Q: n.FIRST_Q, n.N: n.FIRST_N}
    nothing = xr.full_like(analysis[n.RHO], np.nan)
    first = {name: analysis.get(source, nothing) for name, source in pairs.items()}
    return analysis.assign({name: analysis[name].where(~is_changed, array) for name, array in first.items()})


def rule_notes(analysis: xr.Dataset | None) -> list[Part]:
    """What is to be known of rules that were chosen after their rho was shown."""
    if analysis is None:
        return []
    return [
        Note(
            f"Run {run}: the rule {now} was chosen after rho under every rule had been shown; {first} was stated "
            f"first. Tables by {now} are exploratory; the summary goes by {first}.",
            "doubtful",
        )
        for run, (first, now) in rules_after_looking(analysis).items()
    ]


def of_first_rule(run: str, analysis: xr.Dataset) -> list[Note]:
    """What the summary says before the findings of a run whose rule was chosen after looking."""
    changed = rules_after_looking(analysis)
    if run not in changed:
        return []
    first, now = changed[run]
    text = f"{run}: what follows goes by the rule {first}, stated first; {now} was chosen after rho under it was shown."
    return [Note(text, "doubtful")]
