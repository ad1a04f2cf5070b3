"""Published weights: whether they are on this machine, and how to fetch them before going offline."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fintune_xr.errors import CheckpointError, CheckpointNotFoundError
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.provenance import file_sha256


@dataclass(frozen=True, slots=True)
class Published:
    """Weights that a project publishes: their name here, and the file and folder that the project keeps them in.

    The environment `variable` moves the folder. `address` is asked for only to download; `digest` is how the file's
    SHA-256 begins, where the project says so.
    """

    name: str
    file: str
    folder: Callable[[], Path]
    variable: str
    address: Callable[[], str]
    digest: str = ""

    @property
    def path(self) -> Path:
        """Where the file lies on this machine, if it is there."""
        return self.folder() / self.file

    @property
    def digest_path(self) -> Path:
        """Where the digest lies that the file had when it was fetched first, as `sha256sum --check` reads it."""
        return self.path.with_name(f"{self.file}.sha256")


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


def weights_file(published: Published) -> WeightsFile:
    """The weights with their digest, whether on this machine or not."""
    path = published.path
    return WeightsFile(published.name, path, file_sha256(path) if path.is_file() else "")


def cached_weights(published: Published) -> Path:
    """File of the weights on this machine; nothing is downloaded.

    Raises CheckpointNotFoundError if the file is missing.
    """
    path = published.path
    if not path.is_file():
        raise CheckpointNotFoundError(
            f"the weights {published.name!r} are not on this machine (expected {path}). Where there is a network run "
            f"`fintune-xr weights fetch {published.name}`; if that is another one, copy the file to that folder here, "
            f"or set {published.variable}, from which that folder follows."
        )
    return path


def fetch_weights(published: Published) -> WeightsFile:
    """The weights, downloaded unless they are on this machine already; their digest is stored beside them.

    Raises CheckpointError where the download fails, or the file is another one than the project says, or than it was
    when it was fetched first.
    """
    if not published.path.is_file():
        _download(published.address(), published.path)
    found = weights_file(published)
    if not found.sha256.startswith(published.digest):
        raise CheckpointError(
            f"{found.path} is not {published.name}: expected a SHA-256 that begins with {published.digest}, found "
            f"{found.sha256[:12]}. Remove the file and run the command again."
        )
    require_as_first_fetched(published, found.sha256)
    if not published.digest_path.is_file():
        with whole_file(published.digest_path) as place:
            place.write_text(f"{found.sha256}  {published.file}\n", encoding="utf-8")
    return found


def require_as_first_fetched(published: Published, sha256: str) -> None:
    """Raises CheckpointError unless `sha256` is the digest that the first fetch stored; without one anything is right.

    Where the project publishes no digest, nothing else tells a file that was replaced or damaged from the one that
    earlier results come from.
    """
    if not published.digest_path.is_file():
        return
    first = published.digest_path.read_text(encoding="utf-8").partition(" ")[0].strip()
    if first != sha256:
        raise CheckpointError(
            f"{published.path} is not what was fetched first as {published.name!r}: expected SHA-256 {first} (as in "
            f"{published.digest_path.name}), found {sha256}. Remove the file and run `fintune-xr weights fetch "
            f"{published.name}`; if the new one is meant, remove {published.digest_path.name} as well."
        )


def _download(address: str, path: Path) -> None:
    """Writes `path` whole or not at all.

    Not by cellpose's own function, which turns off certificate checks for the whole process.
    """
    with whole_file(path) as place:
        try:
            opened = urllib.request.urlopen(address, timeout=60)  # noqa: S310 (a published address)
            with opened as source, place.open("wb") as file:
                expected = source.headers.get("Content-Length")
                shutil.copyfileobj(source, file, 1 << 20)
            size = place.stat().st_size
            if expected is not None and size != int(expected):
                raise CheckpointError(f"{address}: got {size} of {expected} bytes. Run the command again.")
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise CheckpointError(
                f"cannot download {address}: {error}. Run this on a machine with a network, or copy the file "
                f"to {path} by hand."
            ) from error
