"""`fintune-xr VERB --settings`: what may be set as key=value, with defaults and meaning.

What is looked up is imported inside: `--help` must not wait for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from fintune_xr.errors import SettingsError
from fintune_xr.pipelines.cli.arguments import DONE, show, show_tables
from fintune_xr.pipelines.cli.models import train

if TYPE_CHECKING:
    import pandas as pd

    from fintune_xr.settings import Settings

FLAG: Final = "--settings"
_MODEL: Final = "--model"
_DEFAULT_MODEL: Final = str(inspect.signature(train).parameters["model"].default)


def asks_for_settings(tokens: Sequence[str]) -> bool:
    """Whether a command line asks for the settings of its verb, and not for the verb."""
    return FLAG in tokens


def print_settings(tokens: Sequence[str]) -> int:
    """Prints the settings of the verb that `tokens` begin with, of the model that follows `--model` where one does.

    Raises SettingsError for a verb without settings, UnknownNameError for a model that is not there.
    """
    verb = tokens[0]
    if verb not in SETTINGS:
        raise SettingsError(f"{verb} has no settings as key=value; these have: {', '.join(SETTINGS)}")
    tables = SETTINGS[verb](_model_of(tokens))
    frame = _frame(tables)
    if "--json" in tokens:
        show_tables({"settings": frame}, as_json=True)
        return DONE
    for row in frame.to_dict("records"):
        show(f"{row['setting']}={row['default']}", *([f"    {row['meaning']}"] if row["meaning"] else []))
    return DONE


def setting_words(verb: str, model: str) -> list[tuple[str, str]]:
    """The settings of a verb for a model as `key=default`, each with its meaning; none for a verb without settings."""
    if verb not in SETTINGS:
        return []
    rows = _frame(SETTINGS[verb](model)).to_dict("records")
    return [(f"{row['setting']}={row['default']}", str(row["meaning"])) for row in rows]


def _frame(tables: Mapping[str, type[Settings]]) -> pd.DataFrame:
    """One row per setting: its whole name, its default as it is written, its meaning."""
    import pandas as pd

    from fintune_xr.settings import described_settings

    rows = [
        (f"{prefix}{name}", default, meaning)
        for prefix, kind in tables.items()
        for name, default, meaning in described_settings(kind)
        # Of a mapping whose settings are listed one by one the name alone says nothing.
        if f"{prefix}{name}." not in tables
    ]
    return pd.DataFrame(rows, columns=["setting", "default", "meaning"])


def _model_of(tokens: Sequence[str]) -> str:
    """The value of `--model`, empty where it is not given."""
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        name, equals, value = token.partition("=")
        if name == _MODEL:
            return value if equals else following
    return ""


def _kind(model: str) -> str:
    """Kind of a model that is named by its kind, a published name or a path."""
    from fintune_xr.models.registry import kinds, resolve_checkpoint

    return model if model in kinds() else resolve_checkpoint(model).kind


def _train(model: str) -> dict[str, type[Settings]]:
    from fintune_xr.finetune.registry import train_settings

    return {"": train_settings(_kind(model or _DEFAULT_MODEL))}


def _infer(model: str) -> dict[str, type[Settings]]:
    from fintune_xr.models.registry import kind_named
    from fintune_xr.pipelines.inference.request import InferSettings

    of_model = {"model.": kind_named(_kind(model)).settings} if model else {}
    return {"": InferSettings, **of_model}


def _benchmark(model: str) -> dict[str, type[Settings]]:
    from fintune_xr.finetune.registry import trainer_named
    from fintune_xr.pipelines.studies.benchmark import BenchmarkSettings
    from fintune_xr.pipelines.studies.class_benchmark import ClassBenchmarkSettings
    from fintune_xr.tasks.task import SEMANTIC

    of_training = {f"train.{prefix}": kind for prefix, kind in _train(model).items()}
    of_classes = trainer_named(_kind(model or _DEFAULT_MODEL)).task == SEMANTIC
    return {"": ClassBenchmarkSettings if of_classes else BenchmarkSettings, **of_training}


def _gate(_: str) -> dict[str, type[Settings]]:
    from fintune_xr.pixels.cell_gates import GateSettings

    return {"": GateSettings}


def _sweep(_: str) -> dict[str, type[Settings]]:
    from fintune_xr.models.sam.settings import SamSweepSettings

    return {"": SamSweepSettings}


def _measure(_: str) -> dict[str, type[Settings]]:
    from fintune_xr.cluster.profile import Profile

    return {"cluster.": Profile}


def _probe(_: str) -> dict[str, type[Settings]]:
    from fintune_xr.finetune.classification.probe_settings import ProbeSettings

    return {"": ProbeSettings}


def _classify(_: str) -> dict[str, type[Settings]]:
    from fintune_xr.pipelines.semantic.regions import ClassifySettings

    return {"": ClassifySettings}


def _selftrain(_: str) -> dict[str, type[Settings]]:
    from fintune_xr.pipelines.detection.selftrain.settings import SelfTrainSettings

    return {"": SelfTrainSettings}


SETTINGS: Final[Mapping[str, Callable[[str], dict[str, type[Settings]]]]] = {
    "train": _train,
    "infer": _infer,
    "budget": _train,
    "benchmark": _benchmark,
    "gate": _gate,
    "measure": _measure,
    "sweep": _sweep,
    "probe": _probe,
    "classify": _classify,
    "selftrain": _selftrain,
}
"""By verb: what its settings are, for a model, by what their names begin with."""
