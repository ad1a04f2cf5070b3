"""The best weights of a training that goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BestWeights:
    """Weights of the best epoch, in a file of `folder` that is named after it; `write` puts the network into a file.

    An epoch that is killed after it was the best, and before the state of the training was written, is repeated, on a
    GPU not to the last bit: what it left must not be taken for the weights that the state calls the best.
    """

    folder: Path
    write: Callable[[Path], None]

    def save(self, epoch: int) -> None:
        """Writes the network as it is."""
        self.write(self._file(epoch))

    def drop_others(self, epoch: int) -> None:
        """Removes the weights of all epochs but this one, once the state that names it is on the disk."""
        for file in self.folder.glob("best-*.pt"):
            if file != self._file(epoch):
                file.unlink()

    def publish(self, epoch: int, target: Path) -> None:
        """Moves the weights of this epoch to `target`, where an earlier call that was killed may have put them."""
        if self._file(epoch).is_file():
            self._file(epoch).replace(target)

    def _file(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch}.pt"
