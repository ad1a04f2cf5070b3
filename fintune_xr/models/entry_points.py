"""Kinds of models that other installed packages bring, each by an entry point."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from fintune_xr.errors import FintuneValueError, MissingPackageError
from fintune_xr.models.kind import ModelKind

GROUP: Final = "fintune_xr.models"


def kinds_of_packages(known: Iterable[ModelKind]) -> tuple[ModelKind, ...]:
    """What the entry points of the group `fintune_xr.models` give, in order of their names.

    Raises MissingPackageError for one that cannot be imported, FintuneValueError for one that is no ModelKind, or
    whose name or published weights are those of a `known` kind or of another entry point.
    """
    taken = {word: "fintune-xr" for kind in known for word in _words(kind)}
    kinds = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        kind = _kind(entry)
        for word in _words(kind):
            if word in taken:
                raise FintuneValueError(
                    f"{_named(entry)}: the model name {word!r} is taken by {taken[word]}. Rename it there, or "
                    "uninstall one of the two packages."
                )
        taken |= dict.fromkeys(_words(kind), _package(entry))
        kinds.append(kind)
    return tuple(kinds)


def _kind(entry: EntryPoint) -> ModelKind:
    try:
        kind = entry.load()
    except Exception as error:
        raise MissingPackageError(
            f"{_named(entry)} cannot be imported ({type(error).__name__}: {error}). Mend or uninstall that package."
        ) from error
    if not isinstance(kind, ModelKind):
        raise FintuneValueError(
            f"{_named(entry)}: expected a fintune_xr.models.kind.ModelKind, found {type(kind).__name__}. Point the "
            "entry point at one, or uninstall that package."
        )
    return kind


def _words(kind: ModelKind) -> tuple[str, ...]:
    return (*kind.words, *kind.published)


def _named(entry: EntryPoint) -> str:
    return f"entry point {entry.name!r} of {_package(entry)} ({GROUP} = {entry.value})"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unnamed package"
