"""Which codes of the annotations make which class: the map that a training and its runs are bound to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator, model_validator

from fintune_xr import names as n
from fintune_xr.errors import SettingsError
from fintune_xr.settings import Settings, validate
from fintune_xr.tasks.legends import BCSS, SYNONYMS, Legend, plain_word

IGNORED: Final = 255
MOST_CLASSES: Final = IGNORED - 1

ClassCodes = tuple[tuple[str, tuple[int, ...]], ...]


class ClassMap(Settings):
    """Classes in order, each with the codes of the annotations that it is made of.

    In labels and predictions the classes are 1, 2, … in this order, 0 is whatever is none of them, 255 is ignored.
    A mapping `{name: [code, …]}`, or `{name: code}`, is accepted and kept as pairs, because order is part of the
    meaning and digests of mappings do not see it.
    """

    classes: ClassCodes = Field(
        default=(("tumor", (1,)), ("stroma", (2,)), ("lymphocyte", (3,)), ("necrosis", (4,)), ("blood_vessel", (18,))),
        min_length=1,
        max_length=MOST_CLASSES,
        description="Name and codes of each class, in order.",
    )
    rest: Literal["other", "ignore"] = Field(
        default="other", description="Codes of no class: negative for every class, or ignored as if unknown."
    )
    confirm_codes: tuple[int, ...] = Field(
        default=(), description="Codes that are meant although the legend calls them by another name."
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _as_pairs(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return [(name, (codes,) if isinstance(codes, int) else codes) for name, codes in value.items()]

    @model_validator(mode="after")
    def _fits_together(self) -> ClassMap:
        seen: dict[int, str] = {}
        for name, codes in self.classes:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name == n.REST:
                raise ValueError(f"class {name!r}: expected letters, digits and _, and not the word {n.REST!r}")
            if not codes:
                raise ValueError(f"class {name}: expected one code or more")
            for code in codes:
                if not 0 <= code <= IGNORED:
                    raise ValueError(f"class {name}: expected codes from 0 to {IGNORED}, got {code}")
                if code in seen:
                    raise ValueError(f"code {code} is in {seen[code]} and in {name}; a pixel has one class")
                seen[code] = name
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"classes: expected different names, got {', '.join(self.names)}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes 1, 2, …."""
        return tuple(name for name, _ in self.classes)

    @property
    def n_classes(self) -> int:
        """How many classes there are, without the rest."""
        return len(self.classes)

    @property
    def codes(self) -> Mapping[str, tuple[int, ...]]:
        """Codes by name of class."""
        return dict(self.classes)

    def lookup(self, ignored: tuple[int, ...]) -> NDArray[np.uint8]:
        """Label of each code (256,): 1, 2, … for the classes, 0 for the rest, 255 where it is ignored."""
        table = np.full(IGNORED + 1, 0 if self.rest == "other" else IGNORED, np.uint8)
        for label, (_, codes) in enumerate(self.classes, start=1):
            table[list(codes)] = label
        table[list(ignored)] = IGNORED
        return table

    def labels(self, codes: NDArray[np.uint8], ignored: tuple[int, ...]) -> NDArray[np.uint8]:
        """Labels of the same shape as `codes`, the codes of stored annotations."""
        return self.lookup(ignored)[codes]

    def run_codes(self) -> NDArray[np.uint8]:
        """First code of the annotations for each label (256,), as exports write it; 0 for the rest."""
        table = np.zeros(IGNORED + 1, np.uint8)
        table[1 : self.n_classes + 1] = [codes[0] for _, codes in self.classes]
        return table

    @property
    def flags(self) -> dict[str, Any]:
        """Attributes of stored predictions: CF's values and meanings of labels, and the map itself."""
        return {
            n.FLAG_VALUES: [*range(self.n_classes + 1), IGNORED],
            n.FLAG_MEANINGS: " ".join([n.REST, *self.names, "ignored"]),
            n.CLASS_MAP: self.as_dict(),
        }


def _codes_by_name(value: Any) -> Any:
    """Takes `{name: [code, …]}` for a class map that says nothing else."""
    return {"classes": value} if isinstance(value, dict) and "classes" not in value else value


StatedClasses = Annotated[ClassMap | None, BeforeValidator(_codes_by_name)]
"""Classes among settings, as `{name: [code, …]}` or in full; None where nobody has stated any."""


def stored_class_map(attrs: Mapping[str, Any]) -> ClassMap:
    """The map that lies among the attributes of stored predictions, or of scores of them."""
    return validate(ClassMap, dict(attrs[n.CLASS_MAP]), where="stored classes")


