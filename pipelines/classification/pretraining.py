"""What the pretraining of encoders has seen of the participants that they are judged on, as far as anybody tells."""

from __future__ import annotations

from typing import Final

from fintune_xr import names as n
from fintune_xr.models.vjepa2.kind import RANDOM_KIND
from fintune_xr.models.volume_profile.kind import VOLUME_PROFILE
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import texts

FLOORS: Final = (VOLUME_PROFILE.name, RANDOM_KIND.name)
"""Models that need no pretraining."""
_LISTED: Final = 12


def pretraining_lines(cohort: Cohort, part: str) -> tuple[str, ...]:
    """For each encoder whose pretraining was told, the participants of `part` that it saw; of the others, that nobody
    knows, and what that means."""
    encoders = [run for run in cohort.run_names() if _is_pretrained(cohort, run)]
    told = {run: seen for run in encoders if (seen := _told(cohort, run)) is not None}
    lines = [_line(run, seen, _participants(cohort, part), part) for run, seen in told.items()]
    if unknown := [run for run in encoders if run not in told]:
        lines.append(
            f"What the pretraining of {', '.join(unknown)} has seen is not known: images of participants of part "
            f"{part}, though no labels, may have been among it."
        )
    return tuple(lines)


def _line(run: str, seen: set[str], participants: list[str], part: str) -> str:
    known = [who for who in participants if who in seen]
    if not known:
        return f"The pretraining of {run} has seen no image of the {len(participants)} participants of part {part}."
    listed = ", ".join(known[:_LISTED]) + (f" and {len(known) - _LISTED} more" if len(known) > _LISTED else "")
    return (
        f"The pretraining of {run} has seen images, though no labels, of {len(known)} of the {len(participants)} "
        f"participants of part {part}: {listed}."
    )


def _participants(cohort: Cohort, part: str) -> list[str]:
    images = cohort.images(lazy=False)
    pairs = zip(texts(images[n.DONOR]), texts(images[n.SPLIT]), strict=True)
    return sorted({donor for donor, where in pairs if where == part})


def _told(cohort: Cohort, run: str) -> set[str] | None:
    """The participants that were named when the run was made, or when another run of the same weights was."""
    digest = cohort.run_attrs(run)[n.IDENTITY].get("checkpoint_sha256")
    start = cohort.run_attrs(run)[n.PROVENANCE].get(n.TRAINING, {}).get("start") or {}
    weights = {one for one in (digest, start.get("sha256")) if one}
    for other in cohort.run_names():
        attrs = cohort.run_attrs(other)
        named = attrs[n.PROVENANCE].get(n.PRETRAINING_SEEN)
        if named is not None and (other == run or attrs[n.IDENTITY].get("checkpoint_sha256") in weights):
            return set(named)
    return None


def _is_pretrained(cohort: Cohort, run: str) -> bool:
    """Whether a run holds embeddings of an encoder whose weights come from somewhere."""
    kind = cohort.run_attrs(run)[n.IDENTITY].get("checkpoint_kind")
    return n.EMBEDDING in cohort.run(run) and kind not in FLOORS
