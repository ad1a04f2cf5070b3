"""What raw folders look like: patterns that turn a file's path into donor, marker, tile and channel."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

from fintune_xr.cohort_kinds import EM, HE, IF, OCT
from fintune_xr.errors import FintuneValueError, SettingsError, nearest, unknown_name
from fintune_xr.names import (
    BLUE,
    CHANNEL,
    DAPI,
    DONOR,
    FIELD,
    GREEN,
    HE_STAIN,
    MARKER,
    MARKER_CHANNEL,
    MICROGRAPH,
    MPP,
    RED,
    SPLIT,
    TILE,
)
from fintune_xr.pixels.z_projection import check_projection
from fintune_xr.store.raw.readers import IMAGE_DTYPES, MICROGRAPH_DTYPES
from fintune_xr.store.raw.readers.microscope import FIELD_SUFFIXES
from fintune_xr.text import one_spelling

TIFF_SUFFIXES: Final = (".tif", ".tiff")
IMAGE_SUFFIXES: Final = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg")
# What may hold all channels of its tile.
TILE_SUFFIXES: Final = (*IMAGE_SUFFIXES, *FIELD_SUFFIXES)
MICROGRAPH_SUFFIXES: Final = (".mrc", *IMAGE_SUFFIXES)
VOLUME_SUFFIXES: Final = (".dcm", ".dicom", ".nii", ".gz", ".npy", ".npz", ".vol")

# `part` is text after the channel that still belongs to the tile's name, as in scan_b0c0x0-1388y0-1040.tif.
PART: Final = "part"
# Of a file of a microscope, the field that a row of a table is about.
SERIES: Final = "series"
GROUPS: Final = (DONOR, MARKER, TILE, CHANNEL, PART, SPLIT, MPP, FIELD)

UNKNOWN_MARKER: Final = "unknown"
# Micrographs carry no stain, and lie in one folder where there is one data set.
PARTICLES: Final = "particles"
UNNAMED_SET: Final = "set"

# Products that segmentation tools leave beside the images; they are never tiles.
NOT_TILES: Final = r"(?i).*([_-](cp_)?masks?|-labelmasks|_pred|_seg|_flows|_cp_output|_annotations?)"


@dataclass(frozen=True, slots=True)
class PlaneName:
    """What a file's path says about the plane that it holds; `series` is the one of its fields that is meant, if so."""

    donor: str
    marker: str
    tile: str
    channel: str
    split: str = ""
    mpp: float = 0.0
    field: str = ""
    series: str = ""

    @property
    def tile_id(self) -> str:
        """`donor/marker/tile`, the id under which the tile is stored; see `safe_name` for file names."""
        return f"{self.donor}/{self.marker}/{self.tile}"


