"""OME-XML as a TIFF carries it in its first description."""

from __future__ import annotations

from xml.etree import ElementTree

from fintune_xr.errors import TileReadError


def has_ome(description: str) -> bool:
    """Whether a description is OME-XML."""
    return "<OME" in description[:2000]


def pixels_of(description: str) -> ElementTree.Element | None:
    """The element `Pixels` of the first image, None where there is none.

    Raises TileReadError for damaged XML, and for XML that declares entities of its own.
    """
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise TileReadError("unreadable: OME-XML that declares entities of its own")
    try:
        root = ElementTree.fromstring(description)  # noqa: S314  (no entities, as was just seen)
    except ElementTree.ParseError as error:
        raise TileReadError(f"unreadable: damaged OME-XML ({str(error)[:80]})") from error
    return next((node for node in root.iter() if tag_of(node) == "Pixels"), None)


def tag_of(node: ElementTree.Element) -> str:
    """Name of an element without its namespace."""
    return node.tag.rpartition("}")[2]
