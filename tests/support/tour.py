"""README's tour, repeated. `python tests/support/tour.py [FOLDER]` makes the demo there and runs all of it, in minutes.

It prints what differs from the page, and its exit status is then 1. What the trained network scores differs a little
from machine to machine, as the page says: of its rows the words are compared, and q, which counts its tests, nowhere.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pages import LEFT_OUT, ROOT, Command, commands

TRAINED = "fine-tuned"
_NUMBER = re.compile(r"\(?-?\d+(\.\d+)?\)?")


def tour() -> list[Command]:
    """The commands of README that work on the demo, with what they are said to print."""
    return [command for command in commands(ROOT / "README.md") if "demo/cohort.zarr" in command.text]


def differences(command: Command, printed: Sequence[str]) -> list[str]:
    """Lines that the page shows and that were not printed; where it shows all lines, also those beyond."""
    shown = [line for line in command.output if line.strip() != LEFT_OUT]
    header = shown[0].split() if shown else []
    expected, found = ([_comparable(line, header) for line in lines] for lines in (shown, printed))
    missing = [f"not printed: {line}" for line, words in zip(shown, expected, strict=True) if words not in found]
    if not shown or len(shown) < len(command.output):
        return missing
    return missing + [f"not shown: {line}" for line, words in zip(printed, found, strict=True) if words not in expected]


def _comparable(line: str, header: Sequence[str]) -> list[str]:
    words = line.split()
    if "q" in header and len(words) > header.index("q") and words != list(header):
        words[header.index("q")] = "q"
    return [word for word in words if not _NUMBER.fullmatch(word)] if TRAINED in words else words


def run(tokens: Sequence[str]) -> tuple[int, list[str]]:
    """Exit status of a command, and the lines that it printed."""
    from fintune_xr.pipelines.cli.app import run as run_tokens

    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = run_tokens(tokens)
    return status, out.getvalue().splitlines()


def repeated(folder: Path) -> Iterator[tuple[Command, list[str]]]:
    """Every command of the tour, run in `folder`, which holds the demo in `demo`, and what differs."""
    with contextlib.chdir(folder):
        for command in tour():
            status, printed = run(command.tokens)
            # The demo holds a truncated file and an unpaired one: done, with something in quarantine.
            wanted = 3 if command.tokens[0] == "ingest" else 0
            failed = [] if status == wanted else [f"exit status {status}, expected {wanted}"]
            yield command, failed + differences(command, printed)


def main(folder: Path) -> int:
    """Number of commands that differ."""
    os.environ["COLUMNS"] = "200"
    with contextlib.chdir(folder):
        status, _ = run(["demo", "demo"])
    if status:
        return 1
    n_wrong = 0
    for command, wrong in repeated(folder):
        said = "\n  ".join([f"{'differs' if wrong else 'same'}: {command.text}", *wrong])
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
        n_wrong += bool(wrong)
    return n_wrong


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.exit(min(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(place)), 1))
