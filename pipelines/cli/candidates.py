"""What the shell offers for a word that is begun: runs of the store that was named, models, layouts, rules, settings.

The shell calls the command line back (`fintune-xr __complete …`), which asks these; what they raise is swallowed there,
and nothing is offered. What is looked up is imported inside: `--help` must not wait for it. Nothing is written, and no
store is repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, TypeAlias

Context: TypeAlias = Any
"""What cyclopts knows of the line: `incomplete`, the word that is begun, and the other arguments by name."""
Words: TypeAlias = Iterable[tuple[str, str]]
"""Candidates, each with what it means."""

COMPLETE: Final = "__complete"
"""The first word of a line with which the shell calls back."""

_settings: ContextVar[Callable[[str], Words]] = ContextVar("settings")


@contextmanager
def offering(settings: Callable[[str], Words]) -> Iterator[None]:
    """Within it, `settings` gives the settings of the line's verb for a model."""
    token = _settings.set(settings)
    try:
        yield
    finally:
        _settings.reset(token)


def settings(context: Context) -> Words:
    """Settings of the verb that are not said yet, as `key=default`."""
    model = context.get("model")
    said = {word.partition("=")[0] for word in context["overrides"].raw_tokens}
    found = _settings.get()(model.raw or "" if model else "")
    return [(word, meaning) for word, meaning in found if word.partition("=")[0] not in said]


def stores(context: Context) -> list[str]:
    """Folders that begin with the word, those of a store first."""
    found = [path for path in _paths(context.incomplete) if path.endswith("/")]
    return sorted(found, key=lambda path: (not path.endswith(".zarr/"), path))


def runs(context: Context) -> list[str]:
    """Names of the runs in the store that the line names, less those that it names too."""
    from fintune_xr.store.cohort import Cohort, Location

    said = {token.value for token in context.argument.tokens}
    store = Location.of(context["store"].raw)
    return [name for name in Cohort(store, kind="", title="").run_names() if name not in said]


def models(context: Context) -> list[str]:
    """Kinds of models, published weights, and paths of checkpoints."""
    from fintune_xr.models.registry import kinds, published_weights

    return [*dict.fromkeys([*kinds(), *published_weights()]), *_paths(context.incomplete)]


def weights(_: Context) -> list[str]:
    """Names of published weights."""
    from fintune_xr.models.registry import published_weights

    return list(published_weights())


def layouts(_: Context) -> Words:
    """Layouts of images, with the files that they fit."""
    from fintune_xr.store.raw.layouts import LAYOUTS

    return [(name, layout.about) for name, layout in LAYOUTS.items()]


def annotation_layouts(_: Context) -> list[str]:
    """Layouts of masks, points and maps of classes."""
    from fintune_xr.store.annotations.detection_layouts import POINT_LAYOUTS
    from fintune_xr.store.annotations.instance_layouts import MASK_LAYOUTS
    from fintune_xr.store.annotations.semantic_layouts import CLASS_LAYOUTS

    return sorted({*MASK_LAYOUTS, *POINT_LAYOUTS, *CLASS_LAYOUTS})


def rules(_: Context) -> list[str]:
    """Rules by which a cell is positive."""
    from fintune_xr.pipelines.steps.positivity import RULE_NAMES

    return list(RULE_NAMES)


def parts(_: Context) -> list[str]:
    """Parts of the split, and all of them."""
    from fintune_xr.names import SPLITS

    return [*SPLITS, "all"]


def columns(_: Context) -> list[str]:
    """What `measure` adds to cells."""
    from fintune_xr.tasks.cell_measures import DISTANCE, MEASURES, REGION_MEASURE

    return [*MEASURES, REGION_MEASURE.name, f"{DISTANCE}:"]


def profiles(context: Context) -> list[str]:
    """Profiles of clusters, and paths."""
    from fintune_xr.cluster.profile import profile_names

    return [*profile_names(), *_paths(context.incomplete)]


def _paths(begun: str) -> list[str]:
    """Files and folders that begin with `begun`; folders end in a slash."""
    folder, _, name = begun.rpartition("/")
    place = Path(folder or ("/" if begun.startswith("/") else "."))
    before = begun[: len(begun) - len(name)]
    return sorted(
        f"{before}{path.name}{'/' if path.is_dir() else ''}"
        for path in place.iterdir()
        if path.name.startswith(name) and (name or not path.name.startswith("."))
    )
