"""What is known about the outcomes of the ROSMAP clinical table: meaning, direction, range, usable codes.

Reference: Rush Alzheimer's Disease Center, RADC Research Resource Sharing Hub, codebook of the variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

WORSE: Final = "higher is worse"
BETTER: Final = "higher is better (reversed scale)"
BROKEN: Final = "1, 2, 4 get worse; codes 3, 5 and 6 break the order"
UNKNOWN: Final = "not known"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One outcome: what it is, where its values lie, and what a high value means.

    `column` is the column of the table that it is made from and `recode` the codes that are kept, by their
    new value; both are empty where the outcome is its own column as it stands.
    """

    meaning: str
    direction: str = UNKNOWN
    low: float = float("-inf")
    high: float = float("inf")
    column: str = ""
    recode: Mapping[float, float] = field(default_factory=dict)


_DIAGNOSIS: Final = "1 NCI, 2 MCI, 3 MCI + another cause, 4 AD, 5 AD + another cause, 6 other dementia"
_ORDERED: Final = "1 NCI, 2 MCI with or without another cause, 3 AD with or without another cause; 6 left out"
_MERGED: Final = MappingProxyType({1.0: 1.0, 2.0: 2.0, 3.0: 2.0, 4.0: 3.0, 5.0: 3.0})

KNOWN_OUTCOMES: Final[Mapping[str, Outcome]] = MappingProxyType(
    {
        "braaksc": Outcome("Braak stage of neurofibrillary tangles, 0 to 6", WORSE, 0, 6),
        "ceradsc": Outcome("CERAD: 1 definite AD, 2 probable, 3 possible, 4 no AD", BETTER, 1, 4),
        "cogdx": Outcome(f"Final consensus diagnosis: {_DIAGNOSIS}", BROKEN, 1, 6),
        "cogdx_ordered": Outcome(f"Final consensus diagnosis: {_ORDERED}", WORSE, 1, 6, "cogdx", _MERGED),
        "dcfdx_lv": Outcome(f"Clinical diagnosis at the last valid visit: {_DIAGNOSIS}", BROKEN, 1, 6),
        "dcfdx_lv_ordered": Outcome(
            f"Clinical diagnosis at the last valid visit: {_ORDERED}", WORSE, 1, 6, "dcfdx_lv", _MERGED
        ),
        "plaq_d": Outcome("Diffuse plaques, mean over 5 regions of count / SD", WORSE, 0),
        "plaq_n": Outcome("Neuritic plaques, mean over 5 regions of count / SD", WORSE, 0),
        "nft": Outcome("Neurofibrillary tangles, mean over 5 regions of count / SD", WORSE, 0),
        "gpath": Outcome("Mean of plaq_d, plaq_n and nft where all three are present", WORSE, 0),
    }
)

DEFAULT_OUTCOMES: Final = ("braaksc", "ceradsc", "cogdx", "dcfdx_lv", "plaq_d", "plaq_n", "nft", "gpath")


def outcome(name: str) -> Outcome:
    """The known outcome of that name, or one of unknown direction for any other column."""
    return KNOWN_OUTCOMES.get(name, Outcome(meaning=""))
