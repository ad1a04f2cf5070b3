"""Random streams with an address: seed and index, never order, worker or chunk."""

from __future__ import annotations

import hashlib

import numpy as np

from fintune_xr.errors import SettingsError


def stream(seed: int, *address: int | str) -> np.random.Generator:
    """The generator that belongs to `seed` and `address`, the same wherever it is asked for.

    Words in an address are hashed, so that `stream(7, "split", "GFAP")` is a place of its own.

    Raises SettingsError for a seed below 0.
    """
    if seed < 0:
        raise SettingsError(f"seed: expected a whole number from 0, got {seed}")
    key = tuple(_number(part) for part in address)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _number(part: int | str) -> int:
    if isinstance(part, str):
        return int.from_bytes(hashlib.sha256(part.encode()).digest()[:4], "little")
    return part
