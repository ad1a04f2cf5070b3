"""Where a store lies: a local folder or an object-storage URL, and how bytes get there whole."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import stat
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import zarr
import zarr.storage
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV3Metadata

from fintune_xr.errors import FintuneError, FintuneValueError, StoreDamagedError, StoreUnreachableError, StoreWriteError
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX, sync, write_errors
from fintune_xr.store.zarr_io.object_storage import check_url, environment_number, file_system, options
from fintune_xr.store.zarr_io.refusals import explain_refusals, is_refusal, unreachable

Bytes = bytes | memoryview

# What goes to object storage at once. S3 takes parts from 5 MiB on, 10,000 of them: shards of up to 160 GiB.
PART_BYTES = 16 << 20
# How much of a local file is written before it is forced to the disk, while more is written.
SYNC_BYTES = 64 << 20
# Arrays that are forced to the disk at a time.
_SYNCING = 4
# What zarr and its codecs raise for bytes that are not what was written; numbers read as lengths of texts ask for any
# amount of memory.
_DECODING_ERRORS = (ValueError, RuntimeError, OSError, KeyError, TypeError, ArithmeticError, MemoryError)
_CANNOT_BE_READ = "{what} cannot be read: {error}. Run `fintune-xr check` to list what is damaged and how to repair it."
# For those who say themselves where it is, and what to do.
BARE = "{error}"
_DESCRIPTION = "zarr.json"
# Under which a group's description repeats those of all that lies below it, where somebody has consolidated them.
_REPEATED = "consolidated_metadata"
_VERSION_2 = {".zarray", ".zgroup", ".zattrs", ".zmetadata"}
_METADATA = {"zarr.json", *_VERSION_2}
_KINDS = ("a group", "an array")
_Described = TypeVar("_Described", GroupMetadata, ArrayV3Metadata)


class Version3Store(zarr.storage.WrapperStore[Store]):
    """A store that is not asked for metadata of Zarr version 2, which is never there.

    zarr looks for it whenever it opens something: on object storage three requests where one is enough.

    Nor does it write what is there already: for every new array zarr offers the metadata of all groups above
    it, and a writer killed then would leave unfinished files in groups that are not its own to sweep.

    Consolidated metadata is not read, and is taken away before anything that it repeats is written: whoever opens a
    store by it would be told without a word of arrays as long as they were.

    Whatever reads through it raises StoreUnreachableError where storage refuses or does not answer.
    """

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes under `key`, None where there are none, and for metadata of version 2 without asking.

        Raises StoreDamagedError for metadata that describe no array and no group.
        """
        if key.rpartition("/")[2] in _VERSION_2:
            return None
        with explain_refusals(self._place(key)):
            found = await self._store.get(key, prototype, byte_range)
        if found is not None and byte_range is None and _is_description(key):
            content = found.to_bytes()
            own = _without_repeated(content)
            _description(key, own or content, self._store)
            return prototype.buffer.from_bytes(own) if own else found
        return found

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Stores `value` under `key` where nothing is; what is there is not written again."""
        if not await self.exists(key):
            await self._forget_repeated(key)
            # Not `set`: another process may have written since, and is not written over.
            with explain_refusals(self._place(key)) if self._is_remote else contextlib.nullcontext():
                await self._store.set_if_not_exists(key, value)

    async def set(self, key: str, value: Buffer) -> None:
        """Stores `value` under `key`."""
        await self._forget_repeated(key)
        # What a file system says of writing is explained by `explain_write_errors`.
        with explain_refusals(self._place(key)) if self._is_remote else contextlib.nullcontext():
            await self._store.set(key, value)

    async def exists(self, key: str) -> bool:
        """Whether something is stored under `key`."""
        with explain_refusals(self._place(key)):
            return await self._store.exists(key)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names of what lies right under `prefix`."""
        with explain_refusals(self._place(prefix)):
            async for name in self._store.list_dir(prefix):
                yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin with `prefix`."""
        with explain_refusals(self._place(prefix)):
            async for key in self._store.list_prefix(prefix):
                yield key

    async def _forget_repeated(self, key: str) -> None:
        """Takes consolidated metadata away from all groups above the description `key`, before it changes."""
        for group in _descriptions_above(key) if _is_description(key) else ():
            found = await self._store.get(group, default_buffer_prototype())
            if found is not None and (own := _without_repeated(found.to_bytes())):
                await self._store.set(group, default_buffer_prototype().buffer.from_bytes(own))

    @property
    def _is_remote(self) -> bool:
        return isinstance(self._store, zarr.storage.FsspecStore)

    def _place(self, key: str) -> str:
        """`key` as people name it: a path, or a URL."""
        if isinstance(self._store, zarr.storage.FsspecStore):
            return f"{self._store.fs.unstrip_protocol(self._store.path)}/{key}"
        return f"{getattr(self._store, 'root', self._store)}/{key}"


def _is_description(key: str) -> bool:
    return key.rpartition("/")[2] == _DESCRIPTION


def _descriptions_above(key: str) -> list[str]:
    """Keys of the descriptions of all groups above what `key` describes, the nearest first."""
    parents = [str(folder) for folder in PurePosixPath(key).parent.parents if key != _DESCRIPTION]
    return [_DESCRIPTION if folder == "." else f"{folder}/{_DESCRIPTION}" for folder in parents]


def _without_repeated(content: bytes) -> bytes:
    """A description without what it repeats of others, empty where it repeats nothing or is damaged."""
    if _REPEATED.encode() in content:
        with contextlib.suppress(ValueError):
            told = json.loads(content)
            if isinstance(told, dict) and told.pop(_REPEATED, None) is not None:
                return json.dumps(told, indent=2).encode()
    return b""


def _description(key: str, content: bytes, store: Store | str) -> GroupMetadata | ArrayV3Metadata:
    """What these bytes say of a group or an array.

    Raises StoreDamagedError for bytes that describe neither; zarr says of some of them anything.
    """
    try:
        told = json.loads(content)
        if not isinstance(told.get("attributes"), dict | None):
            raise TypeError("attributes: expected a record")  # zarr takes anything and fails where it is looked at.
        told.pop(_REPEATED, None)
        return (GroupMetadata if told["node_type"] == "group" else ArrayV3Metadata).from_dict(told)
    except Exception as error:
        raise StoreDamagedError(
            f"{key} in {store} is no description of an array or a group: {type(error).__name__}: {error}. "
            "Run `fintune-xr check` to list what is damaged."
        ) from error


class StrictStore(Version3Store):
    """A store in which a chunk that is not there is an error, never the fill value.

    zarr reads a missing shard, and an empty one, as background without a word.
    """

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes under `key`; of metadata None where there are none.

        Raises StoreDamagedError for a chunk that is missing or empty, and as `Version3Store.get` does.
        """
        found = await super().get(key, prototype, byte_range)
        if not is_chunk_key(key) or (found is not None and len(found) > 0):
            return found
        what = "is missing" if found is None else "is empty"
        raise StoreDamagedError(
            f"{key} {what} in {self._store}. Run `fintune-xr check` to list what is damaged and how to repair it."
        )


