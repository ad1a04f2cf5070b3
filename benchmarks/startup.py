"""How long a person waits before anything happens: importing the package, and the help of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from table import Fact, Reach, Row, medians, print_table, row

N_REPEATS = 5
IMPORT_S = 1.0
HELP_S = 1.5
HEAVY = ("torch", "cellpose", "lightning", "monai", "transformers")
LIBRARIES = "import xarray, zarr, dask"


def rows() -> list[Row | Fact]:
    """New processes each time; the limit is a Python that does nothing."""
    command = Path(sys.executable).with_name("fintune-xr")
    found = medians(
        {
            "import": lambda: _run(sys.executable, "-c", "import fintune_xr"),
            "help": lambda: _run(str(command), "--help"),
            "libraries": lambda: _run(sys.executable, "-c", LIBRARIES),
            "python": lambda: _run(sys.executable, "-c", "pass"),
        },
        N_REPEATS,
    )
    peer, limit_s = (LIBRARIES, found["libraries"]), found["python"]
    return [
        row("import fintune_xr", found["import"], peer, limit_s=limit_s, reach=Reach(seconds=IMPORT_S)),
        row("fintune-xr --help", found["help"], peer, limit_s=limit_s, reach=Reach(seconds=HELP_S)),
        _light("import fintune_xr", "import fintune_xr"),
        _light("building the command line", "from fintune_xr.pipelines.cli.app import build_app; build_app()"),
    ]


def _light(what: str, code: str) -> Fact:
    loaded = _run(sys.executable, "-c", f"{code}; import sys; print(*({{*{HEAVY!r}}} & {{*sys.modules}}))").split()
    return Fact(
        what=f"model libraries that {what} loads", ours=", ".join(sorted(loaded)) or "none", reach="none",
        reached=not loaded,
    )  # fmt: skip


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print_table(rows())
