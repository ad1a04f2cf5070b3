"""A lease on object storage: an object that its holder renews, and that is only ever replaced if it is still as it was.

S3's conditional writes decide which of two writers gets it, however slow either is. Other storage has no such write
that fsspec offers: there a written lease is looked at again after a moment, and the later of two writers keeps it.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

from fintune_xr.errors import RunBusyError
from fintune_xr.store.zarr_io.location import Location

LOGGER = logging.getLogger(__name__)

# A holder renews its lease so often; one that was not renewed for so long belongs to nobody.
RENEW_S = 5.0
PATIENCE_S = 20.0
# A holder that could not renew stops so much before another may take its lease.
SPARE_S = 4.0
SETTLE_S = 1.0
FREE: Final = b""


@contextlib.contextmanager
def hold_lease(location: Location, key: str, *, busy: str) -> Iterator[None]:
    """Holds the lease `key` for this process; what it says is compared before and after a wait, never clocks.

    A process whose lease was taken over, or that could not renew it in time, is stopped as by Ctrl-C.

    Raises RunBusyError with the words `busy` where another process holds it.
    """
    owner = uuid.uuid4().hex
    found = _tagged(location, key)
    if found is not None and found[0] != FREE:
        time.sleep(PATIENCE_S)
        again = _tagged(location, key)
        if again != found:
            raise RunBusyError(busy)
    # Others may see the lease, and begin to wait, long before a slow storage answers that it was written.
    began = time.monotonic()
    if not _swap(location, key, found, _said(owner, 0)):
        raise RunBusyError(busy)
    over = threading.Event()
    keep = (location, key, owner, began, over)
    renewing = threading.Thread(target=_renew, args=keep, daemon=True, name=f"lease {key}")
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join(PATIENCE_S)
        _give_back(location, key, owner)


def _said(owner: str, count: int) -> bytes:
    return f"{owner} {count}".encode()


def _renew(location: Location, key: str, owner: str, began: float, over: threading.Event) -> None:
    """Renews until it is over; one renewal that hangs must not keep this process from noticing that time is up."""
    count = 0
    while not over.wait(RENEW_S):
        count += 1
        start = time.monotonic()
        try:
            renewed = _within(began + PATIENCE_S - SPARE_S - start, _renewed, location, key, owner, count)
        except TimeoutError:
            LOGGER.error("the lease on %s could not be renewed in time: this process stops", location.url)
            _stop_this_process()
            return
        except OSError as error:
            # What cannot renew cannot write either, and says so; it may pass before anybody takes the lease.
            LOGGER.warning("the lease on %s could not be renewed: %s", location.url, error)
            continue
        if not renewed:
            LOGGER.error("another process has taken over %s after this one stood still: this one stops", location.url)
            _stop_this_process()
            return
        began = start


def _within(seconds: float, call: Callable[..., bool], *args: Any) -> bool:
    """What the call gives; raises TimeoutError where it takes longer, and then it goes on unheeded."""
    outcome: queue.SimpleQueue[bool | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(call(*args))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            outcome.put(error)

    threading.Thread(target=run, daemon=True, name="renewal").start()
    try:
        given = outcome.get(timeout=max(seconds, 0.0))
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.1f} s") from None
    if isinstance(given, BaseException):
        raise given
    return given


def _renewed(location: Location, key: str, owner: str, count: int) -> bool:
    found = _tagged(location, key)
    return (
        found is not None and found[0].startswith(owner.encode()) and _swap(location, key, found, _said(owner, count))
    )


def _give_back(location: Location, key: str, owner: str) -> None:
    """Leaves an empty lease: removing it could remove that of whoever took it in between."""
    with contextlib.suppress(OSError):
        found = _tagged(location, key)
        if found is not None and found[0].startswith(owner.encode()):
            _swap(location, key, found, FREE)


def _stop_this_process() -> None:
    """As Ctrl-C does; a command that a script started in the background has no Ctrl-C and is ended without a word."""
    if callable(signal.getsignal(signal.SIGINT)):
        _thread.interrupt_main()
    else:
        os.kill(os.getpid(), signal.SIGTERM)


Tagged = tuple[bytes, str]


def _tagged(location: Location, key: str) -> Tagged | None:
    """What an object holds and the tag of this version; none where it is not there."""
    with location.remote() as (system, root), contextlib.suppress(FileNotFoundError):
        if not _has_conditions(system):
            return system.cat_file(f"{root}/{key}"), ""
        while True:
            tag, content = str(system.info(f"{root}/{key}")["ETag"]), system.cat_file(f"{root}/{key}")
            # Otherwise the tag may be of one version and the content of the next.
            if system.info(f"{root}/{key}")["ETag"] == tag:
                return content, tag
    return None


def _swap(location: Location, key: str, found: Tagged | None, content: bytes) -> bool:
    """Whether the object became `content`; not where it is no longer what was `found`."""
    with location.remote() as (system, root):
        if not _has_conditions(system):
            system.pipe_file(f"{root}/{key}", content)
            time.sleep(SETTLE_S)
            return bool(system.cat_file(f"{root}/{key}") == content)
        bucket, name, _ = system.split_path(f"{root}/{key}")
        condition = {"IfNoneMatch": "*"} if found is None else {"IfMatch": found[1]}
        try:
            system.call_s3("put_object", Bucket=bucket, Key=name, Body=content, **condition)
        except OSError:
            # A write that was repeated on its way fails for having been done: what is there now decides.
            now = _tagged(location, key)
            if now == found:
                raise
            return now is not None and now[0] == content and content != FREE
    return True


def _has_conditions(system: Any) -> bool:
    return hasattr(system, "call_s3")
