"""An `annotate` that did not come to its end: noted before its first change of a store, taken away with its last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from fintune_xr import names as n
from fintune_xr.errors import AnswerError, StoreDamagedError, StoreWriteError
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.tiles import root_of
from fintune_xr.store.raw.sources import Place
from fintune_xr.store.zarr_io.groups import open_writable, read_attrs
from fintune_xr.store.zarr_io.location import explain_write_errors


@contextlib.contextmanager
def changing_annotations(cohort: Cohort, source: Place, command: str, *, restart: bool) -> Iterator[None]:
    """Notes that `command` changes annotations by what lies in `source`, before anything in the block does.

    The note stays when the block ends, or is killed: `note_end` takes it away with the last change. A refusal, which
    comes before the first change, takes it away itself; storage falls silent at any time, and leaves it. Nothing is
    noted of an empty `command`. With `restart`, notes of other sources go, as their annotations do. The caller holds
    the tiles of the store.
    """
    before = unfinished_commands(cohort)
    if command:
        _note(cohort, {**({} if restart else before), root_of(str(source)): command})
    try:
        yield
    except (StoreWriteError, StoreDamagedError):
        raise
    except AnswerError:
        if command:
            _note(cohort, before)
        raise


def note_end(cohort: Cohort, source: Place, lines: Sequence[str]) -> None:
    """Takes the note of `source` away, and stores `lines` in place of what was unused of it before, both at once.

    The caller holds the tiles of the store.
    """
    root, unfinished = root_of(str(source)), unfinished_commands(cohort)
    with explain_write_errors(f"{cohort.url}/{n.IMAGES}"):
        group = open_writable(cohort.location, n.IMAGES)
        unused = {**(group.attrs.asdict().get(n.UNUSED_ANNOTATIONS) or {}), root: list(lines)}  # type: ignore[dict-item]
        left = {other: command for other, command in unfinished.items() if other != root}
        group.attrs.update({n.UNUSED_ANNOTATIONS: unused, n.UNFINISHED_ANNOTATIONS: left})


def unfinished_commands(cohort: Cohort) -> dict[str, str]:
    """The commands that finish what killed ones have left of annotations, by the folder that they read."""
    noted = read_attrs(cohort.location, n.IMAGES).get(n.UNFINISHED_ANNOTATIONS)
    return {str(root): str(command) for root, command in noted.items()} if isinstance(noted, dict) else {}


def unfinished_lines(cohort: Cohort) -> list[str]:
    """A sentence for each of them: what is not known to be whole, and the command that makes it so."""
    return [
        f"annotations from {root} are unfinished: `annotate` was interrupted, or is at work. Finish it: {command}"
        for root, command in unfinished_commands(cohort).items()
    ]


def _note(cohort: Cohort, commands: dict[str, str]) -> None:
    with explain_write_errors(f"{cohort.url}/{n.IMAGES}"):
        open_writable(cohort.location, n.IMAGES).attrs[n.UNFINISHED_ANNOTATIONS] = dict(commands)
