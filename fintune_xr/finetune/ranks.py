"""Processes that train one network together: each learns from its share of every batch, the first one writes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fintune_xr.errors import FintuneError, SettingsError, WorkerLostError
from fintune_xr.execution.native_faults import end_of, print_crashes, remedy_of
from fintune_xr.finetune.patches import AddressSampler
from fintune_xr.finetune.progress import EpochRecord, Report
from fintune_xr.models.devices import CPU, resolve_device

T = TypeVar("T")

# Processes wait for each other as long as a validation takes; whoever watches them finds one that is gone.
_LONGEST_WAIT: Final = timedelta(days=7)
# So long the others may still tell why they end, after the first one did.
_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Rank:
    """Process `number` of `of` that train together; the first one, 0, validates, reports and writes."""

    number: int = 0
    of: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return self.number == 0

    def share(self, batch: Sequence[T]) -> list[T]:
        """What it learns from of a batch; where nothing is left for it, the first sample, with `weight` 0."""
        return list(batch[self.number :: self.of]) or list(batch[:1])

    def weight(self, n_samples: int) -> float:
        """What the mean loss of its share of `n_samples` is multiplied by.

        The mean over all processes is then the mean loss of the batch, also where shares are not of one size.
        """
        return len(range(self.number, n_samples, self.of)) * self.of / n_samples

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Puts the mean over all processes in the place of each tensor."""
        if self.of == 1:
            return
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)
            tensor /= self.of

    def told(self, value: T) -> T:
        """The value of the first process, in every one."""
        if self.of == 1:
            return value
        held = [value]
        torch.distributed.broadcast_object_list(held, src=0)
        return held[0]

    def device(self, name: str) -> str:
        """Its own device, where the training is to run on `name`. Raises what `resolve_device` raises."""
        first = resolve_device(name)
        return first if self.of == 1 or first == CPU else resolve_device(f"cuda:{self.number}")


ALONE: Final = Rank()

Work: TypeAlias = Callable[[Rank, Report], None]
"""A training as one of its processes does it; what it tells of each epoch is the first one's to say."""


class ShareSampler(AddressSampler):
    """The addresses of the samples that one process sees, batch by batch of the whole training."""

    def __init__(self, n_samples: int, seed: int, *, batch_size: int, rank: Rank) -> None:
        super().__init__(n_samples, seed)
        self._batch_size, self._rank = batch_size, rank

    def __len__(self) -> int:
        return len(self._shared(range(self.n_samples)))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._shared(list(super().__iter__())))

    def _shared(self, order: Sequence[T]) -> list[T]:
        starts = range(0, len(order), self._batch_size)
        return [one for at in starts for one in self._rank.share(order[at : at + self._batch_size])]


class Together(Callback):  # type: ignore[misc]
    """Lets all processes begin with the first one's weights and end when it does."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands out weights and buffers."""
        for tensor in (*pl_module.parameters(), *pl_module.buffers()):
            torch.distributed.broadcast(tensor.detach(), src=0)
        trainer.should_stop = self._rank.told(trainer.should_stop)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Waits for the first one's validation."""
        trainer.should_stop = self._rank.told(trainer.should_stop)


@dataclass(frozen=True, slots=True, eq=False)
class _Seat:
    """A process, and the pipe through which it tells of epochs and errors."""

    rank: Rank
    process: SpawnProcess
    pipe: Connection


def in_ranks(work: Work, n_ranks: int, *, device: str, report: Report | None = None) -> None:
    """Does `work`, which must be picklable, in `n_ranks` processes of this machine; `report` is called here.

    With GPUs each process has its own. When one of them ends before its time the others are ended too.

    Raises what one of them raised, WorkerLostError where one was killed, DeviceError for too few GPUs, SettingsError
    in a process that may start no others.
    """
    Rank(n_ranks - 1, n_ranks).device(device)
    if multiprocessing.current_process().daemon:
        raise SettingsError(
            f"devices: expected 1 in a worker process, which may start no others, got {n_ranks}. Train without "
            "--cluster, or with devices=1."
        )
    context = multiprocessing.get_context("spawn")
    seats: list[_Seat] = []
    with tempfile.TemporaryDirectory(prefix="fintune-xr-ranks-") as folder:
        try:
            for number in range(n_ranks):
                seats.append(_started(context, work, Rank(number, n_ranks), device, Path(folder) / "meeting"))
            _watch(seats, report or (lambda _: None))
        finally:
            for seat in seats:
                seat.process.kill()
                seat.process.join()


