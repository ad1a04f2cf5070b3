"""How files of formats that are not read here become ones that are: a line for each suffix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

_BIO_FORMATS: Final = "convert with Bio-Formats, `bfconvert FILE FILE.ome.tif`, or save as TIFF in Fiji"
_MICROSCOPE: Final = (
    f"read by layout 'planes', 'custom' and --samples, with pip install 'fintune-xr[microscopes]'; else {_BIO_FORMATS}"
)
_SLIDE: Final = "a whole slide: export the fields that are meant as TIFF in QuPath"
_PICTURE: Final = "save as TIFF or PNG, in Fiji or with `magick FILE FILE.tif`"

_LINES: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys((".lif", ".nd2"), _MICROSCOPE),
        **dict.fromkeys((".czi", ".vsi", ".lsm", ".oib", ".oif", ".oir", ".ims", ".zvi"), _BIO_FORMATS),
        **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".qptiff"), _SLIDE),
        **dict.fromkeys((".bmp", ".gif", ".webp", ".jp2"), _PICTURE),
        **dict.fromkeys((".dm3", ".dm4"), "convert with IMOD: `dm2mrc FILE FILE.mrc`"),
        ".eer": "a movie of events: sum it into one MRC first, as `relion_run_motioncorr` and MotionCor3 do",
        ".mrcs": "a stack: cut up with IMOD, `newstack -split 0 -append mrc FILE NAME`; rename to .mrc if it is one",
        ".gz": "unpack: `gunzip FILE`",
        ".bz2": "unpack: `bunzip2 FILE`",
        ".xz": "unpack: `unxz FILE`",
        ".zst": "unpack: `unzstd FILE`",
        ".cbox": "boxes of crYOLO: take the folder STAR or EMAN that `cryolo_predict` writes beside CBOX",
    }
)


def conversion(suffix: str) -> str:
    """What to do with a file of this suffix so that it can be read, empty where nothing is known."""
    return _LINES.get(suffix, "")


def conversion_lines(suffixes: Iterable[str]) -> list[str]:
    """A line for each suffix of which it is known how its files are converted."""
    return [f"{suffix}: {conversion(suffix)}" for suffix in sorted(suffixes) if conversion(suffix)]
