"""Options of `ingest` and `split`, grouped by what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from fintune_xr.pipelines.cli import candidates

if TYPE_CHECKING:
    from fintune_xr.store.raw.layouts import Layout


@dataclass(frozen=True)
class Naming:
    """What the names of files tell."""

    layout: Annotated[
        str, Parameter(completer=candidates.layouts, help="Layout of the folder; see docs/reference/layouts.md.")
    ] = "rosmap"
    pattern: Annotated[str | None, Parameter(help="Regular expression with groups donor, marker, tile, channel.")] = (
        None
    )
    channels: Annotated[
        tuple[str, ...],
        Parameter(
            help="Channel tokens and names in order, e.g. b0c0=DAPI b0c1=marker.",
            consume_multiple=True,
            negative="",
        ),
    ] = ()
    marker: Annotated[str | None, Parameter(help="Marker of tiles whose names do not tell it.")] = None
    samples: Annotated[
        str, Parameter(help="CSV of path, donor, marker, tile, channel, in place of patterns: no other file is taken.")
    ] = ""


@dataclass(frozen=True)
class Pixels:
    """What becomes of pixels on the way into the store."""

    binning: Annotated[int, Parameter(help="Micrographs: join N x N pixels into their mean.")] = 1
    cut: Annotated[int, Parameter(help="Patches of stained tissue: cut images into tiles of about N px.")] = 0
    z: Annotated[
        str, Parameter(help="Stacks along z: max, mean, focus (the sharpest plane), or plane N, from 0 on.")
    ] = ""


@dataclass(frozen=True)
class Storing:
    """How tiles are stored."""

    verify: Annotated[bool, Parameter(help="Compare the files of stored tiles again.", negative="")] = False
    workers: Annotated[int | None, Parameter(help="Threads that read and compress.")] = None
    title: Annotated[str, Parameter(help="Title of a new cohort.")] = ""
    cluster: Annotated[
        str,
        Parameter(
            completer=candidates.profiles,
            help="Profile, or its YAML file, whose workers read tiles and write whole shards.",
        ),
    ] = ""


@dataclass(frozen=True)
class Draw:
    """How the parts of a split are drawn."""

    fractions: Annotated[
        tuple[float, float, float] | None,
        Parameter(help="Train, val and test; they add up to 1. Default: 0.6 0.2 0.2; micrographs: 0.9 0.1 0."),
    ] = None
    seed: Annotated[int, Parameter(help="The same seed gives the same split.")] = 0
    by: Annotated[
        Literal["donor", "tile"] | None,
        Parameter(help="What stays together; tile is weaker. Default: donor; micrographs: tile."),
    ] = None
    test: Annotated[
        str, Parameter(help="Regular expression: donors that it fits are the test part, e.g. 'TCGA-(OL|LL)-.*'.")
    ] = ""


@dataclass(frozen=True)
class Alike:
    """What becomes of tiles that look alike on two sides of a split."""

    allow_alike: Annotated[
        Path | None,
        Parameter(help="Table (first, second, reason) of pairs of tiles that look alike and are no copies."),
    ] = None
    show_leaks: Annotated[
        Path | None, Parameter(help="Folder for pictures of the pairs that are refused, and a table of them.")
    ] = None


def layout_of(naming: Naming) -> Layout:
    """The layout that is named, with what is said otherwise. Raises as `choose_layout`, SettingsError for channels."""
    from fintune_xr.errors import SettingsError
    from fintune_xr.store.raw.layouts import choose_layout

    if naming.pattern is not None and naming.samples:
        raise SettingsError("--pattern and --samples both say what files are: give one of them")

    return choose_layout(
        naming.layout, pattern=naming.pattern, channels=_channels(naming.channels), marker=naming.marker
    )  # fmt: skip


def _channels(pairs: tuple[str, ...]) -> dict[str, str] | None:
    from fintune_xr.errors import SettingsError

    if not pairs:
        return None
    split_pairs = [pair.partition("=") for pair in pairs]
    for pair, (_, equals, name) in zip(pairs, split_pairs, strict=True):
        if not equals or not name:
            raise SettingsError(f"--channels {pair!r}: expected token=name, e.g. b0c0=DAPI")
    return {token: name for token, _, name in split_pairs}
