"""Whole files from a folder or a bucket: tried again where the way there fails, staged in a folder where one is given.

How often is counted here alone: the libraries below try once. Refusals (403), absence (404) and damaged files are final
at the first try.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

import fsspec
import numpy as np

from fintune_xr.errors import FintuneError, FintuneValueError, TileReadError
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.store.raw.sources import Place, is_url
from fintune_xr.store.zarr_io.object_storage import check_url, environment_number, once_options
from fintune_xr.store.zarr_io.refusals import is_refusal, unreachable

DELAYS_S: Final = (0.5, 1.0, 2.0, 4.0)
# Waiting times of many workers are spread, so that they do not come back all at once.
_JITTER: Final = 0.25
_BLOCK_BYTES: Final = 1 << 18
# What a staged file is called: the digest of its key. Whatever else lies in the folder is somebody's own.
_KEPT_NAME: Final = re.compile(r"[0-9a-f]{64}")
_NETWORK_ERRNO: Final = (
    errno.EIO, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
    errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH,
)  # fmt: skip
_FINAL: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FintuneError)
_LIBRARIES: Final = ("botocore", "aiobotocore", "aiohttp", "urllib3", "fsspec")
_TOO_MANY: Final = 429

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Staging:
    """A folder in which files of a bucket are kept, up to so many bytes, the ones used longest ago out first.

    Other files of the folder are neither counted nor removed.
    """

    folder: Path
    most_bytes: int
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.most_bytes < 1:
            raise FintuneValueError(f"--cache-gb: expected more than 0, got {self.most_bytes / 1e9:g}")

    def read(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes kept under `key`, or what `fetch` gives, which is kept then; a kill leaves no half of a file."""
        file = self.folder / hashlib.sha256(key.encode()).hexdigest()
        try:
            content = file.read_bytes()
            os.utime(file)
        except FileNotFoundError:
            content = fetch()
            self._keep(file, content)
        return content

    def _keep(self, file: Path, content: bytes) -> None:
        if len(content) > self.most_bytes:
            return
        with self._lock, whole_file(file) as place:
            self._make_room(len(content))
            place.write_bytes(content)

    def _make_room(self, n_bytes: int) -> None:
        kept = sorted(_used_and_size(file) for file in self.folder.iterdir() if _KEPT_NAME.fullmatch(file.name))
        used = sum(size for _, size, _ in kept)
        for _, size, file in kept:
            if used + n_bytes <= self.most_bytes:
                return
            file.unlink(missing_ok=True)
            used -= size


def _used_and_size(file: Path) -> tuple[float, int, Path]:
    try:
        status = file.stat()
    except FileNotFoundError:
        # Another process made room meanwhile.
        return 0.0, 0, file
    return status.st_mtime, status.st_size, file


def read_file(place: Place, staging: Staging | None = None) -> bytes:
    """All bytes of the file at `place`.

    Raises OSError, or an error of the storage's library, where they cannot be had; see `is_passing`.
    """
    if not is_url(place):
        return Path(place).read_bytes()
    url = str(place)
    check_url(url)

    def fetch() -> bytes:
        system, path = once_system(url)
        return bytes(system.cat_file(path))

    if staging is None:
        return with_retries(fetch, url)
    system, path = once_system(url)
    told = with_retries(lambda: system.info(path), url)
    stamp = [str(told.get(key)) for key in ("size", "ETag", "LastModified", "mtime", "created")]
    return staging.read("|".join([url, *stamp]), lambda: with_retries(fetch, url))


def fetch_tile(place: Place, staging: Staging | None = None) -> bytes:
    """The same as `read_file`, for a tile: raises TileReadError, in few words, where the bytes cannot be had."""
    try:
        return read_file(place, staging)
    except FintuneError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES):
            raise
        raise TileReadError(f"not fetched: {in_few_words(error)}", str(place)) from error


