"""Published weights: which exist, which are on this machine, and how to fetch them before going offline."""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fintune_xr.errors import CheckpointError, CheckpointNotFoundError, unknown_name
from fintune_xr.provenance import file_sha256

# Cellpose keeps its names and its address in cellpose.models, whose import takes many seconds and so happens
# only to download. A test compares these names with the installed package.
CPSAM_NAMES: Final = ("cpsam", "cpsam_v2")
LOCAL_MODELS_VARIABLE: Final = "CELLPOSE_LOCAL_MODELS_PATH"

# SAM's published files; the end of a file's name is how its SHA-256 begins.
SAM_ADDRESS: Final = "https://dl.fbaipublicfiles.com/segment_anything/"
SAM_FILES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sam_vit_b": "sam_vit_b_01ec64.pth",
        "sam_vit_l": "sam_vit_l_0b3195.pth",
        "sam_vit_h": "sam_vit_h_4b8939.pth",
    }
)
TORCH_HOME_VARIABLE: Final = "TORCH_HOME"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """Published weights and where they lie; `sha256` is empty where they are not on this machine."""

    name: str
    path: Path
    sha256: str

    @property
    def is_here(self) -> bool:
        """Whether the file is on this machine."""
        return bool(self.sha256)


def published_names() -> tuple[str, ...]:
    """Names of all published weights: those of Cellpose-SAM, then those of SAM."""
    return (*CPSAM_NAMES, *SAM_FILES)


def weights_folder() -> Path:
    """Folder in which Cellpose keeps its weights on this machine."""
    chosen = os.environ.get(LOCAL_MODELS_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cellpose" / "models"


def sam_folder() -> Path:
    """Folder in which torch keeps downloaded weights on this machine, SAM's among them."""
    chosen = os.environ.get(TORCH_HOME_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return (Path(chosen) if chosen else cache / "torch") / "hub" / "checkpoints"


def list_weights() -> list[WeightsFile]:
    """Published weights with their digests, whether on this machine or not."""
    return [_weights_file(name) for name in published_names()]


def cached_weights(name: str) -> Path:
    """File of the published weights `name` on this machine; nothing is downloaded.

    Raises UnknownNameError for a name that is not published, CheckpointNotFoundError if the file is missing.
    """
    path = _place(name)
    if not path.is_file():
        variable = TORCH_HOME_VARIABLE if name in SAM_FILES else LOCAL_MODELS_VARIABLE
        raise CheckpointNotFoundError(
            f"the weights {name!r} are not on this machine (expected {path}). Where there is a network run "
            f"`fintune-xr weights fetch {name}`; if that is another one, copy the file to that folder here, "
            f"or set {variable}, from which that folder follows."
        )
    return path


def fetch_weights(name: str) -> WeightsFile:
    """The published weights `name`, downloaded unless they are on this machine already.

    Raises UnknownNameError for a name that is not published, CheckpointError where the download fails.
    """
    path = _place(name)
    if not path.is_file():
        _download(_address(name), path)
    found = _weights_file(name)
    digest = path.stem.rpartition("_")[2]
    if name in SAM_FILES and not found.sha256.startswith(digest):
        raise CheckpointError(
            f"{path} is not {name}: expected a SHA-256 that begins with {digest}, found {found.sha256[:12]}. "
            "Remove the file and run the command again."
        )
    return found


def _place(name: str) -> Path:
    if name not in published_names():
        raise unknown_name("published weights", name, published_names())
    return sam_folder() / SAM_FILES[name] if name in SAM_FILES else weights_folder() / name


def _weights_file(name: str) -> WeightsFile:
    path = _place(name)
    return WeightsFile(name, path, file_sha256(path) if path.is_file() else "")


def _address(name: str) -> str:
    if name in SAM_FILES:
        return SAM_ADDRESS + SAM_FILES[name]
    from cellpose import models

    return str(models._MODEL_URL) + name


def _download(address: str, path: Path) -> None:
    """Writes `path` whole or not at all.

    Not by cellpose's own function, which turns off certificate checks for the whole process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as partial:
        try:
            with urllib.request.urlopen(address, timeout=60) as source:  # noqa: S310 (a published address)
                expected = source.headers.get("Content-Length")
                shutil.copyfileobj(source, partial, 1 << 20)
            if expected is not None and partial.tell() != int(expected):
                raise CheckpointError(f"{address}: got {partial.tell()} of {expected} bytes. Run the command again.")
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise CheckpointError(
                f"cannot download {address}: {error}. Run this on a machine with a network, or copy the file "
                f"to {path} by hand."
            ) from error
        else:
            partial.close()
            Path(partial.name).chmod(0o644)
            Path(partial.name).replace(path)
        finally:
            Path(partial.name).unlink(missing_ok=True)