def check_class_map(asked: ClassMap, legend: Legend) -> ClassMap:
    """`asked` itself, once its codes exist in `legend` and are called there as the classes are.

    Each name must be more like the meaning of one of its own codes than like that of any other code, in lower case,
    letters and digits only, known synonyms being the same word. A class whose codes are all among `confirm_codes` may
    be called anything. Of a legend without names only the codes are checked.

    Raises SettingsError that lists every clash and how each is settled.
    """
    problems = [problem for name, codes in asked.classes for problem in _clashes(name, codes, asked, legend)]
    if problems:
        raise SettingsError("\n  ".join([f"classes do not fit legend {legend.name!r}:", *problems]))
    return asked


def confirmed_clashes(asked: ClassMap, legend: Legend) -> tuple[str, ...]:
    """What the legend says against `asked` and `confirm_codes` overrode, a sentence for each class."""
    found = []
    for name, codes in asked.classes:
        if legend.is_named and set(codes) <= set(asked.confirm_codes) and not _is_like(name, codes, legend):
            found.append(
                f"{name} is code {_listed(codes)}, called {_called(codes, legend)} in the annotations (confirmed)"
            )
    return tuple(found)


def joined_codes(asked: ClassMap, legend: Legend) -> tuple[str, ...]:
    """Which codes a class takes in besides the one that it is called by, a sentence for each such class.

    Only codes that the legend calls otherwise, and that nobody confirmed: fat among blood vessels is no error that
    names can tell from angioinvasion in tumour, so it is for people to see.
    """
    found = []
    for name, codes in asked.classes if legend.is_named else ():
        others = [
            code
            for code in codes
            if code not in asked.confirm_codes and _likeness(name, legend.meanings.get(code, "")) <= _LEAST_LIKENESS
        ]
        if others and len(others) < len(codes):
            told = ", ".join(f"{code} ({legend.meanings.get(code, 'not in the legend')})" for code in others)
            found.append(f"{name} takes in code {told}")
    return tuple(found)


def default_class_map(legend: Legend) -> ClassMap:
    """The map of a data set whose classes are agreed on.

    Raises SettingsError for any other legend: which of its codes are classes must be said.
    """
    if legend.rows == BCSS.rows:
        return ClassMap()
    codes = ", ".join(f"{meaning} {code}" for code, meaning in legend.rows)
    raise SettingsError(
        f"no classes are agreed on for legend {legend.name!r} ({codes}). Say which there are, "
        "e.g. classes={tumor:[1],stroma:[2]}."
    )


def is_called(name: str, meaning: str) -> bool:
    """Whether both are the same word but for its spelling, or synonyms."""
    return _likeness(name, meaning) == 1.0


def _clashes(name: str, codes: tuple[int, ...], asked: ClassMap, legend: Legend) -> list[str]:
    absent = [code for code in codes if code not in legend.meanings]
    if absent:
        known = ", ".join(f"{code} {meaning}" for code, meaning in legend.rows)
        return [f"{name}: no code {_listed(absent)} in the legend; there are {known}"]
    ignored = [code for code in codes if code in legend.ignored]
    if ignored:
        return [f"{name}: code {_listed(ignored)} is ignored in these annotations ({_called(ignored, legend)})"]
    if not legend.is_named or set(codes) <= set(asked.confirm_codes) or _is_like(name, codes, legend):
        return []
    better, code = max((_likeness(name, meaning), -code) for code, meaning in legend.rows)
    meant = f"{name} is {-code}; write {-code}, or confirm" if better == 1.0 else "no code is called so; confirm"
    return [f"code {_listed(codes)} is {_called(codes, legend)!r} in these annotations; {meant}: "
            f"confirm_codes=[{_listed(codes)}]"]  # fmt: skip


def _is_like(name: str, codes: tuple[int, ...], legend: Legend) -> bool:
    own = max(_likeness(name, legend.meanings[code]) for code in codes if code in legend.meanings)
    others = [_likeness(name, meaning) for code, meaning in legend.rows if code not in codes]
    return own > max(others, default=0.0) and own > _LEAST_LIKENESS


# Below this, two words share letters by chance: unrelated meanings of the BCSS legend reach 0.54.
_LEAST_LIKENESS: Final = 0.6


def _likeness(name: str, meaning: str) -> float:
    """1 for the same word or a synonym, less for words that share letters."""
    first, second = plain_word(name), plain_word(meaning)
    if first == second or any(first in row and second in row for row in SYNONYMS):
        return 1.0
    return min(0.99, difflib.SequenceMatcher(None, first, second).ratio())


def _listed(codes: tuple[int, ...] | list[int]) -> str:
    return ",".join(map(str, codes))


def _called(codes: tuple[int, ...] | list[int], legend: Legend) -> str:
    return ", ".join(legend.meanings[code] for code in codes)
