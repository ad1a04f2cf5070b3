"""Patches that kill the process that cuts them, importable by that process."""

from __future__ import annotations

import os
import signal
from typing import Any

from fintune_xr.finetune.patches import PatchDataset


class FatalPatches(PatchDataset):
    """As when the system is short of memory."""

    def __getitem__(self, address: tuple[int, int]) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
