"""`python -m benchmarks` runs all benchmarks of speed, `python -m benchmarks ingest scan` those two; it writes nothing.

`python -m benchmarks calibration` simulates studies whose truth is known and counts how often intervals hold it and
reports tell of nothing that is there; the names of its parts do too.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

NAMES = (
    "startup", "scan", "ingest", "volumes", "measurement", "flows", "matching", "bootstrap", "inference",
    "cellpose_sam", "tissue", "oct_encoders", "cell_files", "consolidated",
)  # fmt: skip

CALIBRATION = ("false_alarms", "interval_coverage", "rho_coverage", "effect_coverage")


def main(names: list[str]) -> int:
    """Exit status; prints one table for each benchmark."""
    names = [part for name in names for part in (CALIBRATION if name == "calibration" else (name,))]
    unknown = [name for name in names if name not in (*NAMES, *CALIBRATION)]
    if unknown:
        known = ", ".join((*NAMES, "calibration", *CALIBRATION))
        print(f"no benchmark {', '.join(unknown)}; known: {known}", file=sys.stderr)
        return 2
    # The modules are scripts as well, and name each other as scripts do.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    table = importlib.import_module("table")
    print(f"{len(os.sched_getaffinity(0))} cores. Trust ratios, not seconds: times are medians of calls in turn.\n")
    for name in names or NAMES:
        module = importlib.import_module(name)
        began = time.perf_counter()
        found = module.rows()
        print(f"## {name}\n\n{str(module.__doc__).strip()}\n")
        table.print_table(found)
        print(f"\n{time.perf_counter() - began:.0f} s\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
