"""`fintune-xr`: one verb per step.

Exit status 0 done, 1 failed, 2 wrong use, 3 finished with quarantined tiles, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

from cyclopts import App, CycloptsError, Group
from rich.console import Console

from fintune_xr.errors import FAILED, WRONG_USE, FintuneError, missing_package
from fintune_xr.execution.native_faults import print_crashes
from fintune_xr.execution.termination import TerminatedError, end_on_sigterm
from fintune_xr.pipelines.cli import candidates, verbs
from fintune_xr.pipelines.cli.arguments import DONE
from fintune_xr.pipelines.cli.old_words import notes
from fintune_xr.pipelines.cli.settings_page import asks_for_settings, print_settings, setting_words

INTERRUPTED, TERMINATED = 130, 143

# Name under which Python knows what to do about letters that a terminal lacks, and what is shown in their place.
_NEAREST: Final = "fintune-xr nearest"
_PLAIN: Final = {
    "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "µ": "u", "μ": "u", "Å": "A", "°": " degrees", "²": "2",
    "’": "'", "“": '"', "”": '"', "•": "*", "≥": ">=", "≤": "<=", "→": "->", "±": "+-", "─": "-", "│": "|",
}  # fmt: skip

_HELP = """Image cohorts to donor statistics, in one labelled Zarr store.

The usual way, from raw tiles to a report:

    fintune-xr ingest TILES cohort.zarr --dry-run
    fintune-xr ingest TILES cohort.zarr
    fintune-xr annotate MASKS cohort.zarr
    fintune-xr split cohort.zarr
    fintune-xr infer cohort.zarr --run baseline --model threshold
    fintune-xr train cohort.zarr --model flow_unet --name tuned --out models
    fintune-xr infer cohort.zarr --run tuned --model models/tuned
    fintune-xr evaluate cohort.zarr --run baseline --run tuned
    fintune-xr associate cohort.zarr --clinical clinical.csv
    fintune-xr bootstrap cohort.zarr
    fintune-xr report cohort.zarr

`fintune-xr VERB --help` explains a verb, `fintune-xr VERB --settings` lists what may be set as key=value, with
defaults; `fintune-xr doctor` looks whether this machine is ready; `fintune-xr demo` runs them all on a small cohort.
"""


def build_app() -> App:
    """The command line with all its verbs."""
    app = App(
        name="fintune-xr", help=_HELP, help_format="markdown", version=_version, result_action="return_value",
        suppress_keyboard_interrupt=False,
    )  # fmt: skip
    groups = {name: Group(name, sort_key=place) for place, name in enumerate(verbs.GROUPS)}
    for name, verb in verbs.VERBS.items():
        app.command(verb.call, name=name.replace("_", "-"), group=groups[verb.group])
    app.register_install_completion_command()
    return app


def run(tokens: Sequence[str]) -> int:
    """Exit status of the command line `tokens`; errors are printed on standard error, without a traceback."""
    print_what_a_terminal_can()
    if tokens and tokens[0] == candidates.COMPLETE:
        with candidates.offering(partial(setting_words, "".join(tokens[1:2]))):
            build_app()(list(tokens), exit_on_error=False, print_error=False)
        return DONE
    errors = Console(stderr=True, highlight=False)
    for note in notes(tokens):
        errors.print(note, markup=False, soft_wrap=True)
    try:
        if asks_for_settings(tokens):
            return print_settings(tokens)
        status = build_app()(list(tokens), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        errors.print(f"wrong use: {error}", markup=False, soft_wrap=True)
        errors.print("`fintune-xr --help` lists the verbs, `fintune-xr VERB --help` their arguments.", markup=False)
        return WRONG_USE
    except FintuneError as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        return error.exit_status
    except ModuleNotFoundError as error:
        errors.print(f"error: {missing_package(error)}", markup=False, soft_wrap=True)
        return FAILED
    except KeyboardInterrupt as error:
        is_asked = isinstance(error, TerminatedError)
        how, status = ("terminated", TERMINATED) if is_asked else ("interrupted", INTERRUPTED)
        errors.print(f"{how}; what was committed stays. Run the same command again to continue.", markup=False)
        return status
    except BrokenPipeError:
        return FAILED
    except OSError as error:
        errors.print(f"error: {error.strerror or error}: {error.filename or ''}", markup=False, soft_wrap=True)
        return FAILED
    return int(status or 0)


def print_what_a_terminal_can() -> None:
    """A terminal that knows no letters beyond ASCII gets others in its own, and never ends a command."""
    codecs.register_error(_NEAREST, _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != _NEAREST:
            stream.reconfigure(errors=_NEAREST)


def _nearest(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters)
    return plain, error.end


def main() -> None:
    """Entry point of the command `fintune-xr`."""
    print_crashes()
    end_on_sigterm()
    sys.exit(run(sys.argv[1:]))


def _version() -> str:
    from importlib.metadata import version

    return version("fintune-xr")