def table_bytes(place: Place) -> bytes | None:
    """The bytes of a small file; None where there is none.

    Object storage that may not be listed says "denied" of what is not there, so that is None too.

    Raises StoreUnreachableError where the storage does not answer, or a file of this machine may not be read.
    """
    try:
        return read_file(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        if is_url(place):
            return None
        raise unreachable(str(place), in_few_words(error)) from error
    except FintuneError:
        raise
    except Exception as error:
        if not is_url(place):
            raise
        if _status(error) in (403, 404):
            return None
        raise unreachable(str(place), in_few_words(error)) from error


def with_file(place: Place, use: Callable[[BinaryIO], T]) -> T:
    """What `use` makes of the opened file, of which only the parts that it asks for are read; tried as `read_file`."""
    if not is_url(place):
        with Path(place).open("rb") as file:
            return use(file)
    url = str(place)
    check_url(url)

    def attempt() -> T:
        system, path = once_system(url)
        with system.open(path, "rb", block_size=_BLOCK_BYTES) as file:
            return use(cast(BinaryIO, file))

    return with_retries(attempt, url)


def with_tile(place: Place, use: Callable[[BinaryIO], T]) -> T:
    """The same as `with_file`, for a tile: raises TileReadError where the file itself is gone or cannot be had.

    Raises StoreUnreachableError where its storage does not answer, which tells nothing of the file.
    """
    try:
        return with_file(place, use)
    except FintuneError:
        raise
    except Exception as error:
        if is_refusal(error) and not _is_of_one_file(error, place):
            raise unreachable(str(place), error) from error
        if not isinstance(error, OSError):
            raise
        raise TileReadError(f"not fetched: {in_few_words(error)}", str(place)) from error


def _is_of_one_file(error: Exception, place: Place) -> bool:
    """Whether what was refused says something of that file alone: it is forbidden, or on a bad sector."""
    return isinstance(error, PermissionError) or (
        not is_url(place) and isinstance(error, OSError) and error.errno == errno.EIO
    )


def with_retries(attempt: Callable[[], T], what: str) -> T:
    """What `attempt` gives; while the way there fails, up to four more tries after 0.5, 1, 2 and 4 s, with jitter.

    Raises what the last try raised. `what` tells the jitter of one file from another's.
    """
    seed = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "little")
    for number, delay in enumerate(DELAYS_S):
        try:
            return attempt()
        except Exception as error:
            if not is_passing(error):
                raise
            spread = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,))).uniform(-_JITTER, _JITTER)
            _sleep(delay * (1 + float(spread)))
    return attempt()


def is_passing(error: BaseException) -> bool:
    """Whether another try may help: a failed connection, or an answer of 5xx or 429."""
    if isinstance(error, _FINAL):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status == _TOO_MANY
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError):
        return error.errno in _NETWORK_ERRNO
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def in_few_words(error: BaseException) -> str:
    """What went wrong, for people: short, on one line, without a request's headers or addresses."""
    status = _status(error)
    told = {403: "access denied", 404: "not found"}.get(status or 0, "")
    if isinstance(error, FileNotFoundError):
        told = "not found"
    if isinstance(error, PermissionError):
        told = "access denied"
    where = f" (HTTP {status})" if status is not None else ""
    return f"{told or type(error).__name__}{where}"


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error, or one that it came from, carries."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return int(code) if code else None
        status = getattr(seen, "status", None)
        if isinstance(status, int):
            return status
        seen = seen.__cause__
    return None


@functools.lru_cache(maxsize=16)
def _system_of(root: str, environment: int) -> Any:  # noqa: ARG001 - told apart by it
    system, _ = fsspec.core.url_to_fs(root, **once_options(root))
    if hasattr(system, "retries"):
        system.retries = 1
    return system


def once_system(url: str) -> tuple[Any, str]:
    """The file system of `url`, which tries once, and the path there."""
    protocol, _, path = url.partition("://")
    system = _system_of(f"{protocol}://{path.partition('/')[0]}", environment_number())
    return system, system._strip_protocol(url)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
