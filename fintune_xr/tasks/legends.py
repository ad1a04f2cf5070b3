"""What the codes of class masks mean: legends as data, and words by which a class is known besides its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from fintune_xr import names as n
from fintune_xr.errors import SettingsError, unknown_name

MAX_CODE: Final = 255

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


@dataclass(frozen=True, slots=True)
class Legend:
    """Codes of class masks and what each means, `rows` (code, meaning) in ascending order of code.

    Pixels of the `ignored` codes are unknown: neither learned from nor scored. Without a `source` the codes name
    themselves, so that nothing can be checked against them. With `colours`, one for each row, masks are colour images
    in which each class is drawn in its own.
    """

    name: str
    rows: tuple[tuple[int, str], ...]
    ignored: tuple[int, ...] = ()
    source: str = ""
    colours: tuple[Colour, ...] = ()

    def __post_init__(self) -> None:
        codes = [code for code, _ in self.rows]
        meanings = [meaning for _, meaning in self.rows]
        if codes != sorted(set(codes)) or not all(0 <= code <= MAX_CODE for code in codes):
            raise SettingsError(f"legend {self.name}: expected ascending codes from 0 to {MAX_CODE}, got {codes}")
        doubled = sorted({meaning for meaning in meanings if meanings.count(meaning) > 1})
        if doubled:
            raise SettingsError(f"legend {self.name}: several codes mean {', '.join(doubled)}")
        odd = [meaning for meaning in meanings if not re.fullmatch(r"[A-Za-z0-9_.+@-]+", meaning)]
        if odd:
            raise SettingsError(f"legend {self.name}: expected letters, digits and _ in a meaning, got {odd[0]!r}")
        self._check_colours()

    def _check_colours(self) -> None:
        if self.colours and len(self.colours) != len(self.rows):
            raise SettingsError(f"legend {self.name}: expected a colour for each of {len(self.rows)} classes, or none")
        for at, colour in enumerate(self.colours):
            if colour in self.colours[:at]:
                both = ", ".join(self.rows[one][1] for one in (self.colours.index(colour), at))
                raise SettingsError(f"legend {self.name}: {colour_text(colour)} is the colour of {both}")

    @property
    def is_named(self) -> bool:
        """Whether somebody said what the codes mean."""
        return bool(self.source)

    @property
    def meanings(self) -> Mapping[int, str]:
        """Meaning by code."""
        return MappingProxyType(dict(self.rows))

    @property
    def sha256(self) -> str:
        """Digest of codes, meanings, ignored codes and colours."""
        lines = [f"{meaning}\t{code}" for code, meaning in self.rows]
        colours = [f"colours\t{' '.join(map(colour_text, self.colours))}"] if self.colours else []
        told = "\n".join([*lines, f"ignored\t{','.join(map(str, self.ignored))}", *colours])
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of stored masks, from which `stored_legend` makes the legend again."""
        return {
            n.FLAG_VALUES: [code for code, _ in self.rows],
            n.FLAG_MEANINGS: " ".join(meaning for _, meaning in self.rows),
            n.IGNORE_CODES: list(self.ignored),
            n.LEGEND: {"name": self.name, "source": self.source},
            n.LEGEND_SHA256: self.sha256,
            **({n.FLAG_COLORS: " ".join(map(colour_text, self.colours))} if self.colours else {}),
        }


def stored_legend(attrs: Mapping[str, Any]) -> Legend:
    """The legend whose `attrs` are stored with class masks."""
    told = attrs[n.LEGEND]
    values = [int(code) for code in attrs[n.FLAG_VALUES]]
    rows = tuple(zip(values, str(attrs[n.FLAG_MEANINGS]).split(), strict=True))
    ignored = tuple(int(code) for code in attrs[n.IGNORE_CODES])
    colours = tuple(colour_of(word) for word in str(attrs.get(n.FLAG_COLORS, "")).split())
    return Legend(str(told["name"]), rows, ignored, str(told["source"]), colours)


