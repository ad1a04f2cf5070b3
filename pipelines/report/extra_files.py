"""What the verbs before a report passed over, as the store remembers it."""

from __future__ import annotations

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.clinical import join_lines
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import allowed_pairs


def lines_by_verb(cohort: Cohort) -> dict[str, list[str]]:
    """Lines about what was passed over, by the verb that did it; verbs that passed over nothing are not there."""
    attrs = cohort.images(lazy=False).attrs
    of_folders = {"ingest": n.PASSED_OVER, "annotate": n.UNUSED_ANNOTATIONS}
    found = {
        verb: [line for lines in attrs.get(name, {}).values() for line in lines] for verb, name in of_folders.items()
    }
    if cohort.has(n.CLINICAL):
        facts = cohort.read(n.CLINICAL, datasets.CLINICAL)
        found["associate"] = [*join_lines(facts), *facts.attrs.get(n.OTHERWISE_SPELT, [])]
    found["split"] = [
        f"{pair.first} and {pair.second} look alike and lie on two sides of the split: {pair.reason}"
        for pair in allowed_pairs(cohort)
    ]
    return {verb: lines for verb, lines in found.items() if lines}
