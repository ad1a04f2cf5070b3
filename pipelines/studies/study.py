"""The frame of all studies: one process at a time, the same question as before, each part stored as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import RunMismatchError
from fintune_xr.provenance import differences
from fintune_xr.schema import DatasetSchema
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.unfinished_studies import note_study_end

LONGEST: Final = 200
"""Characters of a value in a message."""

Growth: TypeAlias = Callable[[xr.Dataset | None], Iterable[xr.Dataset]]
"""From what an earlier call stored, None where that is nothing, to all that is known after each further part.

It is empty where the steps store everything themselves.
"""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Study:
    """A study by the group `path` that it is stored in, and by what must be the same for it to be gone on with.

    `identity` is what its results depend on, JSON, and lies beside them; of it `labels` only name what another key
    tells by its content. It is None where the parts, runs or trainings, have identities of their own: then nothing
    that is stored is taken over. `lock` and `what` (it completes "another process is …") keep others away, `remedy`
    says what to do where the store holds another study.
    """

    cohort: Cohort
    path: str
    lock: str
    what: str
    schema: DatasetSchema | None = None
    identity: Mapping[str, Any] | None = None
    labels: tuple[str, ...] = ()
    remedy: str = "Give --restart to throw it away."


def carry_out(study: Study, growth: Growth, *, restart: bool = False) -> xr.Dataset:
    """The study at its end; all that is known is stored after each part, so that a kill costs the part in work.

    What is stored before the end is noted to be unfinished, until the last step of `growth` has been taken.

    Raises RunMismatchError where the store holds another study of this kind, unless it is thrown away by `restart`;
    RunBusyError where another process is at it.
    """
    with study.cohort.hold(study.lock, what=study.what):
        for whole in growth(None if restart else _stored(study)):
            told = {} if study.identity is None else {n.IDENTITY: study.identity}
            study.cohort.write(study.path, whole.assign_attrs({**told, n.UNFINISHED: True}), study.schema)
        note_study_end(study.cohort, study.path)
        return study.cohort.read(study.path, study.schema).load()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunPart:
    """A part of a study that is a run of its own: `make` stores it, `is_whole` says whether it has all it shall have.

    `identity` lies beside the run once it is begun, `remedy` says what to do where a run of that name has another one.
    """

    cohort: Cohort
    run: str
    identity: Mapping[str, Any]
    make: Callable[[], None]
    is_whole: Callable[[], bool]
    remedy: str


def make_run(part: RunPart, *, restart: bool = False) -> bool:
    """Makes the run of `part`, or the rest of it, and says whether anything had to be made.

    Raises RunMismatchError where a run of that name was made otherwise, unless it is thrown away by `restart`;
    RunBusyError where another process makes it.
    """
    with part.cohort.hold(f"part-{part.run}", what=f"making run {part.run!r}"):
        if not restart and part.run in part.cohort.run_names():
            _require_made_so(part)
            if part.is_whole():
                return False
        part.make()
    return True


def _require_made_so(part: RunPart) -> None:
    """Raises RunMismatchError unless the stored run of a part has its identity."""
    stored = part.cohort.run_attrs(part.run)[n.IDENTITY]
    if changed := sorted(key for key in {*stored, *part.identity} if stored.get(key) != part.identity.get(key)):
        raise RunMismatchError(
            f"run {part.run!r} was made with something else (different: {', '.join(changed)}). {part.remedy}"
        )


def _stored(study: Study) -> xr.Dataset | None:
    """What an earlier call stored of the same study."""
    if study.identity is None or not study.cohort.has(study.path):
        return None
    stored = study.cohort.read(study.path, study.schema).load()
    was, now = (
        {k: v for k, v in one.items() if k not in study.labels} for one in (stored.attrs[n.IDENTITY], study.identity)
    )
    lines = [f"{key}: stored {_short(old)}, now {_short(new)}" for key, (old, new) in differences(was, now).items()]
    if lines:
        told = "\n  ".join([f"{study.path} of {study.cohort.url} was made with something else:", *lines])
        raise RunMismatchError(f"{told}\n{study.remedy}")
    return stored


def _short(value: Any) -> str:
    """A value in a message, cut in the middle where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
