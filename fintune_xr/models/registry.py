"""From a name or a file to a checkpoint, and from a checkpoint to a working model, loaded once per process."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from fintune_xr.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    FintuneValueError,
    SettingsError,
    nearest,
    unknown_name,
)
from fintune_xr.models.cellpose.kind import CPSAM
from fintune_xr.models.checkpoints import (
    RECORD_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    Planes,
    bare_key,
    load_weights_file,
    read_record,
)
from fintune_xr.models.devices import resolve_device
from fintune_xr.models.entry_points import kinds_of_packages
from fintune_xr.models.flow_unet.kind import FLOW_UNET
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.mask2former.kind import MASK2FORMER
from fintune_xr.models.particle_unet.kind import PARTICLE_UNET
from fintune_xr.models.protocol import Model, Segmenter
from fintune_xr.models.sam.kind import SAM
from fintune_xr.models.sam2.kind import SAM2
from fintune_xr.models.sam2_semantic.kind import SAM2_SEMANTIC
from fintune_xr.models.semantic_unet.kind import SEMANTIC_UNET
from fintune_xr.models.swin_unetr.kind import SWIN_UNETR
from fintune_xr.models.threshold.kind import THRESHOLD
from fintune_xr.models.vjepa2.kind import CLASSIFIER_KIND, RANDOM_KIND, VIT3D_KIND, VJEPA2_KIND
from fintune_xr.models.volume_profile.kind import VOLUME_PROFILE
from fintune_xr.models.weights_cache import Published, cached_weights, require_as_first_fetched
from fintune_xr.provenance import file_sha256
from fintune_xr.settings import Settings
from fintune_xr.tasks.product import INSTANCES

KINDS: Final = (
    THRESHOLD,
    FLOW_UNET,
    CPSAM,
    SAM,
    PARTICLE_UNET,
    SEMANTIC_UNET,
    SAM2_SEMANTIC,
    SAM2,
    SWIN_UNETR,
    MASK2FORMER,
    VIT3D_KIND,
    VJEPA2_KIND,
    RANDOM_KIND,
    CLASSIFIER_KIND,
    VOLUME_PROFILE,
)

_LOADING = threading.Lock()


@functools.cache
def kinds() -> Mapping[str, ModelKind]:
    """Every kind of model by its name: those of this package, then those that installed packages bring.

    Raises MissingPackageError for a package whose kind cannot be imported, FintuneValueError for one that gives
    something else or a name that is taken.
    """
    return MappingProxyType({kind.name: kind for kind in (*KINDS, *kinds_of_packages(KINDS))})


def kind_named(word: str) -> ModelKind:
    """The kind of model that is, or was, called `word`.

    Raises UnknownNameError for a kind that does not exist.
    """
    for kind in kinds().values():
        if word in kind.words:
            return kind
    raise unknown_name("kind of model", word, kinds())


def published_weights() -> Mapping[str, Published]:
    """Published weights of every kind, by name."""
    return {name: weights for kind in kinds().values() for name, weights in kind.published.items()}


def published_named(name: str) -> Published:
    """The published weights of this name. Raises UnknownNameError for a name that is not published."""
    known = published_weights()
    if name not in known:
        raise unknown_name("published weights", name, known)
    return known[name]


def model_names() -> tuple[str, ...]:
    """Names that stand for a model: those without weights and those of published weights."""
    return (*(kind.name for kind in kinds().values() if not kind.has_weights), *published_weights())


def resolve_checkpoint(name_or_path: str | Path, *, others: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint registered under a name, or in a weights file or checkpoint folder.

    `others` are names that the caller understands by itself, to be told where there is none of the given name.

    Raises CheckpointNotFoundError where there is none (no other model is taken instead), CheckpointError for
    a file that is no checkpoint of a known kind, or published weights that are others than when first fetched.
    """
    name = str(name_or_path)
    if name in kinds() and not kinds()[name].has_weights:
        return Checkpoint(name, name, "", hashlib.sha256(name.encode()).hexdigest())
    if name in published_weights():
        published = published_named(name)
        found = _from_file(cached_weights(published), name, {})
        require_as_first_fetched(published, found.sha256)
        return found
    path = Path(name_or_path).expanduser().absolute()
    if path.name == WEIGHTS_FILE and (path.parent / RECORD_FILE).is_file():
        # Weights of other projects do not say which planes they are for; the record of their training does.
        path = path.parent
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        known = (*others, *model_names())
        raise CheckpointNotFoundError(
            f"no model {name!r}: neither a file or folder of that path nor a known name "
            f"({', '.join(known)}).{nearest(name, known)}"
        )
    return _from_file(path, path.stem, {})


