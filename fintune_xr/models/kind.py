"""What a kind of model is: cheap to know, so that its libraries are imported only where it is applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from fintune_xr.models.checkpoints import Checkpoint, Planes, is_own
from fintune_xr.models.protocol import Model
from fintune_xr.models.weights_cache import Published
from fintune_xr.settings import Settings
from fintune_xr.tasks.product import Product

Recognises: TypeAlias = Callable[[Mapping[str, Any]], bool]
"""Whether the entries of a weights file are of this kind, by their names alone."""


Opens: TypeAlias = Callable[[Path], Mapping[str, Any]]
"""Entries of a weights file that the package's own reading refuses, with nothing in it run."""

RunSizes: TypeAlias = Callable[[Checkpoint, Any, tuple[int, ...]], Mapping[str, int | Sequence[str]]]
"""What lies along the further dims of a run's columns, of checkpoint, settings and the shape (…, y, x) of tiles."""

RunAttrs: TypeAlias = Callable[[Checkpoint], Mapping[str, Mapping[str, Any]]]
"""Attributes of a run's arrays, by their names, of the checkpoint."""


class Load(Protocol):
    """The model of a checkpoint on a device, for tiles with these channels; imports its library when called."""

    def __call__(self, checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:
        """Raises CheckpointError for weights that do not fit, UnknownNameError or SettingsError for channels."""
        ...


def _nothing(entries: Mapping[str, Any]) -> bool:  # noqa: ARG001
    return False


def _no_reason(entries: Mapping[str, Any]) -> str:  # noqa: ARG001
    return ""


@dataclass(frozen=True, eq=False)
class ModelKind:
    """All that is known of a kind of model without its library.

    `product` is what a run of it stores, `settings` the class of what it can be told. `recognises` says whether a
    weights file is of this kind, `refuses` why one that is cannot be used, and `weights` describes such a file where
    another was given. `published` are weights that have a name. `planes` finds in the entries of a weights file and
    in the record beside it which image planes they were trained on; None for models that are shown the planes that
    the settings name. `opens` reads files of this kind that hold more than tensors and plain values, and `sizes`
    says what lies along the dims of a run's columns beyond `tile`, for products that have such; `attrs` gives
    attributes of a run's arrays. `promptable` loads, onto a device, the `fintune_xr.models.sam.masks.Promptable` of
    weights that can be asked by points. `pools` is whether patches of several tiles fit into one batch. `steps_for` are
    tasks whose runs store something else, and to which its own runs are a step. Weights, runs and commands written
    under a `former` name go on to be understood.
    """

    name: str
    product: Product
    settings: type[Settings]
    load: Load
    recognises: Recognises = _nothing
    refuses: Callable[[Mapping[str, Any]], str] = _no_reason
    weights: str = ""
    published: Mapping[str, Published] = field(default_factory=lambda: MappingProxyType({}))
    planes: Callable[[Mapping[str, Any], Mapping[str, Any]], Planes] | None = None
    promptable: Callable[[Checkpoint, str], Any] | None = None
    pools: bool = False
    has_weights: bool = True
    former: tuple[str, ...] = ()
    opens: Opens | None = None
    sizes: RunSizes | None = None
    attrs: RunAttrs | None = None
    steps_for: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """All that this kind is or was called."""
        return (self.name, *self.former)


def says_kind(*words: str) -> Recognises:
    """Recognises weights files of this package, which say what they are, by any of `words`."""
    return lambda entries: is_own(entries) and entries["kind"] in words


def has(prefix: str) -> Recognises:
    """Recognises a bare network one of whose entries begins with `prefix`."""
    return lambda entries: any(key.startswith(prefix) for key in entries)
