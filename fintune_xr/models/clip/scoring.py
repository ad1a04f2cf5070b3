"""From similarities of regions and prompts to scores of classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import SettingsError, nearest
from fintune_xr.text import each_once

Ensemble = Literal["embeddings", "probabilities"]


def read_prompts(path: str | Path, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Prompts of each of `classes`, in their order, of a JSON file {class: [prompt, ...]}.

    Raises SettingsError for a file that is not that, whose classes are others, or that says a sentence twice.
    """
    path = Path(path)
    if not path.is_file():
        raise SettingsError(f"no file of prompts {path}. Give a JSON file of {{class: [prompt, ...]}}.")
    found = _json_of(path)
    if not isinstance(found, dict) or not all(_is_prompts(value) for value in found.values()):
        raise SettingsError(f"{path}: expected {{class: [prompt, ...]}} with a sentence or more for each class")
    lacking, more = [name for name in classes if name not in found], [name for name in found if name not in classes]
    if lacking or more:
        told = [*(f"no prompt of {name}" for name in lacking)]
        told += [f"{name} is no class.{nearest(name, classes)}" for name in more]
        raise SettingsError(f"{path}: expected prompts of {', '.join(classes)}; {'; '.join(told)}")
    _require_each_once(path, found)
    return {name: tuple(found[name]) for name in classes}


def class_scores_of_regions(
    regions: NDArray[np.float32],
    prompts: NDArray[np.float32],
    of_class: NDArray[np.int64],
    *,
    scale: float,
    ensemble: Ensemble,
) -> NDArray[np.float64]:
    """Scores (region, class) that sum to 1, of embeddings (region, feature) and (prompt, feature) of length 1.

    `of_class` (prompt,) says which class each prompt is of. With `embeddings` the prompts of a class become one, the
    mean of theirs; with `probabilities` all prompts share one probability, and a class has the mean of its prompts,
    made to sum to 1 again.

    Reference: Radford et al. 2021, Learning transferable visual models from natural language supervision, ICML.
    """
    n_classes = int(of_class.max()) + 1
    if ensemble == "embeddings":
        means = np.stack([prompts[of_class == label].mean(axis=0) for label in range(n_classes)]).astype(np.float64)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        return _softmax(scale * regions.astype(np.float64) @ means.T)
    shares = _softmax(scale * regions.astype(np.float64) @ prompts.astype(np.float64).T)
    of_classes = np.stack([shares[:, of_class == label].mean(axis=1) for label in range(n_classes)], axis=1)
    return np.asarray(of_classes / of_classes.sum(axis=1, keepdims=True))


def prompt_classes(prompts: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    """Which class (prompt,) each prompt is of, class after class."""
    return np.repeat(np.arange(len(prompts)), [len(sentences) for sentences in prompts.values()])


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _require_each_once(path: Path, prompts: Mapping[str, Sequence[str]]) -> None:
    """A sentence of two classes tells nothing, and the first of them would win."""
    of_sentence: dict[str, str] = {}
    for name, sentences in prompts.items():
        for sentence in (one.strip() for one in sentences):
            if sentence in of_sentence:
                raise SettingsError(f"{path}: {sentence!r} is there twice, for {of_sentence[sentence]} and for {name}")
            of_sentence[sentence] = name


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=each_once)
    except ValueError as error:
        raise SettingsError(f"{path} cannot be read as JSON: {error}") from error


def _is_prompts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one.strip() for one in value)
