"""LIF and ND2 files as small as can be, byte by byte: the libraries that read them write none."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

_DIM_IDS = {"X": 1, "Y": 2, "Z": 3, "T": 4, "λ": 5, "M": 10}


@dataclass(frozen=True)
class Series:
    """One series of a LIF: `pixels` along `dims`, C among them where it has channels; steps along x and y in um."""

    name: str
    pixels: NDArray[Any]
    dims: str = "CYX"
    dyes: Sequence[str] = ()
    step_um: tuple[float, float] = (0.25, 0.25)
    is_colour: bool = False


def write_lif(path: Path, series: Sequence[Series]) -> Path:
    """A LIF of version 2 with a memory block for each series."""
    elements = "".join(_element(one, at) for at, one in enumerate(series))
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="project" Visibility="1" CopyOption="1" UniqueID="0">'
        f'<Memory Size="0" MemoryBlockID="MemBlock_none"/><Children>{elements}</Children></Element>'
        "</LMSDataContainerHeader>"
    ).encode("utf-16-le")
    content = struct.pack("<IIBI", 0x70, len(xml) + 5, 0x2A, len(xml) // 2) + xml
    for at, one in enumerate(series):
        name, pixels = f"MemBlock_{at}".encode("utf-16-le"), one.pixels.tobytes()
        content += struct.pack("<IIBQBI", 0x70, len(name) + 14, 0x2A, len(pixels), 0x2A, len(name) // 2) + name + pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _element(one: Series, at: int) -> str:
    strides = dict(zip(one.dims, one.pixels.strides, strict=True))
    lengths = dict(zip(one.dims, one.pixels.shape, strict=True))
    steps = {"X": one.step_um[0] * 1e-6, "Y": one.step_um[1] * 1e-6}
    axes = "".join(
        f'<DimensionDescription DimID="{_DIM_IDS[dim]}" NumberOfElements="{lengths[dim]}" Origin="0" '
        f'Length="{steps.get(dim, 1e-6) * (lengths[dim] - 1):.12e}" Unit="m" BitInc="0" BytesInc="{strides[dim]}"/>'
        for dim in lengths
        if dim != "C"
    )
    channels = "".join(_channel(one, channel, channel * strides.get("C", 0)) for channel in range(lengths.get("C", 1)))
    return (
        f'<Element Name={quoteattr(one.name)} Visibility="1" CopyOption="1" UniqueID="{at}"><Data><Image>'
        f"<ImageDescription><Channels>{channels}</Channels><Dimensions>{axes}</Dimensions></ImageDescription></Image>"
        f'</Data><Memory Size="{one.pixels.nbytes}" MemoryBlockID="MemBlock_{at}"/><Children/></Element>'
    )


def _channel(one: Series, at: int, start: int) -> str:
    bits = 8 * one.pixels.dtype.itemsize
    dye = f"<ChannelProperty><Key>DyeName</Key><Value>{one.dyes[at]}</Value></ChannelProperty>" if one.dyes else ""
    return (
        f'<ChannelDescription DataType="0" ChannelTag="{at + 1 if one.is_colour else 0}" Resolution="{bits}" '
        f'NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" LUTName="Green" IsLUTInverted="0" BytesInc="{start}" '
        f'BitInc="0">{dye}</ChannelDescription>'
    )


# Kinds of loops of an ND2, by what stands for them here.
_LOOPS = {"T": 1, "P": 2, "Z": 4}


@dataclass(frozen=True)
class Recording:
    """What an ND2 holds: `frames` (frame, y, x, channel), loops around them, the outer first, names of channels, and of
    positions.
    """

    frames: NDArray[np.uint16]
    loops: Mapping[str, int]
    names: Sequence[str] = ()
    side_um: float = 0.325
    is_calibrated: bool = True
    is_colour: bool = False
    missing: Sequence[int] = ()
    positions: Sequence[str] = ()


def write_nd2(path: Path, made: Recording) -> Path:
    """An ND2 of version 3, of the chunks that readers ask for."""
    n_frames, height, width, n_channels = made.frames.shape
    planes = 1 if made.is_colour else n_channels
    names = list(made.names) or [""] * planes
    attributes = {
        "uiWidth": width, "uiWidthBytes": 2 * width * n_channels, "uiHeight": height, "uiComp": n_channels,
        "uiBpcInMemory": 16, "uiBpcSignificant": 16, "uiSequenceCount": n_frames, "eCompression": 2,
    }  # fmt: skip
    of_planes = {
        f"i{at:010}": {
            "uiCompCount": n_channels // planes,
            "uiSampleIndex": at,
            "sDescription": name,
            "uiColor": 0,
            "pFluorescentProbe": {"m_uiColor": 0},
        }
        for at, name in enumerate(names)
    }
    metadata = {
        "sPicturePlanes": {"uiCount": planes, "uiCompCount": n_channels, "sPlaneNew": of_planes},
        "bCalibrated": made.is_calibrated, "dCalibration": made.side_um,
    }  # fmt: skip
    chunks = {
        b"ImageAttributesLV!": _lite({"SLxImageAttributes": attributes}),
        b"ImageMetadataSeqLV|0!": _lite({"SLxPictureMetadata": metadata}),
    }
    if made.loops:
        chunks[b"ImageMetadataLV!"] = _lite({"SLxExperiment": _loop(list(made.loops.items()), made.positions)})
    for at, frame in enumerate(made.frames):
        if at not in made.missing:
            chunks[f"ImageDataSeq|{at}!".encode()] = struct.pack("<d", float(at)) + frame.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_file_of(chunks))
    return path


def _file_of(chunks: Mapping[bytes, bytes]) -> bytes:
    content, places = _chunk(b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver3.0".ljust(64, b"\0"), 32), {}
    for name, data in chunks.items():
        places[name] = (len(content), len(data))
        content += _chunk(name, data, 4072 if name.startswith(b"ImageDataSeq") else 64)
    start, end = len(content), b"ND2 CHUNK MAP SIGNATURE 0000001!"
    listed = b"".join(name + struct.pack("<QQ", *place) for name, place in places.items())
    return content + _chunk(b"ND2 FILEMAP SIGNATURE NAME 0001!", listed + end + struct.pack("<Q", start), 32)


def _chunk(name: bytes, data: bytes, room: int) -> bytes:
    return struct.pack("<IIQ", 0x0ABECEDA, room, len(data)) + name.ljust(room, b"\0") + data


def _loop(loops: Sequence[tuple[str, int]], names: Sequence[str] = ()) -> dict[str, Any]:
    (kind, count), *inner = loops
    told: dict[str, Any] = {"uiCount": count, "dStart": 0.0, "dPeriod": 1.0, "dDuration": 1.0, "dZStep": 0.5}
    if kind == "P":
        points = [{"dPosX": 1.0 * at, "dPosY": 0.0, "dPosZ": 0.0} for at in range(count)]
        named = [{**point, "dPosName": name} for point, name in zip(points, names, strict=False)] or points
        told = {"Points": {f"i{at:010}": point for at, point in enumerate(named)}}
    made: dict[str, Any] = {"eType": _LOOPS[kind], "uLoopPars": told}
    return {**made, "ppNextLevelEx": {"i0000000000": _loop(inner, names)}} if inner else made


def _lite(values: Mapping[str, Any]) -> bytes:
    """Named values as the microscope's program writes them: kind, length of the name, name, value."""
    return b"".join(_value(name, value) for name, value in values.items())


def _value(name: str, value: Any) -> bytes:
    called = (name + "\0").encode("utf-16-le")
    head = bytes([len(called) // 2]) + called
    if isinstance(value, bool):
        return b"\1" + head + struct.pack("<B", value)
    if isinstance(value, int):
        return b"\3" + head + struct.pack("<I", value)
    if isinstance(value, float):
        return b"\6" + head + struct.pack("<d", value)
    if isinstance(value, str):
        return b"\x08" + head + (value + "\0").encode("utf-16-le")
    inner = _lite(value)
    whole = 1 + len(head) + 12 + len(inner)
    return b"\x0b" + head + struct.pack("<IQ", len(value), whole) + inner + bytes(8 * len(value))
