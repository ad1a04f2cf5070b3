"""Long pieces of work, such as trainings, on the workers of a cluster profile."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from distributed import Client, as_completed, get_worker
from distributed.scheduler import KilledWorker

from fintune_xr.cluster.profile import Profile
from fintune_xr.cluster.session import session
from fintune_xr.errors import RunBusyError, WorkerLostError
from fintune_xr.models.devices import AUTO
from fintune_xr.pipelines.console import heard_by, say
from fintune_xr.pipelines.workers.devices import device_on
from fintune_xr.settings import Config, shipped_config

R = TypeVar("R")

# A training that is longer than a job goes on in the next one; this many jobs may end over it.
_TRIES: Final = 20

# How long work waits for a worker that was taken for lost and is still at it, and how often it looks. NFS lets go of
# the locks of a machine that has crashed within minutes.
_PATIENCE_S: Final = 600.0
_LOOK_EVERY_S: Final = 5.0


def results_from_workers(
    profile: Profile, function: Callable[..., R], calls: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int, R]]:
    """Number and result of `function(**call)` for each of `calls`, as they end, one in each worker at a time.

    What the work says there is said here. Work whose worker dies begins again on another one, so that `function` has
    to go on from its own files; those and all paths in `calls` must be seen by the workers.

    Work that another process is at (RunBusyError) is waited for ten minutes.

    Raises what `function` raised, WorkerLostError after 20 workers died over the same call.
    """
    left = set(range(len(calls)))
    profile = profile.for_long_tasks(len(calls))
    with session(profile, left=lambda: len(left), report=say) as client:
        client.cluster.scheduler.allowed_failures = _TRIES
        with _listening(client) as topic:
            numbers = {
                client.submit(
                    _speaking, function, dict(call), topic, pure=False, resources=profile.resources or None
                ): number
                for number, call in enumerate(calls)
            }
            for future in as_completed(list(numbers)):
                result = _result(future)
                left.discard(numbers[future])
                yield numbers.pop(future), result
                future.release()


def shared_path(path: str | Path | None) -> str:
    """`path` as workers find it, for a model or a folder; names and URLs stay as they are."""
    text = str(path or "")
    is_path = text and "://" not in text and ("/" in text or Path(text).exists())
    return str(Path(text).expanduser().resolve()) if is_path else text


def settings_there(
    config: Config, overrides: Sequence[str], *, device: str, profile: Profile
) -> tuple[Config, list[str]]:
    """`config` and `overrides` of a training for workers of `profile`; `device` is what they ask for.

    Where workers have GPUs, `auto` becomes `cuda`, which is an error and not the CPU where there is none.

    Raises DeviceError for a device that the workers lack.
    """
    chosen = device_on(profile, device) if profile.is_remote or profile.has_gpu else device
    there = [f"device={chosen}"] if device == AUTO and chosen != device else []
    if isinstance(config, (str, Path)):
        # A folder that happens to have the name of a configuration is not meant.
        config = str(config) if shipped_config(config) else shared_path(config)
    return config, [*overrides, *there]


@contextlib.contextmanager
def _listening(client: Client) -> Iterator[str]:
    topic = f"say-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, lambda event: say(event[1]))
    try:
        yield topic
    finally:
        client.unsubscribe_topic(topic)


def _speaking(function: Callable[..., R], call: dict[str, Any], topic: str) -> R:
    worker = get_worker()
    with heard_by(lambda text: worker.log_event(topic, text)):
        return _once_free(function, call)


def _once_free(function: Callable[..., R], call: Mapping[str, Any]) -> R:
    """`function(**call)`, tried again for a while where another process is at the same work.

    That is mostly the worker that had this work before, which lost its connection and not its life: it will end, or
    its job will. The work begun again then goes on from what it left.

    Raises RunBusyError where it is still at it after ten minutes.
    """
    until = time.monotonic() + _PATIENCE_S
    said = False
    while True:
        try:
            return function(**call)
        except RunBusyError as error:
            if time.monotonic() > until:
                raise
            if not said:
                say(f"{error} Waiting up to {_PATIENCE_S / 60:.0f} minutes for it.")
            said = True
        time.sleep(_LOOK_EVERY_S)


def _result(future: Any) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        raise WorkerLostError(
            f"{_TRIES} workers ended one after another over the same piece of work. Most often memory is short, or the "
            "work gets no further within the walltime of a job; the logs of the jobs tell."
        ) from error
