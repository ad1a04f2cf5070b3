"""Patches of several images in one batch of a network, and what it gives back to its images."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fintune_xr.models.protocol import Maps

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """An image in patches (channel, y, x), each cut when its turn comes; `join` makes maps of all outputs, in order."""

    n_patches: int
    patches: Iterable[Maps]
    join: Callable[[Sequence[Maps]], Maps]


class PatchLimit:
    """The most patches that a network is shown at once; fewer from the moment on when memory was full."""

    def __init__(self, n_patches: int) -> None:
        self.n_patches = n_patches

    def run(self, network: Callable[[Maps], Maps], patches: Maps) -> Iterator[Maps]:
        """What `network` gives for each of `patches` (patch, channel, y, x).

        Raises torch.cuda.OutOfMemoryError where there is no room for a single one.
        """
        done = 0
        while done < len(patches):
            some = patches[done : done + self.n_patches]
            try:
                found = network(some)
            except torch.cuda.OutOfMemoryError:
                if len(some) == 1:
                    raise
            else:
                yield from found
                done += len(some)
                continue
            # Only here, where nothing refers to what the network had begun any more, can its memory be given back.
            torch.cuda.empty_cache()
            self.n_patches = len(some) // 2
            LOGGER.warning("out of memory: now %d patches at once", self.n_patches)


def map_patches(
    images: Sequence[Maps], *, cut: Callable[[Maps], Cut], network: Callable[[Maps], Maps], limit: PatchLimit
) -> list[Maps]:
    """Output maps of each image, by patches; every batch of the network is full, but the last of each size of patch.

    `cut` makes patches whose size depends on that of the image alone. An image is cut when its first patch is due and
    joined with its last: besides the results, memory holds a batch and the patches of the images that meet in it.
    """
    # Images of one size follow each other: their patches fit into one batch.
    order = sorted(range(len(images)), key=lambda i: images[i].shape)
    joined = _joined((cut(images[i]) for i in order), network, limit)
    found = dict(zip(order, joined, strict=True))
    return [found[i] for i in range(len(images))]


def _joined(cuts: Iterable[Cut], network: Callable[[Maps], Maps], limit: PatchLimit) -> Iterator[Maps]:
    begun: deque[Cut] = deque()
    outputs: deque[Maps] = deque()
    for _, alike in itertools.groupby(_patches(cuts, begun), key=np.shape):
        while some := list(itertools.islice(alike, limit.n_patches)):
            outputs.extend(limit.run(network, np.stack(some)))
            while begun and len(outputs) >= begun[0].n_patches:
                first = begun.popleft()
                yield first.join([outputs.popleft() for _ in range(first.n_patches)])


def _patches(cuts: Iterable[Cut], begun: deque[Cut]) -> Iterator[Maps]:
    for one in cuts:
        begun.append(one)
        yield from one.patches
