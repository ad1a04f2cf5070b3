"""Typed, frozen settings: YAML files and `key=value` overrides, validated before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fintune_xr.errors import SettingsError, nearest
from fintune_xr.provenance import settings_digest


class Settings(BaseModel):
    """Base of all settings records: frozen, no unknown keys, comparable by digest."""

    # Neither NaN nor infinity has a place in JSON, which is what is stored and digested.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # What releases that did not know a setting yet have done: such a value is not stored, and one that is missing in
    # what they stored is this.
    BEFORE: ClassVar[Mapping[str, Any]] = {}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, as stored with a result."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """SHA-256 that changes with any value."""
        return settings_digest(self.as_dict())


def require_each_once(settings: Settings, *names: str) -> None:
    """Raises ValueError for a list among `names` of `settings` that holds a value twice: it would be done twice."""
    for name in names:
        values = getattr(settings, name)
        if len(set(values)) != len(values):
            raise ValueError(f"{name}: expected different values, got {list(values)}")


S = TypeVar("S", bound=Settings)

Config: TypeAlias = Path | str | Mapping[str, Any] | None
"""Where settings come from: a YAML file, the name of a configuration of this package, or what a file would hold."""

# How alike two words are where one is the other with a letter too many, too few or another.
_SLIP: Final = 0.8
# Of what was given, so much is repeated.
_LONGEST: Final = 300
_CONFIGS: Final = Path(__file__).with_name("configs")


def load_settings(
    kind: type[S],
    config: Config = None,
    overrides: Sequence[str] = (),
    *,
    hints: Callable[[], Iterable[str]] = tuple,
) -> S:
    """Settings of `kind` from defaults, then `config`, then `key=value` overrides.

    Nested keys are written with dots (`train.epochs=3`); values follow Hydra's override grammar. `hints` gives whole
    names of settings that `kind` takes in a mapping and does not know itself, for errors to name the nearest.

    Raises SettingsError that lists every unknown key with the nearest right one, and every bad value.
    """
    where, values = "settings", {}
    if isinstance(config, Path | str):
        where, values = str(config), _read_yaml(shipped_config(config) or Path(config))
    elif config is not None:
        values = deepcopy(dict(config))
    for override in overrides:
        _apply(values, override)
    return validate(kind, values, where=where, hints=hints)


def config_names() -> tuple[str, ...]:
    """Names of the configurations that come with this package."""
    return tuple(sorted(file.stem for file in _CONFIGS.glob("*.yaml")))


def shipped_config(config: Path | str) -> Path | None:
    """The file of a configuration of this package, where `config` is the name of one; others are paths."""
    return _CONFIGS / f"{config}.yaml" if str(config) in config_names() else None


def validate(
    kind: type[S],
    values: Mapping[str, Any],
    *,
    where: str = "settings",
    hints: Callable[[], Iterable[str]] = tuple,
) -> S:
    """An instance of `kind` holding `values`.

    Raises SettingsError naming `where` and all problems at once.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_describe(kind, detail, hints) for detail in _own_faults(error.errors())]
        raise SettingsError("\n  ".join([f"{where}: {len(lines)} problem(s)", *lines])) from error


def _no_such_file(path: Path) -> SettingsError:
    known = config_names()
    return SettingsError(
        f"no settings file {path}. Give --config an existing YAML file, or one of {', '.join(known)}."
        f"{nearest(str(path), known)}"
    )


class _OnceLoader(yaml.SafeLoader):
    """As yaml's safe loader, which takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands twice", node.start_mark)
        return dict(super().construct_mapping(node, deep))


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _no_such_file(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected keys and values at the top, got {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"cannot read {override!r}: {reason}. Write key=value, e.g. epochs=20.") from error
    if parsed.is_delete():
        raise SettingsError(f"{override!r}: a setting cannot be taken away. Write key=value, e.g. epochs=20.")
    if parsed.is_sweep_override():
        raise SettingsError(
            f"{override!r} lists several values; a setting takes one, and one that is a list has it in brackets: "
            f"{parsed.key_or_group}=[…]."
        )
    *parents, last = parsed.key_or_group.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise SettingsError(f"{override!r}: {parent!r} holds a value, not further keys")
    values[last] = parsed.value()


def _own_faults(details: Sequence[Any]) -> list[Any]:
    """Without what follows from another fault: a list is too short for pydantic once its items are refused."""
    places = [detail["loc"] for detail in details]
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(len(at) > len(detail["loc"]) and at[: len(detail["loc"])] == detail["loc"] for at in places)
    ]


def _describe(kind: type[BaseModel], detail: Any, hints: Callable[[], Iterable[str]]) -> str:
    path = [str(part) for part in detail["loc"]]
    name = ".".join(path) or "(top)"
    if detail["type"] == "value_error":
        told = str(detail["ctx"]["error"])
        # Rules between settings name them, and say what was found.
        return told if not path else f"{name}: {told}"
    if detail["type"] == "tuple_type":
        return f"{name}: expected a list, [{_written(detail['input'])}] for one value, got {detail['input']!r}"
    if detail["type"] != "extra_forbidden":
        return f"{name}: {detail['msg']}, got {shorten(repr(detail.get('input')), _LONGEST, placeholder=' …')}"
    known = list(_model_at(kind, path[:-1]).model_fields)
    meant = _nearest_setting(path, known, [*dotted_names(kind), *hints()])
    return f"{name}: no such setting; known: {', '.join(known)}.{meant}"


def _nearest_setting(path: Sequence[str], siblings: Sequence[str], everywhere: Sequence[str]) -> str:
    """The setting that was meant: one of `siblings` but for a letter, the same word elsewhere, or what is nearest."""
    elsewhere = [dotted for dotted in everywhere if dotted.rpartition(".")[2] == path[-1]]
    is_slip = bool(difflib.get_close_matches(path[-1], siblings, n=1, cutoff=_SLIP))
    return f" Did you mean {elsewhere[0]!r}?" if elsewhere and not is_slip else nearest(path[-1], siblings)


def described_settings(kind: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Whole name, default and meaning of every setting of `kind`; one that has no default says `(required)`."""
    found: list[tuple[str, str, str]] = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += [(f"{name}.{below}", default, meaning) for below, default, meaning in described_settings(inner)]
        else:
            default = "(required)" if field.is_required() else _written(field.get_default(call_default_factory=True))
            found.append((name, default, field.description or ""))
    return found


def _written(value: Any) -> str:
    """A value as it is written behind `key=`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_written, value))}]"
    return str(value)


def dotted_names(kind: type[BaseModel]) -> list[str]:
    """Every setting of `kind` by its whole name, those of records within it with dots."""
    found = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += [f"{name}.{below}" for below in dotted_names(inner)]
        else:
            found.append(name)
    return found


def _model_at(kind: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    for part in path:
        field = kind.model_fields.get(part)
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return kind
        kind = inner
    return kind
