"""What Cellpose's window saves, `NAME_seg.npy`: a pickle, of which nothing but arrays is made."""

from __future__ import annotations

import io
import pickle
import tokenize
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.pixels.instance_labels import MAX_LABEL

MASKS: Final = "masks"
_REBUILT: Final = ("_reconstruct", "scalar", "_frombuffer")
_MODULES: Final = (
    "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric",
)  # fmt: skip
_PATHS: Final = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
# What a file that is no such pickle, or a damaged one, is seen to raise.
_DAMAGE: Final = (
    pickle.UnpicklingError, ValueError, TypeError, KeyError, AttributeError, EOFError, IndexError, MemoryError,
    ImportError, OverflowError, RecursionError,
    SyntaxError, tokenize.TokenError,
)  # fmt: skip


def segmentation_mask(content: bytes) -> NDArray[np.uint32]:
    """Labels (y, x) in the bytes of a `_seg.npy`, or of a plain .npy of labels.

    Raises TileReadError for a file that asks for anything to be made but arrays and numbers, for one without masks, of
    several planes, or damaged.
    """
    try:
        held = _held(content)
    except TileReadError:
        raise
    except _DAMAGE as error:
        raise TileReadError(f"unreadable: {type(error).__name__}: {str(error)[:120]}") from error
    if isinstance(held, dict) and MASKS not in held:
        raise TileReadError(f"unreadable: expected {MASKS!r} as Cellpose's window saves them, found {sorted(held)[:8]}")
    masks = np.asarray(held[MASKS] if isinstance(held, dict) else held)
    if masks.dtype.kind not in "uib":
        raise TileReadError(f"wrong dtype: expected labels as whole numbers, found {masks.dtype}")
    return _plane(masks)


def _plane(masks: NDArray[Any]) -> NDArray[np.uint32]:
    if masks.ndim == 3 and masks.shape[0] == 1:
        masks = masks[0]
    if masks.ndim != 2:
        raise TileReadError(f"wrong shape: expected one plane (y, x), found {masks.shape}")
    # Early releases called the background -1 and the first cell 0.
    if masks.size and int(masks.min()) == -1:
        masks = masks.astype(np.int64) + 1
    if masks.size and not 0 <= int(masks.min()) <= int(masks.max()) <= MAX_LABEL:
        raise TileReadError(f"wrong values: expected labels from 0 to {MAX_LABEL}")
    return masks.astype(np.uint32)


def _held(content: bytes) -> Any:
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise TileReadError(f"unreadable: .npy of version {version}")
    _, _, dtype = read(file)
    if not dtype.hasobject:
        return np.load(io.BytesIO(content), allow_pickle=False)
    found = _ArraysOnly(file).load()
    return found.item() if isinstance(found, np.ndarray) and found.shape == () else found


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows NumPy's arrays and numbers, and paths as text; asked for anything else, it refuses."""

    def find_class(self, module: str, name: str) -> Any:
        found = _KNOWN.get((module, name))
        if found is None:
            raise TileReadError(
                f"refused: this pickle asks for {module}.{name}, and only arrays are made of one. Save the masks as "
                "TIFF or PNG."
            )
        return found


def _joined(*parts: str) -> str:
    return "/".join(map(str, parts))


def _of_buffer(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any, _axes: Any = None) -> NDArray[Any]:
    """What pickles of the newest protocol call for to hold an array."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _bytes_of(text: str, encoding: str) -> bytes:
    """What pickles of old protocols call for to hold bytes."""
    if encoding != "latin1":
        raise TileReadError(f"refused: this pickle asks for text in {encoding!r}")
    return text.encode("latin1")


def _known() -> dict[tuple[str, str], Callable[..., Any]]:
    from numpy._core import multiarray

    made: Mapping[str, Any] = {
        "_reconstruct": multiarray._reconstruct, "scalar": multiarray.scalar, "_frombuffer": _of_buffer,
    }  # fmt: skip
    known = {(module, name): made[name] for module in _MODULES for name in _REBUILT}
    known |= {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): _bytes_of}
    return known | {(module, name): _joined for module in ("pathlib", "pathlib._local") for name in _PATHS}


_KNOWN: Final = _known()
