"""How much memory this process has held at most, asked of Linux; NaN where the system does not tell."""

from __future__ import annotations

import math
from pathlib import Path

_KB_IN_GB = 1e6


def begin_peak_gb() -> float:
    """Resident memory now in GB; peaks are counted from here on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return math.nan
    return _told("VmRSS")


def peak_gb() -> float:
    """Resident memory in GB at its peak since `begin_peak_gb`."""
    return _told("VmHWM")


def _told(name: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return float(found[0]) / _KB_IN_GB if found else math.nan