@dataclass(frozen=True, slots=True)
class Listed:
    """What a table says of files, by their path relative to the source, of one several times where rows tell its series
    apart; `table` is its place, `sha256` its digest.

    `own` is its own path relative to the source, empty where it lies elsewhere.
    """

    files: Mapping[str, tuple[PlaneName, ...]]
    table: str
    sha256: str
    own: str = ""

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Files of the table that are not among `paths`, in its order."""
        there = {one_spelling(path) for path in paths}
        return [path for path in self.files if path not in there]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a raw folder names its images.

    `patterns` are regular expressions for the whole path relative to the source, with `/` between folders
    and the named groups donor, marker, tile, channel and part; the first that fits counts. `channels` maps
    the text of the group channel to the channel's name, in stored order; a layout without that group has one
    entry, `""`. `donor` and `marker` stand in where no group captures them. `kind` is that of the cohort that such
    a folder makes, `dtypes` what its pixels may be. With `planes`, each file holds so many planes, which are the
    channels named by their positions from 0 on; planes without a name must be empty. `quoted` file names are
    unquoted, as `safe_name` writes them. With `colour`, the planes are red, green and blue of one image, and nothing
    else is accepted. `told` patterns are the caller's: they alone say what a path names.
    Paths that fit no pattern and `beside` belong to another step, as masks do to that of images.
    `joined` masks are of one cell each, and those of one tile are its mask together.
    Of `pages_are_tiles` each page is a tile, of `pages_are_depth` all pages of a file are one volume, along z in their
    order. `z` says how the planes of stacks along z become one, as `check_projection` knows it; a file of several
    planes is refused where it is empty. With `listed`, a table in place of patterns, its files are those of the layout
    and no others.
    """

    name: str
    patterns: tuple[str, ...]
    channels: Mapping[str, str]
    about: str = ""
    donor: str = ""
    marker: str = UNKNOWN_MARKER
    suffixes: tuple[str, ...] = TIFF_SUFFIXES
    pages_are_tiles: bool = False
    pages_are_depth: bool = False
    ignore: str = NOT_TILES
    beside: str = r"(?!)"
    kind: str = IF.name
    dtypes: tuple[str, ...] = IMAGE_DTYPES
    planes: int = 0
    quoted: bool = False
    colour: bool = False
    told: bool = False
    joined: bool = False
    listed: Listed | None = None
    z: str = ""
    _compiled: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tokens = {channel_token(token): name for token, name in self.channels.items()}
        if len(tokens) != len(self.channels):
            raise SettingsError(f"layout {self.name}: channels {list(self.channels)} are not all different")
        object.__setattr__(self, "channels", MappingProxyType(tokens))
        compiled = tuple(_compiled(pattern, self.donor) for pattern in self.patterns)
        object.__setattr__(self, "_compiled", compiled)
        _check_channels(self)

    def parse(self, path: str) -> PlaneName | None:
        """Parts of a relative path, or None where no pattern fits it, or no table lists it."""
        if self.listed is not None:
            return next(iter(self.rows(path)), None)
        for pattern in self._compiled:
            found = pattern.fullmatch(path)
            if found is not None:
                return self.named({key: value or "" for key, value in found.groupdict().items()})
        return None

    def rows(self, path: str) -> tuple[PlaneName, ...]:
        """What each row of the table says of a path; without a table what `parse` does."""
        if self.listed is not None:
            return self.listed.files.get(one_spelling(path), ())
        name = self.parse(path)
        return () if name is None else (name,)

    def readings(self, path: str) -> tuple[PlaneName, ...]:
        """What each pattern that fits makes of a path, in their order; `parse` gives the first."""
        found = [pattern.fullmatch(path) for pattern in self._compiled]
        return tuple(
            self.named({key: value or "" for key, value in one.groupdict().items()}) for one in found if one is not None
        )

    def named(self, parts: Mapping[str, str]) -> PlaneName:
        """The plane whose parts are these, by the names of the groups of patterns; `tile` at least."""
        if self.quoted:
            parts = {key: unquote(value) for key, value in parts.items()}
        parts = {key: one_spelling(value) for key, value in parts.items()}
        return PlaneName(
            donor=parts.get(DONOR) or self.donor,
            marker=parts.get(MARKER) or self.marker,
            tile=_joined(parts[TILE], parts.get(PART, "")),
            channel=channel_token(parts.get(CHANNEL, "")),
            split=parts.get(SPLIT, ""),
            mpp=_number(parts.get(MPP, "")),
            field=parts.get(FIELD, ""),
            series=parts.get(SERIES, ""),
        )

    @property
    def tells_fields(self) -> bool:
        """Whether it says of files which field they show."""
        if self.listed is not None:
            return any(name.field for names in self.listed.files.values() for name in names)
        return any(FIELD in pattern.groupindex for pattern in self._compiled)

    @property
    def empty_planes(self) -> tuple[int, ...]:
        """Positions in each file of planes that belong to no channel."""
        return tuple(plane for plane in range(self.planes) if str(plane) not in self.channels)


def choose_layout(
    name: str = "rosmap",
    *,
    pattern: str | None = None,
    channels: Mapping[str, str] | None = None,
    marker: str | None = None,
) -> Layout:
    """The layout of that name, with the caller's pattern, channels (token -> name) or marker in its place.

    A pattern must capture `donor` and `tile` (one may lie inside the other); `marker` is the stain of tiles
    whose pattern does not capture one; a pattern without `channel` describes single-channel tiles.

    Raises UnknownNameError for an unknown layout; SettingsError for a pattern or channels that cannot work.
    """
    if name not in LAYOUTS:
        raise unknown_name("layout", name, LAYOUTS)
    base = LAYOUTS[name]
    if pattern is not None:
        base = _with_pattern(base, pattern, channels)
    elif channels is not None:
        base = replace(base, channels=channels, planes=base.planes and max(base.planes, len(channels)))
    return base if marker is None else replace(base, marker=marker)


