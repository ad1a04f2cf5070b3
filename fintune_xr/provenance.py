"""What a result was made of: digests, package versions, git revision, time."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = (
    "fintune-xr",
    "numpy",
    "xarray",
    "zarr",
    "dask",
    "distributed",
    "numcodecs",
    "scipy",
    "statsmodels",
    "pandas",
    "numba",
    "scikit-image",
    "scikit-learn",
    "pillow",
    "tifffile",
    "torch",
    "cellpose",
    "monai",
    "lightning",
    "transformers",
)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of `settings` written as canonical JSON: key order does not matter."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What `stored` and `now` differ in, by sorted key: the two values, None where there is none.

    Records within records count by their own keys, which are then `outer.inner`.
    """
    was, then = _flat(stored), _flat(now)
    keys = sorted(key for key in {*was, *then} if was.get(key) != then.get(key))
    return {key: (was.get(key), then.get(key)) for key in keys}


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def provenance(**facts: Any) -> dict[str, Any]:
    """`facts` with package versions, Python, git revision and the time (UTC, ISO 8601)."""
    return {
        **facts,
        "packages": dict(_package_versions()),
        "python": platform.python_version(),
        "git_revision": _git_revision(),
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@functools.cache
def _git_revision() -> str:
    """Revision of the checkout this package runs from, with `+changes` where it has any.

    Asked once: a process runs what it has imported, whatever becomes of the files later.
    Installed into somebody else's checkout, as a virtual environment often is, it has none.
    """
    here = Path(__file__).resolve()
    if not _git(here.parent, "ls-files", here.name):
        return "unknown"
    described = _git(here.parent, "describe", "--always", "--abbrev=40", "--dirty=+changes", "--match", "-")
    return described or "unknown"


def _git(folder: Path, *ask: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *ask], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
