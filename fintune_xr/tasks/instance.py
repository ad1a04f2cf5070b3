"""Instances: every cell has an outline of its own."""

from __future__ import annotations

from typing import Final

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.tasks.task import INSTANCE, Task

INSTANCE_TASK: Final = Task(INSTANCE, datasets.ANNOTATIONS, source="MASKS", array=n.MASK)