def with_projection(layout: Layout, z: str) -> Layout:
    """`layout` with stacks along z made one plane by `z`: max, mean, focus, or the number of a plane.

    Raises FintuneValueError for another `z`, and for layouts whose files hold no stacks.
    """
    if layout.kind != IF.name or layout.pages_are_tiles or layout.pages_are_depth:
        raise FintuneValueError(
            f"--z {z}: the files of layout {layout.name!r} are no stacks of fluorescence tiles along z. Leave --z out."
        )
    return replace(layout, z=check_projection(z))


def channel_token(text: str) -> str:
    """What tells channels apart in `text`: b0c1, ch1, C1 and 1 all mean 1; other texts mean themselves."""
    return re.sub(r"(?i)^(?:b0)?ch?(?=[0-9]+$)", "", text)


def safe_name(tile_id: str) -> str:
    """A file name for a tile id, different for different ids: `d1/GFAP/t 3` gives `d1__GFAP__t%203`.

    Slashes become `__`; whatever else a file system may refuse is written as %XX; names over 150 characters
    are cut and end in digits of their own.
    """
    quoted = "__".join(_quoted(part) for part in tile_id.split("/"))
    if len(quoted) <= 150:
        return quoted
    return f"{quoted[:130]}%{hashlib.sha256(tile_id.encode()).hexdigest()[:16]}"


def _quoted(part: str) -> str:
    # An underscore at an end or beside another would blur the `__` between parts; a leading dot hides a file.
    blurring = re.compile(r"(?<=_)_|^_|_$|^\.|[^A-Za-z0-9._-]")
    return blurring.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), part)


