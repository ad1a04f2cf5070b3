"""What the documentation tells people to type can be typed: verbs, options, settings, quotes, names in Python."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError, MissingArgumentError
from pages import LEFT_OUT, PAGES, ROOT, Command, commands, snippets

import fintune_xr as fx
from fintune_xr.errors import FintuneError
from fintune_xr.settings import Settings, load_settings, shipped_config

NAMED = [page.relative_to(ROOT).as_posix() for page in PAGES if commands(page)]
# What a shell would take for a pattern or a list of its own, zsh above all.
_SPECIAL = re.compile(r"[\[\]{}*?()|<>&;$]")


@pytest.mark.parametrize("page", NAMED)
def test_every_command_can_be_typed(page: str) -> None:
    faults = {str(command): fault for command in commands(ROOT / page) if (fault := _fault(command))}
    assert faults == {}


@pytest.mark.parametrize("page", NAMED)
def test_what_a_shell_would_take_for_its_own_is_quoted(page: str) -> None:
    assert [str(command) for command in commands(ROOT / page) if _unquoted(command.text)] == []


def test_names_of_the_package_in_snippets_exist() -> None:
    for page in PAGES:
        for snippet in snippets(page):
            used = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Attribute)]
            names = {node.attr for node in used if isinstance(node.value, ast.Name) and node.value.id == "fx"}
            assert names <= set(fx.__all__), f"{page}: {names - set(fx.__all__)}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("fintune-xr evaluate c.zarr --run a", ""),
        ("fintune-xr evalute c.zarr", "evalute"),
        ("fintune-xr evaluate c.zarr --runs a", "--runs"),
        ("fintune-xr train c.zarr --run-name a epoch=3", "Did you mean 'epochs'?"),
        ("fintune-xr infer c.zarr --run a --model threshold model.sigma=3", "Did you mean 'sigma_px'?"),
        ("fintune-xr train c.zarr --run-name a --config no_such_config", "no_such_config"),
    ],
)
def test_what_cannot_be_typed_is_found(text: str, fault: str) -> None:
    found = _fault(Command(ROOT / "README.md", 1, text))
    assert (fault in found) if fault else not found, found


def test_what_is_not_quoted_is_found() -> None:
    assert _unquoted("fintune-xr train c.zarr filters=[8,16]")
    assert not _unquoted("fintune-xr train c.zarr 'filters=[8,16]' \"a=[1]\" # [comment]")


def _fault(command: Command) -> str:
    """What would be said of a command before anything is done; empty where it could begin."""
    tokens = [token for token in command.tokens if token not in ("|", "&&")]
    if command.text.endswith((" VERB --help", " --help")) or not tokens or tokens[0].isupper():
        return ""
    try:
        call, bound, *_ = _app().parse_args(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        # Of a command that is only named, or not shown whole, something required may be missing.
        is_named = len(tokens) == 1 or not command.is_whole
        return "" if is_named and isinstance(error, MissingArgumentError) else f"{type(error).__name__}: {error}"
    return _settings_fault(call.__name__, bound.arguments)


def _settings_fault(verb: str, arguments: Mapping[str, Any]) -> str:
    overrides, config = arguments.get("overrides", ()), arguments.get("config")
    own = [text for text in overrides if not text.startswith("cluster.")]
    if config is not None and Path(config).suffix not in (".yaml", ".yml") and shipped_config(config) is None:
        return f"there is no configuration {config}"
    if not own:
        return ""
    faults = []
    for kind in _settings_of(verb, arguments):
        try:
            load_settings(kind, shipped_config(config) if config else None, own)
        except FintuneError as error:
            faults.append(str(error))
        else:
            return _model_fault(verb, arguments, own)
    return " / ".join(faults) or f"{verb} takes no settings"


def _model_fault(verb: str, arguments: Mapping[str, Any], own: list[str]) -> str:
    """Settings of a model are looked at by its kind."""
    from fintune_xr.models.registry import kinds, published_weights

    name = str(arguments.get("model", ""))
    kind = kinds().get(name) or next((k for k in kinds().values() if name in k.published), None)
    of_model = [text.removeprefix("model.") for text in own if text.startswith("model.")]
    if verb != "infer" or not of_model:
        return ""
    if kind is None:
        return "" if name not in published_weights() else f"unknown weights {name}"
    try:
        load_settings(kind.settings, None, of_model)
    except FintuneError as error:
        return f"model: {error}"
    return ""


def _settings_of(verb: str, arguments: Mapping[str, Any]) -> list[type[Settings]]:
    """Classes of settings that the verb may take: of its model where one is named, of any where a file is."""
    from fintune_xr.finetune.classification.probe_settings import ProbeSettings
    from fintune_xr.finetune.registry import TRAINERS
    from fintune_xr.pipelines.detection.selftrain.settings import SelfTrainSettings
    from fintune_xr.pipelines.inference.request import InferSettings
    from fintune_xr.pipelines.steps.classify import ClassifySettings
    from fintune_xr.pipelines.studies.benchmark import BenchmarkSettings
    from fintune_xr.pipelines.studies.encoder_benchmark import EncoderBenchmarkSettings
    from fintune_xr.pipelines.studies.gate import GateSettings
    from fintune_xr.pipelines.studies.prompt_study import PromptedSettings
    from fintune_xr.pipelines.studies.sweep import SamSweepSettings

    trained = [TRAINERS[name].settings for name in TRAINERS if name == arguments.get("model", "flow_unet")]
    classes: dict[str, Callable[[], list[type[Settings]]]] = {
        "train": lambda: list(trained) or [trainer.settings for trainer in TRAINERS.values()],
        "budget": lambda: list(trained) or [trainer.settings for trainer in TRAINERS.values()],
        "infer": lambda: [InferSettings],
        "selftrain": lambda: [SelfTrainSettings],
        "benchmark": lambda: [BenchmarkSettings, EncoderBenchmarkSettings],
        "classify": lambda: [ClassifySettings],
        "probe": lambda: [ProbeSettings],
        "gate": lambda: [GateSettings],
        "sweep": lambda: [SamSweepSettings, PromptedSettings],
    }
    return classes[verb]() if verb in classes else []


def _unquoted(text: str) -> list[str]:
    """Words with a sign that shells take for their own, outside of quotes."""
    lexer = shlex.shlex(text.replace(LEFT_OUT, ""), posix=False, punctuation_chars="")
    lexer.whitespace_split = True
    words = list(lexer)
    return [word for word in words if word[0] not in "'\"" and _SPECIAL.search(word) and "='" not in word]


@cache
def _app() -> Any:
    from fintune_xr.pipelines.cli.app import build_app

    return build_app()
