"""References to weights: kind, place and digest. Results name a checkpoint, never a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fintune_xr import names as n
from fintune_xr.errors import CheckpointError, CheckpointNotFoundError
from fintune_xr.provenance import file_sha256
from fintune_xr.text import not_the_file

if TYPE_CHECKING:
    import torch

# A checkpoint folder holds these; what else lies there is for people.
WEIGHTS_FILE: Final = "model.pt"
RECORD_FILE: Final = "training.json"
# Entry of a record: epochs whose score had been below half of the best for three validations running.
COLLAPSED_EPOCHS: Final = "collapsed_epochs"
SAFETENSORS: Final = ".safetensors"
_ONLY_IN_RECORD: Final = frozenset({"tiles", "validation_tiles", "packages", "python"})

# How files begin that torch writes now, and that it wrote before version 1.6.
_ZIP: Final = b"PK\x03\x04"
_PICKLE: Final = b"\x80"

# A weights file of ours says what it is and holds what its network is built from.
OWN_ENTRIES: Final = frozenset({"kind", "architecture", "settings", "state"})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights by reference, small enough for a task graph.

    `path` is empty for a model without weights, whose digest is that of its name. `channels` and `zeroed`
    are the planes that it was trained on and those of them that were blank; empty where nothing tells.
    """

    kind: str
    name: str
    path: str
    sha256: str
    channels: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, as stored with a run."""
        return {**asdict(self), "channels": list(self.channels), "zeroed": list(self.zeroed)}


@dataclass(frozen=True, slots=True)
class Planes:
    """The image planes that weights were trained on, and those of them that were blank; empty where nothing tells."""

    channels: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()


def record_file(weights: str | Path) -> Path:
    """Where the record of a training lies beside its weights, which may have been copied out of their folder."""
    path = Path(weights)
    return path.with_name(RECORD_FILE if path.name == WEIGHTS_FILE else f"{path.stem}.{RECORD_FILE}")


def training_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the record beside the weights says of their training: settings, start, split, best score.

    Empty where there is no record. The tiles and package versions stay in the record, which `digest` tells
    from any other.

    Raises CheckpointError for a record that cannot be read.
    """
    if not checkpoint.path:
        return {}
    record = read_record(record_file(checkpoint.path))
    return {key: value for key, value in record.items() if key not in _ONLY_IN_RECORD}


