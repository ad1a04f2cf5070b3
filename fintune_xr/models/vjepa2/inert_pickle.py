"""Reads tensors out of a pickled file of which nothing else is run.

Training states often hold configurations and counters as objects of other packages, which `weights_only` refuses.
Here such an object becomes a placeholder that remembers the name it was pickled under and does nothing.
"""

from __future__ import annotations

import collections
import functools
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

# All that is needed to put tensors together; whatever else a file names is replaced.
_REBUILT: Final = frozenset(
    {
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    }
)
_DTYPES: Final = frozenset(
    f"{kind}{bits}" for kind, sizes in {"float": (16, 32, 64), "int": (8, 16, 32, 64)}.items() for bits in sizes
) | {"bfloat16", "uint8", "bool"}


class Inert:
    """Stands for an object that is not made. It takes every state and every call, and does nothing with them."""

    name = ""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """A placeholder, whatever the object would have been made of."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Keeps nothing."""

    def __call__(self, *_: Any, **__: Any) -> Inert:
        """Itself, as what the call would have given."""
        return self

    def __setstate__(self, _: Any) -> None:
        """Keeps nothing."""

    def __setitem__(self, *_: Any) -> None:
        """Keeps nothing."""

    def append(self, _: Any) -> None:
        """Keeps nothing; so pickle fills lists."""

    def extend(self, _: Iterable[Any]) -> None:
        """Keeps nothing; so pickle fills lists."""

    def add(self, _: Any) -> None:
        """Keeps nothing; so pickle fills sets."""


def read_tensors(path: Path) -> tuple[Any, tuple[str, ...]]:
    """What torch wrote to `path`, memory-mapped on the CPU, and the names of all objects that were not made.

    Raises ValueError for a file in the form that torch wrote before version 1.6, which cannot be read inertly, and
    what torch and pickle raise for a file that is damaged.
    """
    import torch

    if not zipfile.is_zipfile(path):
        raise ValueError("written by torch before 1.6, or cut off; such a file cannot be read without running it")
    replaced: set[str] = set()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _found(module, name, replaced)

    reader = SimpleNamespace(Unpickler=Unpickler, __name__="inert pickle")
    entries = torch.load(path, map_location="cpu", weights_only=False, mmap=True, pickle_module=reader)
    return entries, tuple(sorted(replaced))


def _found(module: str, name: str, replaced: set[str]) -> Any:
    import torch

    if (module, name) in _REBUILT:
        return getattr(torch._utils, name)
    if (module, name) == ("collections", "OrderedDict"):
        return collections.OrderedDict
    if (module, name) == ("torch", "Size"):
        return torch.Size
    if module == "torch" and name in _DTYPES:
        return getattr(torch, name)
    replaced.add(f"{module}.{name}")
    return _placeholder(f"{module}.{name}")


@functools.cache
def _placeholder(name: str) -> type[Inert]:
    return type("Inert", (Inert,), {"name": name, "__hash__": Inert.__hash__})
