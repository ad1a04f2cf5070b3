"""The tasks that are implemented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fintune_xr.tasks.classification import CLASSIFICATION_TASK
from fintune_xr.tasks.detection import DETECTION_TASK
from fintune_xr.tasks.instance import INSTANCE_TASK
from fintune_xr.tasks.semantic import SEMANTIC_TASK
from fintune_xr.tasks.task import Task

TASKS: Final[Mapping[str, Task]] = {
    task.name: task for task in (INSTANCE_TASK, SEMANTIC_TASK, DETECTION_TASK, CLASSIFICATION_TASK)
}
