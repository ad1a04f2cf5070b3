"""One writer at a time: locks that go with their process, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from fintune_xr import names as n
from fintune_xr.errors import RunBusyError, StoreWriteError
from fintune_xr.execution.file_lock import hold_file
from fintune_xr.store.zarr_io.leases import hold_lease
from fintune_xr.store.zarr_io.location import Location, explain_write_errors
from fintune_xr.store.zarr_io.recovery import aside_paths, clear_leftovers, recover_group

LOGGER = logging.getLogger(__name__)

# A result is not thrown away because another one is being put in its place at this moment.
REPLACING_S = 60.0


@contextlib.contextmanager
def hold_lock(location: Location, name: str, *, what: str) -> Iterator[None]:
    """Holds the lock `name` of a store for this process, which is doing `what`.

    On a mounted file system the operating system lets go of it with the process. On object storage it is a
    lease that is renewed; whoever finds one watches it for 20 s and takes it over if nobody renewed it.
    Whoever is the only writer of a local store first removes what killed ones left unfinished in it.

    Raises RunBusyError where another process holds it.
    """
    if not location.is_local:
        with hold_lease(location, f"{n.IMAGES}/{n.IMAGE}/.{name}.lock", busy=_busy(location, what)):
            yield
        return
    with _locked_file(location, name, what), _among_writers(location):
        yield


def hold_tile_writes(location: Location) -> contextlib.AbstractContextManager[None]:
    """Holds images, annotations and quarantine. Raises RunBusyError where another process holds them."""
    return hold_lock(location, "ingest", what="adding tiles or annotations")


@contextlib.contextmanager
def hold_replacement(location: Location, path: str) -> Iterator[None]:
    """Holds the group `path` of a local store, which another process holds for the moment in which it replaces it.

    On object storage a lease would take longer than the writing.

    Raises RunBusyError where another process still replaces it after 60 s.
    """
    with contextlib.ExitStack() as held:
        until = time.monotonic() + REPLACING_S
        while location.is_local:
            try:
                held.enter_context(_replacement(location, path))
                break
            except RunBusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield


def _replacement(location: Location, path: str) -> contextlib.AbstractContextManager[None]:
    return hold_lock(location, f"replace-{path.replace('/', '+')}", what=f"writing {path}")


def recover_replaced(location: Location) -> None:
    """Puts back groups that were moved aside by replacements which were killed; those that go on are let be."""
    for path in list(aside_paths(location)):
        with contextlib.suppress(RunBusyError, StoreWriteError, OSError), _replacement(location, path):
            recover_group(location, path)


def clear_if_alone(location: Location) -> None:
    """Removes what killed writers left unfinished in a local store, unless another process is writing to it."""
    if can_be_alone(location):
        with _among_writers(location):
            pass


def can_be_alone(location: Location) -> bool:
    """Whether a writer can know that no other is at work: not where the images are not made yet, nor on objects."""
    return location.is_local and _file(location, "writers").parent.is_dir()


@contextlib.contextmanager
def _locked_file(location: Location, name: str, what: str) -> Iterator[None]:
    file = _file(location, name)
    with contextlib.ExitStack() as held:
        with explain_write_errors(str(file)):
            held.enter_context(hold_file(file, busy=_busy(location, what)))
        yield


@contextlib.contextmanager
def _among_writers(location: Location) -> Iterator[None]:
    """Shares a lock with all other writers, once whoever could have it alone has cleared what others left."""
    path = _file(location, "writers")
    with contextlib.ExitStack() as held:
        with explain_write_errors(str(path)):
            file = held.enter_context(path.open("a+"))
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clear(location)
            # Waits while another one clears.
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _clear(location: Location) -> None:
    try:
        clear_leftovers(location)
    except OSError as error:
        # They are in nobody's way: what cannot be removed now is found again by the next one.
        LOGGER.warning("what killed writers left in %s could not be removed: %s", location.url, error)


def _file(location: Location, name: str) -> Path:
    """The file lies in an array's folder because zarr warns about strange files in a group's."""
    return location.path / n.IMAGES / n.IMAGE / f".{name}.lock"


def _busy(location: Location, what: str) -> str:
    return f"another process is {what} in {location.url}. Wait for it, or stop it."
