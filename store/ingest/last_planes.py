"""Planes of files that hold several of them: each file is read and decoded once, whatever it is needed for."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Any, TypeAlias

from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.pairing import TileFiles
from fintune_xr.store.raw.readers import (
    joined_planes,
    read_field_stacks,
    read_plane_with_digest,
    read_planes_with_digest,
    read_stacks_with_digest,
)
from fintune_xr.store.raw.readers.header import checked_pixels
from fintune_xr.store.raw.readers.microscope import holds_fields
from fintune_xr.store.raw.scan import Scan
from fintune_xr.store.raw.sources import Place, changed_at, place_in, place_sha256

_Decoded: TypeAlias = tuple[list[NDArray[Any]], str]


class _File:
    """One file that may be decoded already; who comes while another decodes it waits."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.decoded: _Decoded | None = None


class LastPlanes:
    """Reads planes of the tiles of a scan; the files read last stay decoded, one more than there are `readers`.

    Channels of a tile follow each other, and so do tiles that were cut from one file: nothing else is needed again.
    """

    def __init__(self, scanned: Scan, readers: int) -> None:
        self._scan = scanned
        self._most = readers + 1
        self._lock = Lock()
        self._files: OrderedDict[tuple[str, tuple[int, ...]], _File] = OrderedDict()
        self._digests: dict[tuple[str, float], str] = {}

    def read(self, tile: TileFiles, channel: int) -> tuple[NDArray[Any], str]:
        """The plane (y, x) of a tile's channel, or its volume or stack (z, y, x), and the SHA-256 of its file.

        Raises TileReadError where the file cannot be read, or holds counts in a plane that belongs to no channel.
        """
        layout, file = self._scan.layout, tile.planes[channel]
        if layout.pages_are_depth:
            return self._volume(file.path, tile.depth)
        if not layout.planes and not holds_fields(file.path) and layout.z:
            (stack,), digest = read_stacks_with_digest(
                place_in(self._scan.source, file.path), positions=[0], channels=1, dtypes=layout.dtypes
            )
            return stack, digest
        if not layout.planes and not holds_fields(file.path):
            return read_plane_with_digest(place_in(self._scan.source, file.path), page=file.page, dtypes=layout.dtypes)
        planes, digest = self._decoded(file.path, [int(one.page or 0) for one in tile.planes])
        return planes[channel], digest

    def _volume(self, path: str, depth: int) -> tuple[NDArray[Any], str]:
        place, dtypes = place_in(self._scan.source, path), self._scan.layout.dtypes
        planes, digest = read_planes_with_digest(place, pages=range(depth), dtypes=dtypes)
        return joined_planes(planes), digest

    def _decoded(self, path: str, pages: list[int]) -> _Decoded:
        with self._lock:
            file = self._files.setdefault((path, tuple(pages)), _File())
            self._files.move_to_end((path, tuple(pages)))
            while len(self._files) > self._most:
                self._files.popitem(last=False)
        with file.lock:
            if file.decoded is None:
                file.decoded = self._read(path, pages)
            return file.decoded

    def _read(self, path: str, pages: list[int]) -> _Decoded:
        layout = self._scan.layout
        place = place_in(self._scan.source, path)
        if holds_fields(path):
            return self._of_fields(place, pages)
        wanted = [*pages, *layout.empty_planes]
        if layout.z:
            planes, digest = read_stacks_with_digest(
                place, positions=wanted, channels=layout.planes, dtypes=layout.dtypes
            )
        else:
            planes, digest = read_planes_with_digest(place, pages=wanted, dtypes=layout.dtypes)
        for page, extra in zip(layout.empty_planes, planes[len(pages) :], strict=True):
            if extra.any():
                raise TileReadError(
                    f"wrong values: expected plane {page} to be empty, found counts up to {extra.max()}; "
                    f"name it, e.g. --channels {page}=other"
                )
        return planes[: len(pages)], digest

    def _of_fields(self, place: Place, pages: list[int]) -> _Decoded:
        """Planes of a field of a file, which may hold many and be as large: its digest is made once for all of them."""
        layout, before = self._scan.layout, changed_at(place)
        with self._lock:
            digest = self._digests.get((str(place), before), "")
        if not digest:
            digest = place_sha256(place)
        stacks = read_field_stacks(place, pages=pages, dtypes=layout.dtypes)
        if changed_at(place) != before:
            raise TileReadError("changed while it was read: it was written to. Ingest again when it is whole")
        with self._lock:
            self._digests[str(place), before] = digest
        return (stacks if layout.z else [checked_pixels(stack[0]) for stack in stacks]), digest
