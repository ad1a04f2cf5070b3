"""References to weights: kind, place and digest. Results name a checkpoint, never a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fintune_xr.errors import CheckpointError, CheckpointNotFoundError, nearest
from fintune_xr.models.published import cached_weights, published_names
from fintune_xr.provenance import file_sha256

if TYPE_CHECKING:
    import torch

THRESHOLD_KIND: Final = "threshold"
FLOW_UNET_KIND: Final = "flow_unet"
CPSAM_KIND: Final = "cpsam"
SAM_KIND: Final = "sam"
UNET_KIND: Final = "unet"
MODEL_KINDS: Final = (THRESHOLD_KIND, FLOW_UNET_KIND, CPSAM_KIND, SAM_KIND, UNET_KIND)

# A checkpoint folder holds these; what else lies there is for people.
WEIGHTS_FILE: Final = "model.pt"
RECORD_FILE: Final = "training.json"
_ONLY_IN_RECORD: Final = frozenset({"tiles", "validation_tiles", "packages", "python"})

# Kinds whose files are ours and say of themselves what they are.
OWN_KINDS: Final = (FLOW_UNET_KIND, UNET_KIND)
OWN_ENTRIES: Final = frozenset({"kind", "architecture", "settings", "state"})
# Training states of micro-SAM hold the network under this entry; SAM's own files are the bare network.
SAM_STATE_ENTRY: Final = "model_state"
SAM_OTHER_DECODER: Final = "decoder_state"
_SAM_PREFIXES: Final = ("module.", "sam.")


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


def model_names() -> tuple[str, ...]:
    """Names that stand for a model: those without weights and those of published weights."""
    return (THRESHOLD_KIND, *published_names())


def resolve_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """The checkpoint registered under a name, or in a weights file or checkpoint folder.

    Raises CheckpointNotFoundError where there is none (no other model is taken instead), CheckpointError for
    a file that is no checkpoint of a known kind.
    """
    name = str(name_or_path)
    if name == THRESHOLD_KIND:
        return Checkpoint(THRESHOLD_KIND, name, "", hashlib.sha256(name.encode()).hexdigest())
    if name in published_names():
        return _from_file(cached_weights(name), name, {})
    path = Path(name_or_path).expanduser().absolute()
    if path.name == WEIGHTS_FILE and (path.parent / RECORD_FILE).is_file():
        # Weights of Cellpose do not say which planes they are for; the record of their training does.
        path = path.parent
    if path.is_dir():
        weights = path / WEIGHTS_FILE
        if not weights.is_file():
            raise CheckpointNotFoundError(
                f"{path} is a folder without {WEIGHTS_FILE}, so no checkpoint. Give the folder of a finished "
                "training, or a weights file."
            )
        return _from_file(weights, path.name, _record(path / RECORD_FILE))
    if not path.is_file():
        known = model_names()
        raise CheckpointNotFoundError(
            f"no model {name!r}: neither a file or folder of that path nor a known name "
            f"({', '.join(known)}).{nearest(name, known)}"
        )
    return _from_file(path, path.stem, {})


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
    record = _record(record_file(checkpoint.path))
    return {key: value for key, value in record.items() if key not in _ONLY_IN_RECORD}


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

    Raises CheckpointError for anything else.
    """
    import pickle

    import torch

    try:
        entries = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is not a weights file that can be read safely ({reason}). "
            "Expected a file of tensors written by torch.save; is the download complete?"
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: expected named tensors, got {type(entries).__name__}")
    return entries


def sam_state(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The network of a SAM or micro-SAM weights file under SAM's own key names.

    The second decoder that micro-SAM adds for its own instance segmentation is left out.
    """
    nested = entries.get(SAM_STATE_ENTRY)
    state = nested if isinstance(nested, dict) else entries
    return {_sam_key(key): value for key, value in state.items() if key != SAM_OTHER_DECODER}


def load_strictly(network: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Fills `network` with `state`, which must fit entry by entry.

    Raises CheckpointError naming the entries of `source` that are missing, unknown or of another shape.
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
    network.load_state_dict(copies, assign=True)


def _from_file(path: Path, name: str, record: Mapping[str, Any]) -> Checkpoint:
    path = path.resolve()
    entries = load_weights_file(path)
    kind = _kind(entries, path)
    channels, zeroed = (), ()
    if kind == CPSAM_KIND:
        channels, zeroed = record.get("channels", ()), record.get("zero_channels", ())
    elif kind in OWN_KINDS:
        channels, zeroed = entries["architecture"]["channels"], entries["settings"].get("zero_channels", ())
    return Checkpoint(kind, name, str(path), file_sha256(path), tuple(channels), tuple(zeroed))


def _sam_key(key: str) -> str:
    for prefix in _SAM_PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _kind(entries: Mapping[str, Any], path: Path) -> str:
    keys = {key.removeprefix("module.") for key in entries}
    stated = entries.get("kind")
    if stated in OWN_KINDS and keys >= OWN_ENTRIES:
        return str(stated)
    if "encoder.cls_token" in keys:
        raise CheckpointError(
            f"{path} holds a Cellpose network with a DINOv3 encoder, which is not supported. Use cpsam weights."
        )
    if "W2" in keys:
        return CPSAM_KIND
    if any(key.startswith("image_encoder.") for key in sam_state(entries)):
        return SAM_KIND
    shown = ", ".join(sorted(keys)[:5])
    raise CheckpointError(
        f"{path} is neither a flow_unet or unet checkpoint nor Cellpose 4 weights (no entry W2) nor SAM "
        f"(no image_encoder); it holds: {shown} ... Weights of Cellpose 3 and older cannot be used."
    )


def _record(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}. Was the training interrupted?") from error
    return record if isinstance(record, dict) else {}
