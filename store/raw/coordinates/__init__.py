"""Files of particle coordinates: one face for CSV, tables of Topaz, STAR, BOX, JSON and cryoSPARC.

What is read are centres in px of the picture that the file counts in, whole numbers being centres of pixels, with the
diameter where the file tells one. Whether rows count from the top (`image`) or as the micrograph's file stores them
(`file`, which for MRC is from the bottom) no format says: see `FRAME_OF`.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.cryosparc import parse_cs
from fintune_xr.store.raw.coordinates.delimited_text import parse_box, parse_csv, parse_tabs
from fintune_xr.store.raw.coordinates.json_lists import parse_json
from fintune_xr.store.raw.coordinates.particles import Particles, check_pixels
from fintune_xr.store.raw.coordinates.star import parse_star
from fintune_xr.store.raw.sources import Place, open_place

__all__ = ["COORDINATE_SUFFIXES", "FRAME_OF", "Frame", "Particles", "read_coordinates"]

Frame: TypeAlias = Literal["image", "file"]

_PARSERS: Final[Mapping[str, Callable[[str], dict[str, Particles]]]] = MappingProxyType(
    {
        ".csv": parse_csv, ".tsv": parse_tabs, ".txt": parse_tabs, ".star": parse_star, ".box": parse_box,
        ".json": parse_json,
    }
)  # fmt: skip
_CRYOSPARC: Final = ".cs"
COORDINATE_SUFFIXES: Final = (*_PARSERS, _CRYOSPARC)

# CryoPPP's CSV and Topaz count rows from the top of the picture; RELION, EMAN and cryoSPARC as they lie in the MRC.
FRAME_OF: Final[Mapping[str, Frame]] = MappingProxyType(
    {
        ".csv": "image",
        ".tsv": "image",
        ".txt": "image",
        ".json": "image",
        ".star": "file",
        ".box": "file",
        ".cs": "file",
    }
)


def read_coordinates(place: Place) -> tuple[dict[str, Particles], str]:
    """Particles of each micrograph that a file names ("" where it names none), and the SHA-256 of the file.

    Raises TileReadError for a format that is not known, and for any row that cannot be understood: a file is taken
    whole or not at all, because particles that are missing would count as background.
    """
    suffix = PurePosixPath(str(place)).suffix.lower()
    if suffix not in COORDINATE_SUFFIXES:
        known = ", ".join(COORDINATE_SUFFIXES)
        raise TileReadError(f"unreadable: expected {known}, found {suffix or 'no suffix'}", str(place))
    try:
        with open_place(place) as file:
            content = file.read()
        found = parse_cs(content) if suffix == _CRYOSPARC else _PARSERS[suffix](content.decode("utf-8-sig"))
        return {name: check_pixels(one) for name, one in found.items()}, hashlib.sha256(content).hexdigest()
    except TileReadError as error:
        raise TileReadError(error.reason, str(place)) from error
    except csv.Error as error:
        raise TileReadError(f"unreadable: expected rows of text ({error})", str(place)) from error
    except UnicodeDecodeError as error:
        raise TileReadError("unreadable: expected text, found other bytes", str(place)) from error
    except OSError as error:
        raise TileReadError(f"unreadable: {error.strerror or error}", str(place)) from error
