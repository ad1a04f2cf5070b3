"""Which image planes a model is shown, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from pydantic import Field

from fintune_xr.errors import SettingsError, unknown_name
from fintune_xr.models.protocol import Plane
from fintune_xr.settings import Settings


class ChannelSettings(Settings):
    """Planes by name; both lists default to what the checkpoint was trained on."""

    channels: tuple[str, ...] | None = Field(
        default=None, description="Planes in the order of the network's inputs; default: as trained, else all."
    )
    zero_channels: tuple[str, ...] | None = Field(
        default=None, description="Planes whose input is set to zero, e.g. DAPI for marker-only; default: as trained."
    )


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class ChannelChoice:
    """Positions of the chosen planes, and which of them are blanked."""

    names: tuple[str, ...]
    indices: tuple[int, ...]
    zeroed: tuple[bool, ...]

    def take(self, tile: Plane) -> Plane:
        """Chosen planes of `tile` (channel, y, x) as a new array, the blanked ones all zero."""
        chosen = tile[list(self.indices)]
        chosen[list(self.zeroed)] = 0
        return np.ascontiguousarray(chosen)


def choose_channels(
    available: Sequence[str],
    settings: ChannelSettings,
    *,
    n_inputs: int,
    trained: Sequence[str] = (),
    zeroed: Sequence[str] = (),
) -> ChannelChoice:
    """The planes of a store with channels `available` that `settings` ask for, for a network of `n_inputs`.

    Where the settings leave a list open, `trained` and `zeroed` decide as in `with_planes`.

    Raises UnknownNameError for a plane the store lacks, SettingsError for a list that cannot work.
    """
    names, blank = _planes(available, settings, trained, zeroed)
    if len(names) > n_inputs:
        raise SettingsError(
            f"channels: the network has {n_inputs} input(s), but {list(names)} are {len(names)} planes. "
            "Name the ones to use, e.g. channels=[DAPI,marker]."
        )
    return ChannelChoice(
        names, tuple(list(available).index(name) for name in names), tuple(name in blank for name in names)
    )


def with_planes(settings: S, available: Sequence[str], *, trained: Sequence[str] = (), zeroed: Sequence[str] = ()) -> S:
    """`settings` that state which planes of a store with channels `available` are shown, and which of them blank.

    Where the settings leave a list open, `trained` and `zeroed` (the checkpoint's own) decide; without them
    all planes are taken and none is blanked. Settings of a model that is not shown planes by name stay as they are.

    Raises UnknownNameError for a plane the store lacks, SettingsError for a list that cannot work.
    """
    if not isinstance(settings, ChannelSettings):
        return settings
    names, blank = _planes(available, settings, trained, zeroed)
    return settings.model_copy(update={"channels": names, "zero_channels": blank})


def _planes(
    available: Sequence[str], settings: ChannelSettings, trained: Sequence[str], zeroed: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = tuple(settings.channels if settings.channels is not None else trained or available)
    blank = tuple(settings.zero_channels if settings.zero_channels is not None else zeroed)
    for name in names:
        if name not in available:
            raise unknown_name("channel", name, available)
    for name in blank:
        if name not in names:
            raise unknown_name("channel to zero among the chosen ones", name, names)
    if not names or len(set(names)) != len(names):
        raise SettingsError(f"channels: expected one or more different planes, got {list(names)}")
    if len(blank) == len(names):
        raise SettingsError(f"zero_channels: {list(blank)} leaves nothing to look at; keep one plane")
    return names, blank