def _started(context: SpawnContext, work: Work, rank: Rank, device: str, meeting: Path) -> _Seat:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_sit, args=(work, rank, device, meeting, theirs), name=f"rank-{rank.number}")
    process.start()
    # Its end is then the end of the pipe.
    theirs.close()
    return _Seat(rank, process, ours)


def _watch(seats: Sequence[_Seat], report: Report) -> None:
    """Hands reports on until all processes have ended. Raises the error that tells most, of those that come at once."""
    faults: list[tuple[int, FintuneError]] = []
    left = {seat.pipe: seat for seat in seats}
    while left:
        ready: list[Any] = wait(list(left), timeout=_GRACE_S if faults else None)
        if not ready:
            break
        for pipe in ready:
            try:
                message = pipe.recv()
            except EOFError:
                faults.extend(_end_of(left.pop(pipe)))
                continue
            if isinstance(message, EpochRecord):
                report(message)
            else:
                faults.append((_TOLD if not isinstance(message, _LostError) else _UNEXPECTED, message))
    if faults:
        raise min(faults, key=lambda fault: fault[0])[1]


# What is told first of several errors: one that a process explained, then a kill, then what followed from either.
_TOLD, _KILLED, _UNEXPECTED, _ENDED = range(4)
_AGAIN: Final = "What was learnt up to the last epoch is kept: run the same command again to go on."


class _LostError(WorkerLostError):
    """An error that nobody foresaw; often it only says that another process is gone."""


def _end_of(seat: _Seat) -> list[tuple[int, FintuneError]]:
    """What is wrong with how a process ended; nothing where it did its work."""
    seat.process.join()
    code, who = seat.process.exitcode or 0, f"process {seat.rank.number + 1} of the {seat.rank.of} that train together"
    if code < 0:
        told = (f"{who} {end_of(code)}, and the others were ended.", remedy_of(code), _AGAIN)
        return [(_KILLED, WorkerLostError(" ".join(filter(None, told))))]
    return [(_ENDED, WorkerLostError(f"{who} {end_of(code)}. {_AGAIN}"))] if code else []


def _sit(work: Work, rank: Rank, device: str, meeting: Path, pipe: Connection) -> None:
    """The life of one process."""
    print_crashes()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with _met(rank, rank.device(device), meeting):
            work(rank, pipe.send)
    except FintuneError as error:
        pipe.send(error)
    except Exception:  # noqa: BLE001 - the process that watches says it
        where = f"process {rank.number + 1} of {rank.of}"
        pipe.send(_LostError(f"{where} failed. {_AGAIN}\n{traceback.format_exc()}"))
    else:
        return
    # Without a farewell to the others, who may be gone.
    os._exit(1)


def _end_with_parent() -> None:
    """Ends this process as soon as the one that watches is gone: nothing may be written without its lock."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _met(rank: Rank, device: str, meeting: Path) -> Iterator[None]:
    """The processes know of each other, by a file that all of them see."""
    if device == CPU:
        # They are all on this machine, and its name need not lead anywhere.
        inside = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        os.environ.update({"GLOO_SOCKET_IFNAME": inside[0]} if inside else {})
    else:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "gloo" if device == CPU else "nccl", init_method=meeting.as_uri(), rank=rank.number, world_size=rank.of,
        timeout=_LONGEST_WAIT,
    )  # fmt: skip
    yield
    torch.distributed.destroy_process_group()
