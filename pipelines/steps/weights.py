"""Published model weights: which ones are here, and how to get them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from fintune_xr.errors import SettingsError, unknown_name
from fintune_xr.models.registry import published_named, published_weights
from fintune_xr.models.weights_cache import fetch_weights, weights_file


def weights(action: Literal["list", "fetch"] = "list", name: str | None = None) -> pd.DataFrame | Path:
    """The published weights as a table, or the path of those that are to be fetched by `name`.

    Raises SettingsError for a fetch without a name, UnknownNameError for another action, or a name that is not known.
    """
    if action not in ("list", "fetch"):
        raise unknown_name("action of weights", action, ("list", "fetch"))
    return weights_table() if action == "list" else fetch(name)


def weights_table() -> pd.DataFrame:
    """Name, place and digest of every published model that this installation knows."""
    files = map(weights_file, published_weights().values())
    rows = [(one.name, "here" if one.is_here else "not here", str(one.path), one.sha256) for one in files]
    return pd.DataFrame(rows, columns=["name", "state", "path", "sha256"])


def fetch(name: str | None) -> Path:
    """Path of the weights `name` after they have been downloaded and checksummed.

    Raises SettingsError without a name, UnknownNameError for one that is not published.
    """
    if not name:
        raise SettingsError("weights fetch needs a name; `fintune-xr weights list` shows them")
    return fetch_weights(published_named(name)).path
