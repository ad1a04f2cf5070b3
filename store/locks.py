"""One writer at a time: locks that go with their process, however it ends."""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import logging
import threading
import time
import uuid
from collections.abc import Iterator

from fintune_xr import names as n
from fintune_xr.errors import RunBusyError
from fintune_xr.store.location import Location, writing

LOGGER = logging.getLogger(__name__)

# A process on object storage renews its lease so often; one that was not renewed for so long belongs to nobody.
RENEW_S = 5.0
PATIENCE_S = 20.0


@contextlib.contextmanager
def holding(location: Location, name: str, *, what: str) -> Iterator[None]:
    """Holds the lock `name` of a store for this process, which is doing `what`.

    On a mounted file system the operating system lets go of it with the process. On object storage it is a
    lease that is renewed; whoever finds one watches it for 20 s and takes it over if nobody renewed it.

    Raises RunBusyError where another process holds it.
    """
    with _locked_file(location, name, what) if location.is_local else _lease(location, name, what):
        yield


def writing_tiles(location: Location) -> contextlib.AbstractContextManager[None]:
    """Holds images, annotations and quarantine. Raises RunBusyError where another process holds them."""
    return holding(location, "ingest", what="adding tiles or annotations")


@contextlib.contextmanager
def _locked_file(location: Location, name: str, what: str) -> Iterator[None]:
    """The file lies in an array's folder because zarr warns about strange files in a group's."""
    path = location.path / n.IMAGES / n.IMAGE / f".{name}.lock"
    with writing(str(path)):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy(location, what) from error
        yield


@contextlib.contextmanager
def _lease(location: Location, name: str, what: str) -> Iterator[None]:
    """Compares what the lease says before and after a wait, never clocks, which differ between machines."""
    key = f"{n.IMAGES}/{n.IMAGE}/.{name}.lock"
    owner = uuid.uuid4().hex
    found = _read(location, key)
    if found:
        time.sleep(PATIENCE_S)
        if _read(location, key) != found:
            raise _busy(location, what)
    location.write_whole(key, [f"{owner} 0".encode()])
    # Of two that write at once the later one stays, and both see the same.
    time.sleep(RENEW_S / 5)
    if _read(location, key) != f"{owner} 0":
        raise _busy(location, what)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(location, key, owner, over), daemon=True, name=f"lease {name}")
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        # By now it may be the lease of whoever took it over.
        if _read(location, key).startswith(owner):
            location.remove(key)


def _renew(location: Location, key: str, owner: str, over: threading.Event) -> None:
    count = 0
    while not over.wait(RENEW_S):
        count += 1
        try:
            is_ours = _read(location, key).startswith(owner)
            if is_ours:
                location.write_whole(key, [f"{owner} {count}".encode()])
        except OSError as error:
            # What cannot renew cannot write either, and says so; it may pass before anybody takes the lease.
            LOGGER.warning("the lease on %s could not be renewed: %s", location.url, error)
            continue
        if not is_ours:
            LOGGER.error("another process has taken over %s after this one stood still: this one stops", location.url)
            _thread.interrupt_main()
            return


def _read(location: Location, key: str) -> str:
    try:
        return location.read(key).decode()
    except FileNotFoundError:
        return ""


def _busy(location: Location, what: str) -> RunBusyError:
    return RunBusyError(f"another process is {what} in {location.url}. Wait for it, or stop it.")
