"""Coarser classes that maps of finer ones are scored under: tumour or not, any class or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import SettingsError
from fintune_xr.settings import load_settings
from fintune_xr.tasks.class_map import IGNORED, ClassMap, check_class_map, is_called
from fintune_xr.tasks.legends import Legend

Stated = Mapping[str, Sequence[int | str]]
"""Codes, or names of finer classes, by the coarser class that they make; under `rest` those that are none of them."""

_HOW: Final = "Say of each where it goes, e.g. --coarser 'tumor=[1,19,20]' --coarser 'rest=[stroma,necrosis]'."


@dataclass(frozen=True, slots=True)
class CoarserClasses:
    """Coarser classes by the codes of the annotations, and the codes that are stated to be none of them.

    `class_map` holds the classes; codes of neither are what its `rest` says, as in the finer classes.
    """

    class_map: ClassMap
    negative: tuple[int, ...]

    def truth_lookup(self, ignored: Iterable[int]) -> NDArray[np.uint8]:
        """Coarser label of each code (256,) of the annotations, 255 where it is ignored."""
        table = self.class_map.lookup(())
        table[list(self.negative)] = 0
        table[list(ignored)] = IGNORED
        return table

    def run_lookup(self, finer: ClassMap) -> NDArray[np.uint8]:
        """Coarser label of each label (256,) of `finer`; none stays none, ignored stays ignored."""
        table = np.arange(IGNORED + 1).astype(np.uint8)
        of_code = self.truth_lookup(())
        for label, (_, codes) in enumerate(finer.classes, start=1):
            table[label] = of_code[codes[0]]
        return table

    def as_dict(self) -> dict[str, list[int]]:
        """Codes by class, those of none under `rest`: what it can be stated by again."""
        return {**{name: list(codes) for name, codes in self.class_map.classes}, n.REST: list(self.negative)}


def coarser_line(attrs: Mapping[str, Any]) -> str:
    """The coarser classes that stored scores, with these attributes, are under, as text; empty for scores of others."""
    told = [f"{name} is code {_listed(codes)}" for name, codes in attrs.get(n.COARSER, {}).items() if codes]
    return "; ".join(told).replace(f"{n.REST} is code", "none of them is code")


def parse_coarser(stated: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """Classes from texts `name=[code or finer class, …]`, as the command line has them.

    Raises SettingsError for a text that is none.
    """
    found: dict[str, tuple[int | str, ...]] = {}
    for text in stated:
        name, _, value = text.partition("=")
        codes = _values(name, value)
        if name in found:
            raise SettingsError(f"--coarser: {name} is stated twice. {_HOW}")
        found[name] = codes
    return found


def coarser_classes(stated: Stated, finer: Mapping[str, ClassMap], legend: Legend) -> CoarserClasses:
    """The coarser classes of what is `stated`, once every finer class of every run, `finer` by its name, has its place.

    A word stands for the codes of the finer class of that name, or of the meaning in the legend.

    Raises SettingsError, naming all of them, for finer classes that have no place or whose codes have several, for a
    word that means different codes in different runs or none at all, and for codes that do not fit the legend.
    """
    rests = {one.rest for one in finer.values()}
    if len(rests) > 1:
        raise SettingsError("runs that take what is no class as negative, and as unknown, have no classes in common")
    codes = {name: _codes(words, finer, legend) for name, words in stated.items()}
    negative = codes.pop(n.REST, ())
    known = {code for of_class in codes.values() for code in of_class}
    every = load_settings(
        ClassMap, {"classes": codes, "rest": rests.pop() if rests else "other", "confirm_codes": sorted(known)}
    )
    _require_negative(negative, known, legend)
    _require_names(check_class_map(every, legend), legend)
    made = CoarserClasses(every, negative)
    problems = [problem for run, one in finer.items() for problem in _misplaced(run, one, made)]
    if problems:
        raise SettingsError("\n  ".join(["finer classes have no place among the coarser ones:", *problems, _HOW]))
    return made


def _values(name: str, value: str) -> tuple[int | str, ...]:
    if not name or not (value.startswith("[") and value.endswith("]")):
        raise SettingsError(f"--coarser: expected name=[code or class, …], got {f'{name}={value}'!r}. {_HOW}")
    words = [word.strip() for word in value[1:-1].split(",") if word.strip()]
    return tuple(int(word) if word.isdecimal() else word for word in words)


def _codes(words: Sequence[int | str], finer: Mapping[str, ClassMap], legend: Legend) -> tuple[int, ...]:
    found: list[int] = []
    for word in words:
        found += [word] if isinstance(word, int) else _meant(word, finer, legend)
    return tuple(dict.fromkeys(found))


def _meant(word: str, finer: Mapping[str, ClassMap], legend: Legend) -> tuple[int, ...]:
    by_run = {run: one.codes[word] for run, one in finer.items() if word in one.codes}
    if len(set(by_run.values())) > 1:
        told = ", ".join(f"{_listed(codes)} in {run}" for run, codes in by_run.items())
        every = sorted({code for codes in by_run.values() for code in codes})
        raise SettingsError(f"{word} is code {told}; say which codes are meant, e.g. {_listed(every)}")
    named = tuple(code for code, meaning in legend.rows if meaning == word)
    found = next(iter(by_run.values()), named)
    if not found:
        known = dict.fromkeys([*(name for one in finer.values() for name in one.names), *legend.meanings.values()])
        raise SettingsError(f"no class {word!r}; there are {', '.join(known)}")
    return found


def _require_negative(negative: Sequence[int], known: Iterable[int], legend: Legend) -> None:
    twice = sorted(set(known) & set(negative))
    if twice:
        raise SettingsError(f"code {_listed(twice)} is in a coarser class and in {n.REST}. {_HOW}")
    absent = [code for code in negative if code not in legend.meanings]
    if absent:
        rows = ", ".join(f"{code} {meaning}" for code, meaning in legend.rows)
        raise SettingsError(f"{n.REST}: no code {_listed(absent)} in the legend; there are {rows}")


def _misplaced(run: str, finer: ClassMap, made: CoarserClasses) -> list[str]:
    place: dict[int, Any] = {code: name for name, codes in made.as_dict().items() for code in codes}
    told = []
    for name, codes in finer.classes:
        places = {code: place.get(code) for code in codes}
        if None in places.values():
            absent = [code for code, where in places.items() if where is None]
            told.append(f"{name} of {run}: code {_listed(absent)} is in none, and not in {n.REST}")
        elif len(set(places.values())) > 1:
            parts = ", ".join(f"{code} in {where}" for code, where in places.items())
            told.append(f"{name} of {run} is in several: code {parts}; its pixels cannot be told apart")
    return told


def _require_names(coarser: ClassMap, legend: Legend) -> None:
    """A coarser class may be called anything but what the legend calls another code."""
    for name, codes in coarser.classes:
        other = [code for code, meaning in legend.rows if code not in codes and is_called(name, meaning)]
        if legend.is_named and other and not any(is_called(name, legend.meanings[code]) for code in codes):
            raise SettingsError(
                f"code {other[0]} is {name!r} in these annotations, and not among those of the coarser class of that "
                f"name ({_listed(codes)}). Write {other[0]}, or call it something else."
            )


def _listed(codes: Iterable[int]) -> str:
    return ",".join(map(str, codes))
