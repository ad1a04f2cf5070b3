"""One writer at a time: locks that go with their process, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator

from fintune_xr import names as n
from fintune_xr.errors import RunBusyError
from fintune_xr.store.location import Location, writing


@contextlib.contextmanager
def holding(location: Location, name: str, *, what: str) -> Iterator[None]:
    """Holds the lock `name` of a local store for this process, which is doing `what`.

    The file lies in an array's folder because zarr warns about strange files in a group's.

    Raises RunBusyError where another process holds it.
    """
    if not location.is_local:
        yield
        return
    path = location.path / n.IMAGES / n.IMAGE / f".{name}.lock"
    with writing(str(path)):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusyError(
                f"another process is {what} in {location.url}. Wait for it, or stop it."
            ) from error
        yield


def writing_tiles(location: Location) -> contextlib.AbstractContextManager[None]:
    """Holds images, annotations and quarantine. Raises RunBusyError where another process holds them."""
    return holding(location, "ingest", what="adding tiles or annotations")