def colour_text(colour: Colour) -> str:
    """A colour as HTML writes it: #ff8000."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def colour_of(text: str) -> Colour:
    """The colour that `text` is, #ff8000 or ff8000. Raises ValueError for anything else."""
    digits = re.fullmatch(r"#?([0-9a-fA-F]{6})", text.strip())
    if digits is None:
        raise ValueError(f"expected a colour such as #ff8000, got {text!r}")
    red, green, blue = bytes.fromhex(digits[1])
    return red, green, blue


def unnamed_legend(codes: Iterable[int], *, ignored: tuple[int, ...] = ()) -> Legend:
    """The legend of masks that nobody explained: `code_7` for 7."""
    return Legend("codes", tuple((code, f"code_{code}") for code in sorted(set(codes))), ignored)


# meta/gtruth_codes.tsv of the data set, CC0; 0 lies outside of what was annotated and carries no weight.
BCSS: Final = Legend(
    "bcss",
    (
        (0, "outside_roi"), (1, "tumor"), (2, "stroma"), (3, "lymphocytic_infiltrate"), (4, "necrosis_or_debris"),
        (5, "glandular_secretions"), (6, "blood"), (7, "exclude"), (8, "metaplasia_NOS"), (9, "fat"),
        (10, "plasma_cells"), (11, "other_immune_infiltrate"), (12, "mucoid_material"), (13, "normal_acinus_or_duct"),
        (14, "lymphatics"), (15, "undetermined"), (16, "nerve"), (17, "skin_adnexa"), (18, "blood_vessel"),
        (19, "angioinvasion"), (20, "dcis"), (21, "other"),
    ),
    ignored=(0,),
    source="https://github.com/PathologyDataScience/BCSS/blob/3c49d55/meta/gtruth_codes.tsv",
)  # fmt: skip

# The order of classes as the repository that published these masks lists them; its numbering is not documented.
EBHI: Final = Legend(
    "ebhi",
    (
        (0, "background"), (1, "adenocarcinoma"), (2, "high_grade_IN"), (3, "low_grade_IN"), (4, "normal"),
        (5, "polyp"), (6, "serrated_adenoma"),
    ),
    source="order of classes in sarah-antillia/TensorFlow-FlexUNet-Image-Segmentation-EBHI-Colorectal-Cancer",
)  # fmt: skip

LEGENDS: Final[Mapping[str, Legend]] = MappingProxyType({legend.name: legend for legend in (BCSS, EBHI)})

# A class may be called by any word of a row.
SYNONYMS: Final = (
    frozenset({"lymphocyte", "lymphocytes", "lymphocyticinfiltrate", "til", "tils"}),
    frozenset({"necrosis", "necrosisordebris", "debris"}),
    frozenset({"tumor", "tumour"}),
    frozenset({"bloodvessel", "vessel", "bloodvessels", "vessels"}),
    frozenset({"stroma", "stromal"}),
)


# Meanings, in letters and digits alone, of pixels that nobody looked at.
_OUTSIDE: Final = "outsideroi"
_UNKNOWN: Final = frozenset(
    {
        "outside",
        "unlabeled",
        "unlabelled",
        "unannotated",
        "notannotated",
        "unknown",
        "ignore",
        "ignored",
        "void",
        "dontcare",
    }
)


def outside_codes(legend: Legend) -> tuple[int, ...]:
    """Codes of pixels outside of what was annotated, which carry no weight in any data set that has them."""
    return tuple(code for code, meaning in legend.rows if plain_word(meaning) == _OUTSIDE)


def doubtful_codes(legend: Legend) -> tuple[int, ...]:
    """Codes that are not ignored although their meaning says that nothing is known of their pixels."""
    unknown = {code for code, meaning in legend.rows if plain_word(meaning) in {_OUTSIDE, *_UNKNOWN}}
    return tuple(sorted(unknown - set(legend.ignored)))


def plain_word(word: str) -> str:
    """`word` in lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


def choose_legend(name: str) -> Legend:
    """The built-in legend of that name. Raises UnknownNameError for an unknown one."""
    if name not in LEGENDS:
        raise unknown_name("legend", name, LEGENDS, "Give your own: --legend FILE (label, code, colour).")
    return LEGENDS[name]