def is_chunk_key(key: str) -> bool:
    """Whether a key names stored chunks (`…/c.3.0.0` or `…/c/3/0/0`), not metadata."""
    last = key.rpartition("/")[2]
    if last in _METADATA:
        return False
    return last.startswith("c.") or "/c/" in key or last == "c"


@dataclass(frozen=True, slots=True)
class Location:
    """Root of a store: a local path, or a URL that fsspec understands (`s3://bucket/cohort.zarr`)."""

    url: str

    @classmethod
    def of(cls, where: str | Path | Location) -> Location:
        """`where` as a location; local paths are made absolute so that workers find them."""
        if isinstance(where, Location):
            return where
        text = str(where)
        if "://" not in text:
            return cls(str(Path(text).expanduser().resolve()))
        check_url(text)
        return cls(text.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder on a mounted file system."""
        return "://" not in self.url

    @property
    def path(self) -> Path:
        """The local folder; only for a local store."""
        return Path(self.url)

    def exists(self) -> bool:
        """Whether a Zarr group lies here."""
        return self.size("zarr.json") is not None

    def size(self, key: str) -> int | None:
        """Bytes stored under `key`, or None where there is nothing."""
        with explain_refusals(f"{self.url}/{key}"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if self.is_local:
                # Not `is_file`, which takes what may not be looked at for what is not there.
                status = (self.path / key).stat()
                return status.st_size if stat.S_ISREG(status.st_mode) else None
            with self.remote() as (system, root):
                return int(system.size(f"{root}/{key}"))
        return None

    def answers(self) -> bool:
        """Whether its root can be listed and read; of object storage, whether something lies there."""
        try:
            if self.is_local:
                with explain_refusals(self.url):
                    list(self.path.iterdir())
                self.read(_DESCRIPTION)
            return self.exists()
        except (StoreUnreachableError, FileNotFoundError):
            return False

    def descriptions(self) -> list[str]:
        """Keys of all descriptions of groups and arrays, sorted; a folder that may not be read hides none of them."""
        with explain_refusals(self.url):
            if self.is_local:
                found = [Path(at, _DESCRIPTION) for at, _, files in _walk(self.path) if _DESCRIPTION in files]
                return sorted(file.relative_to(self.path).as_posix() for file in found)
            with self.remote() as (system, root):
                keys = [str(file).removeprefix(f"{root.rstrip('/')}/") for file in system.find(root)]
        return sorted(key for key in keys if key.rpartition("/")[2] == _DESCRIPTION)

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes of `key`, or of its range `start:end`; raises FileNotFoundError where there is nothing."""
        if not self.is_local:
            with self.remote() as (system, root):
                return bytes(system.cat_file(f"{root}/{key}", start=start, end=end))
        with explain_refusals(f"{self.url}/{key}"), (self.path / key).open("rb") as file:
            file.seek(start or 0)
            return file.read() if end is None else file.read(end - (start or 0))

    def group_attributes(self, path: str) -> dict[str, Any]:
        """Attributes of the group at `path`, the store itself where that is empty.

        Raises FileNotFoundError where nothing is described, StoreDamagedError where it is no group.
        """
        return dict(self._described(path, GroupMetadata).attributes)

    def array(self, path: str, *, read_only: bool = True) -> zarr.Array[Any]:
        """The array at `path`, in which, unless it may be written, a chunk that is not there is an error.

        What is written has chunks of zeros too, so that an absent one is damage.

        Raises FileNotFoundError where nothing is described, StoreDamagedError where it is no array.
        """
        described = self._described(path, ArrayV3Metadata)
        place = zarr.storage.StorePath(self.zarr(read_only=read_only), path)
        # zarr's own setting is one for all threads: where two open arrays, it ends for both when the first leaves.
        opened: Any = zarr.AsyncArray(described, place, config={"write_empty_chunks": True})
        return zarr.Array(opened)

    def _described(self, path: str, kind: type[_Described]) -> _Described:
        """What is said of a group or an array.

        Asked before each shard and for every column, and zarr's event loop takes twice the time for a file of a few
        lines.
        """
        key = f"{path}/{_DESCRIPTION}".lstrip("/")
        found = _description(key, self.read(key), self.url)
        if not isinstance(found, kind):
            is_array = isinstance(found, ArrayV3Metadata)
            raise StoreDamagedError(
                f"{key} in {self.url} describes {_KINDS[is_array]} where {_KINDS[not is_array]} was expected. Run "
                "`fintune-xr check` to list what is damaged and how to repair it."
            )
        return found

    def write_whole(self, key: str, parts: Iterable[Bytes]) -> int:
        """Number of bytes written: all of `parts` under `key`, durable, or nothing at all.

        Locally the bytes go to a neighbouring `.partial` file that is synced and renamed. To object storage few bytes
        go in one request and many as the parts of one upload, so that memory holds a part or two and not the whole.

        Raises StoreWriteError on a full disk, a read-only path or missing permission.
        """
        with explain_write_errors(f"{self.url}/{key}"):
            if self.is_local:
                return _replace_file(self.path / key, parts)
            with self.remote() as (system, root):
                return _send(system, f"{root}/{key}", iter(parts))

    def write_aside(self, key: str, parts: Iterable[Bytes]) -> str:
        """Key of a durable `.partial` file beside `key` that holds all of `parts`; `put_in_place` makes it `key`.

        Raises FintuneValueError for object storage, which cannot rename, StoreWriteError as `write_whole` does.
        """
        if not self.is_local:
            raise FintuneValueError(f"{self.url}: object storage renames nothing; write `{key}` whole instead")
        with explain_write_errors(f"{self.url}/{key}"):
            return str(_write_partial(self.path / key, parts).relative_to(self.path))

    def put_in_place(self, aside: str, key: str) -> None:
        """Renames what `write_aside` wrote to `key`, durably."""
        with explain_write_errors(f"{self.url}/{key}"):
            (self.path / aside).replace(self.path / key)
            sync((self.path / key).parent)

    def discard(self, aside: str) -> None:
        """Removes what `write_aside` wrote; nothing happens where it is gone."""
        (self.path / aside).unlink(missing_ok=True)

    def remove(self, folder: str) -> None:
        """Removes everything under `folder`; nothing happens where there is nothing."""
        if self.is_local:
            shutil.rmtree(self.path / folder, ignore_errors=True)
            return
        with self.remote() as (system, root):
            if system.exists(f"{root}/{folder}"):
                system.rm(f"{root}/{folder}", recursive=True)

    def forget_repeated(self, path: str) -> None:
        """Takes consolidated metadata away from all groups above `path`, before it is moved or removed."""
        for key in _descriptions_above(f"{path}/{_DESCRIPTION}"):
            with contextlib.suppress(FileNotFoundError):
                if own := _without_repeated(self.read(key)):
                    self.write_whole(key, [own])

    def zarr(self, *, read_only: bool = True) -> Store:
        """The zarr store; when `read_only`, one that refuses to invent missing chunks."""
        if self.is_local:
            plain: Store = zarr.storage.LocalStore(self.url, read_only=read_only)
        else:
            plain = _remote_store(self.url, read_only, environment_number())
        return StrictStore(plain) if read_only else Version3Store(plain)

    def sweep(self, folder: str = "") -> list[str]:
        """Removes `.partial` files that killed writers left under `folder`; returns their names."""
        if not self.is_local:
            return []
        found = sorted((self.path / folder).rglob(f"*{PARTIAL_SUFFIX}"))
        for file in found:
            file.unlink(missing_ok=True)
        return [str(file.relative_to(self.path)) for file in found]

    @contextlib.contextmanager
    def remote(self) -> Iterator[tuple[Any, str]]:
        """The file system and the root there."""
        with explain_refusals(self.url):
            yield file_system(self.url)


@functools.lru_cache(maxsize=16)
def _remote_store(url: str, read_only: bool, environment: int) -> Store:  # noqa: ARG001 - told apart by it
    """One connection for all that this process reads and writes: making a client anew takes a good second."""
    return zarr.storage.FsspecStore.from_url(url, storage_options=options(url), read_only=read_only)


@contextlib.contextmanager
def explain_write_errors(what: str) -> Iterator[None]:
    """Turns the operating system's refusals to write into a StoreWriteError that says what to do."""
    with write_errors(what):
        try:
            yield
        except FileNotFoundError as error:
            if "://" not in what:
                raise
            raise StoreWriteError(
                f"cannot write {what}: {error}. Make the bucket first, or correct the URL."
            ) from error


@contextlib.contextmanager
def explain_read_errors(what: str, wording: str = _CANNOT_BE_READ) -> Iterator[None]:
    """Turns what codecs say about bytes that are not those that were written into a StoreDamagedError of this wording.

    Whoever goes on where something is damaged catches that alone: of what storage refuses, which is a
    StoreUnreachableError, nothing is known.
    """
    try:
        yield
    except FintuneError:
        raise
    except Exception as error:
        if is_refusal(error):
            raise unreachable(what, error) from error
        if not isinstance(error, _DECODING_ERRORS):
            raise
        raise StoreDamagedError(wording.format(what=what, error=error)) from error


def sync_array(location: Location, path: str, chunks: Iterable[int]) -> None:
    """Forces to the disk what zarr has written of an array: its chunks of these numbers, and its length.

    zarr renames finished files into place but syncs neither them nor their folder. Nothing is done for a URL.
    """
    if not location.is_local:
        return
    folder = location.path / path
    files = [file for chunk in sorted(set(chunks)) for file in folder.glob(f"c.{chunk}*") if _is_chunk(file, chunk)]
    for file in [*files, folder / "zarr.json"]:
        sync(file)
    sync(folder)


def sync_arrays(location: Location, chunks: Mapping[str, Iterable[int]]) -> None:
    """The same for the arrays at some paths, a few at a time: the disk is as soon done with all of them as with one."""
    with ThreadPoolExecutor(_SYNCING) as pool:
        for _ in pool.map(partial(sync_array, location), chunks, chunks.values()):
            pass


def _is_chunk(file: Path, chunk: int) -> bool:
    """Whether a file is a chunk of this number along the first dim, neither of 10 for 1 nor a killed writer's."""
    return file.name.split(".")[1] == str(chunk) and not file.name.endswith(PARTIAL_SUFFIX)


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    def refuse(error: OSError) -> None:
        raise error

    return os.walk(folder, onerror=refuse)


def _replace_file(file: Path, parts: Iterable[Bytes]) -> int:
    partial = _write_partial(file, parts)
    try:
        size = partial.stat().st_size
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(file.parent)
    return size


def _write_partial(file: Path, parts: Iterable[Bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with partial.open("wb") as out:
            with _SyncedBehind(out.fileno()) as behind:
                for part in parts:
                    behind.note(out.write(part))
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


class _SyncedBehind:
    """Forces a long file to the disk while it is still written, so that little of it is left for the end."""

    def __init__(self, handle: int) -> None:
        self._handle, self._n_bytes = handle, 0
        self._pool = ThreadPoolExecutor(1)
        self._syncing: Future[None] | None = None

    def note(self, n_bytes: int) -> None:
        """Tells of so many bytes more; raises OSError where those before could not be forced to the disk."""
        self._n_bytes += n_bytes
        if self._n_bytes >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._ended()
            self._syncing, self._n_bytes = self._pool.submit(os.fsync, self._handle), 0

    def __enter__(self) -> _SyncedBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            # The system tells of a fault once, and may have told it there.
            self._ended()

    def _ended(self) -> None:
        if self._syncing is not None:
            self._syncing.result()


def _send(system: Any, path: str, parts: Iterator[Bytes]) -> int:
    first: list[Bytes] = []
    size = 0
    for part in parts:
        first.append(part)
        size += len(part)
        if size >= PART_BYTES:
            return _send_in_parts(system, path, itertools.chain(_given_away(first), parts))
    system.pipe_file(path, b"".join(first))
    return size


def _send_in_parts(system: Any, path: str, parts: Iterable[Bytes]) -> int:
    """The object appears with the commit; an error aborts the upload, so that no part of it is kept.

    A transaction of the file system would do the same, but all threads share it: each would commit the others' parts.
    """
    upload = system._open(path, "wb", block_size=PART_BYTES, autocommit=False)
    try:
        size = sum(int(upload.write(part)) for part in parts)
        upload.close()
        upload.commit()
    except BaseException:
        upload.discard()
        raise
    return size


def _given_away(parts: list[Bytes]) -> Iterator[Bytes]:
    """Each of `parts`, which is held here no longer than it takes."""
    parts.reverse()
    while parts:
        yield parts.pop()