def _number(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        raise SettingsError(f"the part {MPP!r} of a name: expected a number, found {text!r}") from None


def _joined(tile: str, part: str) -> str:
    return tile + part if not part or part[0] in "_-" else f"{tile}_{part}"


def _compiled(pattern: str, donor: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    for group in compiled.groupindex:
        if group not in GROUPS:
            raise SettingsError(
                f"pattern {pattern!r}: no part is called {group!r}; known: {', '.join(GROUPS)}.{nearest(group, GROUPS)}"
            )
    required = [TILE] if donor else [DONOR, TILE]
    missing = [group for group in required if group not in compiled.groupindex]
    if missing:
        raise SettingsError(
            f"pattern {pattern!r} does not say which part is the {' or the '.join(missing)}: "
            f"name it, e.g. (?P<{missing[0]}>[^/]+). One group may lie inside another: "
            "(?P<tile>(?P<donor>[^_/]+)_[^/]+)."
        )
    return compiled


def _check_channels(layout: Layout) -> None:
    names = list(layout.channels.values())
    if not names or not all(names) or len(set(names)) != len(names):
        raise SettingsError(f"layout {layout.name}: expected different channel names, got {names}")
    if layout.planes:
        known = [str(plane) for plane in range(layout.planes)]
        if not set(layout.channels) <= set(known):
            raise SettingsError(
                f"layout {layout.name}: channels are named by their positions {', '.join(known)} in a file, "
                f"got {', '.join(layout.channels)}"
            )
        return
    for pattern in layout._compiled:
        if CHANNEL not in pattern.groupindex and list(layout.channels) != [""]:
            raise SettingsError(
                f"pattern {pattern.pattern!r} captures no channel, but channels {dict(layout.channels)} are "
                "asked for: name the part that tells them apart (?P<channel>...), or give no channels."
            )


def _is_of_micrographs(layout: Layout) -> bool:
    return list(layout.channels.values()) == [MICROGRAPH]


def _with_pattern(base: Layout, pattern: str, channels: Mapping[str, str] | None) -> Layout:
    if channels is None:
        captured = CHANNEL in _compiled(pattern, donor="").groupindex
        alone = base.channels if base.planes or list(base.channels) == [""] else {"": MARKER_CHANNEL}
        channels = base.channels if captured else alone
    suffixes = TILE_SUFFIXES if base.name == "custom" else base.suffixes
    donor = base.donor if _is_of_micrographs(base) else ""
    planes = base.planes and max(base.planes, len(channels))
    return replace(
        base, patterns=(pattern,), channels=channels, donor=donor, suffixes=suffixes, planes=planes, quoted=False
    )


_VOLUME_END: Final = r"\.(?i:dcm|dicom|nii|nii\.gz|npy|npz|vol)"
_IF_CHANNELS: Final = {"0": DAPI, "1": MARKER_CHANNEL}
# The folders of a Cellpose training, or whatever lies above an image.
_PART_FOLDER: Final = r"(?:(?:.*/)?(?P<split>train|val|test)_cells/|.*/)?"
_END: Final = r"_b0c(?P<channel>\d+)(?P<part>[^/]*)\.(?i:tiff?)"


def _micrographs(name: str, about: str, *patterns: str) -> Layout:
    return Layout(
        name, patterns, {"": MICROGRAPH}, about=about, donor=UNNAMED_SET, marker=PARTICLES,
        suffixes=MICROGRAPH_SUFFIXES, kind=EM.name, dtypes=MICROGRAPH_DTYPES,
    )  # fmt: skip


def _volumes(name: str, about: str, *patterns: str) -> Layout:
    return Layout(
        name, patterns, {"": OCT.name}, about=about, suffixes=VOLUME_SUFFIXES, ignore=r"(?!)", kind=OCT.name,
        dtypes=("uint8",),
    )  # fmt: skip


def _patches(name: str, about: str, *patterns: str) -> Layout:
    return Layout(
        name, patterns, {"0": RED, "1": GREEN, "2": BLUE}, about=about, marker=HE_STAIN, suffixes=IMAGE_SUFFIXES,
        ignore=r"(?!)", beside=_VISIBLE + r"masks(?:_class|_rgb)?/.*", kind=HE.name, dtypes=("uint8",), planes=3,
        colour=True,
    )  # fmt: skip


# A hidden file, or one of the folders that macOS adds to archives, lies beside the images and is none.
_VISIBLE: Final = r"(?!(?:.*/)?(?:__MACOSX/|\.))(?:.*/)?"

LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            Layout(
                name="rosmap",
                about="DONOR/MARKER/*_b0c0*.tif with partner _b0c1; DONOR/MARKER_*; or DONOR_MARKER_*",
                patterns=(
                    r"(?P<donor>[^/]+)/(?P<marker>[^/]+)/(?P<tile>.+)" + _END,
                    r"(?P<donor>[^/]+)/(?P<tile>(?:(?P=donor)[_-])?(?P<marker>[A-Za-z][A-Za-z0-9]*)[^/]*)" + _END,
                    r"(?P<tile>(?P<donor>[^/_-]+)[_-](?P<marker>[A-Za-z][A-Za-z0-9]*)[^/]*)" + _END,
                ),
                channels=_IF_CHANNELS,
            ),
            Layout(
                name="custom",
                about="whatever --pattern says; TIFF, PNG, JPEG, ND2 or LIF",
                # Without a pattern of the caller's: every image is a single-channel tile, its folder the donor.
                patterns=(r"(?P<donor>[^/]+)/(?P<tile>.+)\.[^./]+",),
                channels={"": MARKER_CHANNEL},
                suffixes=TILE_SUFFIXES,
            ),
            Layout(
                name="deepflash",
                about="cFOS/NN_cFOS.tif with Parv/NN_Parv.tif for the registered fields 00, 01, 02",
                patterns=(r"(?P<channel>cFOS|Parv)/(?P<tile>(?P<donor>0[0-2]))_(?:cFOS|Parv)\.tif",),
                channels={"cFOS": "cFOS", "Parv": "Parv"},
                marker="Parv",
            ),
            Layout(
                name="microglia",
                about="MAX_RECORDING--FRAMES.tif, each page a tile",
                patterns=(r"(?P<tile>MAX_(?P<donor>pg\d+)[^/]*?--t[\d-]+)\.tif",),
                channels={"": MARKER_CHANNEL},
                marker="microglia",
                pages_are_tiles=True,
            ),
            Layout(
                name="dsb2018",
                about="images/STEM.tif, or STEM/images/STEM.png as published: nuclei, each image its own donor",
                patterns=(
                    r"images/(?P<tile>(?P<donor>[^/]+))\.tif",
                    r"(?:.*/)?(?P<tile>(?P<donor>[^/]+))/images/(?P=tile)\.(?i:png|tiff?)",
                ),
                suffixes=IMAGE_SUFFIXES,
                channels={"": "nuclei"},
                marker="nuclei",
            ),
            Layout(
                name="cellfinder",
                about="ch0/ch0ZZZZ.tif (signal) with ch1/ch1ZZZZ.tif (background), planes of one brain",
                patterns=(r"ch[01]/ch(?P<channel>[01])(?P<tile>\d+)\.tif",),
                channels={"0": "signal", "1": "background"},
                donor="brain",
            ),
            Layout(
                name="cellpose",
                about="train_cells, val_cells and test_cells, or one folder, of images with three planes: DAPI, "
                "marker, empty",
                patterns=(
                    _PART_FOLDER + r"(?P<donor>[^/]+?)__(?P<marker>[^/]+?)__(?P<tile>[^/]+)\.[^./]+",
                    _PART_FOLDER + r"(?P<tile>(?P<donor>[^/_-]+)[_-](?P<marker>[A-Za-z][A-Za-z0-9]*)[^/]*)\.[^./]+",
                ),
                channels=_IF_CHANNELS,
                suffixes=IMAGE_SUFFIXES,
                planes=3,
                quoted=True,
            ),
            Layout(
                name="planes",
                about="DONOR/MARKER/TILE.tif, each file with all channels of its tile as planes, first or last",
                patterns=(r"(?P<donor>[^/]+)/(?P<marker>[^/]+)/(?P<tile>.+)\.[^./]+",),
                channels=_IF_CHANNELS,
                suffixes=TILE_SUFFIXES,
                planes=2,
            ),
            _micrographs(
                "cryoppp",
                "SET/micrographs/NAME.mrc, the set being the donor; below the set: micrographs/NAME.mrc",
                r"(?:.*/)?(?P<donor>[^/]+)/micrographs/(?P<tile>[^/]+)\.(?i:mrc)",
                r"micrographs/(?P<tile>[^/]+)\.(?i:mrc)",
            ),
            _micrographs(
                "micrographs",
                "NAME.mrc, .tif, .png or .jpg in one folder, or in a folder for each set, which is the donor",
                r"(?P<tile>[^/]+)\.[^./]+",
                r"(?:.*/)?(?P<donor>[^/]+)/(?P<tile>[^/]+)\.[^./]+",
            ),
            _volumes(
                "ai-readi",
                "PARTICIPANT/FILE below any folders, the last one the device; with manifest.tsv, what that says",
                r"(?:.*/)?(?P<marker>[^/]+)/(?P<donor>[^/]+)/(?P<tile>[^/]+?)" + _VOLUME_END,
                r"(?P<donor>[^/]+)/(?P<tile>[^/]+?)" + _VOLUME_END,
            ),
            _volumes(
                "volumes",
                "PARTICIPANT/FILE.dcm, .nii, .nii.gz, .npy, .npz or .vol, or whatever --pattern says",
                r"(?:.*/)?(?P<donor>[^/]+)/(?P<tile>[^/]+?)" + _VOLUME_END,
            ),
            _volumes(
                "heyex",
                "a folder of .vol, each a participant of its own; --pattern says which belong together",
                r"(?:.*/)?(?P<tile>(?P<donor>[^/]+))\.(?i:vol)",
            ),
            _patches(
                "bcss",
                "images/ or rgbs_colorNormalized/ with TCGA-XX-XXXX-DX1_xmin…_ymin…_MPP-0.2500.png, masks beside",
                _VISIBLE + r"(?:images|rgbs_colorNormalized)/"
                r"(?P<tile>(?P<donor>TCGA-[^-/_]+-[^-/_]+)-[^/_]+_xmin[^/]*?(?:_MPP-(?P<mpp>\d+(?:\.\d+)?))?)\.[^./]+",
            ),
            _patches(
                "ebhi",
                "images/ with A-GT2001814-2-400-001.png, the number after GT being the slide; masks_class/ beside",
                _VISIBLE + r"images/(?P<tile>[^/]*?GT(?:DC)?(?P<donor>\d+)-[^/]+)\.[^./]+",
            ),
            _patches(
                "classes",
                "images/ with DONOR_ANYTHING.png, or DONOR/NAME.png in it, and masks/ of equal names beside",
                _VISIBLE + r"images/(?P<donor>[^/]+)/(?P<tile>[^/]+)\.[^./]+",
                _VISIBLE + r"images/(?P<tile>(?P<donor>[^/_]+)[^/]*)\.[^./]+",
            ),
        )
    }
)
