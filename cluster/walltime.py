"""Slurm's way of writing times."""

from __future__ import annotations

import re

_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")
_DAY = 86_400


def slurm_seconds(walltime: str) -> int:
    """Seconds of a walltime as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises ValueError for anything else, and for no time at all.
    """
    matched = _WALLTIME.fullmatch(walltime)
    if matched is None:
        raise ValueError(f"expected HH:MM:SS or D-HH:MM:SS, got {walltime!r}")
    parts = [int(part) for part in matched["clock"].split(":")]
    if matched["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = 0, *(*parts, 0)[:2]
    total = int(matched["days"] or 0) * _DAY + hours * 3600 + minutes * 60 + seconds
    if total <= 0:
        raise ValueError(f"a walltime of {walltime!r} is no time at all")
    return total
