"""The network of a SAM or micro-SAM weights file under SAM's own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# Training states of micro-SAM hold the network under this entry; SAM's own files are the bare network.
SAM_STATE_ENTRY: Final = "model_state"
SAM_OTHER_DECODER: Final = "decoder_state"
_SAM_PREFIXES: Final = ("module.", "sam.")


def sam_state(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The network of a SAM or micro-SAM weights file under SAM's own key names.

    The second decoder that micro-SAM adds for its own instance segmentation is left out.
    """
    nested = entries.get(SAM_STATE_ENTRY)
    state = nested if isinstance(nested, dict) else entries
    return {_sam_key(key): value for key, value in state.items() if key != SAM_OTHER_DECODER}


def _sam_key(key: str) -> str:
    for prefix in _SAM_PREFIXES:
        key = key.removeprefix(prefix)
    return key
