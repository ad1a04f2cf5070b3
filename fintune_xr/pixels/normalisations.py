"""Names of what brings a volume's values into the range that an encoder wants.

Apart from what computes them, so that settings which only name one load no compiler.
"""

from __future__ import annotations

from typing import Final

ZSCORE: Final = "zscore"
IMAGENET: Final = "imagenet"
PERCENTILE_GAMMA: Final = "percentile_gamma"
NORMALISATIONS: Final = (ZSCORE, IMAGENET, PERCENTILE_GAMMA)
