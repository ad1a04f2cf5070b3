"""When this process must have ended its work, as the job that it runs in says."""

from __future__ import annotations

import math
import os
import time
from typing import Final

# Unix time, exported by the job script; absent where nothing ends on its own.
JOB_END: Final = "FINTUNE_XR_JOB_END"


def seconds_left() -> float:
    """Seconds until the job of this process ends; infinite where there is no such end."""
    end = os.environ.get(JOB_END, "")
    return float(end) - time.time() if end else math.inf