def weights_before(facts: Mapping[str, Any]) -> set[str]:
    """Digests of the weights that a training began with, and of those that these came from, as far as its record tells.

    `facts` are those of `training_facts`; of a training of an earlier release the last step alone is known.
    """
    start = facts.get("start") or {}
    return {*facts.get(n.WEIGHTS_BEFORE, ()), *([start["sha256"]] if start.get("sha256") else [])}


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the checkpoint's weights file holds, on the CPU, once its digest is known to be right.

    Raises CheckpointNotFoundError if the file is gone, CheckpointError if its bytes are others.
    """
    path = Path(checkpoint.path)
    if not path.is_file():
        raise CheckpointNotFoundError(
            f"weights of {checkpoint.name!r} are not at {path} on this machine. "
            "Workers must see the same path as the machine that started the run."
        )
    found = file_sha256(path)
    if found != checkpoint.sha256:
        raise CheckpointError(
            f"{path} holds other weights than the run refers to: expected SHA-256 {checkpoint.sha256}, "
            f"found {found}. Restore the file, or start a run of another name."
        )
    return load_weights_file(path)


def load_weights_file(path: Path) -> dict[str, Any]:
    """Entries of a weights file, memory-mapped on the CPU; only tensors and plain values are accepted.

    A file that ends in .safetensors is read as that, any other as one of torch.

    Raises CheckpointError for anything else, naming what it is where that is known.
    """
    import pickle

    import torch

    try:
        if path.suffix == SAFETENSORS:
            return read_safetensors(path)
        entries = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, KeyError) as error:
        told = f"{path} is not a weights file that can be read safely: it is {_what_it_is(path, error)}. "
        raise CheckpointError(f"{told}Expected a file of tensors written by torch.save or safetensors.") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: expected named tensors, got {type(entries).__name__}")
    if unnamed := [key for key in entries if not isinstance(key, str)]:
        raise CheckpointError(f"{path}: expected names of tensors, found {unnamed[0]!r} ({type(unnamed[0]).__name__})")
    return entries


def _what_it_is(path: Path, error: Exception) -> str:
    """What a file is that torch refuses, in plain words."""
    with path.open("rb") as file:
        head = file.read(512)
    if not_the_file(head):
        return not_the_file(head)
    if path.suffix == SAFETENSORS:
        return f"cut off or damaged, so the download is not complete ({error})"
    if head.startswith(_ZIP):
        is_code = "Weights only load failed" in str(error) or "Unsupported" in str(error)
        if is_code:
            return "a file of Python objects, which may run code; save model.state_dict() alone"
        return "cut off or damaged: the download is not complete"
    if head.startswith(_PICKLE):
        return "of the format before torch 1.6; save it again: torch.save(torch.load(FILE, weights_only=True), NEW)"
    return f"of no known format ({str(error).splitlines()[0][:120] if str(error) else type(error).__name__})"


def read_safetensors(path: Path) -> dict[str, Any]:
    """Tensors of a file of safetensors by name, on the CPU. Raises ValueError for one that is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def bare_key(key: str) -> str:
    """Name of an entry without what torch's parallel training puts before it."""
    return key.removeprefix("module.")


def is_own(entries: Mapping[str, Any]) -> bool:
    """Whether these are the entries of a weights file that this package, or one built on it, has written."""
    return entries.keys() >= OWN_ENTRIES


def own_planes(entries: Mapping[str, Any], record: Mapping[str, Any]) -> Planes:  # noqa: ARG001
    """The planes that a weights file of ours states."""
    return Planes(tuple(entries["architecture"]["channels"]), tuple(entries["settings"].get("zero_channels", ())))


def load_strictly(network: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Fills `network` with `state`, which must fit entry by entry and hold finite numbers alone.

    Raises CheckpointError naming the entries of `source` that are missing, unknown or of another shape, or the first
    that holds NaN or infinite numbers: a network with one answers without a word, and nothing it says is worth a thing.
    """
    expected = network.state_dict()
    faults = [f"missing: {key}" for key in expected if key not in state]
    faults += [f"unknown: {key}" for key in state if key not in expected]
    faults += [
        f"shape of {key}: expected {tuple(expected[key].shape)}, got {tuple(state[key].shape)}"
        for key in expected
        if key in state and expected[key].shape != state[key].shape
    ]
    if faults:
        shown = faults[:8] + ([f"and {len(faults) - 8} more"] if len(faults) > 8 else [])
        raise CheckpointError("\n  ".join([f"{source} does not fit {type(network).__name__}:", *shown]))
    # The file's tensors are mapped from disk; the network gets copies that nothing can change any more.
    copies = {key: value.to(expected[key].dtype, copy=True) for key, value in state.items()}
    _require_finite(copies, source)
    network.load_state_dict(copies, assign=True)


def _require_finite(state: Mapping[str, torch.Tensor], source: str) -> None:
    import torch

    for key, value in state.items():
        if n_bad := int((~torch.isfinite(value)).sum()):
            raise CheckpointError(
                f"{source}: expected finite numbers, but {n_bad} of the {value.numel()} in {key} are NaN or infinite. "
                "The file is damaged, or its training diverged: copy it anew, or take other weights."
            )


def read_record(path: Path) -> Mapping[str, Any]:
    """The record of a training; empty where there is none. Raises CheckpointError for one that cannot be read."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}. Was the training interrupted?") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: expected the record of a training, found a {type(record).__name__}. Remove it.")
    return record
