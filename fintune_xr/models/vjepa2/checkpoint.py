"""Opens a weights file of anybody's pretraining without running it, and finds the encoder in it."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fintune_xr.errors import CheckpointError, CheckpointNotFoundError
from fintune_xr.models.checkpoints import SAFETENSORS, read_safetensors
from fintune_xr.models.vjepa2.inert_pickle import read_tensors
from fintune_xr.text import not_the_file

if TYPE_CHECKING:
    import torch

LOGGER = logging.getLogger(__name__)

State: TypeAlias = "dict[str, torch.Tensor]"

# Training states hold the network under one of these; then the encoder under one of those, the first of them first.
WRAPPERS: Final = ("model_state_dict", "state_dict", "full_model_state_dict")
ENCODERS: Final = ("context_encoder", "encoder", "ema_encoder", "target_encoder")
PREFIXES: Final = ("module.", "backbone.", "_orig_mod.")
# How an encoder's own entries begin, under the names of Meta and of transformers.
BARE: Final = ("patch_embed.", "embeddings.patch_embeddings.")
_DAMAGED: Final = (
    RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, KeyError, TypeError, AttributeError,
    IndexError, AssertionError, ImportError, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class FoundEncoder:
    """Tensors of an encoder by their names in the file, without prefixes that all of them share.

    `taken` is the entry or prefix that they were found under, empty where the file holds nothing else; `offered` are
    all encoders that the file holds; `replaced` names the objects of the file that were not made.
    """

    state: State
    taken: str
    offered: tuple[str, ...]
    replaced: tuple[str, ...]


def find_encoder(path: Path | str, *, which: str = "") -> FoundEncoder:
    """The encoder in a weights file: the entry or prefix `which`, or else the first of `ENCODERS` that is there.

    Nothing that the file holds is run: what is not a tensor or a plain value is replaced by a placeholder.

    Raises CheckpointNotFoundError without such a file, CheckpointError for a file that cannot be read or holds no
    encoder.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointNotFoundError(f"no weights file {path}. Give the file of a pretrained encoder.")
    entries, replaced = _opened(path)
    if replaced:
        LOGGER.info("%s holds objects that were not made: %s", path, ", ".join(replaced))
    encoders = encoders_in(entries)
    taken = which or next(iter(encoders), None)
    if taken not in encoders:
        raise CheckpointError(_not_found(path, which, _unwrapped(entries), encoders))
    found = FoundEncoder(_tensors(encoders[taken], path, taken), taken, tuple(encoders), replaced)
    LOGGER.info("%s: took %s of %s", path, taken or "all of it", ", ".join(filter(None, encoders)) or "one encoder")
    return found


def open_inertly(path: Path) -> dict[str, Any]:
    """Entries of a weights file, in which whatever is neither tensor nor plain value is a placeholder.

    Raises CheckpointError for a file that cannot be read.
    """
    return _opened(path)[0]


def _opened(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Entries of the file, and the names of what was replaced in it."""
    try:
        entries, replaced = _read(path)
    except _DAMAGED as error:
        reason = _what_else(path) or (str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise CheckpointError(
            f"{path} cannot be read as weights ({reason}). Expected a file written by torch.save or safetensors; "
            "is the download complete?"
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: expected named tensors, got {type(entries).__name__}")
    return {str(key): value for key, value in entries.items()}, replaced


def _what_else(path: Path) -> str:
    """What came in place of weights, where that can be told; else empty."""
    with path.open("rb") as file:
        told = not_the_file(file.read(512))
    return f"it is {told}" if told else ""


def _read(path: Path) -> tuple[Any, tuple[str, ...]]:
    import torch

    if path.suffix == SAFETENSORS:
        return read_safetensors(path), ()
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)), ()
    except pickle.UnpicklingError:
        return read_tensors(path)


def _unwrapped(entries: Mapping[str, Any]) -> dict[str, Any]:
    for name in WRAPPERS:
        inside = entries.get(name)
        if isinstance(inside, dict):
            return _unwrapped({str(key): value for key, value in inside.items()})
    return _without_prefixes(entries)


def _without_prefixes(entries: Mapping[str, Any]) -> dict[str, Any]:
    """`entries` without those of `PREFIXES` that every one of them begins with, also several in a row."""
    shared = next((one for one in PREFIXES if entries and all(key.startswith(one) for key in entries)), None)
    if shared is None:
        return dict(entries)
    return _without_prefixes({key.removeprefix(shared): value for key, value in entries.items()})


def encoders_in(entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every encoder among the entries of a file, under the name that it is asked for by, the first choice first."""
    entries = _unwrapped(entries)
    if any(key.startswith(BARE) for key in entries):
        return {"": dict(entries)}
    found = {}
    for name in ENCODERS:
        inside = entries.get(name)
        if not isinstance(inside, dict):
            start = f"{name}."
            inside = {key.removeprefix(start): value for key, value in entries.items() if key.startswith(start)}
        if inside:
            found[name] = _inner(_unwrapped({str(key): value for key, value in inside.items()}))
    return found


def _inner(entries: Mapping[str, Any]) -> dict[str, Any]:
    """What an encoder kept inside another module, whose entries are all called `encoder.`, holds itself."""
    inner = "encoder."
    if not all(key.startswith(inner) for key in entries):
        return dict(entries)
    return _without_prefixes({key.removeprefix(inner): value for key, value in entries.items()})


def _tensors(entries: Mapping[str, Any], path: Path, taken: str) -> State:
    import torch

    others = [key for key, value in entries.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise CheckpointError(
            f"{path}: entries of the encoder {taken!r} are no tensors: {', '.join(others[:8])}. Expected weights alone."
        )
    return dict(entries)


def _not_found(path: Path, which: str, entries: Mapping[str, Any], encoders: Mapping[str, Any]) -> str:
    begins = sorted({key.partition(".")[0] for key in entries})
    holds = ", ".join(begins[:12]) + (f" and {len(begins) - 12} more" if len(begins) > 12 else "")
    if which:
        there = ", ".join(name or "(the file itself)" for name in encoders) or "none"
        return f"{path} has no encoder {which!r}; encoders in it: {there}. It holds: {holds or 'nothing'}."
    return (
        f"{path} holds no encoder: expected one of {', '.join(ENCODERS)}, as an entry or as a prefix, or the bare "
        f"encoder (patch_embed.…). It holds: {holds or 'nothing'}. No weights were taken."
    )