def load_model(
    checkpoint: Checkpoint, *, channels: tuple[str, ...], settings: Settings, device: str, keep: bool = True
) -> Model:
    """The model of `checkpoint` for tiles with these `channels`; the same object for the same arguments.

    `device` is cpu, cuda or cuda:N. The weights' digest is checked when they are read. Without `keep` the model
    is built anew and leaves memory with its last user, for work that goes through many checkpoints.

    Raises DeviceError, CheckpointError, CheckpointNotFoundError, UnknownNameError or SettingsError.
    """
    expected = kind_named(checkpoint.kind).settings
    if not isinstance(settings, expected):
        raise SettingsError(
            f"a model of kind {checkpoint.kind} takes {expected.__name__}, got {type(settings).__name__}"
        )
    # Two threads of a worker must not load the same network twice.
    with _LOADING:
        return (_loaded if keep else _built)(checkpoint, tuple(channels), settings, resolve_device(device))


def load_segmenter(
    checkpoint: Checkpoint, *, channels: tuple[str, ...], settings: Settings, device: str, keep: bool = True
) -> Segmenter:
    """The same for a model that gives instance masks.

    Raises FintuneValueError for a model that gives anything else.
    """
    product = kind_named(checkpoint.kind).product
    if product is not INSTANCES:
        raise FintuneValueError(
            f"{checkpoint.name!r} is a model of kind {checkpoint.kind}, whose runs store {product.array}: expected "
            "one that gives instance masks"
        )
    model: Any = load_model(checkpoint, channels=channels, settings=settings, device=device, keep=keep)
    return model  # type: ignore[no-any-return]


@functools.cache
def _loaded(checkpoint: Checkpoint, channels: tuple[str, ...], settings: Any, device: str) -> Model:
    return _built(checkpoint, channels, settings, device)


def _built(checkpoint: Checkpoint, channels: tuple[str, ...], settings: Any, device: str) -> Model:
    return kind_named(checkpoint.kind).load(checkpoint, settings, channels=channels, device=device)


def _from_folder(path: Path) -> Checkpoint:
    weights = path / WEIGHTS_FILE
    if not weights.is_file():
        raise CheckpointNotFoundError(
            f"{path} is a folder without {WEIGHTS_FILE}, so no checkpoint. Give the folder of a finished training, or "
            "a weights file."
        )
    return _from_file(weights, path.name, read_record(path / RECORD_FILE))


def _from_file(path: Path, name: str, record: Mapping[str, Any]) -> Checkpoint:
    path = path.resolve()
    entries, kind = _opened(path)
    stated = entries.get("kind")
    # Under its former name where the file says that: stored runs name the kind that made them in the same way.
    word = str(stated) if stated in kind.words else kind.name
    planes = kind.planes(entries, record) if kind.planes is not None else Planes()
    return Checkpoint(word, name, str(path), file_sha256(path), planes.channels, planes.zeroed)


def _opened(path: Path) -> tuple[Mapping[str, Any], ModelKind]:
    """Entries of a weights file, and the kind that they are of.

    A file that holds more than tensors and plain values is only for kinds that open it themselves, without running it.
    """
    try:
        entries = load_weights_file(path)
    except CheckpointError as refused:
        for opens in dict.fromkeys(kind.opens for kind in kinds().values() if kind.opens is not None):
            try:
                inert = opens(path)
            except CheckpointError:
                continue
            for kind in kinds().values():
                if kind.opens is opens and kind.recognises(inert):
                    return inert, kind
        raise refused
    return entries, _recognised(entries, path)


def _recognised(entries: Mapping[str, Any], path: Path) -> ModelKind:
    """The one kind that weights are of. Raises CheckpointError where none or several claim them, or cannot use them."""
    claims = [kind for kind in kinds().values() if kind.recognises(entries)]
    if len(claims) > 1:
        raise CheckpointError(
            f"{path}: expected weights of one kind of model, but {' and '.join(kind.name for kind in claims)} both "
            "take them for theirs. Make what they recognise narrower."
        )
    if claims and (reason := claims[0].refuses(entries)):
        raise CheckpointError(f"{path} {reason}")
    if claims:
        return claims[0]
    own = " or ".join(kind.name for kind in kinds().values() if kind.has_weights and not kind.weights)
    others = "".join(f" nor {kind.weights}" for kind in kinds().values() if kind.weights)
    shown = ", ".join(sorted({bare_key(key) for key in entries})[:5])
    raise CheckpointError(f"{path} is neither a {own} checkpoint{others}; it holds: {shown} ...")
